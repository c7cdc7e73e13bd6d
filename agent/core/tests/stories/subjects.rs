//! One incident, one subject: who is affected, why, since which change and until when it worked are of
//! one path, and only what is there is counted.

use whydrop_core::{
    cluster::object::{Object, Pod},
    flow::Direction,
    incident::Happened,
    policy::{Policy, selector::Selector},
};

use crate::{
    build::{at, equals, ingress, pod, pod_key, workload},
    incidents::{POSTGRES, Story, WEB, backend, restrict},
};

/// A replica of a workload of `backend`, as its Deployment makes them.
fn replica(of: &str, name: &str, last: u8, labels: &[(&str, &str)]) -> Object {
    let workload = Some(workload("Deployment", of));
    let created = Some(at(-500));
    Object::Pod(Pod { workload, created, ..pod("backend", name, last, labels) })
}

/// Postgres admits who has the label `role=client`, since long ago.
fn for_clients() -> Story {
    let mut cluster = backend();
    let admit = crate::build::rule(None, "backend", equals(&[("role", "client")]), &[5432]);
    let policy = ingress("backend", "for-clients", equals(&[("app", "postgres")]), vec![admit]);
    cluster.apply(Object::Policy(Policy { created: Some(at(-80_000)), ..policy }), None);
    for n in 0..2 {
        let name = format!("rolled-{n}");
        cluster.apply(replica("rolled", &name, 60 + n, &[("app", "rolled")]), None);
    }
    let labelled = [("app", "relabel"), ("role", "client")];
    cluster.apply(Object::Pod(pod("backend", "relabel", 70, &labelled)), None);
    Story::of(cluster)
}

/// A Deployment whose pods lack the label since a rollout, a pod that lost it, and a Job that never had
/// it: whoever leads brings its own evidence, change and time.
#[test]
fn who_what_and_since_when_are_of_one_path() {
    let mut story = for_clients();
    let relabelled = pod("backend", "relabel", 70, &[("app", "relabel")]);
    story.cluster.apply(Object::Pod(relabelled), Some(at(10)));
    story.drops(70, POSTGRES, 5432, &[12, 13, 40], Some(8));
    story.drops(60, POSTGRES, 5432, &[14, 15, 40], None);
    story.drops(61, POSTGRES, 5432, &[14, 15, 40], None);
    let (_, incident) = story.reported(43);
    assert_eq!(incident.affected.len(), 2);
    let text = &incident.text;
    assert!(text.starts_with("2 of 2 backend/rolled cannot reach"), "{text}");
    assert!(text.contains("found pod backend/rolled-"), "{text}");
    assert!(!text.contains("relabelled") && !text.contains("worked until"), "{text}");
    assert_eq!(
        (incident.changed.lead().map(|change| change.at), incident.last_success),
        (Some(at(-80_000)), None)
    );

    // The two are gone: what is left leads, with its own.
    for n in 0..2 {
        story.cluster.delete(&pod_key("backend", &format!("rolled-{n}")), at(50));
    }
    story.drops(70, POSTGRES, 5432, &[12, 13, 40, 100], Some(8));
    let (happened, incident) = story.reported(104);
    assert_eq!((happened, incident.affected.len()), (Happened::Updated, 1));
    let text = &incident.text;
    assert!(text.starts_with("backend/relabel cannot reach"), "{text}");
    let words =
        ["found pod backend/relabel: app=relabel", "relabelled", "2 s before the first drop"];
    for words in words {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(incident.last_success, Some(at(8)));
}

/// Of two clients one worked: until when is said where that one leads, and not of the other.
#[test]
fn until_when_it_worked_is_of_the_client_that_leads() {
    let mut story = Story::of(backend());
    story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
    story.drops(WEB, POSTGRES, 5432, &[5, 6], Some(-1));
    for n in 0..6 {
        story.drops(30 + n, POSTGRES, 5432, &[5, 6], None);
    }
    let (_, incident) = story.reported(9);
    assert!(incident.text.starts_with("6 of 6 backend/backend-worker"), "{}", incident.text);
    assert!(!incident.text.contains("worked until"), "{}", incident.text);
    assert_eq!(incident.affected[1].worked, Some(at(-1)));
}

/// A Job's pod is through, and those of a rollout are replaced: there is no share of what is no more.
#[test]
fn only_pods_that_are_there_are_counted() {
    let mut story = for_clients();
    let job = |addresses| {
        let workload = Some(workload("Job", "import"));
        Object::Pod(Pod { workload, addresses, ..pod("backend", "import-x", 80, &[]) })
    };
    story.cluster.apply(job(vec![crate::build::address(80)]), None);
    story.drops(80, POSTGRES, 5432, &[5, 6], None);
    story.cluster.apply(job(Vec::new()), Some(at(8)));
    let (_, incident) = story.reported(9);
    let words = "1 pod of backend/import, gone by now, cannot reach";
    assert!(incident.text.starts_with(words), "{}", incident.text);
    assert!(incident.affected[0].are_gone);

    // Four replicas, made anew twice.
    let mut story = for_clients();
    for generation in 0..3_u8 {
        for n in 0..4 {
            let name = format!("front-{generation}-{n}");
            let last = 200 + generation * 10 + n;
            story.cluster.apply(replica("front", &name, last, &[]), Some(at(0)));
            story.drops(last, POSTGRES, 5432, &[5, 6], None);
            if generation < 2 {
                story.cluster.delete(&pod_key("backend", &name), at(8));
            }
        }
    }
    let (_, incident) = story.reported(9);
    assert!(incident.text.starts_with("4 of 4 backend/front cannot"), "{}", incident.text);
}

/// Both ends' policies deny it: both are responsible, and neither does it alone.
#[test]
fn where_both_directions_deny_all_that_deny_are_responsible() {
    let mut story = Story::of(backend());
    let egress = ingress("backend", "no-egress", Selector::EVERYTHING, Vec::new());
    let egress = Policy { ingress: None, egress: Some(Vec::new()), ..egress };
    story.cluster.apply(Object::Policy(egress), Some(at(0)));
    story.cluster.apply(Object::Policy(restrict()), Some(at(0)));
    story.drops(10, POSTGRES, 5432, &[5, 6], None);
    let (_, incident) = story.reported(9);
    let responsible: Vec<String> = incident.responsible.iter().map(ToString::to_string).collect();
    assert_eq!(responsible, ["backend/no-egress", "backend/restrict-backend-ingress"]);
    assert_eq!(incident.denied, [Direction::Egress, Direction::Ingress]);
    let reasons = incident.assessment.confidence_reasons.join("; ");
    assert!(!reasons.contains("alone"), "{reasons}");
    assert!(reasons.contains("egress and ingress both deny it"), "{reasons}");
}
