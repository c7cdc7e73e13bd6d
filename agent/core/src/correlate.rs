//! Observations of attempts become Drops: one for each flow that is dropped silently.
//!
//! An attempt is pending from its first bad sign until its fate is clear: answered, and it is
//! forgotten; ended or repeated in vain, and each of its packets joins the open [`Drop`] of its flow. A
//! flow is reported when it opens and again at most once in [`REPORT_INTERVAL`] while it goes on. One
//! that worked in between is another drop, and so is what fails in another way: rejected, dropped here
//! for another reason, or not seen again. That a connect ends is no packet, and no report of its own.
//!
//! The answer depends on what was observed, not on the order in which it came in.

mod attempt;
mod counter;
mod course;
mod cut;
mod drop;
mod evidence;
mod fold;
mod key;
mod memory;
mod open;
pub mod places;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    flow::Flow,
    observation::{AttemptId, Fact, Observation},
};
use attempt::{Added, Parts, Signs};
use cut::Cuts;
pub use drop::{Correlated, Drop, DropId, Folded};
pub use evidence::{Evidence, EvidenceLevel, KernelDrops};
use key::{Key, KeysOf, Manner, Of};
use memory::Memory;
pub use open::Cut;
use open::Open;
use places::{Places, Sending, SentOf, Way};

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

/// How many flows of one source are kept apart, and of all that one sender sends in others' names. A client has
/// few servers; beyond this it is a scan or a flood, which is reported as one.
pub const FLOWS_PER_SOURCE_MAX: usize = 64;

/// How many flows from outside of the node to one address are kept apart: the clients of a Service that is
/// open to the world. Beyond this they are reported as one.
pub const FLOWS_FROM_OUTSIDE_MAX: usize = 256;

/// How many attempts are remembered that drops count (about 150 bytes each), so that one that is seen
/// again later counts once, and its end is no news: those of a hundred flows that make one a second.
const COUNTED_MAX: usize = 16_384;

/// How many drops an attempt is remembered to be in: one for each backend that it was dropped at.
const DROPS_OF_ATTEMPT_MAX: usize = 4;

/// Where the packets of kernel drops went: nothing is lost uncounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Dropped packets observed.
    pub observed: u64,
    /// Of attempts that were answered after all.
    pub recovered: u64,
    /// Of sources and senders with too many flows to keep apart.
    pub folded: u64,
    /// Not kept, because too many attempts or flows were open.
    pub shed: u64,
}

/// What gave way before its time, so that something may be counted twice, or be reported that was answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Open flows that were of no use, or whose sender had most: what goes on of them is another drop.
    pub flows: u64,
    /// What was remembered of attempts and flows.
    pub remembered: u64,
}

/// The state between observations and drops. Only [`Self::observe`] and [`Self::tick`] change it.
#[derive(Debug)]
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
    loose: HashMap<Key, Loose>,
    /// Whose places these three tables have.
    pending_places: Places<AttemptId>,
    open_places: Places<Key>,
    loose_places: Places<Key>,
    /// Attempts that drops count.
    counted: Memory<AttemptId, Counted>,
    /// When packets were last dropped and only counted of what was dialled.
    counted_of: Memory<Of, ()>,
    /// Attempts that were answered late, and when: copies of their packets are still on their way.
    answered: Memory<AttemptId, ()>,
    /// Flows with an attempt that was answered late, and when: their counters are forgiven.
    forgiven: Memory<Of, ()>,
    /// Flows whose drop was concluded, and when what follows may be reported.
    concluded: HashMap<Key, Timestamp>,
    /// By sender, and by source where it is that one's flows that are too many.
    folded: HashMap<(u32, Option<IpAddr>), Folded>,
    folds_reported_at: Option<Timestamp>,
    /// Flows whose cause changed, and when: what their attempts sent before is reported by itself.
    cuts: Cuts,
    /// What is clear, and returned by the next tick.
    clear: Vec<Correlated>,
    account: Account,
    /// See [`Self::shed_new`].
    sheds_new: bool,
    evicted: u64,
}

impl Default for Correlator {
    fn default() -> Self {
        Self {
            pending: HashMap::new(),
            due: BTreeSet::new(),
            open: HashMap::new(),
            open_due: BTreeSet::new(),
            open_of: KeysOf::default(),
            loose: HashMap::new(),
            pending_places: Places::default(),
            open_places: Places::default(),
            loose_places: Places::default(),
            counted: Memory::with_room(COUNTED_MAX),
            counted_of: Memory::with_room(PENDING_MAX),
            answered: Memory::with_room(PENDING_MAX),
            forgiven: Memory::with_room(PENDING_MAX),
            concluded: HashMap::new(),
            folded: HashMap::new(),
            folds_reported_at: None,
            cuts: Cuts::default(),
            clear: Vec::new(),
            account: Account::default(),
            sheds_new: false,
            evicted: 0,
        }
    }
}

#[derive(Debug, Default)]
struct Pending {
    signs: Signs,
    due: Timestamp,
}

/// In which drops an attempt is counted.
#[derive(Debug, Default)]
struct Counted {
    keys: Vec<Key>,
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
        // What others send in its name is not in the table of answers.
        let is_own = observation.sender.foreign().is_none();
        if !is_own || !observation.attempt.as_ref().is_some_and(is_new) {
            return BTreeSet::new();
        }
        let own = (observation.flow, None);
        let open = self.open_of.may_be(&own).filter_map(|key| self.open.get(&key));
        open.map(|open| (open.drop.flow, open.drop.flow_dialled())).collect()
    }

    /// An open flow, as it was dropped, was last answered at this time.
    pub fn worked(&mut self, flow: &Flow, at: Timestamp) {
        let has_recovered = |open: &Open| at.duration_since(open.last()) >= RECOVERED;
        let recovered = |key: &Key| self.open.get(key).is_some_and(has_recovered);
        for key in self.open_of.as_is(&(*flow, None)).filter(recovered).collect::<Vec<_>>() {
            self.close_with_news(&key);
        }
    }

    /// Closes the drop of a flow, since what is known of it was counted and not reported. Should the
    /// flow go on, that is another drop, with evidence of its own, reported when this one would have
    /// been.
    pub fn conclude(&mut self, drop: &Drop) {
        let own = (drop.flow, drop.foreign);
        for key in self.open_of.as_is(&own).collect::<Vec<_>>() {
            let reported_at = self.close_with_news(&key);
            if let Some(at) = reported_at.filter(|_| self.concluded.len() < OPEN_MAX) {
                self.concluded.insert(key, at + REPORT_INTERVAL);
            }
        }
    }

    /// A drop is nothing to report: its flow goes first where there is no room.
    pub fn is_of_no_use(&mut self, drop: &Drop) {
        if let Some(key) = self.key_of(drop) {
            self.open_places.spare(&key);
        }
    }

    /// What gave way before its time.
    pub fn evicted(&self) -> Evicted {
        let Self { counted, counted_of, answered, forgiven, .. } = self;
        let flows = counted_of.evicted() + forgiven.evicted();
        let remembered = flows + counted.evicted() + answered.evicted();
        Evicted { flows: self.evicted, remembered }
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
        self.open_of.as_is(&(drop.flow, drop.foreign)).find(is_it)
    }

    /// Packets that this kernel freed though they had arrived: they are no attempt's trouble.
    pub fn arrived(&mut self, observation: &Observation) {
        self.account.observed += observation.packets;
        self.account.recovered += observation.packets;
        // Counters do not say where: those of the same moment are of its kind.
        self.forgive(observation);
    }

    /// From now on, what is of a flow that is not open is counted and not kept, or is kept again: whoever runs
    /// it is short of memory, or is no more.
    pub fn shed_new(&mut self, sheds: bool) {
        self.sheds_new = sheds;
    }

    /// Says what has become clear by now.
    pub fn tick(&mut self, now: Timestamp) -> Vec<Correlated> {
        let mut clear = std::mem::take(&mut self.clear);
        while let Some((due, attempt)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, attempt));
            self.settle(&attempt, now);
        }
        let loose: BTreeSet<Key> =
            self.loose.iter().filter(|(_, l)| l.due <= now).map(|(key, _)| *key).collect();
        for key in loose {
            self.settle_loose(&key, now);
        }
        self.forgiven.forget(now, SETTLE * 2);
        self.answered.forget(now, COPIES);
        self.concluded.retain(|_, due| *due > now);
        self.counted.forget(now, IDLE);
        self.counted_of.forget(now, IDLE);
        self.cuts.forget(now);
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
        for key in self.loose.keys().copied().collect::<BTreeSet<_>>() {
            self.settle_loose(&key, now);
        }
        for key in self.open.keys().copied().collect::<BTreeSet<_>>() {
            self.close_with_news(&key);
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
        let pending = self.pending.values().map(|pending| pending.signs.kernel_packets());
        let loose = self.loose.values().map(|loose| loose.evidence.kernel_packets());
        let open = self.open.values().map(Open::unreported_packets);
        let clear = self.clear.iter().map(|correlated| match correlated {
            Correlated::Drop(drop) => drop.unreported_packets(),
            Correlated::Folded(_) | Correlated::Answered { .. } => 0,
        });
        pending.chain(loose).chain(open).chain(clear).sum()
    }

    /// A sign that an attempt is in trouble.
    fn sign(&mut self, attempt: AttemptId, observation: &Observation) {
        if self.answered.contains(&attempt) {
            // A copy that was slower than the answer to another.
            if let Fact::KernelDrop { .. } = observation.fact {
                self.account.recovered += observation.packets;
                self.forgive(observation);
            }
            return;
        }
        let known = self.pending.contains_key(&attempt);
        let party = Sending::of_observation(observation);
        if !known && self.is_crowded(observation, &party) {
            return self.fold(observation);
        }
        if !known && self.sheds_new && !self.is_open(observation) {
            return self.shed(observation);
        }
        if !known && self.pending.len() >= PENDING_MAX {
            match self.pending_places.way(&party) {
                Way::Gives(other) => self.give_way(&other),
                Way::None => return self.fold_all_of_sender(observation),
            }
        }
        if !known || party.is_refused {
            // Who is refused knows: it takes up nothing of what silent flows of its have.
            self.pending_places.insert(attempt, party);
        }
        let pending = self.pending.entry(attempt).or_default();
        match pending.signs.add(observation) {
            Added::New => {}
            Added::Shed => return self.shed(observation),
            Added::Again => {
                // It was counted as observed, and is not.
                if let Fact::KernelDrop { .. } = observation.fact {
                    self.account.observed -= observation.packets;
                }
                return;
            }
        }
        self.due.remove(&(pending.due, attempt));
        pending.due = pending.signs.due();
        self.due.insert((pending.due, attempt));
    }

    fn answered_late(&mut self, attempt: &AttemptId, observation: &Observation) {
        let at = observation.at;
        // Too late to take back what was reported of the flow; that it works again is reported. Who
        // answers what was dialled may be another backend than the one that did not.
        let (own, party) =
            ((observation.flow, attempt.foreign), Sending::of_observation(observation));
        for key in self.open_of.as_is(&own).collect::<Vec<_>>() {
            if let Some(open) = self.open.get_mut(&key) {
                open.drop.evidence.answered = open.drop.evidence.answered.max(Some(at));
            }
        }
        self.answered.insert(*attempt, at, party);
        let Some(mut pending) = self.pending.remove(attempt) else {
            return self.rescued(attempt, &observation.flow);
        };
        self.due.remove(&(pending.due, *attempt));
        self.pending_places.remove(attempt);
        // What its backend dropped, and another one answered, was dropped all the same.
        let dropped = pending.signs.take_dropped_behind(&observation.flow);
        for (key, evidence) in dropped.into_parts().packets {
            self.join(attempt, key, evidence, at);
        }
        self.rescued(attempt, &observation.flow);
        self.account.recovered += pending.signs.kernel_packets();
        for flow in pending.signs.flows() {
            self.forgiven.insert((flow, attempt.foreign), at, party);
        }
    }

    /// An attempt was answered for what was dialled, by another backend than those that dropped it.
    fn rescued(&mut self, attempt: &AttemptId, dialled: &Flow) {
        let Some(counted) = self.counted.remove(attempt) else { return };
        for key in counted.keys.iter().filter(|key| key.is_behind(dialled)) {
            if let Some(open) = self.open.get_mut(key) {
                open.drop.evidence.is_rescued();
            }
        }
    }

    /// An attempt that was not answered in time joins the drops of its flows: what came before their
    /// cause changed by itself.
    fn settle(&mut self, attempt: &AttemptId, now: Timestamp) {
        let Some(pending) = self.pending.remove(attempt) else { return };
        self.pending_places.remove(attempt);
        let mut signs = pending.signs;
        for cut in self.cuts.of(&signs) {
            let (before, after) = signs.split_at(cut.at);
            let joined = self.join_all(attempt, before, now);
            self.cut_all(&joined, cut);
            signs = after;
        }
        self.join_all(attempt, signs, now);
    }

    /// Signs of an attempt join the drops that they are of: which.
    fn join_all(&mut self, attempt: &AttemptId, signs: Signs, now: Timestamp) -> Vec<Key> {
        let Parts { packets, lost, end, is_dialled_seen } = signs.into_parts();
        let (mut own, mut joined) = (Vec::new(), Vec::new());
        for (key, evidence) in packets {
            let key = if is_dialled_seen { key } else { self.as_dialled(key) };
            own.push(key);
            self.join(attempt, key, evidence, now);
        }
        joined.extend(own.iter().copied());
        match (lost, end) {
            (Some((flow, evidence)), _) => {
                if let Some(key) = self.key_of_lost(attempt, (flow, &evidence), &own) {
                    self.join(attempt, key, evidence, now);
                    joined.push(key);
                }
            }
            (None, Some((flow, end))) if own.is_empty() => self.ended(attempt, flow, end, now),
            (None, _) => {}
        }
        joined
    }

    /// The same, where it is not known what was dialled, as what is open of the flow.
    fn as_dialled(&self, key: Key) -> Key {
        let is_alike = |open: &Key| open.manner == key.manner;
        match self.open.contains_key(&key) {
            true => key,
            false => self.open_of.as_is(&key.own()).find(is_alike).unwrap_or(key),
        }
    }

    /// What packets are of that came again and were not seen to be dropped; `None`: that is not known, as of
    /// an attempt of which others were dropped here, or of a flow whose drops are mostly only counted.
    fn key_of_lost(
        &self,
        attempt: &AttemptId,
        (flow, evidence): (Flow, &Evidence),
        own: &[Key],
    ) -> Option<Key> {
        let manner = Manner::Lost { has_arrived: evidence.delivered };
        let foreign = attempt.foreign;
        let key = Key { flow, dialled: None, manner, foreign };
        let counted = self.counted.get(attempt).map_or(&[][..], |counted| counted.keys.as_slice());
        let is_dropped = own.iter().chain(counted).any(|key| !key.manner.is_lost());
        let is_counted =
            self.counted_of.last(&(flow, foreign)).is_some_and(|at| at >= evidence.last());
        (self.open.contains_key(&key) || !(is_dropped || is_counted)).then_some(key)
    }

    /// Packets of an attempt join what is open of their flow, or open it.
    fn join(&mut self, attempt: &AttemptId, key: Key, mut evidence: Evidence, now: Timestamp) {
        let is_counted = self.counted.contains(attempt);
        if is_counted {
            evidence.is_of_known_attempt();
        }
        let party = Sending::of(&evidence.sender, &key.flow, evidence.entered.is_some());
        self.count(attempt, key, party, evidence.last());
        if self.open.contains_key(&key) {
            return self.add_to_open(&key, evidence);
        }
        // The name of an attempt is that of the first drop that counts it.
        let id = match is_counted {
            true => DropId::of_key(&key, *evidence.latest().start()),
            false => DropId::of(attempt),
        };
        let Key { flow, dialled, manner, foreign } = key;
        self.open(Drop { id, flow, dialled, foreign, evidence, reported_packets: 0 }, manner, now);
    }

    fn count(&mut self, attempt: &AttemptId, key: Key, party: Sending, last: Timestamp) {
        let counted = self.counted.entry(*attempt, last, party, Counted::default);
        let Some(counted) = counted else { return };
        if !counted.keys.contains(&key) && counted.keys.len() < DROPS_OF_ATTEMPT_MAX {
            counted.keys.push(key);
        }
    }

    /// A connect ended, and nothing new was seen of its packets. Of the attempt that began a drop it is the
    /// end, and no answer to another one takes that back. By itself, that an application gives up shows
    /// nothing; that the kernel does shows that nobody answered, up to a minute after its last packet: of
    /// a flow of which packets were only counted, it was among those.
    fn ended(&mut self, attempt: &AttemptId, flow: Flow, mut end: Evidence, now: Timestamp) {
        let last = self.counted.last(attempt);
        if let Some((counted, last)) = self.counted.get(attempt).zip(last) {
            for key in &counted.keys {
                let Some(Open { drop, .. }) = self.open.get_mut(key) else { continue };
                drop.evidence.has_one_that_ended(&end, last);
                if drop.id == DropId::of(attempt) {
                    drop.evidence.ended_with(&end);
                }
            }
        } else if end.failed.is_some_and(|errno| errno != 0) {
            let foreign = attempt.foreign;
            if self.counted_of.contains(&(flow, foreign)) {
                return;
            }
            end.is_attempt();
            let manner = Manner::Lost { has_arrived: end.delivered };
            self.join(attempt, Key { flow, dialled: None, manner, foreign }, end, now);
        }
    }

    /// Whether too many flows of one party are open, and it is of none of them.
    fn is_crowded(&self, observation: &Observation, party: &Sending) -> bool {
        let max = match party.of {
            SentOf::Source(_) | SentOf::Spoofed => FLOWS_PER_SOURCE_MAX,
            SentOf::FromOutside(_) => FLOWS_FROM_OUTSIDE_MAX,
        };
        self.pending_places.of_party(party) + self.open_places.of_party(party) >= max
            && !self.is_open(observation)
    }

    fn is_open(&self, observation: &Observation) -> bool {
        let own = (observation.flow, observation.sender.foreign());
        self.open_of.may_be(&own).next().is_some()
    }

    fn forgive(&mut self, observation: &Observation) {
        let own = (observation.flow, observation.sender.foreign());
        self.forgiven.insert(own, observation.at, Sending::of_observation(observation));
    }

    fn shed(&mut self, observation: &Observation) {
        if let Fact::KernelDrop { .. } = observation.fact {
            self.account.shed += observation.packets;
        }
    }
}
