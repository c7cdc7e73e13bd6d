//! Labels that a command can set, and a flow asked again where they are.

use std::sync::Arc;

use crate::{
    cluster::{
        Snapshot,
        resolve::{Endpoint, Holder},
    },
    policy::{
        NAMESPACE_NAME_LABEL, given_label,
        requirement::{Operator, Requirement},
    },
    verdict::Question,
};

/// The same flow in another snapshot, where its pods may have other labels.
pub(super) fn question_in(snapshot: &Snapshot, question: &Question) -> Question {
    let end = |end: &Endpoint| Endpoint { holder: holder_in(snapshot, &end.holder), ..end.clone() };
    Question { source: end(&question.source), destination: end(&question.destination), ..*question }
}

fn holder_in(snapshot: &Snapshot, holder: &Holder) -> Holder {
    match holder {
        Holder::Pod(pod) => {
            Holder::Pod(snapshot.pod(&pod.namespace, &pod.name).unwrap_or(pod).clone())
        }
        other => other.clone(),
    }
}

/// Labels that meet these requirements, where each asks for a value.
pub(super) fn simple_labels<'a>(
    requirements: impl Iterator<Item = &'a Requirement>,
) -> Option<Vec<(Arc<str>, Arc<str>)>> {
    let labels: Option<Vec<_>> = requirements
        .map(|requirement| match &requirement.operator {
            // The API server, or Calico, owns these labels.
            _ if &*requirement.key == NAMESPACE_NAME_LABEL => None,
            _ if requirement.key.starts_with(given_label::PREFIX) => None,
            Operator::In(values) => Some((requirement.key.clone(), values.first()?.clone())),
            _ => None,
        })
        .collect();
    let are_plain = |(key, value): &(Arc<str>, Arc<str>)| {
        is_plain(key) && (value.is_empty() || is_plain(value))
    };
    labels.filter(|labels| !labels.is_empty() && labels.iter().all(are_plain))
}

/// Whether it is of the characters that names and labels have (`apimachinery/pkg/util/validation`):
/// of no others can the API server take a label, and a shell takes them as they are.
pub(super) fn is_plain(text: &str) -> bool {
    let is_of_names = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_of_names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_no_object_can_have_is_no_choice() {
        let labels = |value: &str| {
            let operator = Operator::In(vec![value.into()]);
            simple_labels([Requirement { key: "team".into(), operator }].iter())
        };
        assert!(labels("blue-1.x_y").is_some() && labels("").is_some());
        for value in ["x$(id)", "a b", "'", ";", "-x", "\u{202e}x", "x\n"] {
            assert_eq!(labels(value), None, "{value:?}");
        }
    }
}
