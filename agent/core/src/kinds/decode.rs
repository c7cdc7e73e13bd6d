//! From the JSON of an object to the API's own type.

use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;
use serde_path_to_error::{Deserializer as Tracked, Track};

use crate::problem::{FieldPath, Problem};

/// Decodes an object. A field that the API does not have is passed over.
pub(super) fn decode<T: DeserializeOwned>(object: Value) -> Result<T, Problem> {
    let mut track = Track::new();
    T::deserialize(Tracked::new(object, &mut track)).map_err(|error| problem(track, &error))
}

/// As [`decode`], and a field in the spec that the API does not have is an error: a rule that is misspelt
/// away would turn the verdict around. The API server refuses it as well (strict field validation),
/// unless it says nothing.
pub(super) fn decode_strictly<T: DeserializeOwned>(object: &Value) -> Result<T, Problem> {
    let mut track = Track::new();
    let mut unknown = None;
    let mut ignored = |path: Path<'_>| {
        if unknown.is_none() {
            unknown = unknown_field(object, &path);
        }
    };
    let tracked = Tracked::new(object, &mut track);
    let decoded = T::deserialize(serde_ignored::Deserializer::new(tracked, &mut ignored));
    let decoded = decoded.map_err(|error| problem(track, &error))?;
    unknown.map_or(Ok(decoded), Err)
}

fn problem(track: Track, error: &serde_json::Error) -> Problem {
    let message = error.to_string();
    // serde: "invalid type: string \"x\", expected i32".
    let (found, expected) = match message.split_once(", expected ") {
        Some((found, expected)) => (found, expected),
        None => (message.as_str(), "a field as the API defines it"),
    };
    let found = found.trim_start_matches("invalid type: ").trim_start_matches("invalid value: ");
    let field = track.path().to_string();
    Problem { field, expected: expected.to_owned(), found: found.to_owned() }
}

/// What is wrong with a field that the type does not have, if it is in the spec and says something.
fn unknown_field(object: &Value, path: &Path<'_>) -> Option<Problem> {
    let mut steps = Vec::new();
    steps_to(path, &mut steps);
    let (Step::Field("spec"), below) = steps.split_first()? else { return None };
    let (mut place, mut value) = (FieldPath::root("spec"), &object["spec"]);
    for step in below {
        (place, value) = match *step {
            Step::Field(name) => (place.field(name), &value[name]),
            Step::Element(index) => (place.index(index), &value[index]),
        };
    }
    let says_nothing = match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        _ => false,
    };
    (!says_nothing).then(|| place.expected("a field of the API", "one that it does not have"))
}

enum Step<'a> {
    Field(&'a str),
    Element(usize),
}

fn steps_to<'a>(path: &'a Path<'_>, steps: &mut Vec<Step<'a>>) {
    match path {
        Path::Root => {}
        Path::Seq { parent, index } => {
            steps_to(parent, steps);
            steps.push(Step::Element(*index));
        }
        Path::Map { parent, key } => {
            steps_to(parent, steps);
            steps.push(Step::Field(key));
        }
        // Not there in the object.
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => steps_to(parent, steps),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::NetworkPolicy;
    use serde_json::json;

    use super::*;

    fn policy(spec: &Value) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "p", "new": 1 }, "spec": spec, "status": { "new": 1 },
        })
    }

    fn refused(spec: &Value) -> Option<String> {
        let decoded = decode_strictly::<NetworkPolicy>(&policy(spec));
        decoded.err().map(|problem| problem.to_string())
    }

    #[test]
    fn a_field_that_the_api_does_not_have_is_named_by_its_path() {
        let unknown = |field: &str| {
            Some(format!("{field}: expected a field of the API, found one that it does not have"))
        };
        assert_eq!(refused(&json!({ "ingres": [{}] })), unknown("spec.ingres"));
        assert_eq!(
            refused(&json!({
                "ingress": [{}, { "from": [{ "podSelector": { "matchLabel": { "a": "b" } } }] }],
                "podSelectors": 1,
            })),
            unknown("spec.ingress[1].from[0].podSelector.matchLabel")
        );
    }

    #[test]
    fn what_says_nothing_and_what_is_outside_the_spec_is_ignored() {
        assert_eq!(refused(&json!({ "new": null, "newer": [], "ingress": [] })), None);
        assert!(decode::<NetworkPolicy>(policy(&json!({ "ingres": [{}] }))).is_ok());
    }

    #[test]
    fn a_field_of_another_type_is_named_by_its_path() {
        assert_eq!(
            refused(&json!({ "ingress": [{ "ports": [{ "endPort": "80" }] }] })).as_deref(),
            Some("spec.ingress[0].ports[0].endPort: expected i32, found string \"80\"")
        );
    }
}
