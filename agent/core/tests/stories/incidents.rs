//! From drops to what a person is paged for, in virtual time.

use std::net::IpAddr;

use jiff::SignedDuration;
use proptest::prelude::*;
use whydrop_core::{
    cluster::{
        Cluster, Snapshot,
        node_address::NodeAddress,
        object::{EndpointSlice, Node, Object, Pod, Probe, ProbePort, Service, SliceEndpoint},
    },
    diagnosis::Class,
    flow::{Answer, Flow, Protocol, Worked},
    incident::{
        Happened, INCIDENTS_MAX, Incident, IncidentBook, IncidentChange, JudgedDrop, LINKED_MAX,
        Resolution, SILENCE, Severity, Step, UPDATE_INTERVAL,
    },
    judgement::{Attribution, judge},
    policy::{Policy, requirement::Labels, selector::Selector},
    verdict::nearest::Lack,
};

use crate::build::{
    address, at, case_of, dropped, equals, ingress, namespace, pod, policy_key, rule, workload,
};

pub(crate) const POSTGRES: u8 = 100;
pub(crate) const WEB: u8 = 150;

/// Fifteen pods in `backend`: eight of backend-api, six of backend-worker, postgres-primary-0. One
/// more in `frontend`. A kubelet that probes the api. All of it as old as yesterday.
pub(crate) fn backend() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("backend", &[]), None);
    cluster.apply(namespace("frontend", &[]), None);
    cluster.apply(
        Object::Node(Node {
            labels: Labels::new(),
            name: "worker-1".into(),
            addresses: vec![NodeAddress::internal(address(1))],
            pod_networks: Vec::new(),
            subnets: Vec::new(),
        }),
        None,
    );
    let mut old =
        |pod: Pod| cluster.apply(Object::Pod(Pod { created: Some(at(-86_400)), ..pod }), None);
    for n in 0..8 {
        let name = format!("backend-api-6f8d9c7b-{n}");
        old(Pod {
            workload: Some(workload("Deployment", "backend-api")),
            probes: vec![ProbePort { probe: Probe::Liveness, port: 8080 }],
            ..pod("backend", &name, 10 + n, &[("app", "backend-api")])
        });
    }
    for n in 0..6 {
        old(Pod {
            workload: Some(workload("Deployment", "backend-worker")),
            ..pod("backend", &format!("backend-worker-{n}"), 30 + n, &[("app", "backend-worker")])
        });
    }
    old(Pod {
        workload: Some(workload("StatefulSet", "postgres-primary")),
        ..pod("backend", "postgres-primary-0", POSTGRES, &[("app", "postgres")])
    });
    old(Pod {
        workload: Some(workload("Deployment", "web")),
        ..pod("frontend", "web-0", WEB, &[("app", "web")])
    });
    cluster.history_begins(at(-3_600));
    cluster
}

pub(crate) fn restrict() -> Policy {
    ingress("backend", "restrict-backend-ingress", Selector::EVERYTHING, Vec::new())
}

/// A book and the cluster that it is read with.
pub(crate) struct Story {
    pub(crate) cluster: Cluster,
    pub(crate) book: IncidentBook,
}

impl Story {
    pub(crate) fn of(cluster: Cluster) -> Self {
        Self { cluster, book: IncidentBook::default() }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.cluster.snapshot()
    }

    /// SYNs at these seconds were dropped, and are judged a moment later.
    pub(crate) fn drops(
        &mut self,
        from: u8,
        to: u8,
        port: u16,
        seconds: &[i64],
        worked: Option<i64>,
    ) {
        let drop = dropped(address(from), address(to), port, seconds);
        let judgement = judge(&self.snapshot(), self.cluster.history(), &case_of(&drop));
        let worked = worked.map(|second| Worked::once(at(second)));
        let judged = JudgedDrop::new(drop, judgement, worked);
        let now = judged.drop.evidence.last() + SignedDuration::from_secs(1);
        self.book.add(&judged, now);
    }

    pub(crate) fn tick(&mut self, seconds: i64) -> Vec<IncidentChange> {
        self.book.tick(&self.cluster.snapshot(), at(seconds))
    }

    /// The one incident that is reported.
    pub(crate) fn reported(&mut self, seconds: i64) -> (Happened, Incident) {
        let mut changes = self.tick(seconds);
        assert_eq!(changes.len(), 1, "{changes:#?}");
        let IncidentChange { happened, incident } = changes.remove(0);
        (happened, incident)
    }
}

/// 22 flows into postgres: eight replicas to two ports, six workers to one.
fn outage(story: &mut Story, seconds: &[i64], worked: Option<i64>) {
    for n in 0..8 {
        story.drops(10 + n, POSTGRES, 5432, seconds, worked);
        story.drops(10 + n, POSTGRES, 9187, seconds, worked);
    }
    for n in 0..6 {
        story.drops(30 + n, POSTGRES, 5432, seconds, worked);
    }
}

fn check_outage(incident: &Incident) {
    assert_eq!(incident.assessment.severity, Severity::Critical, "{:#?}", incident.assessment);
    assert!(incident.assessment.confidence >= 0.95, "{:#?}", incident.assessment);
    assert_eq!((incident.drops.len(), incident.drop_count), (22, 22));
    for words in [
        "8 of 8 backend/backend-api cannot reach backend/postgres-primary-0:5432/TCP",
        "denied by NetworkPolicy backend/restrict-backend-ingress",
        "policy applied 10 minutes ago",
        "3 s before the first drop",
    ] {
        assert!(incident.text.contains(words), "{words}: {}", incident.text);
    }
}

#[test]
fn the_story_of_eight_replicas_and_their_database() {
    let mut story = Story::of(backend());
    story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
    outage(&mut story, &[3, 4], Some(-1));
    let (happened, opened) = story.reported(8);
    assert_eq!(happened, Happened::Opened);
    assert_eq!(opened.assessment.severity, Severity::Critical);

    // They keep being dropped, and ten minutes after the policy it is reported once more.
    outage(&mut story, &[3, 4, 590, 598], Some(-1));
    let (happened, incident) = story.reported(600);
    assert_eq!((happened, incident.id), (Happened::Updated, opened.id));
    check_outage(&incident);
    assert!(incident.text.contains("; worked until 03:04:04"), "{}", incident.text);
    assert!(matches!(incident.changed, Attribution::Seen { .. }));
    assert_eq!(incident.affected.len(), 3);
}

/// That policies allow it is one thing; that it passes is another, and worth waiting for some seconds.
/// Either is the end, and is reported once.
#[test]
fn a_remedy_ends_it_once_by_what_is_seen_to_pass_or_by_what_policies_say() {
    for passes in [true, false] {
        let mut story = Story::of(backend());
        story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
        outage(&mut story, &[3, 4], Some(-1));
        assert_eq!(story.reported(8).0, Happened::Opened);
        let allow = rule(None, "backend", equals(&[]), &[]);
        let allow = ingress("backend", "allow", Selector::EVERYTHING, vec![allow]);
        story.cluster.apply(Object::Policy(allow), Some(at(9)));
        assert!(story.tick(10).is_empty());
        let unanswered: Vec<Flow> = story.book.unanswered().map(|(flow, _)| *flow).collect();
        assert_eq!(unanswered.len(), 22);
        for (passing, flow) in unanswered.iter().enumerate().filter(|_| passes) {
            assert!(story.tick(12).is_empty(), "only {passing} pass");
            story.book.answered((flow, Answer::OfPath, at(12)), &story.cluster.snapshot(), at(12));
        }
        let (end, resolution) = match passes {
            true => (12, Resolution::Passes { at: at(12) }),
            false => (20, Resolution::Allowed),
        };
        assert!(passes || story.tick(end - 1).is_empty());
        assert_eq!(story.reported(end).0, Happened::Resolved(resolution));
        assert_eq!((story.book.open(), story.book.unanswered().count()), (0, 0));
        // No more of what comes later: neither that it passes, nor packets from before the end.
        story.book.answered(
            (&unanswered[0], Answer::OfPath, at(30)),
            &story.cluster.snapshot(),
            at(30),
        );
        story.drops(10, POSTGRES, 5432, &[3, 4, end], None);
        assert!(story.tick(100).is_empty());
    }
}

/// The agent came after the policy: only the object's own time says when that was.
#[test]
fn the_same_story_after_a_restart_says_by_whose_time() {
    let mut cluster = backend();
    cluster.apply(Object::Policy(Policy { created: Some(at(0)), ..restrict() }), None);
    cluster.history_begins(at(2));
    let mut story = Story::of(cluster);
    outage(&mut story, &[3, 4, 590, 598], None);
    let (_, incident) = story.reported(602);
    check_outage(&incident);
    assert!(incident.text.contains("by its own timestamp"), "{}", incident.text);
}

#[test]
fn the_plan_applies_waits_and_tests_what_died() {
    let mut story = Story::of(backend());
    story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
    outage(&mut story, &[3, 4], None);
    let (_, incident) = story.reported(8);
    let names: Vec<_> = incident.plan.iter().map(|step| step.kind().to_string()).collect();
    assert_eq!(names[..5], ["apply", "apply", "apply", "watch", "await-ready"]);
    assert!(names[5..].iter().all(|name| *name == "test"), "{names:?}");
    let Step::AwaitReady { pods, condition } = &incident.plan[4] else { panic!("no pods") };
    assert_eq!((pods.len(), *condition), (14, "Ready"));
    let test = incident.plan[5].to_string();
    assert_eq!(test, "test backend/backend-api-6f8d9c7b-0 -> backend/postgres-primary-0:5432/TCP");
}

#[test]
fn probes_of_all_replicas_are_critical() {
    let mut story = Story::of(backend());
    story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
    for n in 0..7 {
        story.drops(1, 10 + n, 8080, &[5, 6], None);
    }
    let (_, some) = story.reported(9);
    assert_eq!(some.assessment.severity, Severity::Info, "a burst of seven");
    story.drops(1, 17, 8080, &[10, 11], None);
    let (happened, all) = story.reported(12);
    assert_eq!(happened, Happened::Updated, "what becomes worse is reported at once");
    assert_eq!(all.assessment.severity, Severity::Critical);
    assert!(all.assessment.severity_reasons[0].contains("8 of 8 backend/backend-api lost their"));
    let exec = all.plan.iter().any(|step| step.to_string().contains("exec probe"));
    assert!(exec, "{:?}", all.plan);
}

#[test]
fn some_pods_are_a_warning_once_it_lasts() {
    let mut story = Story::of(backend());
    story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
    story.drops(10, POSTGRES, 5432, &[5, 6], None);
    assert_eq!(story.reported(9).1.assessment.severity, Severity::Info);
    story.drops(10, POSTGRES, 5432, &[5, 6, 20], None);
    let (_, incident) = story.reported(22);
    assert_eq!(incident.assessment.severity, Severity::Warning);
    assert!(incident.text.starts_with("1 of 8 backend/backend-api"), "{}", incident.text);
}

#[test]
fn a_long_standing_denial_is_meant() {
    let mut cluster = backend();
    cluster.apply(Object::Policy(Policy { created: Some(at(-80_000)), ..restrict() }), None);
    let mut story = Story::of(cluster);
    story.drops(WEB, POSTGRES, 5432, &[5, 6, 60], None);
    let (_, incident) = story.reported(65);
    assert_eq!(incident.assessment.severity, Severity::Info, "{:?}", incident.assessment);
    assert!(incident.assessment.severity_reasons[0].contains("probably intended"));
}

/// Anyone can make a pod and dial what has been denied for long: nobody is to be paged for that.
#[test]
fn a_long_standing_denial_is_expected_however_new_its_clients_are() {
    let mut cluster = backend();
    cluster.apply(Object::Policy(Policy { created: Some(at(-80_000)), ..restrict() }), None);
    for n in 0..2 {
        let name = format!("shop-{n}");
        let new = Pod {
            workload: Some(workload("Deployment", "shop")),
            created: Some(at(-60)),
            ..pod("frontend", &name, 200 + n, &[("app", "shop")])
        };
        cluster.apply(Object::Pod(new), Some(at(-50)));
    }
    let mut story = Story::of(cluster);
    story.drops(200, POSTGRES, 5432, &[5, 6, 95], None);
    story.drops(201, POSTGRES, 5432, &[5, 6, 95], None);
    let (_, incident) = story.reported(100);
    assert_eq!(incident.assessment.severity, Severity::Info, "{:?}", incident.assessment);
    assert_eq!((incident.denied_since, incident.affected[0].connections), (Some(at(-80_000)), 0));
}

/// Nobody makes pods that are never to be ready, and no client has a hand in it.
#[test]
fn new_pods_that_an_old_policy_keeps_from_being_probed_are_critical() {
    let mut cluster = backend();
    cluster.apply(Object::Policy(Policy { created: Some(at(-80_000)), ..restrict() }), None);
    let new = Pod {
        workload: Some(workload("Deployment", "shop")),
        created: Some(at(-60)),
        probes: vec![ProbePort { probe: Probe::Readiness, port: 8080 }],
        ..pod("backend", "shop-0", 200, &[("app", "shop")])
    };
    cluster.apply(Object::Pod(new), Some(at(-50)));
    let mut story = Story::of(cluster);
    story.drops(1, 200, 8080, &[5, 6, 20], None);
    let (_, incident) = story.reported(25);
    assert_eq!(incident.assessment.severity, Severity::Critical, "{:?}", incident.assessment);
}

#[test]
fn a_scanner_is_no_outage() {
    let mut story = Story::of(backend());
    story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
    for port in 1..20 {
        story.drops(WEB, POSTGRES, port, &[5, 6, 60], None);
    }
    let (_, incident) = story.reported(65);
    assert_eq!(incident.assessment.severity, Severity::Info, "{:?}", incident.assessment);
}

pub(crate) fn flow(from: u8, to: u8, port: u16) -> Flow {
    let (source, destination): (IpAddr, IpAddr) = (address(from), address(to));
    Flow { source, destination, port, protocol: Protocol::Tcp }
}

#[test]
fn traffic_that_passes_again_resolves_and_a_later_drop_reopens() {
    let mut story = Story::of(backend());
    story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
    story.drops(10, POSTGRES, 5432, &[5, 6], None);
    story.drops(11, POSTGRES, 5432, &[5, 6], None);
    let (_, opened) = story.reported(9);
    story.book.answered(
        (&flow(10, POSTGRES, 5432), Answer::OfPath, at(20)),
        &story.cluster.snapshot(),
        at(20),
    );
    assert!(story.tick(30).is_empty(), "the other one may go on affected");
    let unanswered: Vec<_> = story.book.unanswered().collect();
    assert_eq!(unanswered, [(&flow(11, POSTGRES, 5432), None)]);
    story.book.answered(
        (&flow(11, POSTGRES, 5432), Answer::OfPath, at(40)),
        &story.cluster.snapshot(),
        at(40),
    );
    let (happened, resolved) = story.reported(41);
    assert_eq!(happened, Happened::Resolved(Resolution::Passes { at: at(40) }));
    assert_eq!(resolved.id, opened.id);

    story.drops(10, POSTGRES, 5432, &[60, 61], Some(50));
    assert!(story.tick(63).is_empty(), "reported once in an interval");
    let (happened, again) = story.reported(41 + UPDATE_INTERVAL.as_secs());
    assert_eq!((happened, again.id, again.reopened), (Happened::Reopened, opened.id, 1));
}

#[test]
fn silence_resolves() {
    let mut story = Story::of(backend());
    story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
    story.drops(10, POSTGRES, 5432, &[5, 6], None);
    let _ = story.reported(9);
    assert!(story.tick(6 + SILENCE.as_secs() - 1).is_empty());
    let (happened, _) = story.reported(6 + SILENCE.as_secs());
    assert_eq!(happened, Happened::Resolved(Resolution::Silence));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// What is reported depends on what was dropped, not on what came first.
    #[test]
    fn the_order_of_drops_makes_no_difference(
        replicas in Just((0..8u8).collect::<Vec<_>>()).prop_shuffle(),
        ports in Just(vec![5432, 9187, 9999]).prop_shuffle(),
    ) {
        let play = |replicas: &[u8], ports: &[u16]| {
            let mut story = Story::of(backend());
            story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
            for replica in replicas {
                for port in ports {
                    let seconds = 3 + i64::from(*replica);
                    story.drops(10 + replica, POSTGRES, *port, &[seconds, seconds + 1], None);
                }
            }
            let (_, incident) = story.reported(20);
            let Incident { id, drops, packets, first, last, affected, assessment, .. } = incident;
            (id, drops, packets, first, last, affected, assessment)
        };
        let in_order: Vec<u8> = (0..8).collect();
        prop_assert_eq!(play(&replicas, &ports), play(&in_order, &[5432, 9187, 9999]));
    }
}

#[test]
fn updates_are_bounded() {
    let mut story = Story::of(backend());
    story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
    let mut reported = 0;
    for seconds in 10..610 {
        story.drops(10, POSTGRES, 5432, &[seconds], None);
        reported += story.tick(seconds + 1).len();
    }
    // Opened, worse once, and once in an interval.
    assert!((10..=12).contains(&reported), "{reported}");
}

#[test]
fn drops_beyond_the_bound_are_counted() {
    let mut story = Story::of(backend());
    story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
    for port in 0..1_100 {
        story.drops(10, POSTGRES, 10_000 + port, &[5], None);
    }
    let (_, incident) = story.reported(9);
    assert_eq!((incident.drops.len(), incident.drop_count), (LINKED_MAX, 1_100));
}

#[test]
fn incidents_beyond_the_bound_are_counted_and_the_resolved_make_way() {
    let mut story = Story::of(backend());
    let bare = |n: u8| {
        let name = format!("pod-{n}");
        let pod = pod("lone", &name, n, &[("app", &name)]);
        Object::Pod(Pod { addresses: vec![IpAddr::from([10, 2, 0, n])], ..pod })
    };
    (0..=140).for_each(|n| story.cluster.apply(bare(n), None));
    let deny = |name| ingress("lone", name, Selector::EVERYTHING, Vec::new());
    story.cluster.apply(Object::Policy(deny("deny")), Some(at(0)));
    let drop_one = |story: &mut Story, n: u8, seconds: i64| {
        let drop = dropped(address(WEB), IpAddr::from([10, 2, 0, n]), 80, &[seconds]);
        let judgement = judge(&story.snapshot(), story.cluster.history(), &case_of(&drop));
        let judged = JudgedDrop::new(drop, judgement, None);
        story.book.add(&judged, at(seconds + 1));
    };
    (0..140).for_each(|n| drop_one(&mut story, n, 5));
    assert_eq!((story.book.open(), story.book.shed()), (INCIDENTS_MAX, 140 - 128));
    assert_eq!(story.tick(9).len(), INCIDENTS_MAX);
    story.cluster.delete(&policy_key("lone", "deny"), at(10));
    assert_eq!((story.tick(11).len(), story.tick(21).len()), (0, INCIDENTS_MAX));
    story.cluster.apply(Object::Policy(deny("deny")), Some(at(22)));
    drop_one(&mut story, 140, 25);
    assert_eq!((story.book.open(), story.book.shed()), (1, 140 - 128));
}

#[test]
fn a_deleted_allow_policy_can_be_put_back_and_a_created_one_is_not_to_be_deleted() {
    let mut story = Story::of(backend());
    let allow = rule(Some(&[]), "", equals(&[("app", "web")]), &[5432]);
    let allow = ingress("backend", "allow-web", Selector::EVERYTHING, vec![allow]);
    story.cluster.apply(Object::Policy(allow), Some(at(0)));
    story.cluster.apply(Object::Policy(restrict()), Some(at(10)));
    story.cluster.delete(&policy_key("backend", "allow-web"), at(20));
    story.drops(WEB, POSTGRES, 5432, &[25, 26], Some(15));
    let (_, incident) = story.reported(30);
    let last = incident.plan.last().expect("a step").to_string();
    assert_eq!(last, "or put NetworkPolicy backend/allow-web back as it was: it was deleted");
}

#[test]
fn a_label_or_a_wider_port_is_offered_with_its_cost() {
    let mut story = Story::of(backend());
    let labelled = rule(Some(&[("team", "blue")]), "", Selector::EVERYTHING, &[5432]);
    let policy = ingress("backend", "api", Selector::EVERYTHING, vec![labelled]);
    story.cluster.apply(Object::Policy(policy), Some(at(0)));
    story.drops(WEB, POSTGRES, 5432, &[5, 6], None);
    let (_, incident) = story.reported(9);
    let last = incident.plan.last().expect("a step").to_string();
    assert_eq!(
        last,
        "or kubectl label namespace frontend team=blue (newly allows 14 other pairs, at least: \
         frontend/web-0 to 8 pods of backend/backend-api, frontend/web-0 to 6 pods of \
         backend/backend-worker)"
    );

    let mut story = Story::of(backend());
    let other_port = rule(None, "backend", equals(&[("app", "backend-api")]), &[5433]);
    let policy = ingress("backend", "api", Selector::EVERYTHING, vec![other_port]);
    story.cluster.apply(Object::Policy(policy), Some(at(0)));
    story.drops(10, POSTGRES, 5432, &[5, 6], None);
    let (_, incident) = story.reported(9);
    let last = incident.plan.last().expect("a step").to_string();
    assert!(last.starts_with("or add port 5432/TCP to rule 0 of NetworkPolicy backend/api (newly"));
}

#[test]
fn no_label_is_offered_where_a_rule_asks_for_its_own_namespace() {
    let mut story = Story::of(backend());
    let own = rule(None, "backend", Selector::EVERYTHING, &[5432]);
    let policy = ingress("backend", "api", Selector::EVERYTHING, vec![own]);
    story.cluster.apply(Object::Policy(policy), Some(at(0)));
    story.drops(WEB, POSTGRES, 5432, &[5, 6], None);
    let (_, incident) = story.reported(9);
    let miss = incident.cause.nearest_miss.expect("a rule that comes near");
    assert_eq!(
        (incident.cause.class, miss.lack),
        (Class::NamespaceSelectorMismatch, Lack::OtherNamespace)
    );
    assert!(incident.plan.iter().all(|step| !step.to_string().contains("kubectl label")));
}

#[test]
fn a_service_that_lost_its_last_endpoint_is_named() {
    let mut story = Story::of(backend());
    let selector = Labels::from([("app".into(), "postgres".into())]);
    story.cluster.apply(
        Object::Service(Service {
            labels: Labels::new(),
            namespace: "backend".into(),
            name: "postgres".into(),
            selector,
            ..Service::default()
        }),
        None,
    );
    let slice = |endpoints| {
        Object::EndpointSlice(EndpointSlice {
            namespace: "backend".into(),
            name: "postgres-1".into(),
            service: Some("postgres".into()),
            endpoints,
            ports: Vec::new(),
        })
    };
    story.cluster.apply(slice(vec![SliceEndpoint::ready(address(POSTGRES))]), None);
    story.cluster.apply(Object::Policy(restrict()), None);
    story.drops(10, POSTGRES, 5432, &[5, 6], None);
    let (_, before) = story.reported(9);
    assert!(before.services_lost.is_empty());
    let as_known = "denied for as long as this agent knows, since 2026-01-02T02:04:05Z";
    assert!(before.text.contains(as_known), "{}", before.text);

    story.cluster.apply(slice(Vec::new()), Some(at(30)));
    story.drops(10, POSTGRES, 5432, &[5, 6, 60], None);
    let (_, after) = story.reported(80);
    assert_eq!(after.services_lost, ["backend/postgres"]);
    assert!(after.text.contains("without a ready endpoint: backend/postgres"), "{}", after.text);
}
