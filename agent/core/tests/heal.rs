//! The healer's fold: what it does and when, and that no course of events makes it do what it must not.

use std::{collections::BTreeSet, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use whydrop_core::{
    diagnosis::Class,
    flow::{Flow, Protocol, Worked},
    heal::{
        Action, DropReport, FlowPast, Healer, IncidentReport, IncidentState, Ledger, Mode,
        Proposal, Refusal, SETTLE, Settings, Standing, WatchOutcome,
    },
    incident::{IncidentId, Severity},
    policy::{PolicyKind, PolicyRef},
};

const WATCH: SignedDuration = SignedDuration::from_secs(120);

fn settings() -> Settings {
    Settings {
        confidence_min: 0.9,
        per_hour: 3,
        per_namespace_and_hour: 2,
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

/// What an agent reports of an incident in `backend` that wants healing.
fn report(id: u64, state: IncidentState, second: i64) -> IncidentReport {
    IncidentReport {
        id: IncidentId(id),
        node: "worker-1".into(),
        state,
        first: at(second),
        last: at(second),
        severity: Severity::Critical,
        confidence: 0.97,
        class: Class::DefaultDeny,
        responsible: vec![policy("backend", "default-deny")],
        namespaces: BTreeSet::from(["backend".into(), "frontend".into()]),
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
        last: at(second),
        past: FlowPast { worked, denied_since: denied_since.map(at) },
    }
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
        ends: BTreeSet::from(["backend".into(), "frontend".into()]),
    }
}

/// A cluster that takes what it is given.
fn standing(incident: IncidentId, proposal: &Proposal, now: Timestamp) -> Standing {
    Standing {
        incident,
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
    let actions = healer.tick(at(10), true);
    let [Action::Examine { incident, flows, .. }] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(flows, &BTreeSet::from([flow(1)]), "reported before its incident was");
    let proposal = proposal(1, "backend");
    let action = healer.examined(*incident, Some(Ok((proposal.clone(), Mode::Apply))), at(10));
    assert!(matches!(action, Some(Action::Apply { mode: Mode::Apply, .. })), "{action:?}");
    let applied = standing(*incident, &proposal, at(10));
    assert!(healer.applied(*incident, Ok(applied), at(10)).is_none());
    healer
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
fn refusal(report: IncidentReport) -> Refusal {
    let mut healer = Healer::new(settings());
    healer.drop_reported(&dropped(1, 1, 5));
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
    healer.removed(IncidentId(1));
    assert!(healer.tick(at(11 + 24 * hour), true).is_empty());
}

#[test]
fn what_does_not_help_is_taken_back_and_not_tried_again() {
    // The same flow, by whatever cause: it has become another incident.
    let mut healer = watching();
    healer.incident_reported(report(1, IncidentState::Allowed, 5));
    healer.drop_reported(&dropped(2, 1, 10 + SETTLE.as_secs() + 1));
    let back = outcome(&mut healer);
    assert!(matches!(&back, Action::RollBack(_, WatchOutcome::StillDying(_))), "{back:?}");
    healer.removed(IncidentId(1));
    healer.incident_reported(report(1, IncidentState::Open, 200));
    let again = healer.tick(at(201), true);
    let [Action::Refuse { why: Refusal::Tried { .. }, .. }] = &again[..] else {
        panic!("{again:?}")
    };
    // No agent has a word for it.
    let back = outcome(&mut watching());
    assert!(matches!(&back, Action::RollBack(_, WatchOutcome::NotSeen)), "{back:?}");
    // Another incident in the same namespace.
    let mut healer = watching();
    healer.incident_reported(report(1, IncidentState::Passes(at(20)), 5));
    healer.incident_reported(report(3, IncidentState::Open, 60));
    let back = healer.tick(at(10 + WATCH.as_secs()), true);
    let broke = WatchOutcome::Broke(IncidentId(3));
    assert!(matches!(&back[0], Action::RollBack(_, outcome) if *outcome == broke), "{back:?}");
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
    let explicit = IncidentReport { class: Class::ExplicitDeny, ..open() };
    assert_eq!(refusal(explicit), Refusal::ExplicitDeny(policy("backend", "default-deny")));
    for class in [Class::NotPolicy, Class::OutOfSync, Class::NotEnforced, Class::CannotTell] {
        assert_eq!(refusal(IncidentReport { class, ..open() }), Refusal::NotADenial(class));
    }
    let admin = PolicyRef {
        kind: PolicyKind::BaselineAdminNetworkPolicy,
        namespace: None,
        name: "default".into(),
    };
    let of_cluster =
        IncidentReport { responsible: vec![policy("backend", "x"), admin.clone()], ..open() };
    assert_eq!(refusal(of_cluster), Refusal::ClusterWide(admin));
    let info = IncidentReport { severity: Severity::Info, ..open() };
    assert_eq!(refusal(info), Refusal::Severity(Severity::Info));
    let unsure = refusal(IncidentReport { confidence: 0.7, ..open() });
    assert_eq!(unsure.to_string(), "confidence 70 % is below 90 %");
    assert_eq!(refusal(IncidentReport { has_remedy: false, ..open() }), Refusal::NoRemedy);
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
    for (worked, denied_since, why) in [
        (Some(used(-60, -1, 2)), Some(0), None),
        // Until the change has come into the kernels, what worked goes on working.
        (Some(used(-60, since, 9)), Some(0), None),
        (None, Some(0), Some("was never seen to work: a person decides whether it should")),
        (None, half_a_year, Some("was never seen to work")),
        (Some(used(-1, -1, 1)), Some(0), Some("was seen to work over 1 connection only")),
        (Some(used(-60, since + 1, 9)), Some(0), Some("it is not known to have worked before")),
        (Some(used(0, 1, 9)), Some(0), Some("it is not known to have worked before")),
        (Some(used(-60, -1, 9)), half_a_year, Some("it is not known to have worked before")),
        (Some(used(-60, -1, 9)), None, Some("since when it is denied is unknown")),
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
fn one_flow_that_never_worked_is_reason_to_leave_all_alone() {
    let stranger = |second| dropped_after(1, 2, second, None, Some(0));
    assert_eq!(refusal_of(&[dropped(1, 1, 5), stranger(6)]), Some(Refusal::NeverWorked(flow(2))));
    assert_eq!(refusal_of(&[dropped(1, 1, 5), dropped(1, 2, 6)]), None);
    // One that does not try any more is of no account.
    assert_eq!(refusal_of(&[stranger(-3_600), dropped(1, 1, 5)]), None);
    // That comes to be known after the incident was looked at, and is no less a reason.
    let mut healer = Healer::new(settings());
    healer.drop_reported(&dropped(1, 1, 5));
    healer.incident_reported(report(1, IncidentState::Open, 5));
    assert!(matches!(&healer.tick(at(10), true)[..], [Action::Examine { .. }]));
    assert!(matches!(
        healer.examined(IncidentId(1), Some(Err(Refusal::NoConsent("frontend".into()))), at(10)),
        Some(Action::Refuse { .. })
    ));
    healer.drop_reported(&stranger(11));
    let refused = healer.tick(at(12), true);
    let never = Refusal::NeverWorked(flow(2));
    assert!(matches!(&refused[..], [Action::Refuse { why, .. }] if *why == never), "{refused:?}");
    // The same said once more is no news.
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
    let once = || dropped_after(1, 1, 5, Some(used(-9, -9, 1)), Some(0));
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
    let action = healer.examined(IncidentId(1), dry(), at(10));
    assert!(matches!(action, Some(Action::Apply { mode: Mode::DryRun, .. })), "{action:?}");
    assert!(healer.tick(at(20), true).is_empty());
    // Its namespaces are asked again before long.
    let asked = healer.tick(at(25), true);
    assert!(matches!(&asked[..], [Action::Examine { is_proposed: true, .. }]), "{asked:?}");
    assert!(healer.examined(IncidentId(1), None, at(25)).is_none());
    healer.tick(at(40), true);
    assert!(healer.examined(IncidentId(1), dry(), at(40)).is_none(), "reported before");
    healer.tick(at(55), true);
    let leave = Some(Ok((proposal(1, "backend"), Mode::Apply)));
    let action = healer.examined(IncidentId(1), leave, at(55));
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
    healer.take_over(ledger, vec![standing(IncidentId(1), &policies, at(10))], at(60));
    assert!(healer.tick(at(61), true).is_empty(), "it is watched, and not healed twice");
    healer.incident_reported(report(1, IncidentState::Passes(at(62)), 5));
    assert!(healer.tick(at(60 + WATCH.as_secs() - 1), true).is_empty());
    let kept = healer.tick(at(60 + WATCH.as_secs()), true);
    assert!(matches!(&kept[..], [Action::Keep(..)]), "{kept:?}");
    // Where its policies are gone, somebody has decided: it is not healed again either.
    let mut healer = Healer::new(settings());
    healer.take_over(before.ledger().clone(), Vec::new(), at(60));
    healer.incident_reported(report(1, IncidentState::Open, 61));
    let refused = healer.tick(at(62), true);
    assert!(matches!(&refused[..], [Action::Refuse { why: Refusal::Tried { .. }, .. }]));
}

/// Something that happens to a healer.
#[derive(Clone, Debug)]
enum Event {
    Incident { id: u64, open: bool, class: usize, confidence: f64, severity: usize },
    Drop { id: u64, to: u8, connections: u64, denied_ago: i64 },
    Time(i64),
    TakesOver,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1..12u64, any::<bool>(), 0..Class::ALL.len(), 0.5..1.0, 0..3usize).prop_map(
            |(id, open, class, confidence, severity)| Event::Incident {
                id,
                open,
                class,
                confidence,
                severity
            }
        ),
        (1..12u64, 1..6u8, 0..20u64, 0..20i64).prop_map(|(id, to, connections, denied_ago)| {
            Event::Drop { id, to, connections, denied_ago }
        }),
        (1..900i64).prop_map(Event::Time),
        Just(Event::TakesOver),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: no more than so many an hour, in all and in a namespace, across leaders; no
    /// incident twice; nothing without consent; nothing of an explicit deny, or of a cause that no
    /// policy is, or that is not sure enough, or that did not work before; and every policy's end comes.
    #[test]
    fn no_course_of_events_makes_it_do_what_it_must_not(
        events in prop::collection::vec(event(), 1..300),
        consents in prop::collection::vec(0..3usize, 12),
    ) {
        let mut healer = Healer::new(settings());
        let (mut now, mut applied) = (at(0), Vec::<(Timestamp, u64)>::new());
        let mut in_force: Vec<Standing> = Vec::new();
        let mut latest: std::collections::BTreeMap<u64, IncidentReport> = std::collections::BTreeMap::new();
        let mut is_fit = std::collections::BTreeMap::<(u64, Flow), bool>::new();
        let namespace = |id: u64| if id.is_multiple_of(2) { "backend" } else { "database" };
        for event in events {
            match event {
                Event::Incident { id, open, class, confidence, severity } => {
                    let class = Class::ALL[class];
                    // Most want healing: else little happens.
                    let class = if confidence > 0.7 { Class::DefaultDeny } else { class };
                    let severities = [Severity::Info, Severity::Warning, Severity::Critical];
                    let state = if open { IncidentState::Open } else { IncidentState::Passes(now) };
                    let second = now.as_second() - at(0).as_second();
                    let report = IncidentReport {
                        class,
                        confidence: confidence.max(0.6) + 0.2,
                        severity: severities[severity],
                        ..report(id, state, second)
                    };
                    latest.insert(id, report.clone());
                    healer.incident_reported(report);
                }
                Event::Drop { id, to, connections, denied_ago } => {
                    // Most worked until a second ago, and were denied since.
                    let second = now.as_second() - at(0).as_second();
                    let worked = used(second - 99, second - 1, connections);
                    let worked = (connections > 0).then_some(worked);
                    let denied = second - if denied_ago == 0 { 86_400 } else { denied_ago / 2 };
                    let drop = dropped_after(id, to, second, worked, Some(denied));
                    is_fit.insert((id, flow(to)), connections > 1 && denied_ago > 0);
                    healer.drop_reported(&drop);
                }
                Event::Time(seconds) => now += SignedDuration::from_secs(seconds),
                Event::TakesOver => {
                    let mut next = Healer::new(settings());
                    for report in latest.values() {
                        next.incident_reported(report.clone());
                    }
                    next.take_over(healer.ledger().clone(), in_force.clone(), now);
                    healer = next;
                }
            }
            let mut actions = healer.tick(now, true);
            while let Some(action) = actions.pop() {
                match action {
                    Action::Examine { incident, flows, .. } => {
                        let fit = flows.iter().all(|flow| is_fit[&(incident.0, *flow)]);
                        prop_assert!(fit, "it is not known to have worked before");
                        let report = &latest[&incident.0];
                        prop_assert!(report.class.is_denial() && report.class != Class::ExplicitDeny);
                        prop_assert!(report.confidence >= 0.9 && report.severity > Severity::Info);
                        let name: Arc<str> = namespace(incident.0).into();
                        let asks = [None, Some("dry-run"), Some("apply")];
                        let index = usize::try_from(incident.0).unwrap_or(0) % 12;
                        let mode = Mode::from_annotation(&name, asks[consents[index]]);
                        let found = mode.map(|mode| (proposal(incident.0, &name), mode));
                        actions.extend(healer.examined(incident, Some(found), now));
                    }
                    Action::Apply { incident, proposal, mode, .. } => {
                        let index = usize::try_from(incident.0).unwrap_or(0) % 12;
                        prop_assert!(consents[index] > 0, "without consent");
                        prop_assert_eq!(mode == Mode::Apply, consents[index] == 2);
                        if mode == Mode::Apply {
                            prop_assert!(!applied.iter().any(|(_, id)| *id == incident.0), "twice");
                            applied.push((now, incident.0));
                            let standing = standing(incident, &proposal, now);
                            in_force.push(standing.clone());
                            healer.applied(incident, Ok(standing), now);
                        }
                        let hour = now - SignedDuration::from_hours(1);
                        let recent: Vec<_> = applied.iter().filter(|(at, _)| *at > hour).collect();
                        prop_assert!(recent.len() <= 3, "{} in an hour", recent.len());
                        for name in ["backend", "database"] {
                            let here = recent.iter().filter(|(_, id)| namespace(*id) == name);
                            prop_assert!(here.count() <= 2, "in namespace {name}");
                        }
                    }
                    Action::RollBack(standing, _) | Action::Expire(standing) => {
                        let known = in_force.iter().position(|s| s.incident == standing.incident);
                        prop_assert!(known.is_some(), "not its own");
                        in_force.retain(|s| s.incident != standing.incident);
                        healer.removed(standing.incident);
                    }
                    Action::Keep(..) | Action::Warn(_) | Action::Refuse { .. } => {}
                }
            }
        }
        now += SignedDuration::from_hours(25);
        for action in healer.tick(now, true) {
            if let Action::Expire(standing) = action {
                in_force.retain(|s| s.incident != standing.incident);
            }
        }
        prop_assert!(in_force.is_empty(), "{in_force:?} stands for ever");
    }
}
