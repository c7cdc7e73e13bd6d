//! The way of a flow through the stages: which of them decides, and by what.

use std::sync::Arc;

use super::{Passed, PolicyTrace};
use crate::{
    cluster::{
        Snapshot,
        profile::{EngineName, Version},
    },
    policy::{
        Action, Layer, RuleRef,
        tier::{ADMIN_TIER, BASELINE_TIER, DefaultAction, Tier},
    },
};

/// Policies that are asked together, in their order.
#[derive(Clone, Debug)]
struct Stage {
    /// Their layer; of a tier, all that are part of it.
    layer: Layer,
    /// The tier, of stages that are one.
    tier: Option<Arc<Tier>>,
    /// Kubernetes' admin policies, in the tier that Calico puts them into.
    holds_admin: Option<Layer>,
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
        let leaves_the_rest =
            |layer| Stage { layer, tier: None, holds_admin: None, default: DefaultAction::Pass };
        let is_calico = snapshot.engine().name == EngineName::Calico;
        let mut tiers = snapshot.tiers();
        if is_calico {
            tiers = with_built_in(tiers, snapshot.engine().version);
        }
        tiers.sort_by_cached_key(|tier| (tier.order, tier.name.clone()));
        let tiers = tiers.into_iter().map(|tier| Stage {
            layer: Layer::Tier(tier.name.clone()),
            default: tier.default_action,
            holds_admin: match &*tier.name {
                ADMIN_TIER if is_calico => Some(Layer::Admin),
                BASELINE_TIER if is_calico => Some(Layer::Baseline),
                _ => None,
            },
            tier: Some(tier),
        });
        if is_calico {
            return Self(tiers.collect());
        }
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

/// The tiers of Calico's own making among those that there are objects of.
fn with_built_in(tiers: Vec<Arc<Tier>>, version: Option<Version>) -> Vec<Arc<Tier>> {
    let absent: Vec<_> =
        Tier::built_in().filter(|own| tiers.iter().all(|tier| tier.name != own.name)).collect();
    let is_ordered = version.is_some_and(|version| version >= TIERS_HAVE_ORDERS);
    let ordered = |tier: Arc<Tier>| match is_ordered {
        true => Arc::new(Tier::clone(&tier).ordered()),
        false => tier,
    };
    tiers.into_iter().map(ordered).chain(absent.into_iter().map(Arc::new)).collect()
}

/// From which version of Calico on a tier without an order has that of the default one (release notes of
/// 3.29.0); before, it came last.
const TIERS_HAVE_ORDERS: Version = Version(3, 29);

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
            Some(tier) => {
                layer.tier() == Some(&*tier.name) || self.holds_admin.as_ref() == Some(layer)
            }
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
        cluster::{Cluster, object::Object, profile::Engine},
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

    /// The stages of Calico, as `LAYER` or the tier's name.
    fn of_calico(engine: &str, objects: &[(&str, Order)]) -> Vec<String> {
        let mut cluster = Cluster::default();
        for (name, order) in objects {
            let tier =
                Tier { name: (*name).into(), order: *order, default_action: DefaultAction::Deny };
            cluster.apply(Object::Tier(tier), None);
        }
        cluster.give_engine(Engine::read(engine).expect("an engine"));
        let stages = Stages::of(&cluster.snapshot());
        stages.0.iter().map(|stage| stage.layer.tier().unwrap_or("-").to_owned()).collect()
    }

    #[test]
    fn calicos_own_tiers_are_there_without_objects_and_admin_policies_are_in_theirs() {
        let of_its_own = [
            "allow-tigera",
            "calico-system",
            "security",
            "adminnetworkpolicy",
            "kube-admin",
            "default",
            "baselineadminnetworkpolicy",
            "kube-baseline",
        ];
        let security = [("security", Order::of(300))];
        assert_eq!(of_calico("calico@3.30", &security), of_its_own);
        let mut cluster = Cluster::default();
        cluster.give_engine(Engine::read("calico@3.30").expect("an engine"));
        let stages = Stages::of(&cluster.snapshot());
        let tier = |name: &str| Layer::Tier(name.into());
        assert_eq!(stages.place(&Layer::Admin), stages.place(&tier("adminnetworkpolicy")));
        assert_eq!(
            stages.place(&Layer::Baseline),
            stages.place(&tier("baselineadminnetworkpolicy"))
        );
        // One that names no order.
        let unordered = [("z-late", Order::LAST)];
        let position = |engine: &str| {
            let stages = of_calico(engine, &unordered);
            stages.iter().position(|name| name == "z-late").map(|at| stages.len() - 1 - at)
        };
        assert_eq!(position("calico@3.28"), Some(0));
        assert_eq!(position("calico@3.29"), Some(2));
    }
}
