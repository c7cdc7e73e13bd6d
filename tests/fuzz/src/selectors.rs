//! Selectors: what is read is written so that it is read again, and means what a plain evaluator says.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use whydrop_core::{
    policy::{
        expression::parse,
        requirement::{Labelled, Labels},
        selector::Selector,
    },
    problem::FieldPath,
};

use crate::choices::Choices;

/// How deep a built expression nests, less than the parser takes.
const DEPTH_MAX: usize = 6;

/// Texts, expressions with a known meaning, and the API's selectors.
pub(crate) fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    match choices.byte() % 4 {
        0 => text(&String::from_utf8_lossy(choices.rest())),
        1 | 2 => built(&mut choices),
        _ => api(&mut choices),
    }
}

/// Any text is a fault within it, or an expression that is written and read again.
fn text(text: &str) {
    match parse(text) {
        Ok(expression) => {
            let written = expression.to_string();
            let again = parse(&written);
            assert_eq!(again.as_ref(), Ok(&expression), "{text:?} was written {written:?}");
        }
        Err(fault) => {
            let columns = text.chars().count() + 1;
            assert!((1..=columns).contains(&fault.column), "{text:?}: {fault}");
        }
    }
}

/// Keys and values, few enough to meet.
const KEYS: [&str; 6] = ["app", "in", "has", "not", "kubernetes.io/name", "all"];
const VALUES: [&str; 7] = ["web", "", "we", "it's", "a\"b", "&& || !(", "b"];

/// An expression as it is drawn, before anybody writes it.
enum Drawn {
    All,
    Global,
    Condition(&'static str, How, Vec<&'static str>),
    Not(Box<Self>),
    Both(Vec<Self>),
    Either(Vec<Self>),
}

#[derive(Clone, Copy)]
enum How {
    Is,
    IsNot,
    In,
    NotIn,
    Has,
    Contains,
    Begins,
    Ends,
}

const HOWS: [How; 8] =
    [How::Is, How::IsNot, How::In, How::NotIn, How::Has, How::Contains, How::Begins, How::Ends];

fn built(choices: &mut Choices<'_>) {
    let drawn = draw(choices, DEPTH_MAX);
    let mut text = String::new();
    write(&drawn, choices, &mut text);
    let expression = parse(&text).unwrap_or_else(|fault| panic!("{text}: {fault}"));
    let written = expression.to_string();
    assert_eq!(parse(&written).as_ref(), Ok(&expression), "{text:?} was written {written:?}");
    let labels = labels(choices);
    let known = known(&labels);
    let of = Labelled {
        labels: &known,
        given: &[],
        all: choices.byte().is_multiple_of(2),
        global: choices.byte().is_multiple_of(2),
    };
    let expected = holds(&drawn, &labels, (of.all, of.global));
    assert_eq!(expression.matches(of), expected, "{text:?} of {labels:?}");
    assert_eq!(expression.negated().matches(of), !expected, "not {text:?} of {labels:?}");
    let selector = Selector::read(&text, &FieldPath::root("selector")).expect("read before");
    assert_eq!(selector.matches(of), expected, "{text:?} as a selector of {labels:?}");
    if of.all && of.global {
        let unmet = selector.unmet_parts(of);
        assert_eq!(unmet.is_empty(), expected, "{text:?} of {labels:?}: {unmet:?}");
    }
}

fn labels(choices: &mut Choices<'_>) -> BTreeMap<&'static str, &'static str> {
    (0..choices.below(4)).map(|_| (*choices.one(&KEYS), *choices.one(&VALUES))).collect()
}

fn known(labels: &BTreeMap<&str, &str>) -> Labels {
    labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn draw(choices: &mut Choices<'_>, depth: usize) -> Drawn {
    let below = depth.saturating_sub(1);
    match choices.byte() % 8 {
        0 if depth > 0 => Drawn::Not(Box::new(draw(choices, below))),
        kind @ 1..=2 if depth > 0 => {
            let parts = (0..2 + choices.below(3)).map(|_| draw(choices, below)).collect();
            if kind == 1 { Drawn::Both(parts) } else { Drawn::Either(parts) }
        }
        3 => Drawn::All,
        4 => Drawn::Global,
        _ => {
            let (key, how) = (*choices.one(&KEYS), *choices.one(&HOWS));
            let count = match how {
                How::In | How::NotIn => choices.below(4),
                _ => 1,
            };
            Drawn::Condition(key, how, (0..count).map(|_| *choices.one(&VALUES)).collect())
        }
    }
}

/// As somebody may write it: with blanks, either quotes, parentheses that nobody needs.
fn write(drawn: &Drawn, choices: &mut Choices<'_>, text: &mut String) {
    match drawn {
        Drawn::All => *text += choices.one(&["all()", "all( )"]),
        Drawn::Global => *text += choices.one(&["global()", "global( )"]),
        Drawn::Not(inner) => {
            *text += choices.one(&["!", "! "]);
            parenthesised(inner, choices, text);
        }
        Drawn::Both(parts) | Drawn::Either(parts) => {
            let word = if matches!(drawn, Drawn::Both(_)) { "&&" } else { "||" };
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    *text += choices.one(&[" ", "", "\t"]);
                    *text += word;
                    *text += choices.one(&[" ", "", "  "]);
                }
                parenthesised(part, choices, text);
            }
        }
        Drawn::Condition(key, how, values) => {
            if matches!(how, How::Has) {
                text.extend(["has(", key, ")"]);
                return;
            }
            *text += key;
            *text += match how {
                How::Is => choices.one(&["==", " == "]),
                How::IsNot => choices.one(&["!=", " != "]),
                How::In => choices.one(&[" in ", "\tin"]),
                How::NotIn => choices.one(&[" not in ", " notin"]),
                How::Contains => choices.one(&[" contains ", " contains"]),
                How::Begins => choices.one(&[" starts with ", " startswith "]),
                How::Ends | How::Has => choices.one(&[" ends with ", " endswith"]),
            };
            let is_set = matches!(how, How::In | How::NotIn);
            *text += if is_set { "{" } else { "" };
            for (index, value) in values.iter().enumerate() {
                *text += if index > 0 { choices.one(&[",", ", "]) } else { "" };
                let is_free = !value.contains(['\'', '"']);
                let quote = match choices.byte() % 2 {
                    0 if is_free => '"',
                    _ if value.contains('\'') => '"',
                    _ => '\'',
                };
                text.push(quote);
                *text += value;
                text.push(quote);
            }
            *text += if is_set { "}" } else { "" };
        }
    }
}

fn parenthesised(drawn: &Drawn, choices: &mut Choices<'_>, text: &mut String) {
    let has_to = matches!(drawn, Drawn::Both(_) | Drawn::Either(_));
    if has_to || choices.rarely(8) {
        text.push('(');
        write(drawn, choices, text);
        text.push(')');
    } else {
        write(drawn, choices, text);
    }
}

fn holds(drawn: &Drawn, labels: &BTreeMap<&str, &str>, (all, global): (bool, bool)) -> bool {
    let of = |part: &Drawn| holds(part, labels, (all, global));
    match drawn {
        Drawn::All => all,
        Drawn::Global => global,
        Drawn::Not(inner) => !of(inner),
        Drawn::Both(parts) => parts.iter().all(of),
        Drawn::Either(parts) => parts.iter().any(of),
        Drawn::Condition(key, how, values) => {
            let found = labels.get(key);
            let first = || values.first().copied().unwrap_or_default();
            match how {
                How::Is => found == Some(&first()),
                How::IsNot => found != Some(&first()),
                How::In => found.is_some_and(|value| values.contains(value)),
                How::NotIn => !found.is_some_and(|value| values.contains(value)),
                How::Has => found.is_some(),
                How::Contains => found.is_some_and(|value| value.contains(first())),
                How::Begins => found.is_some_and(|value| value.starts_with(first())),
                How::Ends => found.is_some_and(|value| value.ends_with(first())),
            }
        }
    }
}

/// The API's selectors: what is taken means what its documentation says, and the rest is refused.
fn api(choices: &mut Choices<'_>) {
    let match_labels: BTreeMap<String, String> = (0..choices.below(3))
        .map(|_| ((*choices.one(&KEYS)).to_owned(), (*choices.one(&VALUES)).to_owned()))
        .collect();
    let requirements: Vec<_> = (0..choices.below(4))
        .map(|_| LabelSelectorRequirement {
            key: (*choices.one(&KEYS)).to_owned(),
            operator: match choices.byte() % 8 {
                0 => choices.text(12),
                1..=2 => "In".to_owned(),
                3..=4 => "NotIn".to_owned(),
                5 => "Exists".to_owned(),
                _ => "DoesNotExist".to_owned(),
            },
            values: (!choices.byte().is_multiple_of(4)).then(|| {
                (0..choices.below(3)).map(|_| (*choices.one(&VALUES)).to_owned()).collect()
            }),
        })
        .collect();
    let labels = labels(choices);
    let selector = LabelSelector {
        match_labels: Some(match_labels.clone()),
        match_expressions: Some(requirements.clone()),
    };
    let has_values =
        |r: &LabelSelectorRequirement| r.values.as_ref().is_some_and(|v| !v.is_empty());
    let is_valid = |r: &LabelSelectorRequirement| match r.operator.as_str() {
        "In" | "NotIn" => has_values(r),
        "Exists" | "DoesNotExist" => !has_values(r),
        _ => false,
    };
    let holds = |r: &LabelSelectorRequirement| {
        let found = labels.get(r.key.as_str());
        let is_in = found.is_some_and(|value| r.values.iter().flatten().any(|v| v == value));
        match r.operator.as_str() {
            "In" => is_in,
            "NotIn" => !is_in,
            "Exists" => found.is_some(),
            _ => found.is_none(),
        }
    };
    match Selector::lower(&selector, &FieldPath::root("spec")) {
        Ok(lowered) => {
            assert!(requirements.iter().all(is_valid), "{requirements:?} were taken");
            let expected = match_labels.iter().all(|(k, v)| labels.get(&**k) == Some(&&**v))
                && requirements.iter().all(holds);
            assert_eq!(lowered.matches(&known(&labels)), expected, "{selector:?} of {labels:?}");
            let unmet = lowered.unmet(&known(&labels)).count();
            assert_eq!(unmet == 0, expected, "{selector:?} of {labels:?}");
        }
        Err(problem) => {
            assert!(!requirements.iter().all(is_valid), "{selector:?}: {problem}");
        }
    }
}
