//! What an incident reports of who is affected, where an agent follows its own node's pods alone.

use jiff::SignedDuration;
use whydrop_core::{
    cluster::{
        Cluster,
        look_up::{LookUp, Query},
        object::{Object, Pod, Scale},
    },
    incident::{Happened, Incident, IncidentBook, JudgedDrop, Severity, UPDATE_INTERVAL},
    judgement::judge,
    policy::selector::Selector,
};

use crate::build::{address, at, case_of, dropped, ingress, namespace, pod, workload};

const DATABASE: u8 = 100;

/// A node with three pods of `backend-api` and what they talk to, and an incident of theirs.
struct Node {
    cluster: Cluster,
    book: IncidentBook,
}

impl Node {
    fn new() -> Self {
        let mut cluster = Cluster::default();
        cluster.look_up_on_demand();
        cluster.apply(namespace("backend", &[]), None);
        let database = pod("backend", "postgres-0", DATABASE, &[("app", "postgres")]);
        cluster.apply(Object::Pod(database), None);
        cluster.history_begins(at(-3_600));
        let mut node = Self { cluster, book: IncidentBook::default() };
        (0..3).for_each(|n| node.api(n, true, 4));
        let policy = ingress("backend", "default-deny", Selector::EVERYTHING, Vec::new());
        node.cluster.apply(Object::Policy(policy), Some(at(0)));
        node
    }

    /// A pod as its status has it.
    fn api(&mut self, n: u8, ready: bool, restarts: u64) {
        let name = format!("backend-api-{n}");
        let pod = Pod {
            workload: Some(workload("Deployment", "backend-api")),
            uid: Some(name.as_str().into()),
            ready: Some(ready),
            restarts,
            ..pod("backend", &name, 10 + n, &[("app", "backend-api")])
        };
        self.cluster.apply(Object::Pod(pod), Some(at(0)));
    }

    fn drops(&mut self, pods: std::ops::Range<u8>, seconds: &[i64]) {
        for n in pods {
            let drop = dropped(address(10 + n), address(DATABASE), 5432, seconds);
            let snapshot = self.cluster.snapshot();
            let judgement = judge(&snapshot, self.cluster.history(), &case_of(&drop));
            let judged = JudgedDrop::new(drop, judgement, None);
            self.book.add(&judged, judged.drop.evidence.last() + SignedDuration::from_secs(1));
        }
    }

    fn wanted(&self, seconds: i64) -> Vec<Query> {
        self.book.to_look_up(&self.cluster.snapshot(), at(seconds))
    }

    fn scale(&mut self, seconds: i64, scale: Result<Scale, &str>) {
        let sought = Query::Scale("backend".into(), workload("Deployment", "backend-api"));
        let failed = scale.err().map(Into::into);
        let look_up = LookUp { at: at(seconds), failed, scale: scale.ok() };
        self.cluster.looked_up(sought, look_up);
    }

    fn reported(&mut self, seconds: i64) -> Option<(Happened, Incident)> {
        let mut changes = self.book.tick(&self.cluster.snapshot(), at(seconds));
        assert!(changes.len() <= 1, "{changes:#?}");
        changes.pop().map(|change| (change.happened, change.incident))
    }
}

#[test]
fn the_scale_and_the_services_of_those_who_suffer_are_asked_for_and_again_when_old() {
    let mut node = Node::new();
    assert_eq!(node.wanted(3), []);
    node.drops(0..3, &[1, 2]);
    let services = Query::ServicesOf(("backend".into(), "backend-api-0".into()));
    let scale = Query::Scale("backend".into(), workload("Deployment", "backend-api"));
    assert_eq!(node.wanted(3), [services.clone(), scale.clone()]);
    node.scale(3, Ok(Scale { replicas: 3, ready: 3 }));
    assert_eq!(node.wanted(4), std::slice::from_ref(&services));
    // What may not be asked is not asked all the time either.
    let failed = Some("forbidden (403)".into());
    node.cluster.looked_up(services.clone(), LookUp { at: at(4), failed, scale: None });
    assert_eq!(node.wanted(30), []);
    assert_eq!(node.wanted(33), std::slice::from_ref(&scale));
    assert_eq!(node.wanted(40), [scale, services]);
    // Nobody attempts any more.
    assert_eq!(node.wanted(2 + 2 * UPDATE_INTERVAL.as_secs()), []);
    // Everything is listed.
    let mut listed = Node { cluster: Cluster::default(), ..node };
    listed.drops(0..3, &[200]);
    assert_eq!(listed.wanted(201), []);
}

#[test]
fn only_who_knows_all_replicas_says_that_all_suffer() {
    let mut node = Node::new();
    node.drops(0..3, &[1, 20]);
    let (happened, incident) = node.reported(23).expect("an incident");
    assert_eq!((happened, incident.assessment.severity), (Happened::Opened, Severity::Warning));
    assert!(
        incident.text.starts_with("3 of 3 backend/backend-api known to this node cannot reach")
    );
    // Other nodes have more of them: some are affected for certain.
    node.scale(24, Ok(Scale { replicas: 8, ready: 5 }));
    assert!(node.reported(25).is_none(), "no worse");
    node.drops(0..3, &[1, 20, 84]);
    let (_, incident) = node.reported(88).expect("an update");
    assert_eq!(incident.assessment.severity, Severity::Warning, "{:?}", incident.assessment);
    let words = "3 of 8 backend/backend-api (those known to this node) cannot reach";
    assert!(incident.text.starts_with(words), "{}", incident.text);
    assert!(incident.text.contains("; 3 of 8 backend-api not ready"), "{}", incident.text);
    let affected = &incident.affected[0];
    assert_eq!((affected.pods.len(), affected.replicas, affected.replicas_ready), (3, 8, Some(5)));
    // None is ready anywhere: reported at once, with what it rests on.
    node.scale(90, Ok(Scale { replicas: 8, ready: 0 }));
    let (happened, incident) = node.reported(91).expect("worse");
    assert_eq!((happened, incident.assessment.severity), (Happened::Updated, Severity::Critical));
    let reason = &incident.assessment.severity_reasons[0];
    assert!(reason.ends_with(", and none of all 8 is ready"), "{reason}");
    // It cannot be asked any more.
    node.scale(92, Err("forbidden (403)"));
    node.drops(0..3, &[1, 20, 84, 170]);
    let (_, incident) = node.reported(173).expect("an update");
    assert_eq!(incident.assessment.severity, Severity::Warning, "{:?}", incident.assessment);
    assert!(incident.text.starts_with("3 of 3 backend/backend-api known to this node"));
}

#[test]
fn a_workload_that_is_on_this_node_alone_is_told_whole() {
    let mut node = Node::new();
    node.drops(0..2, &[1, 2]);
    node.scale(3, Ok(Scale { replicas: 3, ready: 3 }));
    let (_, incident) = node.reported(5).expect("an incident");
    assert!(incident.text.starts_with("2 of 3 backend/backend-api cannot"), "{}", incident.text);
    assert_eq!(incident.assessment.severity, Severity::Info);
    node.drops(2..3, &[3, 4]);
    let (_, incident) = node.reported(6).expect("worse");
    assert!(incident.text.starts_with("3 of 3 backend/backend-api cannot"), "{}", incident.text);
    assert_eq!(incident.assessment.severity, Severity::Critical);
    // Of more elsewhere, not even all of this node's are affected.
    let mut node = Node::new();
    node.drops(0..2, &[1, 2]);
    node.scale(3, Ok(Scale { replicas: 8, ready: 0 }));
    let (_, incident) = node.reported(5).expect("an incident");
    let words = "2 of 8 backend/backend-api (of 3 known to this node) cannot";
    assert!(incident.text.starts_with(words), "{}", incident.text);
    assert_eq!(incident.assessment.severity, Severity::Info);
}

#[test]
fn readiness_and_restarts_of_those_who_suffer_are_told() {
    let mut node = Node::new();
    node.drops(0..3, &[1, 2]);
    let (_, incident) = node.reported(5).expect("an incident");
    assert!(!incident.text.contains("restart"), "old ones: {}", incident.text);
    let health = incident.affected[0].health;
    assert_eq!(
        (health.not_ready, health.restarts, health.restarts_since),
        (Some(0), Some(12), Some(0))
    );
    node.api(0, false, 6);
    node.api(1, false, 5);
    node.drops(0..3, &[1, 2, 70]);
    let (_, incident) = node.reported(75).expect("an update");
    let health = incident.affected[0].health;
    assert_eq!(
        (health.not_ready, health.restarts, health.restarts_since),
        (Some(2), Some(15), Some(3))
    );
    let words = "; 2 of 3 backend-api not ready, 3 restarts since";
    assert!(incident.text.contains(words), "{}", incident.text);
}

#[test]
fn pods_that_a_rollout_has_replaced_are_not_counted() {
    let mut node = Node::new();
    node.drops(0..3, &[1, 2]);
    node.scale(3, Ok(Scale { replicas: 3, ready: 0 }));
    for n in 0..3 {
        let key = crate::build::pod_key("backend", &format!("backend-api-{n}"));
        node.cluster.delete(&key, at(3));
        node.api(10 + n, false, 0);
    }
    node.drops(10..11, &[3, 4]);
    let (_, incident) = node.reported(6).expect("an incident");
    assert!(incident.text.starts_with("1 of 3 backend/backend-api cannot"), "{}", incident.text);
}
