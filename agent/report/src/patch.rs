//! A remedy as changes to policies that are there: JSON patches (RFC 6902) for `kubectl patch`.

use serde::Serialize;
use serde_json::{Value, json};
use whydrop_core::{
    flow::Direction,
    kinds,
    remedy::{Manifest, patch},
};

use crate::{
    convert::policy_ref,
    escape::{json_text, shell_word},
    schema::ObjectRef,
};

/// A rule that is added to a policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Edit {
    /// The policy.
    pub policy: ObjectRef,
    /// Whether it is an egress or an ingress rule.
    pub direction: Direction,
    /// The rule, as it is written in the policy's spec.
    pub rule: Value,
    /// The command that adds it.
    pub command: String,
}

/// The edits of a patch.
pub fn edits_of(patch: &patch::Patch) -> Vec<Edit> {
    patch.edits.iter().map(edit_of).collect()
}

fn edit_of(edit: &patch::Edit) -> Edit {
    let rule = rule_of(edit);
    let path = match edit.direction {
        Direction::Egress => "/spec/egress",
        Direction::Ingress => "/spec/ingress",
    };
    // A list that is not there cannot be added to, and an empty one is not there.
    let operation = match edit.has_rules {
        true => json!([{"op": "add", "path": format!("{path}/-"), "value": rule}]),
        false => json!([{"op": "add", "path": path, "value": [rule]}]),
    };
    let plural = kinds::of_policy(edit.policy.kind).plural;
    let group = edit.api_version.split('/').next().unwrap_or_default();
    let namespace = edit.policy.namespace.as_deref().unwrap_or_default();
    // What begins with a dash would be an option.
    let between = if edit.policy.name.starts_with('-') { '/' } else { ' ' };
    let command = format!(
        "kubectl patch {plural}.{group}{between}{} --namespace {} --type json --patch {}",
        shell_word(&edit.policy.name),
        shell_word(namespace),
        shell_word(&json_text(&operation.to_string()))
    );
    Edit { policy: policy_ref(&edit.policy), direction: edit.direction, rule, command }
}

/// The one rule of the remedy's own policy, as JSON. Objects of the API are maps, strings and
/// numbers: nothing that JSON cannot hold.
fn rule_of(edit: &patch::Edit) -> Value {
    fn first<T: Serialize>(rules: Option<&Vec<T>>) -> Value {
        let rule = rules.and_then(|rules| rules.first());
        serde_json::to_value(rule).unwrap_or_default()
    }
    match (&edit.rule, edit.direction) {
        (Manifest::Kubernetes(policy), Direction::Egress) => {
            first(policy.spec.as_ref().and_then(|spec| spec.egress.as_ref()))
        }
        (Manifest::Kubernetes(policy), Direction::Ingress) => {
            first(policy.spec.as_ref().and_then(|spec| spec.ingress.as_ref()))
        }
        (Manifest::Calico(policy, _), Direction::Egress) => first(policy.spec.egress.as_ref()),
        (Manifest::Calico(policy, _), Direction::Ingress) => first(policy.spec.ingress.as_ref()),
    }
}
