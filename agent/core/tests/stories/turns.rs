//! How incidents shrink, end and come back: by what goes on of each of their paths.

use whydrop_core::{
    cluster::object::{Object, Pod},
    diagnosis::Class,
    flow::Answer,
    incident::{Happened, Incident, Resolution, SILENCE, Severity, UPDATE_INTERVAL},
    policy::{Policy, selector::Selector},
};

use crate::{
    build::{at, equals, ingress, pod, pod_key, policy_key, rule, workload},
    incidents::{POSTGRES, Story, WEB, backend, flow, restrict},
};

/// A replica of `backend/backend-api`, and one of `backend/backend-worker`.
const API: u8 = 10;
const WORKER: u8 = 30;

/// Three clients of postgres that a policy of last week cuts off, one of which worked before.
fn three_clients() -> Story {
    let mut cluster = backend();
    cluster.apply(Object::Policy(Policy { created: Some(at(-1_000)), ..restrict() }), None);
    let mut story = Story::of(cluster);
    dial(&mut story, &[WEB, API, WORKER], &[5, 6]);
    story
}

fn dial(story: &mut Story, clients: &[u8], seconds: &[i64]) {
    for client in clients {
        story.drops(*client, POSTGRES, 5432, seconds, None);
    }
}

/// Lets the web's pods in, by a policy that a remedy has created or a person.
fn allow(app: &str, is_remedy: bool, second: i64) -> Object {
    let namespace = if app == "web" { "frontend" } else { "backend" };
    let by_name = [("kubernetes.io/metadata.name", namespace)];
    let rule = rule(Some(&by_name), "backend", equals(&[("app", app)]), &[5432]);
    let name = format!("allow-{app}-to-postgres");
    let policy = ingress("backend", &name, equals(&[("app", "postgres")]), vec![rule]);
    Object::Policy(Policy { created: Some(at(second)), is_remedy, ..policy })
}

fn answered(story: &mut Story, from: u8, second: i64) {
    story.book.answered(
        (&flow(from, POSTGRES, 5432), Answer::OfPath, at(second)),
        &story.cluster.snapshot(),
        at(second),
    );
}

fn sources(incident: &Incident) -> Vec<String> {
    incident.affected.iter().map(|path| path.path.source.to_string()).collect()
}

/// One of several gets its remedy: it is the same incident, of those that are left, and nobody blames
/// what was added for another.
#[test]
fn a_remedy_for_one_of_three_clients_leaves_the_incident_of_the_others() {
    for is_remedy in [true, false] {
        let mut story = three_clients();
        let (_, opened) = story.reported(9);
        assert_eq!(opened.affected.len(), 3);
        story.cluster.apply(allow("web", is_remedy, 20), Some(at(20)));
        answered(&mut story, WEB, 22);
        assert!(story.tick(23).is_empty());
        dial(&mut story, &[API, WORKER], &[5, 6, 66]);
        let (happened, left) = story.reported(70);
        assert_eq!((happened, left.id), (Happened::Updated, opened.id));
        assert_eq!(sources(&left), ["backend/backend-api", "backend/backend-worker"]);
        assert!(left.text.starts_with("1 of 8 backend/backend-api cannot"), "{}", left.text);
        assert_eq!(left.responsible.len(), 2);
        let words = "denied by NetworkPolicy backend/restrict-backend-ingress \
                     (with backend/allow-web-to-postgres)";
        assert!(left.text.contains(words), "{}", left.text);
        assert_eq!(left.changed.lead().map(|change| change.at), Some(at(-1_000)));
        if is_remedy {
            assert_eq!((left.cause.class, left.cause.nearest_miss), (Class::DefaultDeny, None));
        }

        // What isolated the pod goes, and the remedy isolates it by itself: it goes on.
        story.cluster.delete(&policy_key("backend", "restrict-backend-ingress"), at(100));
        dial(&mut story, &[API, WORKER], &[5, 6, 66, 126]);
        let (happened, alone) = story.reported(131);
        assert_eq!((happened, alone.id), (Happened::Updated, opened.id));
        assert!(alone.text.contains("backend/allow-web-to-postgres"), "{}", alone.text);
        assert_eq!(alone.responsible.len(), 1);

        // The others get theirs.
        story.cluster.apply(allow("backend-api", is_remedy, 140), Some(at(140)));
        story.cluster.apply(allow("backend-worker", is_remedy, 140), Some(at(140)));
        assert!(story.tick(141).is_empty());
        answered(&mut story, API, 145);
        assert!(story.tick(146).is_empty(), "the other one may go on");
        let (happened, _) = story.reported(151);
        assert_eq!(happened, Happened::Resolved(Resolution::Passes { at: at(145) }));
    }
}

/// A node that hears of it only now gives it the name that the others gave it before, whoever has added
/// something since; and it is not put down to a remedy that was there before it was first seen.
#[test]
fn what_is_added_makes_no_other_incident_of_a_denial_on_any_node() {
    let mut before = three_clients();
    let (_, opened) = before.reported(9);
    let for_others = rule(None, "backend", equals(&[("app", "none")]), &[9999]);
    let for_others = ingress("backend", "for-others", Selector::EVERYTHING, vec![for_others]);
    let for_others = Object::Policy(Policy { created: Some(at(20)), ..for_others });
    for (added, leads) in [
        (allow("web", true, 20), "backend/restrict-backend-ingress (with"),
        (for_others, "backend/for-others (with"),
    ] {
        let mut cluster = backend();
        cluster.apply(Object::Policy(Policy { created: Some(at(-1_000)), ..restrict() }), None);
        cluster.apply(added, None);
        let mut after = Story::of(cluster);
        dial(&mut after, &[API], &[30, 31]);
        let (_, reported) = after.reported(34);
        assert_eq!(reported.id, opened.id, "{}", reported.text);
        assert!(reported.text.contains(leads), "{}", reported.text);
    }
}

/// Late tallies of packets from before the end are counted, and neither open nor reopen anything.
#[test]
fn nothing_comes_back_by_packets_from_before_the_end() {
    let mut story = three_clients();
    let (_, opened) = story.reported(9);
    for app in ["web", "backend-api", "backend-worker"] {
        story.cluster.apply(allow(app, false, 20), Some(at(20)));
    }
    assert!(story.tick(21).is_empty());
    assert_eq!(story.reported(31).0, Happened::Resolved(Resolution::Allowed));
    // Judged by now: the same flow by another cause, out of sync.
    dial(&mut story, &[WEB], &[5, 6, 28]);
    assert!(story.tick(40).is_empty());
    assert_eq!(story.book.open(), 0);
    // It goes on after the end: that is news, whatever its name is.
    dial(&mut story, &[WEB], &[5, 6, 28, 60]);
    let (happened, again) = story.reported(200);
    assert_eq!(happened, Happened::Opened);
    assert_ne!(again.id, opened.id);
}

/// Its client is deleted: nobody tries any more, which is an end of its own.
#[test]
fn clients_that_are_gone_end_it_and_say_so() {
    let mut story = three_clients();
    let _ = story.reported(9);
    story.cluster.delete(&pod_key("frontend", "web-0"), at(20));
    answered(&mut story, API, 30);
    answered(&mut story, WORKER, 30);
    // The others were seen to pass.
    let (happened, _) = story.reported(31);
    assert_eq!(happened, Happened::Resolved(Resolution::Passes { at: at(30) }));

    let mut story = Story::of(story.cluster);
    story.cluster.apply(Object::Pod(pod("frontend", "late-0", 151, &[("app", "late")])), None);
    story.drops(151, POSTGRES, 5432, &[45, 46], None);
    let _ = story.reported(50);
    story.cluster.delete(&pod_key("frontend", "late-0"), at(60));
    assert!(story.tick(61).is_empty() && story.tick(105).is_empty(), "it may be made again");
    let (happened, gone) = story.reported(46 + 75);
    assert_eq!(happened, Happened::Resolved(Resolution::Gone));
    assert!(gone.text.starts_with("frontend/late-0, gone by now, cannot"), "{}", gone.text);
}

/// The server is made again under another address, and is denied as before: one incident, which ends
/// once policies allow it.
#[test]
fn a_pod_that_is_made_again_is_the_same_incident_at_another_address() {
    let mut story = three_clients();
    let (_, opened) = story.reported(9);
    let again = Pod {
        workload: Some(workload("StatefulSet", "postgres-primary")),
        uid: Some("another".into()),
        ..pod("backend", "postgres-primary-0", 101, &[("app", "postgres")])
    };
    story.cluster.delete(&pod_key("backend", "postgres-primary-0"), at(20));
    story.cluster.apply(Object::Pod(again), Some(at(22)));
    assert!(story.tick(23).is_empty());
    for client in [WEB, API, WORKER] {
        story.drops(client, 101, 5432, &[25, 26, 70], None);
    }
    let (happened, goes_on) = story.reported(75);
    assert_eq!((happened, goes_on.id), (Happened::Updated, opened.id));
    assert_eq!(goes_on.affected.len(), 3);
    story.cluster.delete(&policy_key("backend", "restrict-backend-ingress"), at(80));
    assert!(story.tick(81).is_empty());
    assert_eq!(story.reported(91).0, Happened::Resolved(Resolution::Allowed));
}

/// Severity is of what goes on: less so once the worst of it passes.
#[test]
fn it_is_less_severe_once_the_worst_of_it_passes() {
    let mut cluster = backend();
    cluster.apply(Object::Policy(restrict()), Some(at(0)));
    let mut story = Story::of(cluster);
    let api: Vec<u8> = (10..18).collect();
    dial(&mut story, &api, &[5, 6, 20]);
    dial(&mut story, &[WORKER], &[5, 6]);
    let (_, opened) = story.reported(24);
    assert_eq!(opened.assessment.severity, Severity::Critical, "{:?}", opened.assessment);
    for from in &api {
        answered(&mut story, *from, 30);
    }
    assert!(story.tick(31).is_empty(), "in its time");
    let (happened, left) = story.reported(24 + UPDATE_INTERVAL.as_secs());
    assert_eq!((happened, left.assessment.severity), (Happened::Updated, Severity::Info));
    assert!(left.text.starts_with("1 of 6 backend/backend-worker cannot"), "{}", left.text);
}

/// One path that passes is not all of them: those of whom nothing is heard may try again, and are over
/// once they have been silent for long enough.
#[test]
fn one_path_that_passes_is_no_end_of_the_others() {
    let mut story = three_clients();
    let _ = story.reported(9);
    answered(&mut story, API, 30);
    let (happened, _) = story.reported(9 + UPDATE_INTERVAL.as_secs());
    assert_eq!(happened, Happened::Updated);
    assert!(story.tick(200).is_empty());
    let (happened, _) = story.reported(6 + SILENCE.as_secs());
    assert_eq!(happened, Happened::Resolved(Resolution::Passes { at: at(30) }));
}

/// It is over again before it was to be reported that it is back.
#[test]
fn what_is_over_again_before_anybody_has_heard_of_it_is_not_reported() {
    let mut story = three_clients();
    let _ = story.reported(9);
    for from in [WEB, API, WORKER] {
        answered(&mut story, from, 20);
    }
    assert!(matches!(story.reported(21).0, Happened::Resolved(_)));
    dial(&mut story, &[WEB], &[30, 31]);
    answered(&mut story, WEB, 40);
    assert!(story.tick(41).is_empty() && story.tick(200).is_empty());
    dial(&mut story, &[WEB], &[30, 31, 300]);
    let (happened, back) = story.reported(301);
    assert_eq!((happened, back.reopened), (Happened::Reopened, 1));
}

/// An explicit denial is its rule's, whatever else is added.
#[test]
fn what_a_rule_denies_is_no_part_of_what_no_rule_admits() {
    let mut story = three_clients();
    let (_, opened) = story.reported(9);
    let never = ingress("backend", "never", Selector::EVERYTHING, Vec::new());
    let mut never = Policy { layer: whydrop_core::policy::Layer::Admin, ..never };
    never.reference.kind = whydrop_core::policy::PolicyKind::AdminNetworkPolicy;
    never.reference.namespace = None;
    let everyone = whydrop_core::policy::Peers::Everyone;
    let deny =
        whydrop_core::policy::Rule::new(whydrop_core::policy::Action::Deny, everyone, Vec::new());
    never.ingress = Some(vec![deny]);
    story.cluster.apply(Object::Policy(never), Some(at(20)));
    dial(&mut story, &[WEB], &[5, 6, 30]);
    let changes = story.tick(40);
    assert!(changes.iter().any(|change| change.incident.id != opened.id), "{changes:#?}");
}
