//! The way of a flow through the layers: which of them decides, and by what.

use std::sync::Arc;

use super::{
    Action, Layer, PolicyKind, RuleRef,
    evaluate::{Passed, PolicyTrace},
    order::Order,
    tier::{EndOfTier, Tier},
};
use crate::cluster::Snapshot;

/// Where a layer stands among the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// `AdminNetworkPolicy`. Calico that implements it puts it into a tier before all usual ones.
    Admin,
    /// A tier: by its order, then by its name.
    Tier(Order, Arc<str>),
    /// `BaselineAdminNetworkPolicy`, after all tiers.
    Baseline,
}

/// Places layers in their order.
pub(super) struct Layers<'a> {
    pub(super) snapshot: &'a Snapshot,
}

impl Layers<'_> {
    /// The place of a layer; `Err` names a tier of which there is no object.
    pub(super) fn place(&self, layer: &Layer) -> Result<Place, Arc<str>> {
        let Some(name) = layer.tier() else {
            return Ok(if *layer == Layer::Admin { Place::Admin } else { Place::Baseline });
        };
        let missing = || format!("Tier {name} is not among the objects, so its order is not known");
        let tier = self.snapshot.tier(name).ok_or_else(|| Arc::from(missing()))?;
        Ok(Place::Tier(tier.order, tier.name.clone()))
    }

    fn tier(&self, layer: &Layer) -> Option<Arc<Tier>> {
        self.snapshot.tier(layer.tier()?)
    }
}

/// What the walk came to.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Where it ended.
    pub(super) end: Ending,
    /// The tiers that it was passed on from.
    pub(super) passed: Vec<Passed>,
}

/// Where a walk ends.
#[derive(Debug, Default)]
pub(super) enum Ending {
    /// Nothing decides: the flow passes.
    #[default]
    Nowhere,
    /// A rule allows or denies.
    AtRule { layer: Layer, rule: RuleRef, is_allowed: bool },
    /// A tier denies what none of its policies' rules decides.
    AtEndOfTier(Layer),
    /// It cannot be told what this layer does, and why not.
    Unknown { layer: Layer, why: Vec<Arc<str>> },
}

/// Walks through the policies that select a pod, in their order.
pub(super) fn walk<'a>(layers: &Layers<'_>, trace: impl Iterator<Item = &'a PolicyTrace>) -> Walk {
    let trace: Vec<&PolicyTrace> = trace.collect();
    let mut walk = Walk::default();
    let is_one_layer =
        |a: &&PolicyTrace, b: &&PolicyTrace| match (a.layer().tier(), b.layer().tier()) {
            (None, None) => a.layer() == b.layer(),
            (a, b) => a == b,
        };
    for of_layer in trace.chunk_by(is_one_layer) {
        match step(layers, of_layer) {
            Step::NextLayer(passed) => walk.passed.extend(passed),
            Step::End(end) => {
                walk.end = end;
                break;
            }
        }
    }
    walk
}

enum Step {
    NextLayer(Option<Passed>),
    End(Ending),
}

fn step(layers: &Layers<'_>, of_layer: &[&PolicyTrace]) -> Step {
    // Rules before the one that decides of which nobody can say whether they match.
    let mut perhaps: Vec<(Action, Arc<str>)> = Vec::new();
    let rules = of_layer.iter().flat_map(|trace| trace.rules.iter().map(move |rule| (trace, rule)));
    for (trace, rule) in rules.filter(|(_, rule)| rule.action != Action::Log) {
        match rule.matches() {
            Ok(false) => {}
            Err(why) => perhaps.push((rule.action, why)),
            Ok(true) => {
                let is_allowed = rule.action == Action::Allow;
                // An allowed flow is allowed, whichever of the rules that allow it comes first.
                if let Some(why) = open_questions(perhaps, is_allowed) {
                    return Step::End(Ending::Unknown { layer: trace.layer().clone(), why });
                }
                let reference = trace.rule_ref(rule);
                if rule.action == Action::Pass {
                    let tier = layers.tier(trace.layer());
                    let passed = tier.map(|tier| Passed { tier, rule: Some(reference) });
                    return Step::NextLayer(passed);
                }
                let layer = trace.layer().clone();
                return Step::End(Ending::AtRule { layer, rule: reference, is_allowed });
            }
        }
    }
    let Some(layer) = of_layer.last().map(|trace| trace.layer()) else {
        return Step::NextLayer(None);
    };
    if let Some(why) = open_questions(perhaps, false) {
        return Step::End(Ending::Unknown { layer: layer.clone(), why });
    }
    let Some(tier) = layers.tier(layer) else { return Step::NextLayer(None) };
    match tier.end {
        EndOfTier::Pass => Step::NextLayer(Some(Passed { tier, rule: None })),
        EndOfTier::Deny => {
            // Of Kubernetes' policies alone, it is their isolation that denies.
            let is_kubernetes =
                |t: &&PolicyTrace| t.policy.reference.kind == PolicyKind::NetworkPolicy;
            let layer = match of_layer.iter().all(is_kubernetes) {
                true => Layer::NetworkPolicy,
                false => Layer::Tier(tier.name.clone()),
            };
            Step::End(Ending::AtEndOfTier(layer))
        }
    }
}

/// Why it is open what becomes of a flow that rules may or may not match; `None`: they all allow it,
/// as does what comes after.
fn open_questions(mut perhaps: Vec<(Action, Arc<str>)>, is_allowed: bool) -> Option<Vec<Arc<str>>> {
    perhaps.retain(|(action, _)| !(is_allowed && *action == Action::Allow));
    let mut why: Vec<_> = perhaps.into_iter().map(|(_, why)| why).collect();
    why.dedup();
    (!why.is_empty()).then_some(why)
}
