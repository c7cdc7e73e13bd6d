//! From the JSON of an API object to the core's own form.

use std::fmt;

use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service, ServiceAccount},
    discovery::v1::EndpointSlice,
    networking::v1::NetworkPolicy,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use whydrop_core::{
    cluster::{Engine, object::Object, translate},
    policy::{
        PolicyKind, admin,
        calico::{self, Group},
        network_policy,
    },
    problem::{FieldPath, Problem},
};

/// What an API object is to us.
#[derive(Debug)]
pub enum Decoded {
    /// An object of a kind that decisions depend on.
    Object(Box<Object>),
    /// A list: its items, with the type that they may leave out.
    List(Vec<Value>),
    /// A kind that takes no part in what we decide.
    NoPart,
    /// A policy of a kind or version that this version cannot read: verdicts may depend on it.
    Unread,
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
        let text = |name: &str| match fields.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(other) => Err(FieldPath::root(name).expected("a string", shown(other))),
            None => Err(FieldPath::root(name).expected("a string such as v1", "none")),
        };
        Ok(Self { api_version: text("apiVersion")?, kind: text("kind")? })
    }

    fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Whose kind it is: an object of Calico's, be it a policy or not, is there for Calico.
    pub fn engine(&self) -> Engine {
        match self.group() {
            "projectcalico.org" | "crd.projectcalico.org" => Engine::Calico,
            _ => Engine::Standard,
        }
    }

    /// A policy kind of the engines that we know, whatever the version; staged ones enforce nothing.
    fn is_policy(&self) -> bool {
        let groups = [
            "networking.k8s.io",
            "policy.networking.k8s.io",
            "projectcalico.org",
            "crd.projectcalico.org",
            "cilium.io",
            "crd.antrea.io",
        ];
        groups.contains(&self.group())
            && self.kind.ends_with("NetworkPolicy")
            && !self.kind.starts_with("Staged")
    }
}

/// Decodes an API object.
///
/// # Errors
/// The first field that the API server would refuse.
pub fn decode(value: Value) -> Result<Decoded, Problem> {
    let meta = TypeMeta::of(&value)?;
    if let Some(group) = Group::of(&meta.api_version)
        && let Some(object) = calico_object(&meta.kind, group, &value)?
    {
        return Ok(Decoded::Object(Box::new(object)));
    }
    let object = match (meta.api_version.as_str(), meta.kind.as_str()) {
        ("v1", "Pod") => Object::Pod(translate::pod(&typed::<Pod>(value)?)?),
        ("v1", "Namespace") => {
            Object::Namespace(translate::namespace(&typed::<Namespace>(value)?)?)
        }
        ("v1", "Node") => Object::Node(translate::node(&typed::<Node>(value)?)?),
        ("v1", "Service") => Object::Service(translate::service(&typed::<Service>(value)?)?),
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            Object::EndpointSlice(translate::endpoint_slice(&typed::<EndpointSlice>(value)?)?)
        }
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            Object::Policy(network_policy::lower(&typed_strictly::<NetworkPolicy>(&value)?)?)
        }
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy") => {
            Object::Policy(admin::lower(&typed_strictly(&value)?)?)
        }
        ("policy.networking.k8s.io/v1alpha1", "BaselineAdminNetworkPolicy") => {
            Object::Policy(admin::lower_baseline(&typed_strictly(&value)?)?)
        }
        ("v1", "ServiceAccount") => {
            let account = typed::<ServiceAccount>(value)?;
            Object::ServiceAccount(translate::service_account(&account)?)
        }
        (_, kind) if kind.ends_with("List") && value.get("items").is_some() => {
            return items(value, &meta).map(Decoded::List);
        }
        _ if meta.is_policy() => return Ok(Decoded::Unread),
        _ => return Ok(Decoded::NoPart),
    };
    Ok(Decoded::Object(Box::new(object)))
}

/// An object of Calico's, if it is of a kind that decisions depend on.
fn calico_object(kind: &str, group: Group, value: &Value) -> Result<Option<Object>, Problem> {
    let policy = |kind: PolicyKind| {
        let policy = calico::lower(&typed_strictly(value)?, kind, group)?;
        Ok(Some(Object::Policy(policy)))
    };
    match kind {
        "NetworkPolicy" => policy(PolicyKind::CalicoNetworkPolicy),
        "GlobalNetworkPolicy" => policy(PolicyKind::GlobalNetworkPolicy),
        "StagedNetworkPolicy" => policy(PolicyKind::StagedNetworkPolicy),
        "StagedGlobalNetworkPolicy" => policy(PolicyKind::StagedGlobalNetworkPolicy),
        "StagedKubernetesNetworkPolicy" => {
            let policy = calico::lower_staged_kubernetes(&typed_strictly(value)?, group)?;
            Ok(Some(Object::Policy(policy)))
        }
        "Tier" => Ok(Some(Object::Tier(calico::tier(&typed_strictly(value)?)?))),
        "NetworkSet" | "GlobalNetworkSet" => {
            let is_global = kind == "GlobalNetworkSet";
            let set = calico::network_set(&typed_strictly(value)?, is_global)?;
            Ok(Some(Object::NetworkSet(set)))
        }
        _ => Ok(None),
    }
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

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Problem> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        let message = error.inner().to_string();
        // serde: "invalid type: string \"x\", expected i32".
        let (found, expected) = match message.split_once(", expected ") {
            Some((found, expected)) => (found, expected),
            None => (message.as_str(), "a field as the API defines it"),
        };
        let found =
            found.trim_start_matches("invalid type: ").trim_start_matches("invalid value: ");
        Problem { field, expected: expected.to_owned(), found: found.to_owned() }
    })
}

/// As [`typed`], and a field that the API does not have is an error: a rule that is misspelt away
/// would turn the verdict around. The API server refuses it as well (strict field validation).
fn typed_strictly<T: DeserializeOwned + Serialize>(value: &Value) -> Result<T, Problem> {
    let object: T = typed(value.clone())?;
    let known = serde_json::to_value(&object).unwrap_or_default();
    match unknown_field(&value["spec"], &known["spec"], &FieldPath::root("spec")) {
        Some(problem) => Err(problem),
        None => Ok(object),
    }
}

/// A field that is given, is not empty, and did not survive decoding.
fn unknown_field(given: &Value, known: &Value, path: &FieldPath) -> Option<Problem> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().find_map(|(name, value)| {
            let path = path.field(name);
            match known.get(name) {
                Some(known) => unknown_field(value, known, &path),
                None if is_empty(value) => None,
                None => Some(path.expected("a field of the API", "one that it does not have")),
            }
        }),
        (Value::Array(given), Value::Array(known)) => {
            let pairs = given.iter().zip(known).enumerate();
            pairs
                .into_iter()
                .find_map(|(i, (given, known))| unknown_field(given, known, &path.index(i)))
        }
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
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
