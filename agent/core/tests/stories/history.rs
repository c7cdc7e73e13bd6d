//! Which change a denial is put down to: undoing it, and no less, lets the flow pass.

use crate::build::{
    address, at, between, case_of, dropped, equals, ingress, labels, namespace, pod, pod_key,
    policy_key, rule, workload,
};
use ipnet::IpNet;
use proptest::prelude::*;
use whydrop_core::{
    cluster::{
        Cluster, Snapshot,
        history::{AGE_MAX, CHANGES_MAX, Change, ChangeKind, PARTS_MAX},
        object::{Key, Kind, Object, Pod},
    },
    diagnosis::diagnose,
    judgement::{Attribution, judge},
    policy::{
        Action, Block, Layer, Peer, Peers, PolicyKind, Rule, network_policy,
        order::Order,
        selector::Selector,
        tier::{DefaultAction, Tier},
    },
    verdict::Decision,
};

const WEB: (&str, &str) = ("frontend", "web-0");
const API: (&str, &str) = ("backend", "api-0");

/// A client in one namespace, a server in another, both reachable; known at the start.
pub(crate) fn open() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("frontend", &[("team", "blue")]), None);
    cluster.apply(namespace("backend", &[]), None);
    cluster.apply(Object::Pod(pod("frontend", "web-0", 10, &[("app", "web")])), None);
    cluster.apply(Object::Pod(pod("backend", "api-0", 20, &[("app", "api")])), None);
    cluster.history_begins(at(0));
    cluster
}

fn blame(cluster: &Cluster) -> Attribution {
    let snapshot = cluster.snapshot();
    judge(&snapshot, cluster.history(), &between(&snapshot, WEB, API, 8080)).changed
}

/// `NetworkPolicy backend/deny created at 10: …` of the changes blamed.
pub(crate) fn words(attribution: &Attribution) -> Vec<String> {
    let word = |Change { object, kind, difference, at: time }: &Change| {
        let difference = difference.as_deref().map(|d| format!(": {d}")).unwrap_or_default();
        let seconds = time.duration_since(at(0)).as_secs();
        format!("{object} {} at {seconds}{difference}", kind.name())
    };
    attribution.changes().iter().map(word).collect()
}

pub(crate) fn allow_web() -> Rule {
    rule(Some(&[("team", "blue")]), "", equals(&[("app", "web")]), &[8080])
}

pub(crate) fn apply_policy(cluster: &mut Cluster, name: &str, rules: Vec<Rule>, seconds: i64) {
    let policy = ingress("backend", name, Selector::EVERYTHING, rules);
    cluster.apply(Object::Policy(policy), Some(at(seconds)));
}

#[test]
fn a_policy_that_was_created() {
    let mut cluster = open();
    apply_policy(&mut cluster, "deny", Vec::new(), 10);
    assert_eq!(words(&blame(&cluster)), ["NetworkPolicy backend/deny created at 10"]);
}

#[test]
fn a_policy_that_lost_a_rule_says_which() {
    let mut cluster = open();
    apply_policy(&mut cluster, "allow", vec![allow_web()], 10);
    apply_policy(&mut cluster, "allow", Vec::new(), 20);
    assert_eq!(
        words(&blame(&cluster)),
        [
            "NetworkPolicy backend/allow edited at 20: ingress rule 0 (from pods app=web in namespaces \
          team=blue, port 8080/TCP) went"
        ]
    );
}

#[test]
fn an_allow_policy_that_was_deleted() {
    let mut cluster = open();
    apply_policy(&mut cluster, "allow", vec![allow_web()], 10);
    apply_policy(&mut cluster, "deny", Vec::new(), 20);
    cluster.delete(&policy_key("backend", "allow"), at(30));
    assert_eq!(words(&blame(&cluster)), ["NetworkPolicy backend/allow deleted at 30"]);
}

#[test]
fn a_namespace_that_lost_its_label() {
    let mut cluster = open();
    apply_policy(&mut cluster, "allow", vec![allow_web()], 10);
    cluster.apply(namespace("frontend", &[]), Some(at(20)));
    let expected = "Namespace frontend relabelled at 20: label team=blue went";
    assert_eq!(words(&blame(&cluster)), [expected]);
}

#[test]
fn a_pod_that_was_relabelled() {
    let mut cluster = open();
    apply_policy(&mut cluster, "allow", vec![allow_web()], 10);
    let relabelled = pod("frontend", "web-0", 10, &[("app", "shop")]);
    cluster.apply(Object::Pod(relabelled), Some(at(20)));
    let expected = "Pod frontend/web-0 relabelled at 20: label app is shop, was web";
    assert_eq!(words(&blame(&cluster)), [expected]);
}

fn block(network: &str) -> Rule {
    let network: IpNet = network.parse().expect("a network");
    let block = Peer::Block(Block { network, except: Vec::new() });
    Rule::new(Action::Allow, Peers::AnyOf(vec![block]), Vec::new())
}

/// Gone, back without an address, and back with another one: as a `StatefulSet` does it.
#[test]
fn a_pod_that_came_back_with_another_address() {
    let mut cluster = open();
    let replica = |last| {
        let workload = Some(workload("StatefulSet", "web"));
        Pod { workload, ..pod("frontend", "web-0", last, &[("app", "web")]) }
    };
    cluster.apply(Object::Pod(replica(10)), Some(at(5)));
    apply_policy(&mut cluster, "allow", vec![block("10.1.0.10/32")], 10);
    cluster.delete(&pod_key("frontend", "web-0"), at(20));
    let mut pending = replica(0);
    pending.addresses.clear();
    cluster.apply(Object::Pod(pending), Some(at(22)));
    cluster.apply(Object::Pod(replica(30)), Some(at(24)));
    assert_eq!(
        words(&blame(&cluster)),
        ["Pod frontend/web-0 moved at 24: addresses are 10.1.0.30, were 10.1.0.10"]
    );
}

#[test]
fn a_tier_that_was_put_before_the_others() {
    let mut cluster = open();
    let tier = |name: &str, order| {
        Object::Tier(Tier {
            name: name.into(),
            order: Order::of(order),
            default_action: DefaultAction::Pass,
        })
    };
    let of_tier = |name: &str, action| {
        let rule = Rule::new(action, Peers::Everyone, Vec::new());
        let mut policy = ingress("backend", name, Selector::EVERYTHING, vec![rule]);
        policy.reference.kind = PolicyKind::CalicoNetworkPolicy;
        policy.layer = Layer::Tier(name.into());
        Object::Policy(policy)
    };
    for (name, order, action) in [("open", 10, Action::Allow), ("closed", 20, Action::Deny)] {
        cluster.apply(tier(name, order), Some(at(5)));
        cluster.apply(of_tier(name, action), Some(at(10)));
    }
    cluster.apply(tier("closed", 5), Some(at(20)));
    let expected = "Tier closed edited at 20: its place in the order is another";
    assert_eq!(words(&blame(&cluster)), [expected]);
}

#[test]
fn changes_that_only_together_make_the_difference_are_all_named() {
    let mut cluster = open();
    apply_policy(&mut cluster, "deny-a", Vec::new(), 10);
    apply_policy(&mut cluster, "deny-b", Vec::new(), 10);
    apply_policy(&mut cluster, "elsewhere", vec![allow_web()], 5);
    cluster.apply(namespace("frontend", &[]), Some(at(10)));
    // Any one of them would have let it pass: with the label, `elsewhere` admits it.
    let blamed = words(&blame(&cluster));
    assert_eq!(blamed, ["Namespace frontend relabelled at 10: label team=blue went"]);

    let mut cluster = open();
    apply_policy(&mut cluster, "deny-a", Vec::new(), 10);
    apply_policy(&mut cluster, "deny-b", Vec::new(), 10);
    assert_eq!(
        words(&blame(&cluster)),
        [
            // The one that the denial is put down to comes first.
            "NetworkPolicy backend/deny-a created at 10",
            "NetworkPolicy backend/deny-b created at 10"
        ]
    );
}

#[test]
fn what_was_there_at_the_start_is_older_than_what_is_known() {
    let mut cluster = open();
    let mut deny = ingress("backend", "deny", Selector::EVERYTHING, Vec::new());
    deny.created = Some(at(-600));
    cluster.apply(Object::Policy(deny), None);
    cluster.apply(namespace("frontend", &[]), Some(at(20)));
    let attribution = blame(&cluster);
    assert_eq!(words(&attribution), ["NetworkPolicy backend/deny created at -600"]);
    let Attribution::Older { known_since, .. } = attribution else { panic!("{attribution:?}") };
    assert_eq!(known_since, Some(at(0)));
}

#[test]
fn a_policy_that_was_edited_before_the_agent_came_says_when_by_itself() {
    let mut cluster = open();
    let mut deny = ingress("backend", "deny", Selector::EVERYTHING, Vec::new());
    (deny.created, deny.written) = (Some(at(-600)), Some(at(-60)));
    cluster.apply(Object::Policy(deny), None);
    assert_eq!(words(&blame(&cluster)), ["NetworkPolicy backend/deny edited at -60"]);
}

#[test]
fn the_manager_that_wrote_the_spec_tells_when() {
    let manager = |name: &str, time: &str, fields: &str| serde_json::json!({"manager": name, "time": time, "fieldsV1": {fields: {}}});
    let policy = serde_json::json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": "deny",
            "creationTimestamp": "2025-12-01T00:00:00Z",
            "managedFields": [
                manager("helm", "2025-12-01T00:00:00Z", "f:spec"),
                manager("kubectl-edit", "2026-01-02T03:04:05Z", "f:spec"),
                manager("kubectl-annotate", "2026-01-03T00:00:00Z", "f:metadata"),
            ],
        },
        "spec": {"podSelector": {}},
    });
    let policy = serde_json::from_value(policy).expect("a policy");
    assert_eq!(network_policy::lower(&policy).expect("valid").written, Some(at(0)));
}

#[test]
fn what_is_forgotten_is_not_claimed_to_be_known() {
    let mut cluster = open();
    apply_policy(&mut cluster, "deny", Vec::new(), 10);
    let day = AGE_MAX.as_secs();
    cluster.apply(namespace("frontend", &[]), Some(at(10 + day + 1)));
    let Attribution::Older { known_since, .. } = blame(&cluster) else { panic!("remembered") };
    assert_eq!(known_since, Some(at(10)));
    assert_eq!(cluster.history().forgotten(), 1);
}

/// One step of a generated story.
#[derive(Clone, Debug)]
enum Step {
    LabelNamespace(bool),
    LabelPod(bool),
    Policy(u8, Vec<u8>),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any::<bool>().prop_map(Step::LabelNamespace),
        any::<bool>().prop_map(Step::LabelPod),
        (0..3u8, prop::collection::vec(0..4u8, 0..3)).prop_map(|(n, rules)| Step::Policy(n, rules)),
        (0..3u8).prop_map(Step::Delete),
    ]
}

fn rule_of(form: u8) -> Rule {
    match form {
        0 => allow_web(),
        1 => rule(Some(&[]), "", equals(&[("app", "web")]), &[8080]),
        2 => rule(Some(&[("team", "blue")]), "", Selector::EVERYTHING, &[]),
        _ => rule(Some(&[("team", "green")]), "", Selector::EVERYTHING, &[9090]),
    }
}

fn play(cluster: &mut Cluster, step: &Step, seconds: i64) {
    let time = Some(at(seconds));
    match step {
        Step::LabelNamespace(blue) => {
            let own: &[_] = if *blue { &[("team", "blue")] } else { &[] };
            cluster.apply(namespace("frontend", own), time);
        }
        Step::LabelPod(web) => {
            let app = if *web { "web" } else { "shop" };
            cluster.apply(Object::Pod(pod("frontend", "web-0", 10, &[("app", app)])), time);
        }
        Step::Policy(n, rules) => {
            let rules = rules.iter().map(|form| rule_of(*form)).collect();
            apply_policy(cluster, &format!("policy-{n}"), rules, seconds);
        }
        Step::Delete(n) => {
            cluster.delete(&policy_key("backend", &format!("policy-{n}")), at(seconds));
        }
    }
}

/// Something that has no bearing on the flow.
fn play_elsewhere(cluster: &mut Cluster, step: u8, seconds: i64) {
    let time = Some(at(seconds));
    match step % 4 {
        0 => cluster.apply(namespace("elsewhere", &[("n", &seconds.to_string())]), time),
        1 => {
            let other = ingress("elsewhere", "deny", Selector::EVERYTHING, Vec::new());
            cluster.apply(Object::Policy(other), time);
        }
        2 => cluster.delete(&policy_key("elsewhere", "deny"), at(seconds)),
        _ => {
            let name = format!("n-{seconds}");
            let other = pod("elsewhere", "pod-0", 99, &[("n", &name)]);
            cluster.apply(Object::Pod(other), time);
        }
    }
}

fn is_denied(snapshot: &Snapshot) -> bool {
    let case = between(snapshot, WEB, API, 8080);
    let verdict = diagnose(snapshot, &case).verdict;
    verdict.decision() == Decision::Denied
}

proptest! {
    #[test]
    fn undoing_the_named_change_lets_the_flow_pass(
        steps in prop::collection::vec(step(), 1..24),
    ) {
        let mut cluster = open();
        let mut snapshots = vec![cluster.snapshot()];
        for (step, seconds) in steps.iter().zip((10..).step_by(10)) {
            play(&mut cluster, step, seconds);
            snapshots.push(cluster.snapshot());
        }
        let flips: Vec<usize> = (1..snapshots.len())
            .filter(|n| is_denied(&snapshots[*n]) && !is_denied(&snapshots[*n - 1]))
            .collect();
        match (is_denied(&cluster.snapshot()), blame(&cluster)) {
            (false, attribution) => prop_assert_eq!(attribution, Attribution::None),
            (true, Attribution::Seen(changes)) => {
                let step = i64::try_from(*flips.last().expect("a flip")).expect("small");
                prop_assert_eq!(changes.len(), 1);
                prop_assert_eq!(changes[0].at, at(step * 10));
                // The changes that came later, then the one that is named.
                let mut undone = cluster.snapshot();
                for later in cluster.history().latest_first() {
                    let named = later.change == changes[0];
                    if named {
                        prop_assert!(is_denied(&undone));
                    }
                    later.undo(&mut undone);
                    if named {
                        prop_assert!(!is_denied(&undone));
                        break;
                    }
                }
            }
            (true, other) => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn a_drop_is_judged_by_the_cluster_of_its_time(
        steps in prop::collection::vec(step(), 1..16), then in 0..16_usize,
    ) {
        let mut cluster = open();
        let mut snapshots = vec![cluster.snapshot()];
        for (step, seconds) in steps.iter().zip((10..).step_by(10)) {
            play(&mut cluster, step, seconds);
            snapshots.push(cluster.snapshot());
        }
        let then = then.min(steps.len());
        let seconds = i64::try_from(then).expect("small") * 10 + 5;
        let drop = dropped(address(10), address(20), 8080, &[seconds]);
        let judgement = judge(&cluster.snapshot(), cluster.history(), &case_of(&drop));
        // Those who attempted it and the policies are what they were; what lifted it is a remark.
        let of_then = diagnose(&snapshots[then], &case_of(&drop));
        let (now, then) = (&judgement.diagnosis, &of_then);
        if then.cause.class.is_denial() {
            prop_assert_eq!(now.cause.class, then.cause.class);
            prop_assert_eq!(now.incident(), then.incident());
        } else {
            prop_assert!(!now.cause.class.is_denial(), "{:?}", now.cause);
        }
    }

    #[test]
    fn all_that_came_at_once_is_named_and_no_more(
        before in prop::collection::vec(step(), 0..6),
        together in prop::collection::vec(step(), 1..6),
    ) {
        let mut cluster = open();
        for (step, seconds) in before.iter().zip((10..).step_by(10)) {
            play(&mut cluster, step, seconds);
        }
        let then = cluster.snapshot();
        for step in &together {
            play(&mut cluster, step, 1_000);
        }
        if is_denied(&then) || !is_denied(&cluster.snapshot()) {
            return Ok(());
        }
        let Attribution::Seen(changes) = blame(&cluster) else { panic!("a change was seen") };
        let undo = |left_out: Option<&Change>| {
            let mut undone = cluster.snapshot();
            let history = cluster.history();
            let named = |object: &Key| {
                changes.iter().any(|c| c.object == *object)
                    && left_out.is_none_or(|left_out| left_out.object != *object)
            };
            let together = history.latest_first().filter(|u| u.change.at == at(1_000));
            let named = together.filter(|u| named(&u.change.object));
            named.for_each(|u| u.undo(&mut undone));
            undone
        };
        prop_assert!(!is_denied(&undo(None)));
        if changes.len() > 1 {
            for change in &changes {
                prop_assert!(is_denied(&undo(Some(change))), "{change:?} can be left out");
            }
        }
    }

    #[test]
    fn what_happens_elsewhere_makes_no_difference(
        steps in prop::collection::vec((step(), any::<u8>(), any::<bool>()), 1..16),
    ) {
        let (mut alone, mut among) = (open(), open());
        for ((step, elsewhere, first), seconds) in steps.iter().zip((10..).step_by(10)) {
            play(&mut alone, step, seconds);
            if *first {
                play_elsewhere(&mut among, *elsewhere, seconds);
            }
            play(&mut among, step, seconds);
            if !*first {
                play_elsewhere(&mut among, *elsewhere, seconds);
            }
        }
        prop_assert_eq!(blame(&alone), blame(&among));
    }
}

proptest! {
    // Each case copies large policies many times.
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    #[test]
    fn what_is_kept_is_bounded(sizes in prop::collection::vec((0..3u8, 1..3_000usize), 1..60)) {
        let mut cluster = open();
        for ((kind, size), seconds) in sizes.iter().zip(0..) {
            for repeat in 0..12 {
                let name = format!("{seconds}-{repeat}");
                let networks = std::iter::repeat_n(block("10.0.0.0/8"), *size);
                match kind {
                    0 => apply_policy(&mut cluster, "big", networks.collect(), seconds),
                    1 => cluster.apply(namespace("frontend", &[("n", &name)]), Some(at(seconds))),
                    _ => {
                        let relabelled = pod("frontend", "web-0", 10, &[("n", &name)]);
                        cluster.apply(Object::Pod(relabelled), Some(at(seconds)));
                    }
                }
            }
        }
        let history = cluster.history();
        prop_assert!(history.latest_first().count() <= CHANGES_MAX);
        prop_assert!(history.parts() <= PARTS_MAX);
        prop_assert!(history.forgotten() == 0 || history.complete_since() >= Some(at(0)));
    }
}

#[test]
fn a_rollout_does_not_make_the_policies_forgotten() {
    let mut cluster = open();
    apply_policy(&mut cluster, "deny", Vec::new(), 10);
    for n in 0..10_000 {
        let other = pod("frontend", "web-1", 11, &[("n", &n.to_string())]);
        cluster.apply(Object::Pod(other), Some(at(11)));
    }
    assert_eq!(words(&blame(&cluster)), ["NetworkPolicy backend/deny created at 10"]);
    assert!(cluster.history().forgotten() > 0);
}

#[test]
fn pods_whose_names_never_come_again_are_not_remembered() {
    let mut cluster = open();
    for n in 0..100 {
        let name = format!("job-{n}");
        let workload = Some(workload("Job", "job"));
        let pod = Pod { workload, ..pod("ci", &name, 50, &[]) };
        cluster.apply(Object::Pod(pod), Some(at(n)));
        cluster.delete(&pod_key("ci", &name), at(n));
    }
    assert_eq!(cluster.history().latest_first().count(), 0);
}

#[test]
fn a_relabelled_pod_that_moved_tells_both() {
    let mut cluster = open();
    let mut other = pod("frontend", "web-0", 11, &[]);
    other.labels = labels(&[("app", "shop")]);
    cluster.apply(Object::Pod(other), Some(at(5)));
    let change = &cluster.history().latest_first().next().expect("a change").change;
    assert_eq!((change.kind, change.object.kind), (ChangeKind::Relabelled, Kind::Pod));
    assert_eq!(
        change.difference.as_deref(),
        Some("label app is shop, was web, addresses are 10.1.0.11, were 10.1.0.10")
    );
}
