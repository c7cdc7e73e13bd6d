//! Packets are dropped under the policies of their moment, and by those who held its addresses: a
//! drop is diagnosed as of then, however late that is done.
//!
//! What the agent knew at that moment may be behind what was so: a change is seen up to
//! [`SEEN_WITHIN`] later, and later than that where the agent itself is behind. So a denial that is known
//! to have been in force explains a drop first, then one that was seen within that time, or whose
//! policies say that they were written by then; and where there is none, the cluster counts as it was
//! known after it.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};

use super::attribution::{TOGETHER, concerns, verdict_then};
use crate::{
    cluster::{
        Snapshot,
        history::{Between, Change, ChangeKind, History, Past, SEEN_WITHIN},
        object::Object,
        profile::Denied,
    },
    correlate::Evidence,
    diagnosis::{Case, Class, Diagnosis, Fate, diagnose, reason::is_of_closed_port},
    verdict::Question,
};

/// How many moments are tried in search of a denial that was seen late. Within so short a time there
/// is one as a rule; more are a controller that writes its policies again and again.
const MOMENTS_MAX: usize = 8;

/// From a change to what was before it.
pub(super) const JUST_BEFORE: SignedDuration = SignedDuration::from_nanos(-1);

/// A case, diagnosed as of its time.
#[derive(Clone, Debug)]
pub struct Diagnosed {
    /// What it came to.
    pub diagnosis: Diagnosis,
    /// As of when its ends are who they are; `None`: now.
    at: Option<Timestamp>,
    /// What was seen of the cluster until then is in it.
    until: Timestamp,
    between: Between,
}

impl Diagnosed {
    /// Diagnoses a case: a drop as of its last packets, all else as of now.
    pub fn new(history: &History, snapshot: &Snapshot, case: &Case<'_>) -> Self {
        let nearer = Self::as_found_nearer(history, snapshot, case);
        nearer.or_as_found_before(history, snapshot, case)
    }

    fn as_found_nearer(history: &History, snapshot: &Snapshot, case: &Case<'_>) -> Self {
        let Fate::Dropped(evidence) = case.fate else {
            return Self {
                diagnosis: diagnose(snapshot, case),
                at: case.at,
                until: Timestamp::MAX,
                between: Between::AsNearer,
            };
        };
        let at = dropped_at(snapshot, case, evidence);
        let then =
            |until| Self::as_of(history, snapshot, case, (Some(at), until), Between::AsNearer);
        let known = then(at);
        if known.is_denial() {
            return known.with_all_that_went(history, snapshot, case);
        }
        if known.diagnosis.is_explained_by_kube_proxy(case.fate) {
            // No policy that came later need have dropped it.
            return known;
        }
        if is_of_closed_port(evidence) && snapshot.profile().denied == Denied::Dropped {
            // The network plugin does not refuse: a policy that was seen a moment later is none of it.
            return known;
        }
        let late = moments(history, snapshot, at, &known.diagnosis.question);
        if late.is_empty() && history.between(at, at + SEEN_WITHIN).next().is_none() {
            return Self { until: at + SEEN_WITHIN, ..known };
        }
        let is_of_then = |late: &Self| {
            let policies = late.diagnosis.responsible();
            late.is_denial()
                && policies.iter().all(|p| p.last_written().is_none_or(|w| w <= at + SEEN_WITHIN))
        };
        let mut denials = late.into_iter().map(then).filter(is_of_then);
        if let Some(denial) = denials.next() {
            return denial;
        }
        let late = then(at + SEEN_WITHIN);
        // Nor had it to be enforced before it was seen.
        let is_too_late = late.diagnosis.cause.class == Class::NotEnforced;
        if is_too_late { known } else { late }
    }

    /// The same by what was found before, where that explains what policies or the network plugin would be
    /// blamed for: nobody saw when it changed.
    fn or_as_found_before(self, history: &History, snapshot: &Snapshot, case: &Case<'_>) -> Self {
        let is_explained = self.diagnosis.is_explained_by_kube_proxy(case.fate);
        if is_explained || !history.is_found_otherwise(self.until) {
            return self;
        }
        let times = (self.at, self.until);
        let before = Self::as_of(history, snapshot, case, times, Between::AsBefore);
        if before.diagnosis.is_explained_by_kube_proxy(case.fate) { before } else { self }
    }

    /// Diagnoses a drop as of a time, by what was seen of the cluster until another.
    fn as_of(
        history: &History,
        snapshot: &Snapshot,
        case: &Case<'_>,
        (at, until): (Option<Timestamp>, Timestamp),
        between: Between,
    ) -> Self {
        let past = history.past_between(snapshot, until, between);
        let diagnosis = diagnose(&past.snapshot.as_of(at), &Case { at, ..*case });
        Self { diagnosis, at, until, between }
    }

    /// The same by what was seen until another time.
    pub(super) fn until(
        &self,
        history: &History,
        snapshot: &Snapshot,
        case: &Case<'_>,
        until: Timestamp,
    ) -> Self {
        Self::as_of(history, snapshot, case, (self.at, until), self.between)
    }

    /// The same with all policies that were lifted in one breath, some just before the last packets
    /// and the rest just after them: they denied it together, and none of them by itself.
    fn with_all_that_went(self, history: &History, snapshot: &Snapshot, case: &Case<'_>) -> Self {
        let Some(at) = self.at else { return self };
        let next = history.between(at, at + TOGETHER).next();
        let first = next.and_then(|next| history.between(next.change.at - TOGETHER, at).next());
        let Some(first) = first else { return self };
        let after = history.past(snapshot, at + SEEN_WITHIN).snapshot;
        if !verdict_then(&after, &self.diagnosis.question).decision().lets_pass() {
            return self;
        }
        let before = self.until(history, snapshot, case, first.change.at + JUST_BEFORE);
        let (all, some) = (before.diagnosis.responsible(), self.diagnosis.responsible());
        let is_more = all.len() > some.len() && some.iter().all(|policy| all.contains(policy));
        if before.is_denial() && is_more { before } else { self }
    }

    /// The same by what was known at its last packets, where nothing that was seen later counts.
    pub(super) fn known_then(
        self,
        history: &History,
        snapshot: &Snapshot,
        case: &Case<'_>,
    ) -> Self {
        match self.at {
            Some(at) if self.until > at && matches!(case.fate, Fate::Dropped(_)) => {
                self.until(history, snapshot, case, at)
            }
            _ => self,
        }
    }

    pub(super) fn is_denial(&self) -> bool {
        self.diagnosis.cause.class.is_denial()
    }

    /// The case as it was diagnosed.
    pub(super) fn case<'a>(&self, case: &Case<'a>) -> Case<'a> {
        Case { at: self.at, ..*case }
    }

    /// The cluster as it was diagnosed by.
    pub(super) fn past<'a>(&self, history: &'a History, snapshot: &Snapshot) -> Past<'a> {
        history.past_between(snapshot, self.until, self.between)
    }
}

/// As of when a drop is judged: its last packets; where one of the pods that were at its ends when the
/// first came has ended since, or a moment before, as of that end. What follows is another's, and shows in
/// what is reported next; and no policy that came later was ever in force for that pod.
fn dropped_at(snapshot: &Snapshot, case: &Case<'_>, evidence: &Evidence) -> Timestamp {
    let first = *evidence.latest().start();
    let last = evidence.judged_as_of();
    let ended = |address: IpAddr| {
        let end = snapshot.resolve(address, Some(last));
        let before = || snapshot.end_of(end.pod()?, end.address?)?.gone;
        let gone = snapshot.ended_between(address.to_canonical(), first, last).or_else(before);
        gone.filter(|gone| *gone < last)
    };
    let ends = [case.flow.source, case.flow.destination].map(ended);
    ends.into_iter().flatten().min().unwrap_or(last)
}

/// When changes were seen that bear on a flow and may have been in force at a time: soon after it, or
/// later, of a policy that says itself that it was written by then, as where an agent was behind.
fn moments(
    history: &History,
    snapshot: &Snapshot,
    at: Timestamp,
    question: &Question,
) -> Vec<Timestamp> {
    let was_written = |change: &Change| match (snapshot.object(&change.object), change.kind) {
        (Some(Object::Policy(policy)), ChangeKind::Created) => {
            policy.last_written().is_some_and(|written| written <= at)
        }
        (Some(Object::Policy(policy)), ChangeKind::Edited) => {
            policy.written.is_some_and(|written| written <= at)
        }
        _ => false,
    };
    let seen = history.between(at, Timestamp::MAX);
    let bearing = seen.filter(|seen| {
        let Change { object, at: seen_at, .. } = &seen.change;
        concerns(object, question) && (*seen_at <= at + SEEN_WITHIN || was_written(&seen.change))
    });
    let mut moments: Vec<Timestamp> = bearing.map(|seen| seen.change.at).collect();
    moments.dedup();
    moments.truncate(MOMENTS_MAX);
    moments
}
