//! A remedy as one more rule of policies that are there, instead of as new policies.

use std::sync::Arc;

use super::{
    Manifest, Remedy, gain::GainedPath, merge::single_rules, newly_allowed, packets::Packets, ports,
};
use crate::{
    cluster::Snapshot,
    diagnosis::Diagnosis,
    flow::Direction,
    policy::{Policy, PolicyRef},
    verdict::{Question, evaluate},
};

/// Rules to add to policies, with which the flow passes by the same evaluator.
#[derive(Clone, Debug)]
pub struct Patch {
    /// One for each rule of the remedy.
    pub edits: Vec<Edit>,
    /// How many other pairs of ends it newly allows, at least: a policy that is there may select
    /// more pods than a new one would.
    pub newly_allowed: usize,
    /// Between whom these are: the paths with most pairs.
    pub newly_allowed_paths: Vec<GainedPath>,
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
/// that allows something already, else the one that leads. `None`: there is none, or a packet that
/// the remedy is for cannot be proved to pass by it.
pub fn patch(snapshot: &Snapshot, diagnosis: &Diagnosis, remedy: &Remedy) -> Option<Patch> {
    patch_for_all(snapshot, std::slice::from_ref(diagnosis), remedy)
}

/// The same for the remedy of several packets.
pub fn patch_for_all(
    snapshot: &Snapshot,
    diagnoses: &[Diagnosis],
    remedy: &Remedy,
) -> Option<Patch> {
    let lead = diagnoses.iter().find(|diagnosis| diagnosis.cause.class.is_denial())?;
    let packets = Packets::of(snapshot, diagnoses).ok()?;
    let mut after = snapshot.clone();
    let mut edited: Vec<Policy> = Vec::new();
    let mut edits = Vec::new();
    for manifest in remedy.policies.iter().flat_map(single_rules) {
        let added = manifest.lower()?;
        let direction = [Direction::Egress, Direction::Ingress]
            .into_iter()
            .find(|direction| added.rules(*direction).is_some())?;
        let mut denied = diagnoses.iter().filter(|d| d.cause.class.is_denial());
        let host = denied.find_map(|diagnosis| host(diagnosis, direction, &added))?;
        // Both directions, and several rules, may be for one policy.
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
    let passes = |question: &Question| evaluate(&after, question).decision().lets_pass();
    if !packets.required().all(passes) {
        return None;
    }
    let ports = ports(snapshot, lead);
    let gain = newly_allowed(snapshot, &after, &packets, &edited, &ports)?;
    let (newly_allowed, newly_allowed_paths) = (gain.pairs, gain.paths);
    Some(Patch { edits, newly_allowed, newly_allowed_paths, after })
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
