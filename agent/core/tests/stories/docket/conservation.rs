//! Whatever happens, each packet that this kernel dropped is in one place.

use proptest::prelude::*;
use whydrop_core::{
    cluster::object::Object,
    docket::Account,
    flow::{Flow, Protocol},
    mute::{EndFilter, Rule},
    observation::{Fact, Rejection},
    policy::Policy,
};

use super::stage::{
    DB, REMOTE, Stage, Step, WEB, deny, ms, muting, netfilter, remote, seen, shop_of_own_node,
};
use crate::build::{address, policy_key};

/// Pods, somebody who is to be looked up, somebody whom a rule mutes, and nobody.
const ENDS: [u8; 5] = [WEB, DB, REMOTE, MUTED, 77];
const MUTED: u8 = 60;

#[derive(Clone, Debug)]
enum Happens {
    Seen { from: u8, to: u8, port: u16, attempt: Option<u16>, packets: u64, fact: Fact },
    Policy { mute: bool },
    NoPolicy,
    LookedUp,
    Works { from: u8, to: u8 },
}

fn facts() -> impl Strategy<Value = Fact> {
    prop_oneof![
        6 => Just(netfilter()),
        1 => Just(Fact::Retransmitted),
        1 => Just(Fact::AnsweredLate),
        1 => Just(Fact::AnsweredFirst),
        1 => Just(Fact::Rejected(Rejection::Reset)),
        1 => Just(Fact::Failed { errno: 110 }),
    ]
}

fn happens() -> impl Strategy<Value = Happens> {
    let end = || prop::sample::select(ENDS.to_vec());
    let attempt = prop::option::of(1..4_u16);
    let flow = (end(), end(), prop_oneof![4 => 1..4_u16, 1 => 1..200_u16]);
    let seen = (flow, attempt, 1..5_u64, facts());
    prop_oneof![
        12 => seen.prop_map(|((from, to, port), attempt, packets, fact)| {
            let packets = if attempt.is_some() { 1 } else { packets };
            // Of one connect the number is one: another port's is another.
            let attempt = attempt.map(|attempt| attempt * 1_000 + port);
            Happens::Seen { from, to, port, attempt, packets, fact }
        }),
        1 => any::<bool>().prop_map(|mute| Happens::Policy { mute }),
        1 => Just(Happens::NoPolicy),
        1 => Just(Happens::LookedUp),
        1 => (end(), end()).prop_map(|(from, to)| Happens::Works { from, to }),
    ]
}

fn scanners() -> Rule {
    let network = Some("10.1.0.60/32".parse().expect("a network"));
    Rule {
        name: "scanners".into(),
        reason: "".into(),
        source: EndFilter { network, ..EndFilter::default() },
        destination: EndFilter::default(),
        ports: None,
        protocol: None,
        causes: Vec::new(),
    }
}

fn accounted(account: Account) -> u64 {
    let Account { reported, answered, folded, shed, of_no_pod, refused, muted, .. } = account;
    reported + answered + folded + shed + of_no_pod + refused + muted + account.undecided
}

fn play(stage: &mut Stage, now: i64, happens: Happens) {
    let step = match happens {
        Happens::Seen { from, to, port, attempt, packets, fact } => {
            let (source, destination) = (address(from), address(to));
            let flow = Flow { source, destination, port, protocol: Protocol::Tcp };
            stage.see(&seen(ms(now), flow, attempt, packets, fact));
            return;
        }
        Happens::Policy { mute } => {
            let mute = mute.then(|| "by design".into());
            Step::Apply(Object::Policy(Policy { mute, ..deny("deny") }))
        }
        Happens::NoPolicy => Step::Delete(vec![policy_key("shop", "deny")]),
        Happens::LookedUp => Step::LookedUp(REMOTE, Some(remote())),
        Happens::Works { from, to } => Step::Works { from, to },
    };
    stage.step(step);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn each_dropped_packet_is_in_one_place(
        script in prop::collection::vec((0..2_500_i64, happens()), 1..60),
    ) {
        let mut stage = Stage::new(shop_of_own_node(), muting(scanners()));
        let mut now = 0;
        for (pause, happens) in script {
            now += pause;
            stage.until(now);
            play(&mut stage, now, happens);
            let account = stage.docket.account();
            prop_assert_eq!(accounted(account), account.observed, "{:?}", account);
            prop_assert_eq!(account.reported, stage.packets);
        }
        stage.step(Step::Flush);
        let account = stage.docket.account();
        prop_assert_eq!(account.undecided, 0);
        prop_assert_eq!(accounted(account), account.observed, "{:?}", account);
        prop_assert_eq!(account.reported, stage.packets);
    }
}
