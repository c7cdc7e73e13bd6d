//! What an API object is to us, by the row of its kind.

use std::fmt;

use serde_json::{Value, json};
use whydrop_core::{
    cluster::object::{Kind, Object},
    kinds,
    policy::unread::Unread,
    problem::{FieldPath, Problem},
};

/// What an API object is to us.
#[derive(Debug)]
pub enum Decoded {
    /// An object of a kind that decisions depend on.
    Object(Box<Object>),
    /// A list: its items, with the type that they may leave out.
    List(Vec<Value>),
    /// `Endpoints`, as the slices that stand for them.
    Endpoints(Vec<Object>),
    /// A kind that takes no part in what we decide.
    NoPart,
    /// One of a kind or version that this version does not read, and what it may do.
    Unread(Box<Unread>),
}

/// `apiVersion` and `kind`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TypeMeta {
    /// Group and version.
    pub api_version: String,
    /// Kind.
    pub kind: String,
}

impl fmt::Display for TypeMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.api_version, self.kind)
    }
}

impl TypeMeta {
    /// Reads the type of an object.
    ///
    /// # Errors
    /// Where it is not an object, or does not say.
    pub fn of(value: &Value) -> Result<Self, Problem> {
        let Value::Object(fields) = value else {
            let found = shown(value);
            return Err(FieldPath::root("(document)").expected("an API object", found));
        };
        let text = |name: &str, example: &str| match fields.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(other) => Err(FieldPath::root(name).expected("a string", shown(other))),
            None => {
                Err(FieldPath::root(name).expected(format!("a string such as {example}"), "none"))
            }
        };
        Ok(Self { api_version: text("apiVersion", "v1")?, kind: text("kind", "Pod")? })
    }
}

/// Decodes an API object.
///
/// # Errors
/// The first field that the API server would refuse.
pub fn decode(mut value: Value) -> Result<Decoded, Problem> {
    bring_into_time(&mut value);
    let meta = TypeMeta::of(&value)?;
    let TypeMeta { api_version, kind } = &meta;
    if is_endpoints(&meta) {
        return match is_mirrored(&value["metadata"]) {
            true => endpoints(&value).map(Decoded::Endpoints),
            false => Ok(Decoded::NoPart),
        };
    }
    if let Some(row) = kinds::named(api_version, kind).filter(|row| row.reads().is_some()) {
        let object = row.decode(value, api_version)?.map(Box::new);
        return Ok(object.map_or(Decoded::NoPart, Decoded::Object));
    }
    if kind.ends_with("List") && value.get("items").is_some() {
        return items(value, &meta).map(Decoded::List);
    }
    let unread = kinds::unread(api_version, kind, &value).map(Box::new);
    Ok(unread.map_or(Decoded::NoPart, Decoded::Unread))
}

/// RFC 3339 ends with the year 9999, and the time that is read with its last day but one: what is said to be
/// of the last hours, which stands for never, is of its first.
fn bring_into_time(object: &mut Value) {
    const LAST_DAYS: &str = "9999-12-3";
    const NEVER: &str = "9999-01-01T00:00:00Z";
    for name in ["creationTimestamp", "deletionTimestamp"] {
        let time = object.get_mut("metadata").and_then(|metadata| metadata.get_mut(name));
        if let Some(Value::String(time)) = time
            && time.starts_with(LAST_DAYS)
        {
            NEVER.clone_into(time);
        }
    }
}

/// Whether objects of a type, or what is in them, may make a difference to a verdict.
pub fn takes_part(meta: &TypeMeta) -> bool {
    let TypeMeta { api_version, kind } = meta;
    kinds::named(api_version, kind).is_some()
        || kinds::unread(api_version, kind, &Value::Null).is_some()
        || kind.ends_with("List")
        || is_endpoints(meta)
}

/// Whether it is what slices came after.
pub fn is_endpoints(meta: &TypeMeta) -> bool {
    (meta.api_version.as_str(), meta.kind.as_str()) == ("v1", "Endpoints")
}

/// Whether slices are made of `Endpoints`, which are all that a proxy reads: not of those that ask to be
/// left out, nor of those that a leader election once kept its lock in (`shouldMirror` of the
/// endpointslicemirroring controller). What a Service selects is listed without them.
fn is_mirrored(metadata: &Value) -> bool {
    let skips = metadata["labels"]["endpointslice.kubernetes.io/skip-mirror"] == "true";
    let is_lock = !metadata["annotations"]["control-plane.alpha.kubernetes.io/leader"].is_null();
    !skips && !is_lock
}

/// The slices that Kubernetes makes of `Endpoints` (its endpointslicemirroring controller): one for each
/// subset and family, and an empty one if there is no endpoint.
fn endpoints(value: &Value) -> Result<Vec<Object>, Problem> {
    let subsets = value["subsets"].as_array().into_iter().flatten();
    let mut parts: Vec<(&str, Vec<Value>, &Value)> = Vec::new();
    for subset in subsets {
        let (six, four): (Vec<Value>, Vec<Value>) =
            [("addresses", true), ("notReadyAddresses", false)]
                .into_iter()
                .flat_map(|(list, ready)| {
                    let addresses = subset[list].as_array().into_iter().flatten();
                    addresses.map(move |address| endpoint(address, ready))
                })
                .partition(|endpoint| {
                    endpoint["addresses"][0].as_str().is_some_and(|ip| ip.contains(':'))
                });
        parts.push(("IPv4", four, &subset["ports"]));
        parts.push(("IPv6", six, &subset["ports"]));
    }
    parts.retain(|(_, endpoints, _)| !endpoints.is_empty());
    if parts.is_empty() {
        parts.push(("IPv4", Vec::new(), &Value::Null));
    }
    let parts = parts.into_iter().enumerate();
    parts
        .map(|(index, (family, endpoints, ports))| slice(value, index, family, &endpoints, ports))
        .collect()
}

fn endpoint(address: &Value, ready: bool) -> Value {
    let mut endpoint = json!({ "addresses": [address["ip"]], "conditions": { "ready": ready } });
    for field in ["nodeName", "targetRef"] {
        if !address[field].is_null() {
            endpoint[field] = address[field].clone();
        }
    }
    endpoint
}

fn slice(
    of: &Value,
    index: usize,
    family: &str,
    endpoints: &[Value],
    ports: &Value,
) -> Result<Object, Problem> {
    let row = kinds::of(Kind::EndpointSlice);
    let metadata = &of["metadata"];
    // A name that no object can have.
    let name = format!("{}/{index}", metadata["name"].as_str().unwrap_or_default());
    let slice = json!({
        "apiVersion": row.api_version(), "kind": row.kind,
        "metadata": {
            "name": name, "namespace": metadata["namespace"],
            "labels": { "kubernetes.io/service-name": metadata["name"] },
        },
        "addressType": family, "endpoints": endpoints, "ports": ports,
    });
    let decoded = row.decode(slice, row.api_version())?;
    decoded.ok_or_else(|| FieldPath::root("subsets").expected("endpoints", "none that can be read"))
}

/// The items of a `List`, or of a `PodList` and its like, whose items need not name their type.
fn items(mut value: Value, list: &TypeMeta) -> Result<Vec<Value>, Problem> {
    let mut items = match value["items"].take() {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        other => return Err(FieldPath::root("items").expected("a list", shown(&other))),
    };
    let kind = list.kind.trim_end_matches("List");
    for item in items.iter_mut().filter_map(Value::as_object_mut).filter(|_| !kind.is_empty()) {
        item.entry("apiVersion").or_insert_with(|| list.api_version.clone().into());
        item.entry("kind").or_insert_with(|| kind.into());
    }
    Ok(items)
}

/// A value for an error message.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    }
}
