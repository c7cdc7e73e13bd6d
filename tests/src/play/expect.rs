//! Compares what was reported with what a scenario expects, and says where they differ.
//!
//! An expected object needs only the fields it names. A list has the same length, in any order. An
//! object with one key that begins with `$` is an [`Operator`] instead of a value.

use serde_json::Value;

/// A comparison other than equality.
enum Operator<'v> {
    /// `$at-least: N`: a number of N or more.
    AtLeast(f64),
    /// `$contains: TEXT`, or a list of texts: a string with all of these in it.
    Contains(Vec<&'v str>),
    /// `$present: BOOL`: anything but null and absent; or the reverse.
    Present(bool),
    /// `$one-of: LIST`: one of these.
    OneOf(&'v [Value]),
    /// `$yaml: VALUE`: a string that holds a YAML document like this.
    Yaml(&'v Value),
}

impl<'v> Operator<'v> {
    fn of(expected: &'v Value) -> Option<Self> {
        let (key, operand) = match expected.as_object() {
            Some(object) if object.len() == 1 => object.iter().next()?,
            _ => return None,
        };
        Some(match key.as_str() {
            "$at-least" => Self::AtLeast(operand.as_f64()?),
            "$contains" => Self::Contains(match operand {
                Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect(),
                text => vec![text.as_str()?],
            }),
            "$present" => Self::Present(operand.as_bool()?),
            "$one-of" => Self::OneOf(operand.as_array()?),
            "$yaml" => Self::Yaml(operand),
            _ => return None,
        })
    }

    fn differences(&self, got: &Value, path: &str, found: &mut Vec<String>) {
        let agrees = match self {
            Self::AtLeast(least) => got.as_f64().is_some_and(|number| number >= *least),
            Self::Contains(texts) => {
                got.as_str().is_some_and(|got| texts.iter().all(|text| got.contains(text)))
            }
            Self::Present(present) => got.is_null() != *present,
            Self::OneOf(values) => values.iter().any(|value| matches(value, got)),
            Self::Yaml(expected) => {
                let document = got.as_str().and_then(|text| serde_saphyr::from_str(text).ok());
                if let Some(document) = document {
                    collect(expected, &document, path, found);
                    return;
                }
                false
            }
        };
        if !agrees {
            let wanted = match self {
                Self::AtLeast(least) => format!("at least {least}"),
                Self::Contains(texts) => format!("a text with {texts:?}"),
                Self::Present(true) => "something".to_owned(),
                Self::Present(false) => "nothing".to_owned(),
                Self::OneOf(values) => format!("one of {values:?}"),
                Self::Yaml(_) => "a YAML document".to_owned(),
            };
            found.push(format!("{path}: expected {wanted}, got {got}"));
        }
    }
}

/// Whether `got` has all that `expected` asks for.
pub fn matches(expected: &Value, got: &Value) -> bool {
    differences(expected, got).is_empty()
}

/// Every place where `got` is not as `expected` asks, one line each.
pub fn differences(expected: &Value, got: &Value) -> Vec<String> {
    let mut found = Vec::new();
    collect(expected, got, "", &mut found);
    found
}

fn collect(expected: &Value, got: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(operator) = Operator::of(expected) {
        operator.differences(got, path, found);
        return;
    }
    match (expected, got) {
        (Value::Object(fields), Value::Object(_)) => {
            for (key, value) in fields {
                collect(value, &got[key.as_str()], &format!("{path}.{key}"), found);
            }
        }
        (Value::Array(items), Value::Array(others)) => {
            let pairs = Pairing::of(items, others);
            if !pairs.missing.is_empty() || !pairs.extra.is_empty() {
                found.push(format!("{path}: expected the items {expected}, got {got}"));
            }
        }
        _ if expected == got => {}
        _ => found.push(format!("{path}: expected {expected}, got {got}")),
    }
}

/// Which of the values got fit which of those expected: as many pairs as can be made.
#[derive(Debug)]
pub struct Pairing {
    /// Indexes of expected values that nothing fits.
    pub missing: Vec<usize>,
    /// Indexes of values got that nothing expects.
    pub extra: Vec<usize>,
    /// For each value got, the expected one it was paired with.
    pub pairs: Vec<Option<usize>>,
}

impl Pairing {
    /// Pairs by augmenting paths, so that a vague expectation never takes the value that only a
    /// precise one could have been content with.
    pub fn of(expected: &[Value], got: &[Value]) -> Self {
        let fits: Vec<Vec<usize>> = expected
            .iter()
            .map(|want| (0..got.len()).filter(|&index| matches(want, &got[index])).collect())
            .collect();
        let mut pairs = vec![None; got.len()];
        let missing = (0..expected.len())
            .filter(|&want| !place(want, &fits, &mut pairs, &mut vec![false; got.len()]))
            .collect();
        let extra = (0..got.len()).filter(|&index| pairs[index].is_none()).collect();
        Self { missing, extra, pairs }
    }
}

/// Finds a value for `want`, moving others to their second choice where that helps.
fn place(
    want: usize,
    fits: &[Vec<usize>],
    pairs: &mut [Option<usize>],
    tried: &mut [bool],
) -> bool {
    for &index in &fits[want] {
        if std::mem::replace(&mut tried[index], true) {
            continue;
        }
        if pairs[index].is_none_or(|other| place(other, fits, pairs, tried)) {
            pairs[index] = Some(want);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_fields_that_are_named_count() {
        let got = json!({"a": 1, "b": {"c": 2, "d": 3}});
        assert!(matches(&json!({"b": {"d": 3}}), &got));
        assert_eq!(
            differences(&json!({"a": 1, "b": {"d": 4, "e": 5}}), &got),
            [".b.d: expected 4, got 3", ".b.e: expected 5, got null"]
        );
    }

    #[test]
    fn a_list_has_the_same_items_in_any_order() {
        let got = json!([{"name": "a", "x": 1}, {"name": "b"}]);
        assert!(matches(&json!([{"name": "b"}, {"name": "a"}]), &got));
        assert!(!matches(&json!([{"name": "b"}]), &got), "one too many");
        assert!(!matches(&json!([]), &json!([1])));
        assert!(!matches(&json!([{"name": "b"}, {"name": "b"}]), &got), "one for each");
    }

    #[test]
    fn operators_compare_otherwise() {
        for (expected, got, agrees) in [
            (json!({"$at-least": 2}), json!(2), true),
            (json!({"$at-least": 2}), json!(1), false),
            (json!({"$at-least": 2}), Value::Null, false),
            (json!({"$contains": "b"}), json!("abc"), true),
            (json!({"$contains": ["a", "x"]}), json!("abc"), false),
            (json!({"$present": true}), json!(false), true),
            (json!({"$present": true}), Value::Null, false),
            (json!({"$present": false}), Value::Null, true),
            (json!({"$one-of": [1, 2]}), json!(2), true),
            (json!({"$one-of": [1, 2]}), json!(3), false),
            (json!({"$yaml": {"a": 1}}), json!("a: 1\nb: 2\n"), true),
            (json!({"$yaml": {"a": 2}}), json!("a: 1\n"), false),
            (json!({"$yaml": {"a": 2}}), json!(7), false),
        ] {
            assert_eq!(matches(&expected, &got), agrees, "{expected} against {got}");
        }
    }

    #[test]
    fn a_vague_expectation_leaves_the_value_that_a_precise_one_needs() {
        let (vague, precise) = (json!({}), json!({"name": "a"}));
        let got = [json!({"name": "a"}), json!({"name": "b"})];
        let pairing = Pairing::of(&[vague, precise], &got);
        assert!(pairing.missing.is_empty() && pairing.extra.is_empty(), "{pairing:?}");
        assert_eq!(pairing.pairs, [Some(1), Some(0)]);
    }

    #[test]
    fn what_is_missing_and_what_is_extra_is_named() {
        let pairing = Pairing::of(&[json!(1), json!(2)], &[json!(2), json!(3)]);
        assert_eq!((pairing.missing, pairing.extra), (vec![0], vec![1]));
    }
}
