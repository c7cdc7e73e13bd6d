//! No table is the first comer's: whatever others send, in whosever name, what one sender does is reported, and
//! every packet is accounted for.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use whydrop_core::{
    cluster::Cluster,
    correlate::{
        Correlated, Correlator, Drop, FLOWS_PER_SOURCE_MAX, OPEN_MAX,
        places::{Places, Sending, SentOf, Way},
    },
    diagnosis::{Case, Fate},
    flow::{Flow, Protocol},
    incident::{INCIDENTS_MAX, IncidentBook, JudgedDrop},
    judgement::judge,
    observation::{AttemptId, DropReason, Fact, Observation, Rejection, Sender, SourceIs},
};

const VICTIM: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 10);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 20);
/// The victim's veth.
const VETH: u32 = 3;

fn at(ms: i64) -> Timestamp {
    Timestamp::from_second(1_767_323_045).unwrap() + SignedDuration::from_millis(ms)
}

/// A packet that this kernel drops, unless something else was seen of it.
#[derive(Clone, Debug)]
struct Packet {
    sender: Sender,
    is_of_pod: bool,
    source: u32,
    destination: u32,
    port: u16,
    what: What,
    is_counted: bool,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Dropped,
    Lost,
    Refused,
    AnsweredLate,
}

impl Packet {
    fn of_victim(what: What) -> Self {
        Self {
            sender: Sender { interface: VETH, source: SourceIs::Own },
            is_of_pod: true,
            source: VICTIM.to_bits(),
            destination: SERVER.to_bits(),
            port: 5432,
            what,
            is_counted: false,
        }
    }

    fn seen(&self, ms: i64, sequence: u32) -> Observation {
        let (source, destination) = (Ipv4Addr::from(self.source), Ipv4Addr::from(self.destination));
        let flow = Flow {
            source: source.into(),
            destination: destination.into(),
            port: self.port,
            protocol: Protocol::Tcp,
        };
        let attempt = AttemptId {
            protocol: Protocol::Tcp,
            source: source.into(),
            source_port: 40_000,
            sequence,
            foreign: self.sender.foreign(),
        };
        let fact = match self.what {
            What::Dropped => Fact::KernelDrop {
                reason: DropReason { number: 12, name: "NETFILTER_DROP".into() },
                location: None,
                interface: 5,
            },
            What::Lost => Fact::Retransmitted,
            What::Refused => Fact::Rejected(Rejection::Reset),
            What::AnsweredLate => Fact::AnsweredLate,
        };
        let is_counted = self.is_counted && !matches!(self.what, What::AnsweredLate);
        Observation {
            at: at(ms),
            first: at(ms),
            attempt: (!is_counted).then_some(attempt),
            packets: if is_counted { 9 } else { 1 },
            flow,
            dialled: None,
            sender: self.sender,
            entered: self.is_of_pod.then_some(self.sender.interface),
            delivered: false,
            fact,
        }
    }
}

/// What anyone but the victim may send: the pods behind some veths under their own addresses, under others',
/// the victim's among them, and anything from outside.
fn anything() -> impl Strategy<Value = Packet> {
    let what = prop_oneof![
        5 => Just(What::Dropped),
        3 => Just(What::Lost),
        1 => Just(What::Refused),
        1 => Just(What::AnsweredLate),
    ];
    let sender = (10_u32..14, 0_u8..4).prop_map(|(interface, how)| match how {
        0 => (Sender { interface, source: SourceIs::Spoofed }, true),
        1 => (Sender { interface, source: SourceIs::Foreign }, true),
        2 => (Sender { interface, source: SourceIs::Own }, true),
        _ => (Sender { interface: 2, source: SourceIs::Own }, false),
    });
    let source = prop_oneof![Just(VICTIM.to_bits()), any::<u32>(), 0xac10_0000..0xac10_0010_u32];
    let destination = prop_oneof![Just(SERVER.to_bits()), any::<u32>()];
    let port = prop_oneof![Just(5432_u16), any::<u16>()];
    (sender, source, destination, port, what, any::<bool>()).prop_map(
        |((sender, is_of_pod), source, destination, port, what, is_counted)| {
            // Its own address is another's by definition where it says so, and never the victim's.
            let is_own = sender.source == SourceIs::Own && source == VICTIM.to_bits();
            let source = if is_own { 0xac10_0001 } else { source };
            Packet { sender, is_of_pod, source, destination, port, what, is_counted }
        },
    )
}

/// What becomes of packets, and whose the reports are.
#[derive(Default)]
struct Reports {
    drops: Vec<Drop>,
    packets: u64,
}

impl Reports {
    fn hear(&mut self, correlated: Vec<Correlated>) {
        for correlated in correlated {
            if let Correlated::Drop(drop) = correlated {
                self.packets += drop.unreported_packets();
                self.drops.push(drop);
            }
        }
    }

    fn of_victim(&self) -> impl Iterator<Item = &Drop> {
        let is_its = |drop: &&Drop| {
            let own = Packet::of_victim(What::Dropped).seen(0, 1).flow;
            drop.flow == own && drop.foreign.is_none()
        };
        self.drops.iter().filter(is_its)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// However many others send what, a single flow of one pod is reported within five seconds, with its own
    /// packets and no other, and the account holds to the packet.
    #[test]
    fn a_single_flow_is_reported_whatever_others_send(
        kinds in prop::collection::vec(anything(), 1..12),
        copies in 1_usize..6_000,
        lost in any::<bool>(),
        seed: u32,
    ) {
        let mut correlator = Correlator::default();
        let mut reports = Reports::default();
        let what = if lost { What::Lost } else { What::Dropped };
        let mut number = seed;
        for ms in (0..5_000).step_by(250) {
            if ms == 1_000 || ms == 2_000 {
                // Its first packets, the second of which is the same attempt's.
                correlator.observe(&Packet::of_victim(what).seen(ms, 7));
            }
            for kind in &kinds {
                for _ in 0..=copies / kinds.len() / 20 {
                    number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let mut packet = kind.clone();
                    // Random where it is random at all.
                    if packet.source != VICTIM.to_bits() && number % 3 != 0 {
                        packet.source = number;
                    }
                    if packet.destination != SERVER.to_bits() {
                        packet.destination = number.rotate_left(7);
                    }
                    correlator.observe(&packet.seen(ms + i64::from(number % 250), number | 8));
                }
            }
            reports.hear(correlator.tick(at(ms + 250)));
        }
        let own: Vec<&Drop> = reports.of_victim().collect();
        prop_assert!(!own.is_empty(), "{} drops of others", reports.drops.len());
        let packets: u64 = own.iter().map(|drop| drop.unreported_packets()).sum();
        prop_assert_eq!(packets, if lost { 0 } else { 2 });
        for drop in own {
            prop_assert_eq!(drop.evidence.sender.interface, VETH);
            prop_assert_eq!(drop.evidence.answered, None);
        }
        reports.hear(correlator.flush(at(60_000)));
        let account = correlator.account();
        prop_assert_eq!(
            account.observed,
            account.recovered + account.folded + account.shed + reports.packets,
        );
        prop_assert_eq!(correlator.undecided(), 0);
    }

    /// In a full table whoever has fewer gets a place from whoever has most, and nobody has one more for it.
    #[test]
    fn places_go_to_whoever_has_fewest(
        comes in prop::collection::vec((0_u32..6, 0_u8..4, any::<bool>(), any::<bool>()), 1..600),
        room in 1_usize..60,
    ) {
        let mut places = Places::<usize>::default();
        let mut model: BTreeMap<usize, Sending> = BTreeMap::new();
        let mut spare: BTreeSet<usize> = BTreeSet::new();
        for (key, (sender, source, goes, is_of_no_use)) in comes.into_iter().enumerate() {
            let of = SentOf::Source(IpAddr::from([10, 0, 0, source]));
            let party = Sending { sender, of, is_refused: false };
            let count = |model: &BTreeMap<usize, Sending>, sender| {
                model.values().filter(|party| party.sender == sender).count()
            };
            if model.len() + spare.len() >= room {
                let most = (0..6).map(|sender| count(&model, sender)).max().unwrap();
                match places.way(&party) {
                    Way::Gives(other) => {
                        let had = model.remove(&other);
                        prop_assert!(had.is_some() || spare.remove(&other));
                        places.remove(&other);
                        if let Some(had) = had.filter(|had| had.sender != sender) {
                            prop_assert!(spare.is_empty());
                            prop_assert_eq!(count(&model, had.sender) + 1, most);
                            prop_assert!(count(&model, sender) + 1 < most);
                        }
                    }
                    Way::None => {
                        prop_assert!(spare.is_empty());
                        prop_assert!(count(&model, sender) + 1 >= most);
                        continue;
                    }
                }
            }
            places.insert(key, party);
            model.insert(key, party);
            if is_of_no_use {
                places.spare(&key);
                model.remove(&key);
                spare.insert(key);
            }
            if goes {
                places.remove(&key);
                model.remove(&key);
                spare.remove(&key);
            }
            prop_assert_eq!(places.len(), model.len() + spare.len());
            for sender in 0..6 {
                prop_assert_eq!(places.of_sender(sender), count(&model, sender));
            }
            prop_assert_eq!(places.of_party(&party), model.values().filter(|p| **p == party).count());
        }
    }
}

fn observed(correlator: &mut Correlator, seen: impl IntoIterator<Item = Observation>) -> Vec<Drop> {
    seen.into_iter().for_each(|seen| correlator.observe(&seen));
    let mut reports = Reports::default();
    reports.hear(correlator.tick(at(10_000)));
    reports.drops
}

/// Of what others send in its name, nothing counts for the victim: no share, no answer, no packet.
#[test]
fn what_is_sent_in_a_name_is_in_its_senders_account() {
    let spoofed = Packet {
        sender: Sender { interface: 9, source: SourceIs::Spoofed },
        ..Packet::of_victim(What::Dropped)
    };
    let mut correlator = Correlator::default();
    let many = (0..200_u16).map(|n| Packet { port: n, ..spoofed.clone() }.seen(0, u32::from(n)));
    let same = [Packet { what: What::AnsweredLate, ..spoofed.clone() }.seen(100, 7)];
    let own = [Packet::of_victim(What::Dropped).seen(200, 7)];
    let drops = observed(&mut correlator, many.chain([spoofed.seen(50, 7)]).chain(own).chain(same));
    let (own, others): (Vec<&Drop>, Vec<&Drop>) =
        drops.iter().partition(|drop| drop.foreign.is_none());
    assert_eq!(own.len(), 1, "{own:#?}");
    assert_eq!((own[0].evidence.kernel_packets(), own[0].evidence.answered), (1, None));
    // One of them was answered, as its sender says.
    assert_eq!(others.len(), FLOWS_PER_SOURCE_MAX - 1);
    assert!(others.iter().all(|drop| drop.foreign == Some(9) && drop.id != own[0].id));
}

/// Who connects to closed ports, and who is reports so, has as much room as anyone for what is dropped.
#[test]
fn what_was_refused_takes_no_place() {
    let refused = |n: u16| {
        Packet { port: n, what: What::Refused, ..Packet::of_victim(What::Refused) }
            .seen(i64::from(n), u32::from(n))
    };
    let mut correlator = Correlator::default();
    let own = Packet::of_victim(What::Dropped).seen(71, 4_711);
    let drops = observed(&mut correlator, (0..70).map(refused).chain([own]));
    assert!(drops.iter().any(|drop| drop.evidence.kernel_packets() == 1), "{}", drops.len());
}

/// What turns out to be of no use goes first, whoever has how many.
#[test]
fn what_is_of_no_use_gives_way() {
    let mut correlator = Correlator::default();
    let few = i64::try_from(FLOWS_PER_SOURCE_MAX).unwrap();
    // As many senders as it takes, each with as many flows as are kept apart.
    let flood = |sender: u32| {
        (0..few).map(move |n| {
            Packet {
                sender: Sender { interface: 100 + sender, source: SourceIs::Own },
                source: 0x0a02_0000 + sender,
                port: u16::try_from(n).unwrap(),
                ..Packet::of_victim(What::Dropped)
            }
            .seen(0, u32::try_from(n).unwrap())
        })
    };
    let senders = u32::try_from(OPEN_MAX / FLOWS_PER_SOURCE_MAX).unwrap();
    let drops = observed(&mut correlator, (0..senders).flat_map(flood));
    assert_eq!(drops.len(), OPEN_MAX);
    correlator.is_of_no_use(&drops[9]);
    assert!(correlator.evidence_of(&drops[9]).is_some());
    let late = Packet {
        sender: Sender { interface: 99, ..Sender::default() },
        ..Packet::of_victim(What::Dropped)
    };
    correlator.observe(&late.seen(10_500, 1));
    let mut reports = Reports::default();
    reports.hear(correlator.tick(at(20_000)));
    assert_eq!(reports.of_victim().count(), 1);
    assert!(correlator.evidence_of(&drops[9]).is_none());
    assert!(correlator.evidence_of(&drops[8]).is_some());
}

/// Some pods that dial dead addresses leave room for the one incident of another.
#[test]
fn incidents_of_few_leave_room_for_anothers() {
    let cluster = Cluster::default();
    let mut book = IncidentBook::default();
    let mut add = |packet: &Packet, sequence: u32| {
        let mut correlator = Correlator::default();
        let drop = observed(&mut correlator, [packet.seen(0, sequence)]).pop().unwrap();
        let case = Case {
            flow: drop.flow,
            dialled: None,
            at: Some(drop.evidence.last()),
            fate: Fate::Dropped(&drop.evidence),
        };
        let judgement = judge(&cluster.snapshot(), cluster.history(), &case);
        let judged = JudgedDrop::new(drop, judgement, None);
        let id = book.add(&judged, at(10_000));
        (id, book.open(), book.shed())
    };
    for n in 0..2 * u32::try_from(INCIDENTS_MAX).unwrap() {
        let sender = n % 3;
        let flood = Packet {
            sender: Sender { interface: 20 + sender, source: SourceIs::Own },
            source: 0x0a01_0040 + sender,
            destination: 0xc633_6400 + n,
            ..Packet::of_victim(What::Dropped)
        };
        add(&flood, n);
    }
    let (_, open, shed) = add(&Packet::of_victim(What::Dropped), 7);
    assert_eq!(open, INCIDENTS_MAX);
    // One gave way to it, beside those that never had a place.
    assert_eq!(shed, u64::try_from(INCIDENTS_MAX).unwrap() + 1);
    let own = Packet::of_victim(What::Dropped).seen(0, 7).flow;
    assert!(book.unanswered().any(|(flow, _)| *flow == own));
}
