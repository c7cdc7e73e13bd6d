//! Cases that wait to be decided: for look-ups, or for the cluster to catch up with the packets.
//!
//! A packet is seen in microseconds; the policy that stopped it, or let it through, may reach the
//! agent a second later. What would accuse the network plugin waits that long.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::{
    cluster::{
        Snapshot,
        history::{History, SEEN_WITHIN},
        look_up::Query,
    },
    correlate::{
        Drop, DropId, EvidenceLevel,
        places::{Places, Sending, Way, in_turn},
    },
    diagnosis::{Case, Fate, to_look_up},
    flow::Flow,
    judgement::Diagnosed,
};

/// How long to wait for the cluster.
pub const CATCH_UP: SignedDuration = SEEN_WITHIN;

/// How long after its first sign an attempt that nobody denies, and that nothing dropped here, may
/// still be answered: an overloaded server or a long queue takes seconds, as does a cold neighbour.
/// Until then it is not known to be lost, and who attempts it is still waiting.
pub const ANSWER: SignedDuration = SignedDuration::from_secs(10);

/// How long to wait until who holds an address has been looked up: what one look-up may take, and
/// another one for a Service's backends.
pub const LOOK_UP: SignedDuration = SignedDuration::from_secs(4);

/// How many cases wait at most (about 2 kB each): a flow waits once a minute for some seconds, so
/// that these are more flows than a node has open drops, all begun within four seconds or so. Beyond
/// it they are decided at once: of whoever has most.
pub const PENDING_MAX: usize = 2048;

/// What is diagnosed.
#[derive(Debug)]
pub(super) enum Subject {
    /// A flow whose attempts go unanswered.
    Drop(Box<Drop>),
    /// A flow was answered.
    Answer { flow: Flow, at: Timestamp },
}

impl Subject {
    /// Whose it is.
    fn party(&self) -> Sending {
        match self {
            Self::Drop(drop) => Sending::of_drop(drop),
            Self::Answer { flow, .. } => Sending::of_answer(flow),
        }
    }

    /// As the diagnosis takes it.
    pub(super) fn case(&self) -> Case<'_> {
        match self {
            Self::Drop(drop) => case_of(drop),
            Self::Answer { flow, at } => {
                Case { flow: *flow, dialled: None, at: Some(*at), fate: Fate::Answered }
            }
        }
    }
}

/// A drop as the diagnosis takes it.
pub(super) fn case_of(drop: &Drop) -> Case<'_> {
    Case {
        flow: drop.flow,
        dialled: drop.dialled,
        at: Some(drop.evidence.judged_as_of()),
        fate: Fate::Dropped(&drop.evidence),
    }
}

/// Until when a drop may still be answered. What was dropped here, or has ended, is not.
fn may_be_answered_until(drop: &Drop) -> Timestamp {
    let evidence = &drop.evidence;
    let is_open = evidence.level() == EvidenceLevel::Unanswered && !evidence.ends_in_vain(evidence);
    let (first, last) = evidence.latest().into_inner();
    // Of the signs that came before an answer it is not known which it answers: the last one is open.
    let open_since = if evidence.answered >= Some(first) { last } else { first };
    if is_open { open_since + ANSWER } else { Timestamp::MIN }
}

/// A subject with its diagnosis, which holds until the cluster changes.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) subject: Subject,
    pub(super) diagnosed: Box<Diagnosed>,
    /// Of the snapshot that it is diagnosed by.
    generation: u64,
}

impl Pending {
    pub(super) fn new(subject: Subject, diagnosed: Diagnosed, snapshot: &Snapshot) -> Self {
        Self { subject, diagnosed: Box::new(diagnosed), generation: snapshot.generation() }
    }

    /// Diagnoses it again, if the cluster has changed since.
    pub(super) fn refresh(&mut self, snapshot: &Snapshot, history: &History) {
        if self.generation != snapshot.generation() {
            *self.diagnosed = Diagnosed::new(history, snapshot, &self.subject.case());
            self.generation = snapshot.generation();
        }
    }

    /// Until when it waits at a stage that it comes to now.
    fn due(&self, stage: &Stage, now: Timestamp) -> Timestamp {
        let due = now + stage.patience();
        match (stage, &self.subject) {
            (Stage::CatchingUp, Subject::Drop(drop)) => due.max(may_be_answered_until(drop)),
            _ => due,
        }
    }
}

/// What a case waits for.
#[derive(Clone, Debug)]
pub(super) enum Stage {
    /// For who is at its ends.
    LookingUp { missing: Vec<Query>, generation: u64 },
    /// For news of what was already so when its packets were seen.
    CatchingUp,
}

impl Stage {
    fn patience(&self) -> SignedDuration {
        match self {
            Self::LookingUp { .. } => LOOK_UP,
            Self::CatchingUp => CATCH_UP,
        }
    }
}

/// All cases that wait, by when they are due and then in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<(Timestamp, u64), (Stage, Pending)>,
    places: Places<(Timestamp, u64)>,
    /// How many have come so far.
    come: u64,
    decided_early: u64,
}

impl Queue {
    /// Lets a case wait. Where the queue is full, one is given back and counted: of whoever has most in it.
    pub(super) fn push(
        &mut self,
        stage: Stage,
        pending: Pending,
        now: Timestamp,
    ) -> Option<Pending> {
        let party = pending.subject.party();
        let mut early = None;
        if self.waiting.len() >= PENDING_MAX {
            self.decided_early += 1;
            match self.places.way(&party) {
                Way::Gives(key) => {
                    self.places.remove(&key);
                    early = self.waiting.remove(&key).map(|(_, pending)| pending);
                }
                Way::None => return Some(pending),
            }
        }
        self.come += 1;
        let key = (pending.due(&stage, now), self.come);
        self.places.insert(key, party);
        self.waiting.insert(key, (stage, pending));
        early
    }

    /// Those that wait for no look-up any more: all is found, or they have waited long enough. Each
    /// is examined again only where the cluster has changed. And what the others still miss.
    pub(super) fn looked_up(
        &mut self,
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> (Vec<Pending>, Vec<Query>) {
        let mut all_missing = Vec::new();
        let places = &mut self.places;
        let known = self.waiting.extract_if(.., |(due, _), (stage, pending)| {
            let Stage::LookingUp { missing, generation } = stage else { return false };
            if *due <= now {
                return true;
            }
            if *generation != snapshot.generation() {
                *missing = to_look_up(snapshot, &pending.subject.case(), now);
                *generation = snapshot.generation();
            }
            all_missing.push((pending.subject.party(), missing.clone()));
            missing.is_empty()
        });
        let mut all = Vec::new();
        for (key, (_, pending)) in known {
            places.remove(&key);
            all.push(pending);
        }
        // Few are looked up at once.
        (all, in_turn(all_missing).flatten().collect())
    }

    /// A drop was answered after all: what waits of it follows no report.
    pub(super) fn was_answered(&mut self, id: DropId) {
        for (_, pending) in self.waiting.values_mut() {
            if let Subject::Drop(drop) = &mut pending.subject
                && drop.id == id
            {
                drop.evidence.was_not_reported();
            }
        }
    }

    /// The next that has waited long enough.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<Pending> {
        let first = self.waiting.first_entry().filter(|first| first.key().0 <= now)?;
        let (key, (_, pending)) = first.remove_entry();
        self.places.remove(&key);
        Some(pending)
    }

    /// When the next will have waited long enough.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// How many wait for look-ups, and how many for the cluster.
    pub(super) fn lengths(&self) -> (usize, usize) {
        let looking_up = |(stage, _): &&(Stage, _)| matches!(stage, Stage::LookingUp { .. });
        let looking_up = self.waiting.values().filter(looking_up).count();
        (looking_up, self.waiting.len() - looking_up)
    }

    /// Packets that this kernel dropped of the drops that wait.
    pub(super) fn kernel_packets(&self) -> u64 {
        let drops = self.waiting.values().filter_map(|(_, pending)| match &pending.subject {
            Subject::Drop(drop) => Some(drop.unreported_packets()),
            Subject::Answer { .. } => None,
        });
        drops.sum()
    }

    /// How many cases were decided at once, since the queue was full.
    pub(super) fn decided_early(&self) -> u64 {
        self.decided_early
    }
}
