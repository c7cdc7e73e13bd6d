//! What to do about an incident, in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumDiscriminants};

use super::{Incident, Path, affected::CutPath, affected_flow::AffectedFlow, words::several};
use crate::{
    cluster::{
        Snapshot,
        history::{Change, ChangeKind},
    },
    correlate::REPORT_INTERVAL,
    diagnosis::{Class, Diagnosis, Situation},
    flow::Flow,
    judgement::Attribution,
    policy::PolicyRef,
    remedy::{Manifest, Remedy, choices::Choice, remedy},
    verdict::evaluate,
};

/// How many remedies are given: one for each path, and an incident of more paths than this wants
/// a policy written by a person.
pub(super) const REMEDIES_MAX: usize = 8;

/// How many flows are listed to be tested: each path, then more pods of them.
const TESTS_MAX: usize = 8;

/// Something to do.
#[derive(Clone, Debug, EnumDiscriminants)]
#[strum_discriminants(
    name(StepKind),
    doc = "What kind of thing is to be done.",
    derive(PartialOrd, Ord, Hash, Display, Serialize, Deserialize, JsonSchema),
    strum(serialize_all = "kebab-case"),
    serde(rename_all = "kebab-case")
)]
pub enum Step {
    /// Apply what lets the flows pass, proved by the same evaluator.
    Apply(Arc<Remedy>),
    /// Nothing additive helps: the policy's owner decides.
    AskOwner(PolicyRef),
    /// Policy is not what has to change.
    LookElsewhere(String),
    /// While it takes effect: the incident's drops stop.
    Watch,
    /// Wait until these pods have this condition.
    AwaitReady {
        /// `NAMESPACE/NAME`.
        pods: Vec<String>,
        /// The pod condition.
        condition: &'static str,
    },
    /// Connect as the dropped flows did.
    Test {
        /// Who connects: `NAMESPACE/POD`, a node or an address.
        from: String,
        /// Who is connected to.
        to: String,
        /// Their addresses, and the port.
        flow: Flow,
    },
    /// Instead of the first step, if it does not suit: put back what changed.
    PutBack(Change),
    /// Instead of the first step, if it does not suit: another change.
    Instead(Choice),
}

impl Step {
    /// What kind of thing is to be done.
    pub fn kind(&self) -> StepKind {
        self.into()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apply(remedy) => f.write_str(&remedy.summary),
            Self::AskOwner(policy) => write!(
                f,
                "ask the owner of {} {policy}: no added rule can let it pass",
                policy.kind
            ),
            Self::LookElsewhere(what) => f.write_str(what),
            Self::Watch => write!(
                f,
                "watch it take effect, which takes a network plugin some seconds: no more drops of \
                 this incident are reported within {} s",
                REPORT_INTERVAL.as_secs()
            ),
            Self::AwaitReady { pods, condition } => {
                write!(f, "wait for the condition {condition} of {}", several(pods))
            }
            Self::Test { from, to, flow: Flow { port, protocol, .. } } => {
                write!(f, "test {from} -> {to}:{port}/{protocol}")
            }
            Self::PutBack(change) => {
                let difference = change.difference.as_deref().unwrap_or("it was deleted");
                write!(f, "or put {} back as it was: {difference}", change.object)
            }
            Self::Instead(choice) => write!(f, "or {choice}"),
        }
    }
}

/// The remedies that are left where what earlier ones let pass as well needs none of its own, found
/// for these flows one by one. One whose policy has the name of another's is found again beside it.
/// Of flows that all pass already, none.
pub(super) fn remaining(
    snapshot: &Snapshot,
    remedies: &[(Diagnosis, Arc<Remedy>)],
) -> Vec<Arc<Remedy>> {
    let mut with = snapshot.clone();
    let mut remaining: Vec<Arc<Remedy>> = Vec::new();
    for (diagnosis, found) in remedies {
        if evaluate(&with, &diagnosis.question).decision().lets_pass() {
            continue;
        }
        let is_taken = |manifest: &Manifest| {
            let policy = manifest.lower();
            policy.is_none_or(|policy| with.policies().get(&policy.reference).is_some())
        };
        let remedy = match found.policies.iter().any(is_taken) {
            true => remedy(&with, diagnosis).map(Arc::new),
            false => Some(found.clone()),
        };
        if let Some(remedy) = remedy {
            with = remedy.applied(&with);
            remaining.push(remedy);
        }
    }
    remaining
}

/// The steps, in the order in which a person or a machine takes them.
pub(super) fn plan(
    incident: &Incident,
    flows: &BTreeMap<Flow, AffectedFlow>,
    remedies: Vec<Arc<Remedy>>,
    choices: Vec<Choice>,
) -> Vec<Step> {
    let class = incident.cause.class;
    let mut steps: Vec<Step> = remedies.into_iter().map(Step::Apply).collect();
    if steps.is_empty() {
        steps.extend(without_remedy(incident));
    }
    // What is over is not to be waited for or tested.
    let is_over = incident.cause.situation == Some(Situation::End);
    if class == Class::CannotTell || class == Class::NotEnforced || is_over {
        return steps;
    }
    steps.push(Step::Watch);
    steps.extend(await_ready(&incident.affected));
    steps.extend(tests(flows));
    if class.is_denial() && class != Class::ExplicitDeny {
        steps.extend(choices.into_iter().map(Step::Instead));
        if let Attribution::Seen(changes) = &incident.changed {
            // What was created is not to be deleted: its author had a reason for it.
            let before = changes.iter().filter(|change| change.kind != ChangeKind::Created);
            steps.extend(before.cloned().map(Step::PutBack));
        }
    }
    steps
}

fn without_remedy(incident: &Incident) -> Option<Step> {
    let elsewhere = |what: &str| Some(Step::LookElsewhere(what.to_owned()));
    match incident.cause.class {
        Class::NotEnforced => elsewhere(
            "see whether the network plugin enforces policies at all, and whether its agent runs \
             on this node",
        ),
        Class::OutOfSync => elsewhere(
            "see whether the network plugin's agent on this node runs and has synced; restarting \
             it makes it read all policies again",
        ),
        Class::NotPolicy if incident.cause.situation == Some(Situation::End) => elsewhere(
            "leave it: the pod was ending; where clients notice, let its containers go on for some \
             seconds (preStop) until nobody connects to them any more",
        ),
        Class::NotPolicy | Class::None => {
            elsewhere("leave the policies alone: the kernel's reason says what to look at")
        }
        Class::CannotTell => {
            elsewhere("see which information is missing, and give the agent access to it")
        }
        _ => incident.cause.policy.as_ref().map(|p| Step::AskOwner(p.reference.clone())),
    }
}

/// The affected pods, which become ready by themselves once their dependencies answer.
fn await_ready(affected: &[CutPath]) -> Option<Step> {
    let pods: BTreeSet<&String> = affected
        .iter()
        .filter(|path| !path.is_scan && path.path.affected_party().is_of_pods())
        .flat_map(|path| &path.pods)
        .collect();
    let pods: Vec<String> = pods.into_iter().cloned().collect();
    (!pods.is_empty()).then_some(Step::AwaitReady { pods, condition: "Ready" })
}

/// The very flows that were dropped: one of each path, then others.
fn tests(flows: &BTreeMap<Flow, AffectedFlow>) -> Vec<Step> {
    let mut seen: Vec<Path> = Vec::new();
    let (mut first, mut others) = (Vec::new(), Vec::new());
    for (flow, affected) in flows {
        let path = Path::of(&affected.question);
        match seen.contains(&path) {
            true => others.push((flow, affected)),
            false => first.push((flow, affected)),
        }
        if !seen.contains(&path) {
            seen.push(path);
        }
    }
    let all = first.into_iter().chain(others).take(TESTS_MAX);
    let test = |(flow, affected): (&Flow, &AffectedFlow)| Step::Test {
        from: affected.question.source.to_string(),
        to: affected.question.destination.to_string(),
        flow: *flow,
    };
    all.map(test).collect()
}
