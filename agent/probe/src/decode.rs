//! From the programs' bytes to [`Observation`]s. Total: any bytes are an observation or none.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use whydrop_core::{
    flow::{Flow, Protocol},
    observation::{AttemptId, DropReason, Fact, IN_POD, Observation, Rejection, Sender, SourceIs},
};
use whydrop_ebpf::{
    Address, AttemptKey, ELSEWHERE, Event, Tally, TallyKey, address, flags, kind, octets,
};

use super::{clock::Clock, sys};

/// What a decoder needs to put names to numbers.
pub(crate) trait Names {
    /// The kernel function that holds this address.
    fn location(&mut self, address: u64) -> Option<Arc<str>>;
}

impl<F: FnMut(u64) -> Option<Arc<str>>> Names for F {
    fn location(&mut self, address: u64) -> Option<Arc<str>> {
        self(address)
    }
}

/// What the bytes of one event in the ring say, as the agent reads them: for tests. `None`: they are no
/// event, and are counted as malformed.
pub fn event_of(
    bytes: &[u8],
    clock: Clock,
    reasons: &[(u32, &str)],
    locations: impl FnMut(u64) -> Option<Arc<str>>,
) -> Option<Observation> {
    named(clock, reasons, locations).event(&sys::read(bytes)?)
}

/// The same of a count, by the bytes of its key and its value.
pub fn tally_of(
    (key, value): (&[u8], &[u8]),
    clock: Clock,
    reasons: &[(u32, &str)],
    locations: impl FnMut(u64) -> Option<Arc<str>>,
) -> Option<Observation> {
    named(clock, reasons, locations).tally(&sys::read(key)?, &sys::read(value)?)
}

fn named<N: Names>(clock: Clock, reasons: &[(u32, &str)], names: N) -> Decoder<N> {
    let reasons = reasons.iter().map(|(number, name)| (*number, Arc::from(*name)));
    Decoder::new(clock, reasons.collect(), names)
}

/// Decodes with a kernel's names.
pub(crate) struct Decoder<N> {
    clock: Clock,
    reasons: HashMap<u32, Arc<str>>,
    names: N,
}

impl<N: Names> Decoder<N> {
    pub(crate) fn new(clock: Clock, reasons: HashMap<u32, Arc<str>>, names: N) -> Self {
        Self { clock, reasons, names }
    }

    /// The same, by another clock.
    pub(crate) fn by(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// The observation that an event reports.
    pub(crate) fn event(&mut self, event: &Event) -> Option<Observation> {
        let at = self.clock.wall(event.at_ns);
        let known =
            AttemptOrigin::of(event.flags, event.dialled, event.dialled_port, event.key.sender);
        Some(Observation {
            at,
            first: if known.by_veth { self.clock.wall(event.first_ns) } else { at },
            attempt: Some(attempt(&event.attempt)?),
            packets: 1,
            flow: flow(&event.key)?,
            dialled: known.dialled(&event.key),
            sender: known.sender,
            entered: known.entered,
            delivered: known.delivered,
            fact: self.fact(&event.key, event.location)?,
        })
    }

    /// The observation that a count stands for; none if it counted nothing.
    pub(crate) fn tally(&mut self, key: &TallyKey, tally: &Tally) -> Option<Observation> {
        let at = self.clock.wall(tally.last_ns);
        let known = AttemptOrigin::of(tally.flags, tally.dialled, tally.dialled_port, key.sender);
        (tally.count > 0).then_some(())?;
        Some(Observation {
            at,
            first: at,
            attempt: None,
            packets: tally.count,
            flow: flow(key)?,
            dialled: known.dialled(key),
            sender: known.sender,
            entered: known.entered,
            delivered: known.delivered,
            fact: self.fact(key, tally.location)?,
        })
    }

    fn fact(&mut self, key: &TallyKey, location: u64) -> Option<Fact> {
        Some(match key.kind {
            kind::KERNEL_DROP => Fact::KernelDrop {
                reason: self.reason(key.reason),
                location: self.names.location(location),
                interface: match key.interface {
                    // The programs report no other than those of packets that were handed to a pod.
                    ELSEWHERE => IN_POD,
                    interface => interface,
                },
            },
            kind::RETRANSMITTED => Fact::Retransmitted,
            kind::FAILED => Fact::Failed { errno: key.reason.cast_signed() },
            kind::REJECTED_RESET => Fact::Rejected(Rejection::Reset),
            kind::REJECTED_ICMP => {
                let [code, kind, v6, _] = key.reason.to_le_bytes();
                Fact::Rejected(Rejection::Icmp { v6: v6 != 0, kind, code })
            }
            kind::ANSWERED_LATE => Fact::AnsweredLate,
            kind::ANSWERED_FIRST => Fact::AnsweredFirst,
            _ => return None,
        })
    }

    fn reason(&mut self, number: u32) -> DropReason {
        // Names are the kernel's; a number that has none is its own name.
        let name = match self.reasons.get(&number) {
            Some(name) => Arc::clone(name),
            None => Arc::from(number.to_string()),
        };
        DropReason { number, name }
    }
}

/// What a veth of ours knew of the attempt.
struct AttemptOrigin {
    by_veth: bool,
    dialled: (IpAddr, u16),
    sender: Sender,
    entered: Option<u32>,
    delivered: bool,
}

impl AttemptOrigin {
    fn of(bits: u16, dialled: Address, dialled_port: u16, entered: u32) -> Self {
        let by_veth = bits & flags::KNOWN != 0;
        let source = match (bits & flags::SPOOFED != 0, bits & flags::FOREIGN != 0) {
            (true, _) => SourceIs::Spoofed,
            (false, true) => SourceIs::Foreign,
            (false, false) => SourceIs::Own,
        };
        Self {
            by_veth,
            dialled: (ip(dialled), dialled_port),
            sender: Sender { interface: entered, source },
            entered: (bits & flags::FROM_POD != 0 && entered != 0).then_some(entered),
            delivered: by_veth && bits & flags::TO_POD != 0,
        }
    }

    /// The destination dialled, where it differs from the one observed.
    fn dialled(&self, key: &TallyKey) -> Option<(IpAddr, u16)> {
        let observed = (ip(key.destination), key.destination_port);
        (self.by_veth && self.dialled != observed).then_some(self.dialled)
    }
}

fn flow(key: &TallyKey) -> Option<Flow> {
    Some(Flow {
        source: ip(key.source),
        destination: ip(key.destination),
        port: key.destination_port,
        protocol: Protocol::from_number(key.protocol)?,
    })
}

fn attempt(key: &AttemptKey) -> Option<AttemptId> {
    Some(AttemptId {
        protocol: Protocol::from_number(key.protocol)?,
        source: ip(key.source),
        source_port: key.source_port,
        sequence: key.sequence,
        foreign: (key.sender != 0).then_some(key.sender),
    })
}

/// The programs' form of an address.
pub(crate) fn from_ip(ip: IpAddr) -> Address {
    address(match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    })
}

/// The address in its own family.
pub(crate) fn ip(address: Address) -> IpAddr {
    Ipv6Addr::from(octets(address)).to_canonical()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct NoNames;

    impl Names for NoNames {
        fn location(&mut self, address: u64) -> Option<Arc<str>> {
            (address == 7).then(|| Arc::from("nf_hook_slow"))
        }
    }

    fn decoder() -> Decoder<NoNames> {
        let clock = Clock::new("2026-01-02T03:04:05Z".parse().unwrap(), 1_000_000_000);
        Decoder::new(clock, HashMap::from([(12, Arc::from("NETFILTER_DROP"))]), NoNames)
    }

    fn from_ip_text(text: &str) -> Address {
        from_ip(text.parse().unwrap())
    }

    fn drop_event() -> Event {
        Event {
            key: TallyKey {
                source: from_ip_text("10.1.0.10"),
                destination: from_ip_text("10.1.0.20"),
                reason: 12,
                interface: 5,
                sender: 4,
                destination_port: 8080,
                protocol: 6,
                kind: kind::KERNEL_DROP,
            },
            attempt: AttemptKey {
                source: from_ip_text("10.1.0.10"),
                sequence: 99,
                source_port: 40_000,
                protocol: 6,
                pad: 0,
                sender: 0,
            },
            dialled_port: 80,
            flags: flags::FROM_POD | flags::KNOWN,
            at_ns: 3_000_000_000,
            first_ns: 2_000_000_000,
            location: 7,
            dialled: from_ip_text("10.96.0.7"),
        }
    }

    #[test]
    fn a_drop_after_translation_has_both_destinations() {
        let found = decoder().event(&drop_event()).unwrap();
        assert_eq!(found.at, "2026-01-02T03:04:07Z".parse().unwrap());
        assert_eq!(found.first, "2026-01-02T03:04:06Z".parse().unwrap());
        assert_eq!(found.flow.to_string(), "10.1.0.10 -> 10.1.0.20:8080/TCP");
        assert_eq!(found.dialled, Some(("10.96.0.7".parse().unwrap(), 80)));
        assert_eq!((found.entered, found.delivered), (Some(4), false));
        let Fact::KernelDrop { reason, location, interface } = found.fact else {
            panic!("{:?}", found.fact)
        };
        assert_eq!(
            (&*reason.name, location.as_deref(), interface),
            ("NETFILTER_DROP", Some("nf_hook_slow"), 5)
        );
    }

    #[test]
    fn what_no_veth_saw_has_no_first_sight() {
        let event = Event { flags: 0, ..drop_event() };
        let found = decoder().event(&event).unwrap();
        assert_eq!(found.first, found.at);
        assert_eq!((found.dialled, found.entered, found.delivered), (None, None, false));
    }

    #[test]
    fn who_sent_it_is_not_who_it_says() {
        let spoofed = flags::FROM_POD | flags::FOREIGN | flags::SPOOFED;
        for (flags, source) in [
            (spoofed, SourceIs::Spoofed),
            (flags::FROM_POD | flags::FOREIGN, SourceIs::Foreign),
            (flags::FROM_POD, SourceIs::Own),
        ] {
            let mut event = Event { flags, ..drop_event() };
            event.attempt.sender = if source == SourceIs::Own { 0 } else { 4 };
            let found = decoder().event(&event).unwrap();
            assert_eq!(found.sender, Sender { interface: 4, source });
            assert_eq!(found.attempt.unwrap().foreign, found.sender.foreign());
            // No veth has kept the attempt, and by which it came is known anyway.
            assert_eq!((found.entered, found.first), (Some(4), found.at));
            let tally = Tally { count: 1, flags, ..Tally::default() };
            assert_eq!(decoder().tally(&event.key, &tally).unwrap().sender, found.sender);
        }
    }

    #[test]
    fn a_reason_without_a_name_is_its_number() {
        let mut event = drop_event();
        event.key.reason = 0x0002_0003;
        let Fact::KernelDrop { reason, .. } = decoder().event(&event).unwrap().fact else {
            panic!("not a drop")
        };
        assert_eq!(&*reason.name, "131075");
    }

    #[test]
    fn icmp_is_told_apart() {
        let mut event = drop_event();
        event.key.kind = kind::REJECTED_ICMP;
        event.key.reason = whydrop_ebpf::icmp_reason(true, 1, 4);
        assert_eq!(
            decoder().event(&event).unwrap().fact,
            Fact::Rejected(Rejection::Icmp { v6: true, kind: 1, code: 4 })
        );
    }

    #[test]
    fn a_count_of_nothing_is_no_observation() {
        let tally = Tally { count: 0, ..Tally::default() };
        assert_eq!(decoder().tally(&drop_event().key, &tally), None);
        let tally = Tally { count: 3, last_ns: 5_000_000_000, ..tally };
        let found = decoder().tally(&drop_event().key, &tally).unwrap();
        assert_eq!((found.packets, found.attempt), (3, None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_none(
            bytes in prop::collection::vec(any::<u8>(), 0..=size_of::<Event>()),
            count: u64,
        ) {
            if let Some(event) = sys::read::<Event>(&bytes) {
                let _ = decoder().event(&event);
                let tally = Tally { count, last_ns: event.at_ns, ..Tally::default() };
                let _ = decoder().tally(&event.key, &tally);
            }
        }
    }
}
