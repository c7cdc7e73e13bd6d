//! A workload's new pods are others than those before: named as what denies a flow since, with the policy
//! that admitted it until then.

use whydrop_core::{
    cluster::{
        Cluster,
        object::{ContainerPort, Object, Pod},
    },
    flow::Protocol,
    judgement::{Attribution, judge},
    policy::{Action, PortMatch, PortRange, Rule, selector::Selector},
};

use crate::build::{at, between, equals, ingress, labels, namespace, pod, pod_key, rule, workload};

/// Something that happens to a pod of the Deployments `shop/web`, the client, or `shop/api`, the server.
enum Step {
    /// A pod comes: its name, the last part of its address, its labels.
    Comes(&'static str, u8, &'static [(&'static str, &'static str)]),
    /// It goes.
    Goes(&'static str),
}
use Step::{Comes, Goes};

/// A row: what happens, the pods that the question is about in the end, and what is named for it.
struct Row {
    what: &'static str,
    steps: &'static [(i64, Step)],
    from: &'static str,
    to: &'static str,
    named: Option<&'static str>,
}

const FRONT: &[(&str, &str)] = &[("app", "web"), ("tier", "front"), ("pod-template-hash", "1")];
const NO_TIER: &[(&str, &str)] = &[("app", "web"), ("pod-template-hash", "2")];
const API: &[(&str, &str)] = &[("app", "api"), ("pod-template-hash", "1")];
const RENAMED: &[(&str, &str)] = &[("app", "api-v2"), ("pod-template-hash", "2")];

const CLIENT: &str =
    "Deployment shop/web rolled out at 10: label tier=front went; until then shop/allow-front";

const ROWS: &[Row] = &[
    Row {
        what: "the client's new pods come before the old ones go",
        steps: &[(10, Comes("web-2-a", 12, NO_TIER)), (20, Goes("web-1-a"))],
        from: "web-2-a",
        to: "api-1-a",
        named: Some(CLIENT),
    },
    Row {
        what: "all old ones go first",
        steps: &[(5, Goes("web-1-a")), (10, Comes("web-2-a", 12, NO_TIER))],
        from: "web-2-a",
        to: "api-1-a",
        named: Some(CLIENT),
    },
    Row {
        what: "with more replicas it is the first that says when",
        steps: &[
            (10, Comes("web-2-a", 12, NO_TIER)),
            (20, Goes("web-1-a")),
            (300, Comes("web-2-b", 13, NO_TIER)),
        ],
        from: "web-2-b",
        to: "api-1-a",
        named: Some(CLIENT),
    },
    Row {
        what: "an old pod that is made again meanwhile is no rollout back",
        steps: &[
            (10, Comes("web-2-a", 12, NO_TIER)),
            (11, Comes("web-1-b", 14, FRONT)),
            (12, Comes("web-2-b", 13, NO_TIER)),
            (20, Goes("web-1-a")),
            (21, Goes("web-1-b")),
        ],
        from: "web-2-b",
        to: "api-1-a",
        named: Some(CLIENT),
    },
    Row {
        what: "the server's new pods are not those that the allow policy selects",
        steps: &[(10, Comes("api-2-a", 22, RENAMED)), (20, Goes("api-1-a"))],
        from: "web-1-a",
        to: "api-2-a",
        named: Some(
            "Deployment shop/api rolled out at 10: label app is api-v2, was api; until then \
             shop/allow-front",
        ),
    },
    Row {
        what: "another revision with the same labels is none",
        steps: &[
            (
                10,
                Comes(
                    "web-2-a",
                    12,
                    &[("app", "web"), ("tier", "front"), ("pod-template-hash", "9")],
                ),
            ),
            (20, Goes("web-1-a")),
        ],
        from: "web-2-a",
        to: "api-1-a",
        named: None,
    },
    Row {
        what: "and one that was rolled back is none either",
        steps: &[
            (10, Comes("web-2-a", 12, NO_TIER)),
            (20, Goes("web-1-a")),
            (30, Comes("web-3-a", 13, FRONT)),
            (40, Goes("web-2-a")),
        ],
        from: "web-3-a",
        to: "api-1-a",
        named: None,
    },
];

fn allow_front(port: PortRange) -> Rule {
    let tier = equals(&[("tier", "front")]);
    let rule = rule(None, "shop", tier, &[]);
    let port = PortMatch { protocol: Some(Protocol::Tcp), ports: port };
    Rule::new(Action::Allow, rule.peers, vec![port])
}

fn of_deployment(name: &str, last: u8, own: &[(&str, &str)], created: i64) -> Pod {
    let deployment = name.split('-').next().expect("a name");
    let port = ContainerPort { name: "http".into(), number: 80, protocol: Protocol::Tcp };
    Pod {
        ports: vec![port],
        workload: Some(workload("Deployment", deployment)),
        created: Some(at(created)),
        labels: labels(own),
        ..pod("shop", name, last, &[])
    }
}

/// A client and a server that may talk by one allow policy, and by none else.
fn cluster(port: PortRange) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("shop", &[]), None);
    cluster.apply(Object::Pod(of_deployment("web-1-a", 11, FRONT, 0)), None);
    cluster.apply(Object::Pod(of_deployment("api-1-a", 21, API, 0)), None);
    let deny = ingress("shop", "deny", Selector::EVERYTHING, Vec::new());
    cluster.apply(Object::Policy(deny), None);
    let allow = ingress("shop", "allow-front", equals(&[("app", "api")]), vec![allow_front(port)]);
    cluster.apply(Object::Policy(allow), None);
    cluster.history_begins(at(0));
    cluster
}

/// `Deployment shop/web rolled out at 10: label … went; until then shop/allow-front`.
fn named(cluster: &Cluster, from: &str, to: &str) -> Option<String> {
    let snapshot = cluster.snapshot();
    let case = between(&snapshot, ("shop", from), ("shop", to), 80);
    let Attribution::Seen { changes, admitted_by } =
        judge(&snapshot, cluster.history(), &case).changed
    else {
        return None;
    };
    let words = changes.iter().map(|change| {
        let seconds = change.at.duration_since(at(0)).as_secs();
        let difference = change.difference.as_deref().unwrap_or_default();
        format!("{} {} at {seconds}: {difference}", change.object, change.kind.name())
    });
    let until = admitted_by.map(|policy| format!("; until then {policy}")).unwrap_or_default();
    Some(words.collect::<Vec<_>>().join(" and ") + &until)
}

#[test]
fn a_rollout_that_turns_the_verdict_is_named() {
    for Row { what, steps, from, to, named: expected } in ROWS {
        let mut cluster = cluster(PortRange::Numbers(80, 80));
        for (second, step) in *steps {
            match step {
                Comes(name, last, own) => {
                    // As the API server shows it: first without an address.
                    let pod = of_deployment(name, *last, own, *second);
                    let unscheduled = Pod { addresses: Vec::new(), ..pod.clone() };
                    cluster.apply(Object::Pod(unscheduled), Some(at(*second)));
                    cluster.apply(Object::Pod(pod), Some(at(*second + 1)));
                }
                Goes(name) => cluster.delete(&pod_key("shop", name), at(*second)),
            }
        }
        assert_eq!(named(&cluster, from, to).as_deref(), *expected, "{what}");
    }
}

#[test]
fn a_rollout_that_takes_the_name_of_a_port_is_named() {
    let mut cluster = cluster(PortRange::Named("http".into()));
    let nameless = Pod { ports: Vec::new(), ..of_deployment("api-2-a", 22, API, 10) };
    cluster.apply(Object::Pod(nameless), Some(at(10)));
    assert_eq!(
        named(&cluster, "web-1-a", "api-2-a").as_deref(),
        Some(
            "Deployment shop/api rolled out at 10: port http (80/TCP) went; until then shop/allow-front"
        )
    );
}
