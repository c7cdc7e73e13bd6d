//! What the eBPF programs report: any bytes are the observation that they spell, or none.

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use whydrop::probe::{Clock, event_of, tally_of};
use whydrop_core::{
    flow::{Flow, Protocol},
    observation::{AttemptId, DropReason, Fact, IN_POD, Observation, Rejection, Sender, SourceIs},
};

const KEY_BYTES: usize = 48;
const TALLY_BYTES: usize = 48;
const EVENT_BYTES: usize = 120;

/// When the programs' clock was zero.
const ZERO: &str = "2026-01-02T03:04:05Z";
const NAMED_REASON: u32 = 12;

/// Holds the decoder against a second reading of the same bytes, by their offsets alone.
pub(crate) fn run(data: &[u8]) {
    let zero: Timestamp = ZERO.parse().expect("a time");
    let clock = Clock::new(zero, 0);
    let reasons = [(NAMED_REASON, "NETFILTER_DROP")];

    let event = event_of(data, clock, &reasons, location);
    let expected = (data.len() >= EVENT_BYTES).then(|| event_in(Raw(data), zero)).flatten();
    assert_eq!(event, expected, "an event");

    let (key, value) = data.split_at(KEY_BYTES.min(data.len()));
    let tally = tally_of((key, value), clock, &reasons, location);
    let is_whole = key.len() == KEY_BYTES && value.len() >= TALLY_BYTES;
    let expected = is_whole.then(|| tally_in(Raw(key), Raw(value), zero)).flatten();
    assert_eq!(tally, expected, "a count");
}

/// Every other address has a name.
fn location(address: u64) -> Option<Arc<str>> {
    (address % 2 == 1).then(|| Arc::from(format!("function_{address:x}")))
}

/// Bytes in the machine's order, read by offset.
#[derive(Clone, Copy)]
struct Raw<'a>(&'a [u8]);

impl Raw<'_> {
    fn bytes<const N: usize>(self, at: usize) -> [u8; N] {
        self.0[at..at + N].try_into().expect("as many")
    }

    fn u16(self, at: usize) -> u16 {
        u16::from_ne_bytes(self.bytes(at))
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_ne_bytes(self.bytes(at))
    }

    fn u64(self, at: usize) -> u64 {
        u64::from_ne_bytes(self.bytes(at))
    }

    fn ip(self, at: usize) -> IpAddr {
        Ipv6Addr::from(self.bytes::<16>(at)).to_canonical()
    }

    fn time(self, at: usize, zero: Timestamp) -> Timestamp {
        let ns = i64::try_from(self.u64(at)).unwrap_or(i64::MAX);
        zero.saturating_add(SignedDuration::from_nanos(ns)).expect("a duration has no end")
    }
}

fn protocol(number: u8) -> Option<Protocol> {
    match number {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        132 => Some(Protocol::Sctp),
        _ => None,
    }
}

fn event_in(raw: Raw<'_>, zero: Timestamp) -> Option<Observation> {
    let flow = flow_in(raw)?;
    let attempt = AttemptId {
        protocol: protocol(raw.0[70])?,
        source: raw.ip(48),
        source_port: raw.u16(68),
        sequence: raw.u32(64),
        foreign: (raw.u32(72) != 0).then(|| raw.u32(72)),
    };
    let at = raw.time(80, zero);
    let flags = raw.u16(78);
    let is_known = flags & 16 != 0;
    Some(Observation {
        at,
        first: if is_known { raw.time(88, zero) } else { at },
        attempt: Some(attempt),
        packets: 1,
        dialled: dialled(&flow, flags, (raw.ip(104), raw.u16(76))),
        sender: sender(raw, flags),
        entered: (flags & 1 != 0 && raw.u32(40) != 0).then(|| raw.u32(40)),
        delivered: is_known && flags & 2 != 0,
        fact: fact_in(raw, raw.u64(96))?,
        flow,
    })
}

fn tally_in(key: Raw<'_>, value: Raw<'_>, zero: Timestamp) -> Option<Observation> {
    let flow = flow_in(key)?;
    let at = value.time(8, zero);
    let flags = value.u16(42);
    let is_known = flags & 16 != 0;
    (value.u64(0) > 0).then_some(())?;
    Some(Observation {
        at,
        first: at,
        attempt: None,
        packets: value.u64(0),
        dialled: dialled(&flow, flags, (value.ip(24), value.u16(40))),
        sender: sender(key, flags),
        entered: (flags & 1 != 0 && key.u32(40) != 0).then(|| key.u32(40)),
        delivered: is_known && flags & 2 != 0,
        fact: fact_in(key, value.u64(16))?,
        flow,
    })
}

fn flow_in(key: Raw<'_>) -> Option<Flow> {
    Some(Flow {
        source: key.ip(0),
        destination: key.ip(16),
        port: key.u16(44),
        protocol: protocol(key.0[46])?,
    })
}

fn sender(key: Raw<'_>, flags: u16) -> Sender {
    let source = match (flags & 128 != 0, flags & 64 != 0) {
        (true, _) => SourceIs::Spoofed,
        (false, true) => SourceIs::Foreign,
        (false, false) => SourceIs::Own,
    };
    Sender { interface: key.u32(40), source }
}

fn dialled(flow: &Flow, flags: u16, dialled: (IpAddr, u16)) -> Option<(IpAddr, u16)> {
    (flags & 16 != 0 && dialled != (flow.destination, flow.port)).then_some(dialled)
}

fn fact_in(key: Raw<'_>, address: u64) -> Option<Fact> {
    let reason = key.u32(32);
    Some(match key.0[47] {
        0 => {
            let name = match reason {
                NAMED_REASON => Arc::from("NETFILTER_DROP"),
                other => Arc::from(other.to_string()),
            };
            let interface = if key.u32(36) == u32::MAX { IN_POD } else { key.u32(36) };
            let reason = DropReason { number: reason, name };
            Fact::KernelDrop { reason, location: location(address), interface }
        }
        1 => Fact::Retransmitted,
        2 => Fact::Failed { errno: i32::from_ne_bytes(key.bytes(32)) },
        3 => Fact::Rejected(Rejection::Reset),
        4 => {
            let (code, kind) = (reason & 0xff, reason >> 8 & 0xff);
            Fact::Rejected(Rejection::Icmp {
                v6: reason >> 16 & 0xff != 0,
                kind: u8::try_from(kind).expect("one byte"),
                code: u8::try_from(code).expect("one byte"),
            })
        }
        5 => Fact::AnsweredLate,
        6 => Fact::AnsweredFirst,
        _ => return None,
    })
}
