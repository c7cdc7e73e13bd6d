//! The node's kernel with the agent's programs in it, as `agent-ebpf` has them: what they know of an
//! attempt, what they report at once, what they count, and the table of last answers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use jiff::Timestamp;
use whydrop_core::{
    docket::Asked,
    flow::{Flow, Worked},
    observation::{AttemptId, DropReason, Fact, Observation, Rejection, Sender},
};

use crate::time::{Ms, at};

/// What comes more often than this is no attempt but a flood (`report::RETRANSMISSIONS_REPORTED`).
const RETRANSMISSIONS_REPORTED: u32 = 8;

/// What a veth knows of an attempt (`whydrop_ebpf::Attempt`).
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "the bits of `whydrop_ebpf::flags`")]
struct Attempt {
    dialled: (IpAddr, u16),
    first: Ms,
    entered: Option<u32>,
    packets: u32,
    from_pod: bool,
    to_pod: bool,
    is_reported: bool,
    is_rejected: bool,
    is_counted: bool,
}

/// Why a packet is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Freed {
    /// By a rule of netfilter: of the network plugin, or of kube-proxy.
    Filter,
    /// No route leads to its destination.
    NoRoute,
    /// Nothing listens on the port.
    NoSocket,
    /// The destination's own kernel has it already, and has answered again.
    Duplicate,
}

/// What is counted alike (`whydrop_ebpf::TallyKey`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct TallyKey {
    flow: Flow,
    kind: Kind,
    interface: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    KernelDrop(Freed),
    Retransmitted,
    Failed(i32),
    Rejected(Rejection),
}

#[derive(Clone, Copy, Debug)]
struct Tally {
    count: u64,
    last: Ms,
    of: Option<Attempt>,
}

/// Which answers a flow got (`whydrop_ebpf::Success`).
#[derive(Clone, Copy, Debug)]
struct Success {
    first: Ms,
    before: Option<Ms>,
    last: Ms,
    count: u64,
}

/// The maps of the programs.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    attempts: HashMap<AttemptId, Attempt>,
    successes: BTreeMap<Flow, Success>,
    tally: BTreeMap<TallyKey, Tally>,
    ring: Vec<Observation>,
    /// How many dropped packets were reported or counted.
    pub(crate) dropped: u64,
}

impl Kernel {
    /// A local pod's SYN, on its veth (`from_pod::request`).
    pub(crate) fn request_from_pod(&mut self, now: Ms, id: AttemptId, flow: Flow, veth: u32) {
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.packets += 1;
            if attempt.packets <= RETRANSMISSIONS_REPORTED {
                attempt.is_reported = true;
                let of = Some(*attempt);
                self.report(
                    now,
                    TallyKey { flow, kind: Kind::Retransmitted, interface: 0 },
                    id,
                    of,
                );
            }
            return;
        }
        let attempt = Attempt::new((flow.destination, flow.port), now);
        let attempt = Attempt { entered: Some(veth), from_pod: true, ..attempt };
        self.attempts.insert(id, attempt);
    }

    /// A SYN that is handed to a local pod (`to_pod::request`).
    pub(crate) fn request_to_pod(&mut self, now: Ms, id: AttemptId, flow: Flow) {
        let Some(attempt) = self.attempts.get_mut(&id) else {
            let attempt = Attempt::new((flow.destination, flow.port), now);
            self.attempts.insert(id, Attempt { to_pod: true, ..attempt });
            return;
        };
        if attempt.from_pod {
            attempt.to_pod = true;
            return;
        }
        attempt.packets += 1;
        if attempt.packets <= RETRANSMISSIONS_REPORTED {
            attempt.is_reported = true;
            let of = Some(*attempt);
            self.report(now, TallyKey { flow, kind: Kind::Retransmitted, interface: 0 }, id, of);
        }
    }

    /// A local pod's answer, on its veth (`from_pod::answer`).
    pub(crate) fn answer_from_pod(&mut self, now: Ms, id: AttemptId, flow: Flow) {
        let Some(attempt) = self.attempts.get_mut(&id) else { return };
        let known = *attempt;
        if !known.from_pod {
            self.attempts.remove(&id);
            self.succeeded(now, id, flow, known);
        } else if !known.is_counted && known.dialled != (flow.destination, flow.port) {
            attempt.is_counted = true;
            self.succeeded(now, id, flow, Attempt { is_reported: false, ..known });
        }
    }

    /// An answer that reaches a local client (`to_pod::answer`).
    pub(crate) fn answer_to_pod(&mut self, now: Ms, id: AttemptId, flow: Flow) {
        if self.attempts.get(&id).is_some_and(|attempt| attempt.from_pod)
            && let Some(known) = self.attempts.remove(&id)
        {
            self.succeeded(now, id, flow, known);
        }
    }

    /// A refusal reaches a local client (`to_pod::rejected`), or is a local pod's to one that is not
    /// (`from_pod::rejected`).
    pub(crate) fn rejected(&mut self, now: Ms, id: AttemptId, flow: Flow, how: Rejection) {
        if let Some(attempt) = self.attempts.get_mut(&id)
            && !attempt.is_rejected
        {
            (attempt.is_rejected, attempt.is_reported) = (true, true);
            let of = Some(*attempt);
            self.report(now, TallyKey { flow, kind: Kind::Rejected(how), interface: 0 }, id, of);
        }
    }

    /// This kernel frees a SYN (`kfree_skb::dropped`).
    pub(crate) fn freed(&mut self, now: Ms, id: AttemptId, flow: Flow, why: Freed, device: u32) {
        // A pod's own network namespace is only looked into for what was handed to it.
        let is_ours = !matches!(why, Freed::Duplicate | Freed::NoSocket);
        let of = self.attempts.get_mut(&id).filter(|attempt| is_ours || attempt.to_pod);
        if of.is_none() && !is_ours {
            return;
        }
        let of = of.map(|attempt| {
            attempt.is_reported = true;
            *attempt
        });
        let interface = if is_ours { device } else { 0 };
        self.dropped += 1;
        self.report(now, TallyKey { flow, kind: Kind::KernelDrop(why), interface }, id, of);
    }

    /// A local client's socket ends without success (`sock_state::ended`).
    pub(crate) fn closed(&mut self, now: Ms, id: AttemptId, flow: Flow, errno: i32) {
        let Some(attempt) = self.attempts.remove(&id) else { return };
        let is_news = errno == ETIMEDOUT || attempt.is_reported;
        if is_news && !attempt.is_rejected {
            let key = TallyKey { flow, kind: Kind::Failed(errno), interface: 0 };
            self.report(now, key, id, Some(attempt));
        }
    }

    /// What is in the ring.
    pub(crate) fn drain(&mut self) -> Vec<Observation> {
        std::mem::take(&mut self.ring)
    }

    /// Ends an interval of counting.
    pub(crate) fn turn(&mut self) -> Vec<Observation> {
        let counted = std::mem::take(&mut self.tally).into_iter();
        let counted = counted.filter(|(_, tally)| tally.count > 0);
        let observation = |(key, tally): (TallyKey, Tally)| {
            let seen = observation(tally.last, key, None, tally.of);
            Observation { packets: tally.count, first: at(tally.last), ..seen }
        };
        counted.map(observation).collect()
    }

    /// What the table of last answers says (`Successes` of `agent/probe`).
    pub(crate) fn answers(&self, asked: &Asked) -> Vec<(Flow, Worked)> {
        let once = |flow: &Flow, since: Timestamp| {
            let success = self.successes.get(flow).filter(|s| at(s.last) >= since)?;
            Some((*flow, Worked::once(at(success.last))))
        };
        let ever = Timestamp::MIN;
        match asked {
            Asked::Last(flows) => flows.iter().filter_map(|flow| once(flow, ever)).collect(),
            Asked::Worked(flows) => flows
                .iter()
                .filter_map(|(flow, since)| {
                    let worked = self.successes.get(flow)?.since(since.unwrap_or(ever))?;
                    Some((*flow, worked))
                })
                .collect(),
            Asked::SinceOf(flows, since) => {
                let flows: BTreeSet<&Flow> = flows.iter().collect();
                flows.into_iter().filter_map(|flow| once(flow, *since)).collect()
            }
            Asked::Since(since) => {
                self.successes.keys().filter_map(|flow| once(flow, *since)).collect()
            }
        }
    }

    fn succeeded(&mut self, now: Ms, id: AttemptId, flow: Flow, known: Attempt) {
        let is_first = !self.successes.contains_key(&flow);
        let success = self.successes.entry(flow).or_insert(Success {
            first: now,
            before: None,
            last: now,
            count: 0,
        });
        success.count += 1;
        if !is_first {
            (success.before, success.last) = (Some(success.last), now);
        }
        if is_first || known.is_reported {
            let fact = if known.is_reported { Fact::AnsweredLate } else { Fact::AnsweredFirst };
            let key = TallyKey { flow, kind: Kind::Retransmitted, interface: 0 };
            let seen = observation(now, key, Some(id), Some(known));
            self.ring.push(Observation { fact, ..seen });
        }
    }

    fn report(&mut self, now: Ms, key: TallyKey, id: AttemptId, of: Option<Attempt>) {
        if let Some(tally) = self.tally.get_mut(&key) {
            (tally.count, tally.last) = (tally.count + 1, now);
            return;
        }
        self.ring.push(observation(now, key, Some(id), of));
        self.tally.insert(key, Tally { count: 0, last: now, of });
    }
}

pub(crate) const ETIMEDOUT: i32 = 110;
pub(crate) const ECONNREFUSED: i32 = 111;

/// What kube-proxy rejects with.
pub(crate) const PORT_UNREACHABLE: Rejection = Rejection::Icmp { v6: false, kind: 3, code: 3 };

impl Attempt {
    const fn new(dialled: (IpAddr, u16), first: Ms) -> Self {
        Self {
            dialled,
            first,
            entered: None,
            packets: 1,
            from_pod: false,
            to_pod: false,
            is_reported: false,
            is_rejected: false,
            is_counted: false,
        }
    }
}

impl Success {
    fn since(&self, time: Timestamp) -> Option<Worked> {
        let is_in = |ms: &Ms| at(*ms) >= time;
        let last = Some(self.last).filter(is_in)?;
        let (first, connections) = match (Some(self.first).filter(is_in), self.before) {
            (Some(first), _) => (first, self.count),
            (None, Some(before)) if is_in(&before) => (before, 2),
            (None, _) => (last, 1),
        };
        Some(Worked { first: at(first), last: at(last), connections })
    }
}

/// As the agent decodes it (`agent/probe/src/decode.rs`).
fn observation(now: Ms, key: TallyKey, id: Option<AttemptId>, of: Option<Attempt>) -> Observation {
    let TallyKey { flow, kind, interface } = key;
    let dialled = of.map(|attempt| attempt.dialled);
    Observation {
        at: at(now),
        first: of.map_or(at(now), |attempt| at(attempt.first)),
        attempt: id,
        packets: 1,
        flow,
        dialled: dialled.filter(|dialled| *dialled != (flow.destination, flow.port)),
        sender: Sender {
            interface: of.and_then(|attempt| attempt.entered).unwrap_or(0),
            ..Sender::default()
        },
        entered: of.and_then(|attempt| attempt.entered),
        delivered: of.is_some_and(|attempt| attempt.to_pod),
        fact: match kind {
            Kind::KernelDrop(why) => why.fact(interface),
            Kind::Retransmitted => Fact::Retransmitted,
            Kind::Failed(errno) => Fact::Failed { errno },
            Kind::Rejected(how) => Fact::Rejected(how),
        },
    }
}

impl Freed {
    fn fact(self, interface: u32) -> Fact {
        let (number, name, location) = match self {
            Self::Filter => (12, "NETFILTER_DROP", "nf_hook_slow"),
            Self::NoRoute => (60, "IP_INNOROUTES", "ip_rcv_finish_core"),
            Self::NoSocket => (3, "NO_SOCKET", "tcp_v4_rcv"),
            Self::Duplicate => (2, "NOT_SPECIFIED", "tcp_v4_rcv"),
        };
        let reason = DropReason { number, name: name.into() };
        Fact::KernelDrop { reason, location: Some(location.into()), interface }
    }
}
