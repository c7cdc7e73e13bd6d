//! A remedy as one more rule of policies that are there, instead of as new policies.

use std::sync::Arc;

use super::{Manifest, Remedy, newly_allowed, ports};
use crate::{
    cluster::Snapshot,
    diagnosis::Diagnosis,
    flow::Direction,
    policy::{Policy, PolicyRef},
    verdict::evaluate,
};

/// Rules to add to policies, with which the flow passes by the same evaluator.
#[derive(Clone, Debug)]
pub struct Patch {
    /// One for each direction that denies.
    pub edits: Vec<Edit>,
    /// How many other pairs of ends it newly allows, at least: a policy that is there may select
    /// more pods than a new one would.
    pub newly_allowed: usize,
    /// The cluster with it.
    pub after: Snapshot,
}

/// A rule to add to a policy.
#[derive(Clone, Debug)]
pub struct Edit {
    /// The policy.
    pub policy: PolicyRef,
    /// `networking.k8s.io/v1`, or Calico's.
    pub api_version: Arc<str>,
    /// Whether it is an egress or an ingress rule.
    pub direction: Direction,
    /// The rule: the only one of this manifest.
    pub rule: Manifest,
    /// The policy has rules of this direction, after which this one goes.
    pub has_rules: bool,
}

/// Finds policies that the rules of a remedy can be added to: that of the nearest miss, else one
/// that allows something already, else the one that leads. `None`: there is none, or the flow
/// cannot be proved to pass by it.
pub fn patch(snapshot: &Snapshot, diagnosis: &Diagnosis, remedy: &Remedy) -> Option<Patch> {
    let mut after = snapshot.clone();
    let mut edited: Vec<Policy> = Vec::new();
    let mut edits = Vec::new();
    for manifest in &remedy.policies {
        let added = manifest.lower()?;
        let direction = [Direction::Egress, Direction::Ingress]
            .into_iter()
            .find(|direction| added.rules(*direction).is_some())?;
        let host = host(diagnosis, direction, &added)?;
        // Both directions may deny by one policy.
        let known = edited.iter().position(|policy| policy.reference == host.reference);
        let mut policy = known.map_or_else(|| host.as_ref().clone(), |n| edited.swap_remove(n));
        let rules = match direction {
            Direction::Egress => policy.egress.as_mut()?,
            Direction::Ingress => policy.ingress.as_mut()?,
        };
        let has_rules = !rules.is_empty();
        rules.extend_from_slice(added.rules(direction)?);
        edits.push(Edit {
            policy: policy.reference.clone(),
            api_version: policy.api_version.clone(),
            direction,
            rule: manifest.clone(),
            has_rules,
        });
        after = after.with_policy(policy.clone());
        edited.push(policy);
    }
    let question = &diagnosis.question;
    let passes = evaluate(&after, question).decision().lets_pass();
    let ports = ports(question, diagnosis.cause.situation);
    let newly_allowed = newly_allowed(snapshot, &after, question, &edited, &ports)?;
    passes.then_some(Patch { edits, newly_allowed, after })
}

fn host(diagnosis: &Diagnosis, direction: Direction, added: &Policy) -> Option<Arc<Policy>> {
    let responsible = diagnosis.verdict.direction(direction).responsible();
    let fits = |policy: &&Arc<Policy>| {
        policy.reference.kind == added.reference.kind
            && policy.reference.namespace == added.reference.namespace
            && policy.layer == added.layer
    };
    let nearest = diagnosis.cause.nearest_miss.as_ref().map(|miss| &miss.rule.policy);
    let of_nearest = responsible.iter().filter(fits).find(|p| Some(&p.reference) == nearest);
    let allows = |policy: &&Arc<Policy>| policy.rules(direction).is_some_and(|r| !r.is_empty());
    let allowing = || responsible.iter().filter(fits).find(allows);
    let leading = || responsible.iter().find(fits);
    of_nearest.or_else(allowing).or_else(leading).cloned()
}
