//! The way of a flow through the stages: which of them decides, and by what.

use std::sync::Arc;

use super::{Passed, PolicyTrace};
use crate::{
    cluster::Snapshot,
    policy::{
        Action, Layer, RuleRef,
        tier::{DefaultAction, Tier},
    },
};

/// Policies that are asked together, in their order.
#[derive(Clone, Debug)]
struct Stage {
    /// Their layer; of a tier, all that are part of it.
    layer: Layer,
    /// The tier, of stages that are one.
    tier: Option<Arc<Tier>>,
    /// What becomes of a flow whose pod one of the policies selects, and that no rule decides.
    default: DefaultAction,
}

/// The stages that there are, in the order in which a flow passes them. Past the last one, a flow
/// that nothing has decided passes.
///
/// What engines differ in is this list: cluster administrators' policies, tiers and baselines are
/// stages like any other.
#[derive(Clone, Debug)]
pub(super) struct Stages(Vec<Stage>);

impl Stages {
    /// The stages of a cluster.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let leaves_the_rest = |layer| Stage { layer, tier: None, default: DefaultAction::Pass };
        let mut tiers = snapshot.tiers();
        tiers.sort_by_cached_key(|tier| (tier.order, tier.name.clone()));
        let tiers = tiers.into_iter().map(|tier| Stage {
            layer: Layer::Tier(tier.name.clone()),
            default: tier.default_action,
            tier: Some(tier),
        });
        // Calico that implements `AdminNetworkPolicy` puts it into a tier before all usual ones, and
        // `BaselineAdminNetworkPolicy` into one after them.
        let first = leaves_the_rest(Layer::Admin);
        let last = leaves_the_rest(Layer::Baseline);
        Self([first].into_iter().chain(tiers).chain([last]).collect())
    }

    /// Which stage, counted from the first, a layer is part of; `Err` names a tier that has no
    /// object.
    pub(super) fn place(&self, layer: &Layer) -> Result<usize, Arc<str>> {
        self.0.iter().position(|stage| stage.holds(layer)).ok_or_else(|| {
            let name = layer.tier().unwrap_or_default();
            format!("Tier {name} is not among the objects, so its order is not known").into()
        })
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
    /// A rule allows it.
    Allowed { layer: Layer, by: RuleRef },
    /// A rule denies it, or, without one, the default of the stage.
    Denied { layer: Layer, by: Option<RuleRef> },
    /// What this layer does is unknown, and why.
    Unknown { layer: Layer, why: Vec<Arc<str>> },
}

/// Walks through the policies that select a pod, in their order.
pub(super) fn walk<'a>(stages: &Stages, trace: impl Iterator<Item = &'a PolicyTrace>) -> Walk {
    let trace: Vec<&PolicyTrace> = trace.collect();
    let mut walk = Walk::default();
    for stage in &stages.0 {
        let asked: Vec<_> = trace.iter().copied().filter(|t| stage.holds(t.layer())).collect();
        match stage.ask(&asked) {
            Step::Next(passed) => walk.passed.extend(passed),
            Step::End(end) => {
                walk.end = end;
                break;
            }
        }
    }
    walk
}

enum Step {
    /// On to the next stage; passed on by this one, if it is a tier.
    Next(Option<Passed>),
    End(Ending),
}

impl Stage {
    fn holds(&self, layer: &Layer) -> bool {
        match &self.tier {
            Some(tier) => layer.tier() == Some(&*tier.name),
            None => *layer == self.layer,
        }
    }

    /// Asks those of its policies that select the pod; without any it leaves the flow to the next.
    fn ask(&self, asked: &[&PolicyTrace]) -> Step {
        let Some(last) = asked.last() else { return Step::Next(None) };
        // Rules before the one that decides where it is unknown whether they match.
        let mut perhaps: Vec<(Action, Arc<str>)> = Vec::new();
        let rules =
            asked.iter().flat_map(|trace| trace.rules.iter().map(move |rule| (trace, rule)));
        for (trace, rule) in rules.filter(|(_, rule)| rule.action != Action::Log) {
            match rule.matches() {
                Ok(false) => {}
                Err(why) => perhaps.push((rule.action, why)),
                Ok(true) => {
                    let layer = trace.layer().clone();
                    if let Some(why) = open_questions(perhaps, Some(rule.action)) {
                        return Step::End(Ending::Unknown { layer, why });
                    }
                    let by = trace.rule_ref(rule);
                    return match rule.action {
                        Action::Pass => Step::Next(self.passed(Some(by))),
                        Action::Allow => Step::End(Ending::Allowed { layer, by }),
                        Action::Deny | Action::Log => {
                            Step::End(Ending::Denied { layer, by: Some(by) })
                        }
                    };
                }
            }
        }
        if let Some(why) = open_questions(perhaps, None) {
            return Step::End(Ending::Unknown { layer: last.layer().clone(), why });
        }
        match self.default {
            DefaultAction::Pass => Step::Next(self.passed(None)),
            DefaultAction::Deny => {
                // Of policies of one layer alone, such as Kubernetes', it is theirs to deny.
                let is_one_layer = asked.iter().all(|trace| trace.layer() == last.layer());
                let layer = if is_one_layer { last.layer() } else { &self.layer };
                Step::End(Ending::Denied { layer: layer.clone(), by: None })
            }
        }
    }

    fn passed(&self, rule: Option<RuleRef>) -> Option<Passed> {
        self.tier.clone().map(|tier| Passed { tier, rule })
    }
}

/// Why it is unknown what becomes of a flow that these rules may or may not match, before one that
/// matches (or, without one, the stage's default) decides; `None`: it comes to the same.
fn open_questions(
    mut perhaps: Vec<(Action, Arc<str>)>,
    decides: Option<Action>,
) -> Option<Vec<Arc<str>>> {
    // An allowed flow is allowed, whichever of the rules that allow it comes first.
    perhaps.retain(|(action, _)| (*action, decides) != (Action::Allow, Some(Action::Allow)));
    let mut why: Vec<_> = perhaps.into_iter().map(|(_, why)| why).collect();
    why.dedup();
    (!why.is_empty()).then_some(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::{Cluster, object::Object},
        policy::{DEFAULT_TIER, order::Order},
    };

    #[test]
    fn stages_stand_in_the_order_of_their_tiers_between_those_of_administrators() {
        let mut cluster = Cluster::default();
        for (name, order) in [("late", 2_000_000), ("early-b", 5), ("early-a", 5)] {
            let (name, order) = (name.into(), Order::of(order));
            let tier = Tier { name, order, default_action: DefaultAction::Pass };
            cluster.apply(Object::Tier(tier), None);
        }
        let stages = Stages::of(&cluster.snapshot());
        let tier = |name: &str| Layer::Tier(name.into());
        let expected = [
            (Layer::Admin, DefaultAction::Pass),
            (tier("early-a"), DefaultAction::Pass),
            (tier("early-b"), DefaultAction::Pass),
            (tier(DEFAULT_TIER), DefaultAction::Deny),
            (tier("late"), DefaultAction::Pass),
            (Layer::Baseline, DefaultAction::Pass),
        ];
        let found: Vec<_> = stages.0.iter().map(|s| (s.layer.clone(), s.default)).collect();
        assert_eq!(found, expected);
        // Kubernetes' policies are part of Calico's default tier.
        assert_eq!(stages.place(&Layer::NetworkPolicy), Ok(3));
        let why = stages.place(&tier("gone")).unwrap_err();
        assert_eq!(&*why, "Tier gone is not among the objects, so its order is not known");
    }
}
