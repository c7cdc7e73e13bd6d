//! What an API object is to us, by the row of its kind.

use std::fmt;

use serde_json::Value;
use whydrop_core::{
    cluster::object::Object,
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
        let text = |name: &str| match fields.get(name) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(other) => Err(FieldPath::root(name).expected("a string", shown(other))),
            None => Err(FieldPath::root(name).expected("a string such as v1", "none")),
        };
        Ok(Self { api_version: text("apiVersion")?, kind: text("kind")? })
    }
}

/// Decodes an API object.
///
/// # Errors
/// The first field that the API server would refuse.
pub fn decode(value: Value) -> Result<Decoded, Problem> {
    let meta = TypeMeta::of(&value)?;
    let TypeMeta { api_version, kind } = &meta;
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
