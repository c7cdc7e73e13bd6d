//! From the JSON of an object to the API's own type.

use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;
use serde_path_to_error::{Deserializer as Tracked, Track};

use crate::problem::Problem;

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
            unknown = unknown_field(object, steps_of(&path));
        }
    };
    let tracked = Tracked::new(object, &mut track);
    let decoded = T::deserialize(serde_ignored::Deserializer::new(tracked, &mut ignored));
    let decoded = decoded.map_err(|error| problem(track, &error))?;
    let Some(steps) = unknown else { return Ok(decoded) };
    let found = match belongs::<T>(object, &steps) {
        Some(place) => format!("one that it does not have here; it belongs to {}", path(&place)),
        None => "one that it does not have".to_owned(),
    };
    Err(Problem { field: path(&steps), expected: "a field of the API".to_owned(), found })
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

/// The field, if it is one of the object or within its spec, and says something.
fn unknown_field(object: &Value, steps: Vec<Step>) -> Option<Vec<Step>> {
    match steps.as_slice() {
        // Others may know more of these.
        [Step::Field(name)]
            if !["apiVersion", "kind", "metadata", "status"].contains(&name.as_str()) => {}
        [Step::Field(spec), _, ..] if spec == "spec" => {}
        _ => return None,
    }
    let says_nothing = match at(object, &steps) {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    (!says_nothing).then_some(steps)
}

/// Where the type does have a field of this name that can hold this: in what is beside it, or in what is
/// around it, from the nearest outwards.
fn belongs<T: DeserializeOwned>(object: &Value, steps: &[Step]) -> Option<Vec<Step>> {
    let (name, around) = steps.split_last()?;
    let Step::Field(field) = name else { return None };
    let value = at(object, steps)?.clone();
    let mut without = object.clone();
    at_mut(&mut without, around)?.as_object_mut()?.remove(field);
    let outwards = (1..around.len()).rev().map(|count| around[..count].to_vec());
    let beside = at(&without, around)?.as_object()?.iter().filter_map(|(key, value)| {
        let first = match value {
            Value::Object(_) => None,
            Value::Array(_) => Some(Step::Element(0)),
            _ => return None,
        };
        Some(around.iter().cloned().chain([Step::Field(key.clone())]).chain(first).collect())
    });
    let places: Vec<Vec<Step>> = beside.chain(outwards).collect();
    places.into_iter().find_map(|mut place| {
        let mut moved = without.clone();
        let fields = at_mut(&mut moved, &place)?.as_object_mut()?;
        if fields.contains_key(field) {
            return None;
        }
        fields.insert(field.clone(), value.clone());
        place.push(name.clone());
        has_field::<T>(&moved, &place).then_some(place)
    })
}

/// Whether the type has this field, and can hold what it says.
fn has_field<T: DeserializeOwned>(object: &Value, steps: &[Step]) -> bool {
    let mut is_ignored = false;
    let mut ignored = |path: Path<'_>| is_ignored |= steps.starts_with(&steps_of(&path));
    let decoded = T::deserialize(serde_ignored::Deserializer::new(object, &mut ignored));
    decoded.is_ok() && !is_ignored
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Element(usize),
}

fn path(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Step::Field(name) if path.is_empty() => name.clone(),
        Step::Field(name) => format!("{path}.{name}"),
        Step::Element(index) => format!("{path}[{index}]"),
    })
}

fn at<'a>(object: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    steps.iter().try_fold(object, |value, step| match step {
        Step::Field(name) => value.get(name),
        Step::Element(index) => value.get(index),
    })
}

fn at_mut<'a>(object: &'a mut Value, steps: &[Step]) -> Option<&'a mut Value> {
    steps.iter().try_fold(object, |value, step| match step {
        Step::Field(name) => value.get_mut(name),
        Step::Element(index) => value.get_mut(index),
    })
}

fn steps_of(path: &Path<'_>) -> Vec<Step> {
    match path {
        Path::Root => Vec::new(),
        Path::Seq { parent, index } => {
            let mut steps = steps_of(parent);
            steps.push(Step::Element(*index));
            steps
        }
        Path::Map { parent, key } => {
            let mut steps = steps_of(parent);
            steps.push(Step::Field(key.clone()));
            steps
        }
        // Not there in the object.
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => steps_of(parent),
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
    fn of_a_field_in_the_wrong_place_the_right_one_is_named() {
        for (spec, field, place) in [
            (
                json!({ "egress": [{ "to": [{ "ipBlock": { "cidr": "8.8.8.8/32" }, "ports": [{ "port": 53 }] }] }] }),
                "spec.egress[0].to[0].ports",
                "spec.egress[0].ports",
            ),
            (
                json!({ "ingress": [{ "from": [{}], "podSelector": { "matchLabels": { "a": "b" } } }] }),
                "spec.ingress[0].podSelector",
                "spec.ingress[0].from[0].podSelector",
            ),
            (
                json!({ "podSelector": {}, "matchLabels": { "a": "b" } }),
                "spec.matchLabels",
                "spec.podSelector.matchLabels",
            ),
        ] {
            let refused = refused(&spec).expect("an error");
            assert!(refused.starts_with(&format!("{field}: ")), "{refused}");
            assert!(refused.ends_with(&format!("it belongs to {place}")), "{refused}");
        }
        let mut policy = policy(&json!({ "podSelector": {} }));
        policy["egress"] = json!([{}]);
        let refused = decode_strictly::<NetworkPolicy>(&policy).expect_err("an error").to_string();
        assert!(refused.ends_with("it belongs to spec.egress"), "{refused}");
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
