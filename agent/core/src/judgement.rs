//! A diagnosis, with since when it is so and what to do.

mod attribution;
mod hindsight;
mod refused;
mod then;

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    cluster::{
        Snapshot,
        history::{History, Past},
    },
    diagnosis::{Case, Diagnosis, Fate},
    policy::{Policy, PolicyRef},
    remedy::{Remedy, remedy},
};
pub(crate) use attribution::concerns;
use attribution::own_change;
pub use attribution::{Attribution, attribute};
use hindsight::{in_hindsight, lifted_since, with_lifted};
pub use then::Diagnosed;

/// A flow judged, with what can be done about it and since which change it is so.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Why it was dropped, or would be.
    pub diagnosis: Diagnosis,
    /// The latest change that made it so.
    pub changed: Attribution,
    /// The rule that lets it pass, or would once kube-proxy sends it.
    pub remedy: Option<Remedy>,
}

/// Judges a flow, and finds the change and the remedy.
pub fn judge(snapshot: &Snapshot, history: &History, case: &Case<'_>) -> Judgement {
    Judgement::new(snapshot, history, case, Diagnosed::new(history, snapshot, case), None)
}

impl Judgement {
    /// Finds the change and the remedy for a case, which may be due to what policies no longer say, or
    /// have come before what they say now. `worked`: when the flow last got an answer.
    pub fn new(
        snapshot: &Snapshot,
        history: &History,
        case: &Case<'_>,
        mut diagnosed: Diagnosed,
        worked: Option<Timestamp>,
    ) -> Self {
        let has_worked_since = case.at.is_some_and(|dropped| worked > Some(dropped));
        if diagnosed.is_denial() && has_worked_since {
            // What came after the last packets did not drop them.
            diagnosed = diagnosed.known_then(history, snapshot, case);
        }
        let past = diagnosed.past(history, snapshot);
        if let Some((diagnosis, changed)) =
            in_hindsight((history, snapshot), &past, case, &diagnosed, worked)
        {
            return Self { diagnosis, changed, remedy: None };
        }
        let changed = changed(&past, &diagnosed.diagnosis);
        let question = &diagnosed.diagnosis.question;
        let is_dropped_denial = diagnosed.is_denial() && matches!(case.fate, Fate::Dropped(_));
        let lifted = is_dropped_denial.then(|| lifted_since(history, snapshot, question)).flatten();
        if let Some(change) = lifted {
            let diagnosis = with_lifted(history, snapshot, case, diagnosed, &change);
            return Self { diagnosis, changed, remedy: None };
        }
        let remedy = remedy(snapshot, &diagnosed.diagnosis);
        let case = diagnosed.case(case);
        Self { diagnosis: diagnosed.diagnosis, changed, remedy }
            .led_by_change(&past.snapshot, &case)
            .led_by_age(&past.snapshot, &case)
    }

    /// Of several policies that isolate the pod, each of which denies by itself, the one to look at
    /// first is one that came with the change.
    fn led_by_change(self, snapshot: &Snapshot, case: &Case<'_>) -> Self {
        let lead = self.diagnosis.cause.policy.as_ref().map(|policy| policy.reference.clone());
        let changed: Vec<PolicyRef> =
            self.changed.changes().iter().filter_map(|change| change.object.policy()).collect();
        let is_seen = matches!(self.changed, Attribution::Seen { .. });
        if !is_seen || lead.is_some_and(|lead| changed.contains(&lead)) {
            return self;
        }
        let diagnosis = changed
            .iter()
            .fold(self.diagnosis, |diagnosis, policy| diagnosis.led_by(snapshot, case, policy));
        Self { diagnosis, ..self }
    }

    /// Where no change was seen to deny it, a policy that came once packets were dropped did not do that:
    /// another leads that isolated the pod by then.
    fn led_by_age(self, snapshot: &Snapshot, case: &Case<'_>) -> Self {
        let (Fate::Dropped(evidence), Attribution::Older { known_since, .. }) =
            (case.fate, &self.changed)
        else {
            return self;
        };
        let was_there =
            |policy: &Arc<Policy>| policy.created.is_none_or(|at| at <= evidence.first());
        if self.diagnosis.cause.policy.as_ref().is_none_or(was_there) {
            return self;
        }
        let Some(earlier) = self.diagnosis.responsible().into_iter().find(was_there) else {
            return self;
        };
        let known_since = *known_since;
        let diagnosis = self.diagnosis.led_by(snapshot, case, &earlier.reference);
        let own = diagnosis.cause.policy.as_deref().and_then(own_change);
        Self { diagnosis, changed: Attribution::Older { known_since, own }, ..self }
    }

    /// Since when the flow is denied at the least: its denial may be older, and is not younger than
    /// any change that came before. `None`: it is not denied, or that is unknown.
    ///
    /// A change that was seen to deny it says so itself: the same evaluator let it pass before. Where
    /// none was seen, it is denied for as long as changes are known, and each policy that isolates an
    /// end denies by itself what none admits: the oldest counts, and when it was made. When a policy was
    /// last written says nothing: an annotation that anyone's tool renews does not make a denial young.
    pub fn denied_since(&self) -> Option<Timestamp> {
        match &self.changed {
            Attribution::None => None,
            _ if self.diagnosis.cause.by_kube_proxy().is_some() => None,
            Attribution::Seen { changes, .. } => changes.iter().map(|change| change.at).min(),
            Attribution::Older { known_since, .. } => {
                let verdict = &self.diagnosis.verdict;
                let denied = verdict.denied_directions();
                let policies = denied.flat_map(|to| verdict.direction(to).responsible());
                let created: Option<Vec<_>> = policies.map(|policy| policy.created).collect();
                created?.into_iter().chain(*known_since).min()
            }
        }
    }

    /// Finds the change and the remedy for a diagnosis.
    pub fn of_diagnosis(snapshot: &Snapshot, history: &History, diagnosis: Diagnosis) -> Self {
        let changed = changed(&history.now(snapshot), &diagnosis);
        let remedy = remedy(snapshot, &diagnosis);
        Self { diagnosis, changed, remedy }
    }
}

/// What made a flow as it is: the change across which policies came to deny it, or kube-proxy to refuse
/// it.
fn changed(past: &Past<'_>, diagnosis: &Diagnosis) -> Attribution {
    match diagnosis.cause.by_kube_proxy() {
        Some(kube_proxy) => refused::since(past, kube_proxy),
        None => attribute(past, diagnosis),
    }
}
