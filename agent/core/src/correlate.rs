//! Observations of attempts become Drops: one for each flow that is dropped silently.
//!
//! An attempt is pending from its first bad sign until its fate is clear: answered, and it is
//! forgotten; ended or repeated in vain, and it joins the open [`Drop`] of its flow. A flow is
//! reported when it opens and again at most once in [`REPORT_INTERVAL`] while it goes on. One that
//! worked in between is another drop, and so are attempts that somebody rejects beside those that
//! nobody answers.
//!
//! The answer depends on what was observed, not on the order in which it came in.

mod drop;
mod evidence;
mod fold;
mod key;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::IpAddr,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    flow::Flow,
    observation::{AttemptId, Fact, Observation},
};
pub use drop::{Correlated, Drop, DropId, Folded};
use evidence::Manner;
pub use evidence::{Evidence, EvidenceLevel, KernelDrops};
use key::{Key, KeysOf};

/// How long after its last sign an attempt may still be answered: longer than the first SYN's
/// retransmission timeout of 1 s (RFC 6298, 2.1), so that the second SYN has its chance.
pub const SETTLE: SignedDuration = SignedDuration::from_millis(1500);

/// How long to wait for signs of the same moment that are still on their way from another CPU, and
/// for the answer to a retransmission: more than the round trip to the other end of a large cluster.
pub const GRACE: SignedDuration = SignedDuration::from_millis(250);

/// A flow that keeps being dropped is reported again once in this time.
pub const REPORT_INTERVAL: SignedDuration = SignedDuration::from_secs(60);

/// A flow without a sign for this long is closed: twice the longest pause between two SYNs of one
/// connect (64 s with the kernel's `tcp_syn_retries` of 6), and a little.
pub const IDLE: SignedDuration = SignedDuration::from_secs(150);

/// A flow that was answered this long after its last sign of being dropped has recovered, so that its
/// next drop is reported at once. Shorter, and a Service with one dead backend among several would be
/// reported as often as chance leads to the others.
pub const RECOVERED: SignedDuration = SignedDuration::from_secs(5);

/// How long after an attempt was answered copies of its packets may still be on their way, to be freed
/// by whoever sees that they are copies: as long as packets are held up where it is still answered.
pub const COPIES: SignedDuration = SignedDuration::from_secs(10);

/// How many pending attempts are kept (about 400 bytes each): the kernel side hands over one attempt
/// per flow and second, so this is thousands of flows that begin to be dropped within [`SETTLE`].
pub const PENDING_MAX: usize = 4096;

/// How many flows are kept open (about 500 bytes each).
pub const OPEN_MAX: usize = 4096;

/// How many flows of one source are kept apart. A client has few servers; beyond this it is a scan
/// or a flood, which is reported as one.
pub const FLOWS_PER_SOURCE_MAX: usize = 64;

/// How many attempts of an open flow are remembered, so that one that is seen again later counts
/// once: a client has few connects to one destination under way at a time.
const ATTEMPTS_REMEMBERED_MAX: usize = 8;

/// Where the packets of kernel drops went: nothing is lost uncounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Dropped packets observed.
    pub observed: u64,
    /// Of attempts that were answered after all.
    pub recovered: u64,
    /// Of sources with too many flows to keep apart.
    pub folded: u64,
    /// Not kept, because too many attempts or flows were open.
    pub shed: u64,
}

/// The state between observations and drops. Only [`Self::observe`] and [`Self::tick`] change it.
#[derive(Debug, Default)]
pub struct Correlator {
    pending: HashMap<AttemptId, Pending>,
    /// The same by when they are judged.
    due: BTreeSet<(Timestamp, AttemptId)>,
    /// Flows that are being dropped.
    open: HashMap<Key, Open>,
    /// The same by when there is something to do about them.
    open_due: BTreeSet<(Timestamp, Key)>,
    /// What of it is of a flow.
    open_of: KeysOf,
    /// Counters of flows that are not open (yet).
    loose: HashMap<Flow, Loose>,
    /// Attempts that were answered late, and when: copies of their packets are still on their way.
    answered: HashMap<AttemptId, Timestamp>,
    /// Flows with an attempt that was answered late, and when: their counters are forgiven.
    forgiven: HashMap<Flow, Timestamp>,
    /// Flows whose drop was concluded.
    concluded: HashMap<Key, Concluded>,
    /// Pending attempts and open flows of each source.
    of_source: HashMap<IpAddr, usize>,
    folded: HashMap<IpAddr, Folded>,
    folds_reported_at: Option<Timestamp>,
    /// What is clear, and returned by the next tick.
    clear: Vec<Correlated>,
    account: Account,
}

#[derive(Debug)]
struct Pending {
    evidence: Evidence,
    /// As the pod's veth saw it.
    dialled: Option<Flow>,
    /// As the filter saw it.
    dropped: Option<Flow>,
    due: Timestamp,
}

#[derive(Debug)]
struct Open {
    drop: Drop,
    /// Those that it counts, the latest last.
    attempts: VecDeque<AttemptId>,
    reported_at: Option<Timestamp>,
    news: bool,
    due: Timestamp,
}

#[derive(Debug)]
struct Concluded {
    attempts: VecDeque<AttemptId>,
    /// When what follows may be reported.
    due: Timestamp,
}

#[derive(Debug)]
struct Loose {
    evidence: Evidence,
    due: Timestamp,
}

impl Correlator {
    /// Handles one observation.
    pub fn observe(&mut self, observation: &Observation) {
        if let Fact::KernelDrop { .. } = observation.fact {
            self.account.observed += observation.packets;
        }
        match (&observation.fact, observation.attempt) {
            (Fact::AnsweredFirst, _) => {
                let (flow, at) = (observation.flow, observation.at);
                self.clear.push(Correlated::Answered { flow, at });
            }
            (Fact::AnsweredLate, Some(attempt)) => self.answered_late(&attempt, observation),
            (Fact::AnsweredLate, None) => {}
            (_, Some(attempt)) => self.sign(attempt, observation),
            (_, None) => self.counter(observation),
        }
    }

    /// The open flows that this may be a new attempt of, each as dialled as well where that differs: it
    /// may have worked since its last sign, which is for [`Self::worked`] to hear first. More than one
    /// where it is not seen yet to which of several backends it goes.
    pub fn attempted_again(&self, observation: &Observation) -> BTreeSet<(Flow, Option<Flow>)> {
        let is_new = |attempt: &AttemptId| !self.pending.contains_key(attempt);
        if !observation.attempt.as_ref().is_some_and(is_new) {
            return BTreeSet::new();
        }
        let open = self.open_of.may_be(&observation.flow).filter_map(|key| self.open.get(&key));
        open.map(|open| (open.drop.flow, open.drop.flow_dialled())).collect()
    }

    /// An open flow, as it was dropped, was last answered at this time.
    pub fn worked(&mut self, flow: &Flow, at: Timestamp) {
        let has_recovered = |open: &Open| at.duration_since(open.drop.evidence.last()) >= RECOVERED;
        let recovered = |key: &Key| self.open.get(key).is_some_and(has_recovered);
        for key in self.open_of.as_is(flow).filter(recovered).collect::<Vec<_>>() {
            self.close_with_news(&key);
        }
    }

    /// Closes the drop of a flow, since what is known of it was counted and not reported. Should the
    /// flow go on, that is another drop, with evidence of its own, reported when this one would have
    /// been.
    pub fn conclude(&mut self, flow: &Flow) {
        for key in self.open_of.may_be(flow).collect::<Vec<_>>() {
            let Some(open) = self.close_with_news(&key) else { continue };
            if let Some(at) = open.reported_at.filter(|_| self.concluded.len() < OPEN_MAX) {
                let due = at + REPORT_INTERVAL;
                self.concluded.insert(key, Concluded { attempts: open.attempts, due });
            }
        }
    }

    /// Closes a drop, since it was answered after all. What is seen of the flow from now on is
    /// another, reported at once.
    pub fn recovered(&mut self, drop: &Drop) {
        let Some(key) = self.key_of(drop) else { return };
        if let Some(open) = self.open.get_mut(&key) {
            open.drop.evidence.was_not_reported();
        }
        self.close_with_news(&key);
    }

    /// What is known by now of a drop that goes on; `None`: it does not.
    pub fn evidence_of(&self, drop: &Drop) -> Option<&Evidence> {
        Some(&self.open.get(&self.key_of(drop)?)?.drop.evidence)
    }

    fn key_of(&self, drop: &Drop) -> Option<Key> {
        let is_it = |key: &Key| self.open.get(key).is_some_and(|open| open.drop.id == drop.id);
        self.open_of.may_be(&drop.flow).find(is_it)
    }

    /// Packets that this kernel freed though they had arrived: they are no attempt's trouble.
    pub fn arrived(&mut self, observation: &Observation) {
        self.account.observed += observation.packets;
        self.account.recovered += observation.packets;
        // Counters do not say where: those of the same moment are of its kind.
        self.forgiven.insert(observation.flow, observation.at);
    }

    /// Says what has become clear by now.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Correlated> {
        let mut clear = std::mem::take(&mut self.clear);
        while let Some((due, attempt)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, attempt));
            self.settle(&attempt, now);
        }
        let loose: Vec<Flow> =
            self.loose.iter().filter(|(_, l)| l.due <= now).map(|(flow, _)| *flow).collect();
        for flow in loose {
            self.settle_loose(&flow, now);
        }
        self.forgiven.retain(|_, at| now.duration_since(*at) <= SETTLE * 2);
        self.answered.retain(|_, at| now.duration_since(*at) <= COPIES);
        self.concluded.retain(|_, concluded| concluded.due > now);
        while let Some((due, key)) = self.open_due.first().copied().filter(|(due, _)| *due <= now) {
            self.open_due.remove(&(due, key));
            clear.extend(self.attend(&key, now).map(Correlated::Drop));
        }
        clear.extend(self.due_folds(now).into_iter().map(Correlated::Folded));
        clear
    }

    /// Says all there is to say, as the last thing: what is not clear by now will not become so.
    pub fn flush(&mut self, now: Timestamp) -> Vec<Correlated> {
        while let Some((_, attempt)) = self.due.pop_first() {
            self.settle(&attempt, now);
        }
        for flow in self.loose.keys().copied().collect::<BTreeSet<_>>() {
            self.settle_loose(&flow, now);
        }
        for key in self.open.keys().copied().collect::<Vec<_>>() {
            self.reschedule(&key, now);
        }
        let mut clear = self.tick(now);
        clear.extend(self.drain_folds(now).into_iter().map(Correlated::Folded));
        clear
    }

    /// When [`Self::tick`] has something to do; `None`: not before the next observation.
    pub fn deadline(&self) -> Option<Timestamp> {
        let clear = self.clear.first().map(|_| Timestamp::MIN);
        let pending = self.due.first().map(|(due, _)| *due);
        let open = self.open_due.first().map(|(due, _)| *due);
        let loose = self.loose.values().map(|loose| loose.due).min();
        let folded = self.folded.values().map(|folded| self.folded_due(folded)).min();
        [clear, pending, open, loose, folded].into_iter().flatten().min()
    }

    /// Where dropped packets went so far. What is in none of its parts was returned in a drop, or is
    /// still [`Self::undecided`].
    pub fn account(&self) -> Account {
        self.account
    }

    /// Dropped packets that no part of [`Self::account`] and no drop that was returned has yet.
    pub fn undecided(&self) -> u64 {
        let pending = self.pending.values().map(|pending| pending.evidence.kernel_packets());
        let loose = self.loose.values().map(|loose| loose.evidence.kernel_packets());
        let open = self.open.values().map(|open| open.drop.unreported_packets());
        let clear = self.clear.iter().map(|correlated| match correlated {
            Correlated::Drop(drop) => drop.unreported_packets(),
            Correlated::Folded(_) | Correlated::Answered { .. } => 0,
        });
        pending.chain(loose).chain(open).chain(clear).sum()
    }

    /// A sign that an attempt is in trouble.
    fn sign(&mut self, attempt: AttemptId, observation: &Observation) {
        if self.answered.contains_key(&attempt) {
            // A copy that was slower than the answer to another.
            if let Fact::KernelDrop { .. } = observation.fact {
                self.account.recovered += observation.packets;
                self.forgiven.insert(observation.flow, observation.at);
            }
            return;
        }
        let known = self.pending.contains_key(&attempt);
        if !known && self.is_crowded(observation) {
            return self.fold(observation);
        }
        if !known && self.pending.len() >= PENDING_MAX {
            return self.shed(observation);
        }
        let pending = self.pending.entry(attempt).or_insert_with(|| Pending {
            evidence: Evidence::default(),
            dialled: None,
            dropped: None,
            due: Timestamp::MAX,
        });
        if !known {
            *self.of_source.entry(attempt.source).or_default() += 1;
        }
        if !pending.evidence.add(observation) {
            // The same once more: it was counted as observed, and is not.
            if let Fact::KernelDrop { .. } = observation.fact {
                self.account.observed -= observation.packets;
            }
            return;
        }
        match observation.fact {
            Fact::KernelDrop { .. } => {
                pending.dropped = Some(observation.flow);
                pending.dialled = pending.dialled.max(observation.flow_dialled());
            }
            _ => pending.dialled = Some(observation.flow_dialled().unwrap_or(observation.flow)),
        }
        self.due.remove(&(pending.due, attempt));
        pending.due = pending.evidence.due();
        self.due.insert((pending.due, attempt));
    }

    fn answered_late(&mut self, attempt: &AttemptId, observation: &Observation) {
        let at = observation.at;
        // Too late to take back what was reported of the flow; that it works again is reported. Who
        // answers what was dialled may be another backend than the one that did not.
        for key in self.open_of.as_is(&observation.flow).collect::<Vec<_>>() {
            if let Some(open) = self.open.get_mut(&key) {
                open.drop.evidence.answered = open.drop.evidence.answered.max(Some(at));
            }
        }
        if self.answered.len() < PENDING_MAX {
            self.answered.insert(*attempt, at);
        }
        let Some(pending) = self.pending.remove(attempt) else { return };
        self.due.remove(&(pending.due, *attempt));
        self.release(attempt.source);
        self.account.recovered += pending.evidence.kernel_packets();
        for flow in [pending.dialled, pending.dropped].into_iter().flatten() {
            self.forgiven.insert(flow, at);
        }
    }

    /// Packets that the kernel counted without handing them over one by one.
    fn counter(&mut self, observation: &Observation) {
        if let Some(key) = self.latest_of(&observation.flow) {
            let mut evidence = Evidence::default();
            evidence.add(observation);
            return self.add_to_open(&key, evidence);
        }
        if !self.loose.contains_key(&observation.flow) {
            if self.is_crowded(observation) {
                return self.fold(observation);
            }
            if self.loose.len() >= PENDING_MAX {
                return self.shed(observation);
            }
        }
        let loose = self.loose.entry(observation.flow).or_insert_with(|| Loose {
            evidence: Evidence::default(),
            // Later than the attempt of this flow that was seen, which decides.
            due: observation.at + SETTLE * 2,
        });
        loose.evidence.add(observation);
    }

    /// An attempt that was not answered in time joins its flow's drop.
    fn settle(&mut self, attempt: &AttemptId, now: Timestamp) {
        let Some(pending) = self.pending.remove(attempt) else { return };
        self.release(attempt.source);
        let Pending { evidence, dialled, dropped, .. } = pending;
        let mut evidence = evidence.sealed();
        if !evidence.is_unanswered() {
            self.account.recovered += evidence.kernel_packets();
            return self.given_up(attempt, dialled, &evidence);
        }
        let manner = evidence.manner();
        let Some(key) = self.key_for(dropped, dialled, manner) else { return };
        if let Some(dialled) = dialled.filter(|dialled| *dialled != key.flow) {
            self.join_translated(&dialled, &key);
        }
        let known = match self.open.get_mut(&key) {
            Some(open) => Some(&mut open.attempts),
            None => self.concluded.get_mut(&key).map(|concluded| &mut concluded.attempts),
        };
        if let Some(known) = known {
            if known.contains(attempt) {
                evidence.is_of_known_attempt();
            } else {
                remember(known, *attempt);
            }
        }
        if self.open.contains_key(&key) {
            return self.add_to_open(&key, evidence);
        }
        let Key { flow, dialled, .. } = key;
        let is_known = |key: Key| self.open.get(&key).is_some_and(|o| o.attempts.contains(attempt));
        let id = match is_known(Key { manner: manner.other(), ..key }) {
            // The attempt's own name is taken.
            true => DropId::of_flow(&flow, evidence.latest().into_inner().0),
            false => DropId::of(attempt),
        };
        self.open(Drop { id, flow, dialled, evidence, reported_packets: 0 }, manner, now);
        if let Some(open) = self.open.get_mut(&key).filter(|open| open.attempts.is_empty()) {
            remember(&mut open.attempts, *attempt);
        }
    }

    /// That an application gives up shows nothing by itself; of the attempt that began a drop it is the
    /// end, and no answer to another one takes that back.
    fn given_up(&mut self, attempt: &AttemptId, dialled: Option<Flow>, evidence: &Evidence) {
        let is_its = |open: &&mut Open| open.drop.id == DropId::of(attempt);
        for key in dialled.iter().flat_map(|flow| self.open_of.may_be(flow)) {
            if let Some(open) = self.open.get_mut(&key).filter(is_its) {
                open.drop.evidence.ended_with(evidence);
            }
        }
    }

    /// Counters without an attempt that was seen: of an answered flow, or their event was lost.
    fn settle_loose(&mut self, flow: &Flow, now: Timestamp) {
        let Some(loose) = self.loose.remove(flow) else { return };
        let evidence = loose.evidence;
        if let Some(key) = self.latest_of(flow) {
            self.add_to_open(&key, evidence);
        } else if self.forgiven.contains_key(flow) || !evidence.is_unanswered() {
            self.account.recovered += evidence.kernel_packets();
        } else {
            let id = DropId::of_flow(flow, evidence.first());
            let drop = Drop { id, flow: *flow, dialled: None, evidence, reported_packets: 0 };
            self.open(drop, Manner::Silent, now);
        }
    }

    fn open(&mut self, drop: Drop, manner: Manner, now: Timestamp) {
        if self.open.len() >= OPEN_MAX {
            self.account.shed += drop.evidence.kernel_packets();
            return;
        }
        let key = Key::of(&drop, manner);
        *self.of_source.entry(key.flow.source).or_default() += 1;
        self.open_of.insert(&key);
        let concluded = self.concluded.remove(&key);
        let Concluded { attempts, due } =
            concluded.unwrap_or(Concluded { attempts: VecDeque::new(), due: now });
        let due = due.max(now);
        self.open.insert(key, Open { drop, attempts, reported_at: None, news: true, due });
        self.open_due.insert((due, key));
    }

    /// The key of an attempt: by the flow that was dropped and what was dialled for it. Where only one of
    /// them is known, it is that of an open flow that it may be of.
    fn key_for(&self, dropped: Option<Flow>, dialled: Option<Flow>, manner: Manner) -> Option<Key> {
        let seen = dropped.or(dialled)?;
        let other = dialled.filter(|dialled| *dialled != seen);
        let other = other.map(|dialled| (dialled.destination, dialled.port));
        let own = Key { flow: seen, dialled: other, manner };
        // One that dialled the flow itself is known by both.
        let is_whole = dropped.is_some() && dialled.is_some();
        let known =
            self.open_key(&seen, manner).filter(|_| !is_whole && !self.open.contains_key(&own));
        Some(known.unwrap_or(own))
    }

    /// A flow was open as dialled, and now it is known to which backend it goes: they are one. What was
    /// rejected before it went to any stays what it was.
    fn join_translated(&mut self, dialled: &Flow, key: &Key) {
        let as_dialled = Key { flow: *dialled, dialled: None, manner: key.manner };
        let Some(mut open) = self.open.remove(&as_dialled) else { return };
        self.open_due.remove(&(open.due, as_dialled));
        self.open_of.remove(&as_dialled);
        if let Some(other) = self.open.get_mut(key) {
            other.drop.evidence.merge(open.drop.evidence);
            other.drop.reported_packets += open.drop.reported_packets;
            open.attempts.into_iter().for_each(|attempt| remember(&mut other.attempts, attempt));
            other.news = true;
            self.release(dialled.source);
        } else {
            open.drop.flow = key.flow;
            open.drop.dialled = key.dialled;
            self.open_due.insert((open.due, *key));
            self.open.insert(*key, open);
            self.open_of.insert(key);
        }
    }

    fn add_to_open(&mut self, key: &Key, evidence: Evidence) {
        let Some(open) = self.open.get_mut(key) else { return };
        open.drop.evidence.merge(evidence);
        open.news = true;
        let due = open.reported_at.map_or(open.due, |at| at + REPORT_INTERVAL);
        self.reschedule(key, due);
    }

    /// Reports an open flow, or closes it.
    fn attend(&mut self, key: &Key, now: Timestamp) -> Option<Drop> {
        let open = self.open.get_mut(key)?;
        let report = open.news.then(|| open.drop.clone());
        if open.news {
            open.news = false;
            open.reported_at = Some(now);
            open.drop.reported_packets = open.drop.evidence.kernel_packets();
            open.drop.evidence.was_reported();
        } else if now.duration_since(open.drop.evidence.last()) >= IDLE {
            self.close(key);
            return None;
        }
        let closes = open.drop.evidence.last() + IDLE;
        self.reschedule(key, closes.max(now + GRACE));
        report
    }

    fn close(&mut self, key: &Key) -> Option<Open> {
        let open = self.open.remove(key)?;
        self.open_due.remove(&(open.due, *key));
        self.open_of.remove(key);
        self.release(key.flow.source);
        Some(open)
    }

    /// Closes an open flow, and reports what no report had yet.
    fn close_with_news(&mut self, key: &Key) -> Option<Open> {
        let open = self.close(key)?;
        if open.news {
            self.clear.push(Correlated::Drop(open.drop.clone()));
        }
        Some(open)
    }

    fn reschedule(&mut self, key: &Key, due: Timestamp) {
        if let Some(open) = self.open.get_mut(key) {
            self.open_due.remove(&(open.due, *key));
            open.due = due;
            self.open_due.insert((due, *key));
        }
    }

    /// An open flow that this one may be, which fails in this manner.
    fn open_key(&self, flow: &Flow, manner: Manner) -> Option<Key> {
        self.open_of.may_be(flow).find(|key| key.manner == manner)
    }

    /// The manner of the two in which something of the flow was seen last.
    fn latest_of(&self, flow: &Flow) -> Option<Key> {
        self.open_of.may_be(flow).max_by_key(|key| {
            // Of the same time, silence: it is what counters count.
            let last = self.open.get(key).map(|open| open.drop.evidence.last());
            (last, key.manner == Manner::Silent)
        })
    }

    fn is_crowded(&self, observation: &Observation) -> bool {
        let source = observation.flow.source;
        self.of_source.get(&source).is_some_and(|flows| *flows >= FLOWS_PER_SOURCE_MAX)
            && self.open_of.may_be(&observation.flow).next().is_none()
    }

    fn release(&mut self, source: IpAddr) {
        if let Some(flows) = self.of_source.get_mut(&source) {
            *flows -= 1;
            if *flows == 0 {
                self.of_source.remove(&source);
            }
        }
    }

    fn shed(&mut self, observation: &Observation) {
        if let Fact::KernelDrop { .. } = observation.fact {
            self.account.shed += observation.packets;
        }
    }
}

fn remember(attempts: &mut VecDeque<AttemptId>, attempt: AttemptId) {
    if attempts.len() >= ATTEMPTS_REMEMBERED_MAX {
        attempts.pop_front();
    }
    attempts.push_back(attempt);
}
