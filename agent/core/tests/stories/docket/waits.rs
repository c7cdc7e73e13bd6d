//! When a case waits, and by what it is decided then.

use super::stage::{
    DB, REMOTE, Stage, Step, WEB, connect, deny, remote, settings, shop, shop_of_own_node,
};
use crate::build::{namespace, policy_key};
use whydrop_core::cluster::{
    Cluster,
    object::{Key, Object},
};

/// A story, and what is reported of its cases.
struct Story {
    name: &'static str,
    cluster: fn() -> Cluster,
    steps: Vec<(i64, Step)>,
    until: i64,
    reported: &'static [&'static str],
}

fn policy(name: &str) -> Step {
    Step::Apply(Object::Policy(deny(name)))
}

fn key(name: &str) -> Key {
    policy_key("shop", name)
}

fn denying() -> Cluster {
    let mut cluster = shop();
    cluster.apply(Object::Policy(deny("deny")), None);
    cluster
}

fn denying_twice() -> Cluster {
    let mut cluster = denying();
    cluster.apply(Object::Policy(deny("deny-too")), None);
    cluster
}

fn denying_of_own_node() -> Cluster {
    let mut cluster = shop_of_own_node();
    cluster.apply(Object::Policy(deny("deny")), None);
    cluster
}

/// Two SYNs to `shop/db` from somewhere at 0 s and 1 s, and what happens besides.
fn to_db(from: u8, besides: Vec<(i64, Step)>) -> Vec<(i64, Step)> {
    let mut steps = connect(0, from, DB);
    steps.extend(besides);
    steps
}

fn stories() -> Vec<Story> {
    vec![
        Story {
            name: "what policies explain is reported at once",
            cluster: denying,
            steps: to_db(WEB, vec![]),
            until: 10_000,
            reported: &["1250 drop shop/web -> shop/db:5432/TCP default-deny"],
        },
        Story {
            name: "what they do not waits",
            cluster: shop,
            steps: to_db(WEB, vec![]),
            until: 10_000,
            reported: &["3250 drop shop/web -> shop/db:5432/TCP not-policy"],
        },
        Story {
            name: "a policy that arrives late makes it a denial",
            cluster: shop,
            steps: to_db(WEB, vec![(2_750, policy("deny"))]),
            until: 10_000,
            reported: &["3250 drop shop/web -> shop/db:5432/TCP default-deny since deny created"],
        },
        Story {
            name: "one that arrives later yet does not",
            cluster: shop,
            steps: to_db(WEB, vec![(3_300, policy("deny"))]),
            until: 10_000,
            reported: &["3250 drop shop/web -> shop/db:5432/TCP not-policy"],
        },
        Story {
            name: "another change makes no difference",
            cluster: shop,
            steps: to_db(WEB, vec![(2_000, Step::Apply(namespace("other", &[])))]),
            until: 10_000,
            reported: &["3250 drop shop/web -> shop/db:5432/TCP not-policy"],
        },
        Story {
            name: "two policies deleted at once as its packets are dropped",
            cluster: denying_twice,
            steps: to_db(WEB, vec![(1_100, Step::Delete(vec![key("deny"), key("deny-too")]))]),
            until: 10_000,
            reported: &["1250 drop shop/web -> shop/db:5432/TCP default-deny"],
        },
        Story {
            name: "two policies deleted at once after that",
            cluster: || {
                let mut cluster = denying_twice();
                cluster.look_up_on_demand();
                cluster
            },
            steps: to_db(
                REMOTE,
                vec![
                    (2_500, Step::Delete(vec![key("deny"), key("deny-too")])),
                    (3_000, Step::LookedUp(REMOTE, Some(remote()))),
                ],
            ),
            until: 10_000,
            reported: &["3000 drop shop/remote -> shop/db:5432/TCP default-deny"],
        },
        Story {
            name: "a look-up that never returns",
            cluster: denying_of_own_node,
            steps: to_db(REMOTE, vec![]),
            until: 10_000,
            reported: &["5250 drop 10.1.0.30 -> shop/db:5432/TCP default-deny"],
        },
        Story {
            name: "a look-up that returns",
            cluster: denying_of_own_node,
            steps: to_db(REMOTE, vec![(3_000, Step::LookedUp(REMOTE, Some(remote())))]),
            until: 10_000,
            reported: &["3000 drop shop/remote -> shop/db:5432/TCP default-deny"],
        },
        Story {
            name: "a look-up that returns and finds nobody",
            cluster: denying_of_own_node,
            steps: to_db(REMOTE, vec![(3_000, Step::LookedUp(REMOTE, None))]),
            until: 10_000,
            reported: &["3000 drop 10.1.0.30 -> shop/db:5432/TCP default-deny"],
        },
        Story {
            name: "one that returns while it waits for policies",
            cluster: shop_of_own_node,
            steps: to_db(REMOTE, vec![(6_000, Step::LookedUp(REMOTE, Some(remote())))]),
            until: 10_000,
            reported: &["7250 drop shop/remote -> shop/db:5432/TCP not-policy"],
        },
        Story {
            name: "one that returns too late",
            cluster: shop_of_own_node,
            steps: to_db(REMOTE, vec![(8_000, Step::LookedUp(REMOTE, Some(remote())))]),
            until: 10_000,
            reported: &["7250 drop 10.1.0.30 -> shop/db:5432/TCP cannot-tell"],
        },
        Story {
            name: "another's look-up does not end the wait",
            cluster: denying_of_own_node,
            steps: to_db(REMOTE, vec![(3_000, Step::LookedUp(99, None))]),
            until: 10_000,
            reported: &["5250 drop 10.1.0.30 -> shop/db:5432/TCP default-deny"],
        },
        Story {
            name: "a policy deleted while it waits for a look-up",
            cluster: denying_of_own_node,
            steps: to_db(
                REMOTE,
                vec![
                    (2_500, Step::Delete(vec![key("deny")])),
                    (3_000, Step::LookedUp(REMOTE, Some(remote()))),
                ],
            ),
            until: 10_000,
            reported: &["3000 drop shop/remote -> shop/db:5432/TCP default-deny"],
        },
        Story {
            name: "answered while it waits",
            cluster: shop,
            steps: to_db(
                WEB,
                vec![(2_000, Step::AnsweredLate { from: WEB, to: DB, attempt: 40_000 })],
            ),
            until: 10_000,
            reported: &[],
        },
        Story {
            name: "answered before it is clear",
            cluster: denying,
            steps: to_db(
                WEB,
                vec![(1_100, Step::AnsweredLate { from: WEB, to: DB, attempt: 40_000 })],
            ),
            until: 10_000,
            reported: &[],
        },
        Story {
            name: "an answer that a policy denies is a finding",
            cluster: denying,
            steps: vec![(0, Step::AnsweredFirst { from: WEB, to: DB })],
            until: 10_000,
            reported: &["2000 finding shop/web -> shop/db:5432/TCP answered at 0"],
        },
        Story {
            name: "unless the policy has gone, as is known a moment later",
            cluster: denying,
            steps: vec![
                (0, Step::AnsweredFirst { from: WEB, to: DB }),
                (1_500, Step::Delete(vec![key("deny")])),
            ],
            until: 10_000,
            reported: &[],
        },
        Story {
            name: "nor one that came after the answer",
            cluster: shop,
            steps: vec![(0, Step::AnsweredFirst { from: WEB, to: DB }), (500, policy("deny"))],
            until: 10_000,
            reported: &[],
        },
        Story {
            name: "an answer by somebody who is never looked up",
            cluster: denying_of_own_node,
            steps: vec![(0, Step::AnsweredFirst { from: REMOTE, to: DB })],
            until: 10_000,
            reported: &["6000 finding 10.1.0.30 -> shop/db:5432/TCP answered at 0"],
        },
        Story {
            name: "flows that work are examined once the policy should be in force",
            cluster: shop,
            steps: vec![
                (0, policy("deny")),
                (4_000, Step::Works { from: WEB, to: DB }),
                (12_000, Step::Works { from: WEB, to: DB }),
                (20_000, Step::Works { from: WEB, to: DB }),
            ],
            until: 90_000,
            reported: &["18000 finding shop/web -> shop/db:5432/TCP answered at 12000"],
        },
    ]
}

#[test]
fn each_case_waits_for_what_it_needs_and_no_longer() {
    let (mut differing, words) = (Vec::new(), ["drop", "finding"]);
    for Story { name, cluster, steps, until, reported } in stories() {
        let stage = Stage::play(cluster(), settings(), steps, until);
        let found = stage.said(&words);
        if found != reported {
            differing.push(format!("{name}:\n expected {reported:#?}\n found {found:#?}"));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
