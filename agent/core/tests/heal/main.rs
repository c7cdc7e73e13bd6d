//! The healer's fold: what it does and when, and that no course of events makes it do what it must not.
//! What tenants may try, by whole clusters, is in `tests/tenants`.

mod course;
mod tenants;

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use whydrop_core::{
    diagnosis::Class,
    flow::{Flow, Protocol, Worked},
    heal::{
        Action, Between, CaseId, DropCause, DropReport, FlowPast, Healer, IncidentReport,
        IncidentState, Ledger, Mode, PathName, Proposal, Recovery, Refusal, SETTLE, Settings,
        Standing, WatchOutcome,
    },
    incident::{IncidentId, Severity},
    policy::{PolicyKind, PolicyRef},
};

const WATCH: SignedDuration = SignedDuration::from_secs(120);

const MIN_WORKED: SignedDuration = SignedDuration::from_mins(5);

fn settings() -> Settings {
    Settings {
        confidence_min: 0.9,
        per_hour: 3,
        per_namespace_and_hour: 2,
        per_client_and_hour: 2,
        min_worked: MIN_WORKED,
        watch: WATCH,
        time_to_live: SignedDuration::from_hours(24),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1_000_000 + second)
}

fn policy(namespace: &str, name: &str) -> PolicyRef {
    PolicyRef {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some(namespace.into()),
        name: name.into(),
    }
}

fn flow(to: u8) -> Flow {
    Flow {
        source: [10, 0, 0, 1].into(),
        destination: [10, 0, 1, to].into(),
        port: 8080,
        protocol: Protocol::Tcp,
    }
}

fn between(client: &str, server: &str) -> Between {
    Between { client: Some(client.into()), server: Some(server.into()) }
}

/// What is healed here.
fn case(id: u64) -> CaseId {
    CaseId { incident: IncidentId(id), between: between("frontend", "backend") }
}

fn path(client: &str) -> PathName {
    PathName {
        source: format!("{client}/web").into(),
        destination: "backend/db".into(),
        port: 8080,
        protocol: Protocol::Tcp,
    }
}

/// What an agent reports of an incident in `backend` that wants healing.
fn report(id: u64, state: IncidentState, second: i64) -> IncidentReport {
    IncidentReport {
        id: IncidentId(id),
        node: "worker-1".into(),
        state,
        last: at(second),
        severity: Severity::Critical,
        confidence: 0.97,
        client: Some("frontend".into()),
        recovered: BTreeMap::new(),
    }
}

/// The same, while others keep it open: this path has recovered.
fn recovered(id: u64, client: &str, how: Recovery, second: i64) -> IncidentReport {
    let recovered = BTreeMap::from([(path(client), how)]);
    IncidentReport { recovered, ..report(id, IncidentState::Open, second) }
}

fn cause() -> DropCause {
    DropCause {
        class: Class::DefaultDeny,
        confidence: 0.97,
        policy: Some(policy("backend", "default-deny")),
        changed: Some(policy("backend", "default-deny")),
        has_remedy: true,
    }
}

/// Denied since second 0, and before that for long in use.
fn dropped(id: u64, to: u8, second: i64) -> DropReport {
    dropped_after(id, to, second, Some(used(-3_600, -1, 40)), Some(0))
}

fn dropped_after(
    id: u64,
    to: u8,
    second: i64,
    worked: Option<Worked>,
    denied_since: Option<i64>,
) -> DropReport {
    DropReport {
        incident: IncidentId(id),
        node: "worker-1".into(),
        flow: flow(to),
        between: between("frontend", "backend"),
        path: path("frontend"),
        last: at(second),
        past: FlowPast { worked, denied_since: denied_since.map(at) },
        cause: cause(),
    }
}

/// The same of a client of another namespace.
fn of(client: &str, source: u8, drop: DropReport) -> DropReport {
    let source = [10, 0, 2, source].into();
    let flow = Flow { source, ..drop.flow };
    DropReport { flow, between: between(client, "backend"), path: path(client), ..drop }
}

fn used(first: i64, last: i64, connections: u64) -> Worked {
    Worked { first: at(first), last: at(last), connections }
}

fn proposal(id: u64, namespace: &str) -> Proposal {
    Proposal {
        manifests: Vec::new(),
        policies: vec![policy(namespace, &format!("allow-{id}"))],
        summary: String::new(),
        newly_allowed: 0,
        proved: 1,
        between: between("frontend", "backend"),
    }
}

/// A cluster that takes what it is given.
fn standing(case: &CaseId, proposal: &Proposal, now: Timestamp) -> Standing {
    Standing {
        case: case.clone(),
        policies: proposal.policies.clone(),
        applied: now,
        expires: now + SignedDuration::from_hours(24),
        is_kept: false,
    }
}

/// A healer with an incident that it has healed at second 10, and watches.
fn watching() -> Healer {
    let mut healer = Healer::new(settings());
    healer.drop_reported(&dropped(1, 1, 5));
    healer.incident_reported(report(1, IncidentState::Open, 5));
    heal(&mut healer, &case(1), 10, "backend");
    healer
}

/// Has this healed, and nothing else.
fn heal(healer: &mut Healer, case: &CaseId, second: i64, namespace: &str) {
    let actions = healer.tick(at(second), true);
    let [Action::Examine { wanted, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(wanted.case, *case);
    assert_eq!(wanted.flows.len(), 1, "reported before its incident was");
    let proposal = proposal(case.incident.0, namespace);
    let action = healer.examined(case, Some(Ok((proposal.clone(), Mode::Apply))), at(second));
    assert!(matches!(action, Some(Action::Apply { mode: Mode::Apply, .. })), "{action:?}");
    let applied = standing(case, &proposal, at(second));
    assert!(healer.applied(case, Ok(applied), at(second)).is_none());
}

/// What the watch comes to, which ends then and not before.
fn outcome(healer: &mut Healer) -> Action {
    let end = 10 + WATCH.as_secs();
    assert!(healer.tick(at(end - 1), true).is_empty(), "before its end");
    let mut actions = healer.tick(at(end), true);
    assert_eq!(actions.len(), 1, "{actions:?}");
    actions.remove(0)
}

/// Why the first incident is left alone.
fn refusal(report: IncidentReport, drop: &DropReport) -> Refusal {
    let mut healer = Healer::new(settings());
    healer.drop_reported(drop);
    healer.incident_reported(report.clone());
    let mut actions = healer.tick(at(10), true);
    healer.incident_reported(report);
    assert!(healer.tick(at(11), true).is_empty(), "reported once");
    match actions.pop() {
        Some(Action::Refuse { why, .. }) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_seen_to_help_is_kept_until_its_time_is_over() {
    let mut healer = watching();
    healer.incident_reported(report(1, IncidentState::Passes(at(20)), 5));
    let kept = outcome(&mut healer);
    assert!(matches!(&kept, Action::Keep(_, WatchOutcome::Recovered(_))), "{kept:?}");
    let hour = 3600;
    assert!(healer.tick(at(10 + 22 * hour), true).is_empty());
    let warned = healer.tick(at(10 + 23 * hour), true);
    assert!(matches!(&warned[..], [Action::Warn(_)]), "{warned:?}");
    assert!(healer.tick(at(11 + 23 * hour), true).is_empty(), "once");
    let expired = healer.tick(at(10 + 24 * hour), true);
    assert!(matches!(&expired[..], [Action::Expire(_)]), "{expired:?}");
    let [Action::Expire(standing)] = &expired[..] else { panic!("{expired:?}") };
    healer.removed(standing);
    assert!(healer.tick(at(11 + 24 * hour), true).is_empty());
}

#[test]
fn what_does_not_help_is_taken_back_and_not_tried_again() {
    // The same flow, by whatever cause: it has become another incident.
    let mut healer = watching();
    healer.incident_reported(report(1, IncidentState::Allowed, 5));
    healer.drop_reported(&dropped(2, 1, 10 + SETTLE.as_secs() + 1));
    let back = outcome(&mut healer);
    let Action::RollBack(standing, WatchOutcome::StillDying(_)) = &back else { panic!("{back:?}") };
    healer.removed(standing);
    healer.incident_reported(report(1, IncidentState::Open, 200));
    let again = healer.tick(at(201), true);
    assert!(
        matches!(&again[..], [Action::Refuse { why: Refusal::Tried { .. }, .. }, ..]),
        "{again:?}"
    );
    // No agent has a word for it.
    let back = outcome(&mut watching());
    assert!(matches!(&back, Action::RollBack(_, WatchOutcome::NotSeen)), "{back:?}");
    // Another flow between the same two, which policies allow by now as well.
    let mut healer = watching();
    healer.incident_reported(report(1, IncidentState::Passes(at(20)), 5));
    let out_of_sync = DropCause { class: Class::OutOfSync, ..cause() };
    healer.drop_reported(&DropReport { cause: out_of_sync, ..dropped(3, 9, 60) });
    let back = outcome(&mut healer);
    assert!(matches!(&back, Action::RollBack(_, WatchOutcome::StillDying(_))), "{back:?}");
    // What it denies by itself, whoever it is.
    let mut healer = watching();
    healer.incident_reported(report(1, IncidentState::Passes(at(20)), 5));
    let by_it = DropCause { changed: Some(policy("backend", "allow-1")), ..cause() };
    let other = dropped_after(4, 1, 60, Some(used(-999, 9, 9)), Some(10));
    healer.drop_reported(&DropReport { cause: by_it, ..of("other", 1, other) });
    let back = outcome(&mut healer);
    let broke = WatchOutcome::Broke(IncidentId(4));
    assert!(matches!(&back, Action::RollBack(_, outcome) if *outcome == broke), "{back:?}");
}

#[test]
fn what_dies_on_its_way_into_the_kernels_is_not_held_against_it() {
    let mut healer = watching();
    healer.drop_reported(&dropped(2, 1, 10 + SETTLE.as_secs()));
    healer.incident_reported(report(1, IncidentState::Allowed, 5));
    let kept = outcome(&mut healer);
    assert!(matches!(&kept, Action::Keep(_, WatchOutcome::Quiet)), "{kept:?}");
}

#[test]
fn nothing_is_concluded_from_the_silence_of_agents_that_are_not_heard() {
    let mut healer = watching();
    healer.incident_reported(report(1, IncidentState::Passes(at(20)), 5));
    let end = 10 + WATCH.as_secs();
    assert!(healer.tick(at(end), false).is_empty());
    assert!(healer.tick(at(end + WATCH.as_secs() - 1), true).is_empty(), "a whole watch more");
    assert_eq!(healer.tick(at(end + WATCH.as_secs()), true).len(), 1);
}

#[test]
fn an_incidents_own_record_may_be_reason_enough_to_leave_it_alone() {
    let open = || report(1, IncidentState::Open, 5);
    let caused = |cause: DropCause| DropReport { cause, ..dropped(1, 1, 5) };
    let explicit = caused(DropCause { class: Class::ExplicitDeny, ..cause() });
    let why = Refusal::ExplicitDeny(policy("backend", "default-deny"));
    assert_eq!(refusal(open(), &explicit), why);
    for class in [Class::NotPolicy, Class::OutOfSync, Class::NotEnforced, Class::CannotTell] {
        let drop = caused(DropCause { class, ..cause() });
        assert_eq!(refusal(open(), &drop), Refusal::NotADenial(class));
    }
    let info = IncidentReport { severity: Severity::Info, ..open() };
    assert_eq!(refusal(info, &dropped(1, 1, 5)), Refusal::Severity(Severity::Info));
    // That of the flow or of the incident: others' drops make it no less certain.
    let unsure = |of_flow: f64, of_incident: f64| {
        let drop = caused(DropCause { confidence: of_flow, ..cause() });
        (IncidentReport { confidence: of_incident, ..open() }, drop)
    };
    let (report, drop) = unsure(0.6, 0.7);
    assert_eq!(refusal(report, &drop).to_string(), "confidence 70 % is below 90 %");
    for (of_flow, of_incident) in [(0.97, 0.5), (0.5, 0.97)] {
        let (report, drop) = unsure(of_flow, of_incident);
        let mut healer = Healer::new(settings());
        healer.drop_reported(&drop);
        healer.incident_reported(report);
        assert!(matches!(&healer.tick(at(10), true)[..], [Action::Examine { .. }]));
    }
    let no_remedy = caused(DropCause { has_remedy: false, ..cause() });
    assert_eq!(refusal(open(), &no_remedy), Refusal::NoRemedy);
}

/// The refusal of an incident of these flows, which else wants healing.
fn refusal_of(flows: &[DropReport]) -> Option<Refusal> {
    let mut healer = Healer::new(settings());
    for flow in flows {
        healer.drop_reported(flow);
    }
    healer.incident_reported(report(1, IncidentState::Open, 5));
    match &healer.tick(at(10), true)[..] {
        [Action::Examine { .. }] => None,
        [Action::Refuse { why, .. }] => Some(why.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_what_worked_before_it_was_denied_is_healed() {
    let half_a_year = Some(-180 * 86_400);
    let since = settle_after(0);
    let min = MIN_WORKED.as_secs();
    for (worked, denied_since, why) in [
        (Some(used(-min - 1, -1, 2)), Some(0), None),
        // Until the change has come into the kernels, what worked goes on working.
        (Some(used(-min, since, 9)), Some(0), None),
        (None, Some(0), Some("was never seen to work: a person decides whether it should")),
        (None, half_a_year, Some("was never seen to work")),
        (Some(used(-1, -1, 1)), Some(0), Some("was seen to work over 1 connection only")),
        // What came after it was denied makes it no longer.
        (
            Some(used(-min + 1, since, 99)),
            Some(0),
            Some("was seen to work for 4 minutes before it"),
        ),
        (Some(used(-60, -1, 99)), Some(0), Some("expected 5 minutes or more")),
        (Some(used(-min, since + 1, 9)), Some(0), Some("it is not known to have worked before")),
        (Some(used(0, 1, 9)), Some(0), Some("it is not known to have worked before")),
        (Some(used(-600, -1, 9)), half_a_year, Some("it is not known to have worked before")),
        (Some(used(-600, -1, 9)), None, Some("since when it is denied is unknown")),
    ] {
        let refusal = refusal_of(&[dropped_after(1, 1, 5, worked, denied_since)]);
        let said = refusal.map(|refusal| refusal.to_string());
        let is_expected = match (&said, why) {
            (Some(said), Some(why)) => said.contains(why) && said.contains("10.0.1.1:8080/TCP"),
            (None, None) => true,
            _ => false,
        };
        assert!(is_expected, "{worked:?}, denied since {denied_since:?}: {said:?}, not {why:?}");
    }
}

/// The last second that still is within the time that a policy may take into the kernels.
fn settle_after(change: i64) -> i64 {
    change + SETTLE.as_secs()
}

#[test]
fn a_flow_that_never_worked_is_left_out() {
    let stranger = |second| dropped_after(1, 2, second, None, Some(0));
    assert_eq!(refusal_of(&[stranger(6)]), Some(Refusal::NeverWorked(flow(2))));
    assert_eq!(refusal_of(&[dropped(1, 1, 5), dropped(1, 2, 6)]), None);
    let mut healer = Healer::new(settings());
    for drop in [dropped(1, 1, 5), stranger(6)] {
        healer.drop_reported(&drop);
    }
    healer.incident_reported(report(1, IncidentState::Open, 6));
    let actions = healer.tick(at(10), true);
    let [Action::Examine { wanted, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(wanted.flows.keys().collect::<Vec<_>>(), [&flow(1)]);
    // The same said once more is no news.
    let no_consent = Some(Err(Refusal::NoConsent("frontend".into())));
    assert!(matches!(healer.examined(&case(1), no_consent, at(10)), Some(Action::Refuse { .. })));
    healer.drop_reported(&stranger(13));
    assert!(healer.tick(at(14), true).is_empty());
}

#[test]
fn what_one_agent_has_not_seen_another_may_have() {
    let of = |node: &str, drop: DropReport| DropReport { node: node.into(), ..drop };
    let source = || of("worker-2", dropped(1, 1, 5));
    // Behind a Service the destination's agent may see this backend for the first time.
    let destination = || of("worker-1", dropped_after(1, 1, 5, None, Some(1)));
    assert_eq!(refusal_of(&[destination(), source()]), None);
    assert_eq!(refusal_of(&[source(), destination()]), None);
    assert_eq!(refusal_of(&[destination()]), Some(Refusal::NeverWorked(flow(1))));
    // What one of them says is older, is older; and of what one cannot say, nothing is known.
    for denied_since in [Some(-7_200), None] {
        let older = of("worker-1", dropped_after(1, 1, 5, None, denied_since));
        let refusal = refusal_of(&[source(), older]);
        let is_older = matches!(
            refusal,
            Some(Refusal::DenialOlder { .. } | Refusal::DenialOfUnknownAge { .. })
        );
        assert!(is_older, "{refusal:?}");
    }
    // Two that saw the same connection saw one.
    let once = || dropped_after(1, 1, 5, Some(used(-999, -9, 1)), Some(0));
    let both = refusal_of(&[of("worker-1", once()), of("worker-2", once())]);
    assert_eq!(both, Some(Refusal::WorkedTooLittle { flow: flow(1), connections: 1 }));
    // The latest word of each agent counts: it was allowed meanwhile, and denied once more.
    let again = of("worker-1", dropped_after(1, 1, 500, Some(used(-3_600, 400, 41)), Some(450)));
    assert_eq!(refusal_of(&[of("worker-1", dropped(1, 1, 5)), again]), None);
}

#[test]
fn both_ends_have_to_consent_wherever_the_policy_would_be() {
    let proposal = proposal(1, "backend");
    assert_eq!(proposal.namespaces(), BTreeSet::from(["backend".into()]));
    assert_eq!(proposal.consenting(), BTreeSet::from(["backend".into(), "frontend".into()]));
}

#[test]
fn consent_is_that_of_every_namespace_and_the_least_of_them() {
    let both = BTreeSet::from(["backend".into(), "frontend".into()]);
    let all = |one: Option<&str>, other: Option<&str>| {
        let (one, other) = (one.map(str::to_owned), other.map(str::to_owned));
        Mode::agreed_by(&both, |name| if name == "backend" { one.clone() } else { other.clone() })
    };
    assert_eq!(all(Some("apply"), Some("apply")), Ok(Mode::Apply));
    assert_eq!(all(Some("apply"), Some("dry-run")), Ok(Mode::DryRun));
    assert_eq!(all(Some("apply"), None), Err(Refusal::NoConsent("frontend".into())));
    let bad = Refusal::BadConsent { namespace: "backend".into(), found: "yes".to_owned() };
    assert_eq!(all(Some("yes"), Some("apply")), Err(bad));
    assert!(Mode::agreed_by(&BTreeSet::new(), |_| Some("apply".to_owned())).is_err());
}

#[test]
fn a_dry_run_is_told_once_and_gives_way_to_leave_to_act() {
    let mut healer = Healer::new(settings());
    healer.drop_reported(&dropped(1, 1, 5));
    healer.incident_reported(report(1, IncidentState::Open, 5));
    healer.tick(at(10), true);
    let dry = || Some(Ok((proposal(1, "backend"), Mode::DryRun)));
    let action = healer.examined(&case(1), dry(), at(10));
    assert!(matches!(action, Some(Action::Apply { mode: Mode::DryRun, .. })), "{action:?}");
    assert!(healer.tick(at(20), true).is_empty());
    // Its namespaces are asked again before long.
    let asked = healer.tick(at(25), true);
    assert!(matches!(&asked[..], [Action::Examine { is_proposed: true, .. }]), "{asked:?}");
    assert!(healer.examined(&case(1), None, at(25)).is_none());
    healer.tick(at(40), true);
    assert!(healer.examined(&case(1), dry(), at(40)).is_none(), "reported before");
    healer.tick(at(55), true);
    let leave = Some(Ok((proposal(1, "backend"), Mode::Apply)));
    let action = healer.examined(&case(1), leave, at(55));
    assert!(matches!(action, Some(Action::Apply { mode: Mode::Apply, .. })), "{action:?}");
}

#[test]
fn the_next_leader_goes_on_with_what_stands_and_with_what_was_done() {
    let before = watching();
    let (ledger, policies) = (before.ledger().clone(), proposal(1, "backend"));
    let text = serde_json::to_string(&ledger).expect("JSON");
    let ledger: Ledger = serde_json::from_str(&text).expect("JSON");
    let mut healer = Healer::new(settings());
    healer.drop_reported(&dropped(1, 1, 5));
    healer.incident_reported(report(1, IncidentState::Open, 5));
    // Its second policy is in the other namespace: the two are one healing.
    let egress = Proposal { policies: vec![policy("backend", "allow-2")], ..policies.clone() };
    let standing = [&policies, &egress].map(|own| standing(&case(1), own, at(10)));
    healer.take_over(ledger, standing.to_vec(), at(60));
    assert!(healer.tick(at(61), true).is_empty(), "it is watched, and not healed twice");
    healer.incident_reported(report(1, IncidentState::Passes(at(62)), 5));
    assert!(healer.tick(at(60 + WATCH.as_secs() - 1), true).is_empty());
    let kept = healer.tick(at(60 + WATCH.as_secs()), true);
    let [Action::Keep(standing, _)] = &kept[..] else { panic!("{kept:?}") };
    assert_eq!(standing.policies.len(), 2);
    // Also where it was dropped since, until the network plugin had the policy, and where its last drop
    // is reported once more when it has worked since.
    let once_more = dropped_after(1, 1, 6, Some(used(-3_600, 30, 41)), Some(0));
    let late = DropReport {
        cause: DropCause { class: Class::OutOfSync, ..cause() },
        ..dropped_after(1, 1, 12, Some(used(-3_600, -1, 40)), None)
    };
    let mut healer = Healer::new(settings());
    healer.drop_reported(&dropped(1, 1, 5));
    for drop in [&late, &once_more] {
        healer.drop_reported(drop);
    }
    healer.incident_reported(recovered(1, "frontend", Recovery::Passes(at(20)), 12));
    let own = crate::standing(&case(1), &policies, at(10));
    healer.take_over(before.ledger().clone(), vec![own], at(60));
    let kept = healer.tick(at(60 + WATCH.as_secs()), true);
    assert!(kept.iter().any(|action| matches!(action, Action::Keep(..))), "{kept:?}");
    // Where its policies are gone, somebody has decided: it is not healed again either.
    let mut healer = Healer::new(settings());
    healer.take_over(before.ledger().clone(), Vec::new(), at(60));
    healer.drop_reported(&dropped(1, 1, 61));
    healer.incident_reported(report(1, IncidentState::Open, 61));
    let refused = healer.tick(at(62), true);
    assert!(matches!(&refused[..], [Action::Refuse { why: Refusal::Tried { .. }, .. }]));
}
