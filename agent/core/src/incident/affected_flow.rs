//! A flow of an incident, and what has become of it.

use std::{net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{JudgedDrop, PASSING, SILENCE};
use crate::{
    cluster::{
        Snapshot,
        object::Pod,
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Case, Class, Fate, diagnose},
    flow::{Answer, Flow, Worked},
    verdict::{Question, evaluate},
};

/// How long policies must have allowed a flow before it is over by that alone: a connect that is under
/// way repeats its SYN after 1, 2 and 4 s, and that it passes is worth more than that it may.
const ALLOWED: SignedDuration = SignedDuration::from_secs(10);

/// A flow of an incident.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each may be so without the others")]
pub(super) struct AffectedFlow {
    /// With its ends as they were when it was last judged.
    pub(super) question: Question,
    /// The same as it was dialled, where that differs.
    pub(super) dialled: Option<Flow>,
    /// When the first of its packets was dropped.
    pub(super) first: Timestamp,
    /// The last sign that it was dropped.
    pub(super) dropped: Timestamp,
    /// When it last got an answer, before or since.
    pub(super) worked: Option<Timestamp>,
    /// When it last got one before its first packet was dropped.
    pub(super) worked_before: Option<Timestamp>,
    /// When what it dialled was last answered, whoever did; how often that was seen since it was last
    /// dropped, and how often it takes to show that it passes.
    answered_as_dialled: Option<Timestamp>,
    picked: u32,
    picks: Option<u32>,
    /// Since when what it dialled was seen to stand for its backend alone.
    only_since: Option<Timestamp>,
    /// kube-proxy refused it: whoever answers for what was dialled shows that it does no more.
    is_refused: bool,
    /// Its backend is on this node, so that its answers are known as its own.
    answers_here: bool,
    /// Which of its connections were answered, when it was last judged.
    pub(super) answered: Option<Worked>,
    /// Since when it is denied at the least, as it was last judged.
    pub(super) denied_since: Option<Timestamp>,
    /// How often the containers of the affected pod had been restarted when it was first seen affected.
    pub(super) restarts_then: u64,
    /// It goes on, and is expected.
    pub(super) is_muted: bool,
    /// Why, when it was last judged; and whether that could never be said.
    class: Class,
    is_unclear: bool,
    /// Since when policies were seen to let it pass.
    allowed_since: Option<Timestamp>,
    /// The pod of an end is no more, or not at its address; and that of the source.
    pub(super) is_gone: bool,
    is_source_gone: bool,
}

/// What has become of a flow that was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It goes on, as far as is known.
    GoesOn,
    /// It passes: when it was answered.
    Passes(Timestamp),
    /// Policies let it pass.
    Allowed,
    /// An end of it is gone.
    Gone,
    /// Nobody has tried for [`SILENCE`].
    Silent,
    /// It goes on, and is expected.
    Muted,
}

impl AffectedFlow {
    pub(super) fn of(judged: &JudgedDrop, now: Timestamp) -> Self {
        let JudgedDrop { drop, judgement, worked, .. } = judged;
        let (evidence, diagnosis) = (&drop.evidence, &judgement.diagnosis);
        let last_success = worked.map(|worked| worked.last);
        Self {
            question: diagnosis.question.clone(),
            dialled: drop.flow_dialled(),
            first: evidence.first(),
            dropped: evidence.last().min(now),
            worked: last_success,
            worked_before: last_success.filter(|success| *success <= evidence.first()),
            answered_as_dialled: None,
            picked: 0,
            picks: None,
            only_since: None,
            is_refused: drop.dialled.is_none() && diagnosis.cause.by_kube_proxy().is_some(),
            answers_here: false,
            answered: *worked,
            denied_since: judgement.denied_since(),
            restarts_then: affected_pod(&diagnosis.question).map_or(0, |pod| pod.restarts),
            is_muted: false,
            class: diagnosis.cause.class,
            is_unclear: diagnosis.cause.class == Class::CannotTell,
            allowed_since: None,
            is_gone: false,
            is_source_gone: false,
        }
    }

    /// It was judged once more.
    pub(super) fn judged_again(&mut self, mut latest: Self) {
        // Another pod of that name starts over.
        let uid =
            |affected: &Self| affected_pod(&affected.question).and_then(|pod| pod.uid.clone());
        let is_same = uid(self) == uid(&latest);
        // Nor do its ends become others since whose the addresses are is not known by now.
        if latest.question.is_same_of_unknown(&self.question) {
            latest.question = self.question.clone();
        }
        *self = Self {
            first: self.first.min(latest.first),
            dropped: self.dropped.max(latest.dropped),
            worked: self.worked.max(latest.worked),
            worked_before: self.worked_before.max(latest.worked_before),
            answered_as_dialled: self.answered_as_dialled,
            picked: if latest.dropped > self.dropped { 0 } else { self.picked },
            picks: self.picks,
            only_since: self.only_since,
            answers_here: self.answers_here,
            allowed_since: self.allowed_since,
            restarts_then: if is_same { self.restarts_then } else { latest.restarts_then },
            is_unclear: self.is_unclear && latest.is_unclear,
            ..latest
        };
    }

    /// Whether who held its addresses then are the pods that it was dropped between, as far as is known.
    pub(super) fn is_of_its_pods(&self, snapshot: &Snapshot, at: Timestamp) -> bool {
        let Question { source, destination, .. } = &self.question;
        [source, destination].into_iter().all(|end| {
            let (Some(pod), Some(address)) = (end.pod(), end.address) else { return true };
            let has_left = snapshot.end_of(pod, address).and_then(|ended| ended.gone);
            let then = snapshot.resolve(address, Some(at));
            has_left.is_none_or(|left| at < left)
                && then.pod().is_none_or(|then| is_same(pod, then))
        })
    }

    /// It was answered, or what it dialled was.
    ///
    /// That nobody else is behind what was dialled is so as of now, and not of an answer that came
    /// before it was seen.
    pub(super) fn answered(&mut self, answer: Answer, at: Timestamp, now: Timestamp) {
        let since = self.only_since;
        self.only_since = match answer {
            Answer::AsDialled { is_only: true, .. } => since.or(Some(now)),
            Answer::AsDialled { is_only: false, .. } => None,
            Answer::OfPath => since,
        };
        let is_own = answer == Answer::OfPath
            || self.is_refused
            || self.only_since.is_some_and(|since| at > since);
        if is_own {
            self.worked = self.worked.max(Some(at));
        } else if let Answer::AsDialled { picks, .. } = answer {
            let is_another = at > self.dropped && self.answered_as_dialled < Some(at);
            self.answered_as_dialled = self.answered_as_dialled.max(Some(at));
            if is_another {
                let before = if self.picked == 0 { picks } else { self.picks };
                self.picks = before.zip(picks).map(|(before, now)| before.max(now));
                self.picked += 1;
            }
        }
    }

    /// Looks at what its ends and the policies are now, `own_node` being the one whose pods are followed.
    pub(super) fn look(
        &mut self,
        flow: &Flow,
        snapshot: &Snapshot,
        own_node: Option<&str>,
        now: Timestamp,
    ) {
        let Question { source, destination, .. } = &self.question;
        let is_own = |node: &str| Some(node) == own_node;
        self.answers_here = self.dialled.is_some()
            && destination
                .pod()
                .is_some_and(|pod| !pod.host_network && pod.node.as_deref().is_some_and(is_own));
        self.is_source_gone = is_gone(source, snapshot, own_node);
        self.is_gone = self.is_source_gone || is_gone(destination, snapshot, own_node);
        let is_allowed = match self.class {
            // Some of what is behind what was dialled was denied.
            Class::CannotTell if self.dialled.is_none() => {
                let asked = Case { flow: *flow, dialled: None, at: None, fate: Fate::Policed };
                let diagnosis = diagnose(snapshot, &asked);
                let is_to_service = diagnosis.service.is_some();
                is_to_service && diagnosis.cause.class == Class::None
            }
            class => {
                class.is_denial()
                    && self.is_there(snapshot)
                    && evaluate(snapshot, &self.question_now(snapshot)).decision().lets_pass()
            }
        };
        self.allowed_since = is_allowed.then(|| self.allowed_since.unwrap_or(now));
    }

    /// What has become of it by now, as it was last looked at.
    pub(super) fn standing(&self, now: Timestamp) -> Standing {
        let quiet = now.duration_since(self.dropped);
        let is_allowed = |since| now.duration_since(since) >= ALLOWED;
        if self.is_muted {
            Standing::Muted
        } else if let Some(at) = self.worked.filter(|at| *at > self.dropped) {
            Standing::Passes(at)
        } else if self.is_gone {
            Standing::Gone
        } else if let Some(at) = self.passes_as_dialled(now) {
            Standing::Passes(at)
        } else if self.allowed_since.is_some_and(is_allowed) {
            Standing::Allowed
        } else if quiet >= SILENCE {
            Standing::Silent
        } else {
            Standing::GoesOn
        }
    }

    /// Whether it goes on, for all that is known: an address whose pod has gone may be dialled for a while.
    pub(super) fn may_go_on(&self, now: Timestamp) -> bool {
        match self.standing(now) {
            Standing::GoesOn => true,
            Standing::Gone => !self.is_source_gone && now.duration_since(self.dropped) < PASSING,
            Standing::Passes(_) | Standing::Allowed | Standing::Silent | Standing::Muted => false,
        }
    }

    /// When what it dialled was answered after it was dropped, perhaps by another backend: that so many
    /// were answered, and nothing of it was dropped for as long as it would have been reported again, says
    /// that it passes, unless it would have been seen to.
    fn passes_as_dialled(&self, now: Timestamp) -> Option<Timestamp> {
        let is_quiet = now.duration_since(self.dropped) >= PASSING && !self.answers_here;
        let is_shown = self.picks.is_some_and(|picks| self.picked >= picks);
        self.answered_as_dialled.filter(|at| is_quiet && is_shown && *at > self.dropped)
    }

    /// Whether it could never be said why it was dropped.
    pub(super) fn is_unclear(&self) -> bool {
        self.is_unclear
    }

    /// Whether an answer of its own came after it was last dropped.
    pub(super) fn is_answered(&self) -> bool {
        self.worked.is_some_and(|worked| worked > self.dropped)
    }

    /// Whether its ends hold their addresses, as far as they are pods.
    pub(super) fn is_there(&self, snapshot: &Snapshot) -> bool {
        let Question { source, destination, .. } = &self.question;
        [source, destination].iter().all(|end| {
            end.pod().is_none_or(|pod| {
                let now = snapshot.pod(&pod.namespace, &pod.name);
                now.is_some_and(|now| is_same(pod, now) && holds(now, end))
            })
        })
    }

    /// The same with its ends as they are now.
    pub(super) fn question_now(&self, snapshot: &Snapshot) -> Question {
        Question {
            source: self.question.source.now(snapshot),
            destination: self.question.destination.now(snapshot),
            ..self.question
        }
    }

    /// The affected pod as it is now, if it is still the same.
    pub(super) fn pod_now(&self, snapshot: &Snapshot) -> Option<AffectedPod> {
        let then = affected_pod(&self.question)?;
        let pod = snapshot.pod(&then.namespace, &then.name).filter(|now| is_same(then, now))?;
        // Without a status at the time nothing can be said of what has come since.
        let restarts_then = then.ready.is_some().then_some(self.restarts_then);
        Some(AffectedPod { pod: pod.clone(), restarts_then })
    }
}

/// Whether it is known that a pod is no more, or that it has left its address. Of one that is not followed
/// the first is known where its address was looked up and nobody found.
fn is_gone(end: &Endpoint, snapshot: &Snapshot, own_node: Option<&str>) -> bool {
    let Holder::Pod(pod) = &end.holder else { return false };
    match snapshot.pod(&pod.namespace, &pod.name) {
        Some(now) => !is_same(pod, now) || !holds(now, end),
        None => {
            snapshot.knows_all_pods()
                || pod.node.as_deref().is_some_and(|n| Some(n) == own_node)
                || end.address.is_some_and(|address| was_sought(address, snapshot))
        }
    }
}

/// Whether who holds an address was looked up, so that a pod that does would be known.
fn was_sought(address: IpAddr, snapshot: &Snapshot) -> bool {
    snapshot.look_up_of(&address.into()).is_some_and(|found| found.failed.is_none())
}

fn is_same(then: &Pod, now: &Pod) -> bool {
    then.uid == now.uid
}

fn holds(pod: &Pod, end: &Endpoint) -> bool {
    end.address.is_none_or(|address| pod.addresses.contains(&address))
}

/// The affected pod: the source, if it is one.
pub(super) fn affected_pod(question: &Question) -> Option<&Arc<Pod>> {
    question.source.pod().or(question.destination.pod())
}

/// An affected pod as it is now, and how often its containers had been restarted when it was first
/// seen affected.
pub(super) struct AffectedPod {
    pub(super) pod: Arc<Pod>,
    pub(super) restarts_then: Option<u64>,
}

impl AffectedPod {
    /// Whether it is at the address of this end still.
    pub(super) fn holds(&self, end: &Endpoint) -> bool {
        holds(&self.pod, end)
    }
}
