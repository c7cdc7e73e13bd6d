//! The healer's fold: what it does and when, and that no course of events makes it do what it must not.
//! What tenants may try, by whole clusters, is in `tests/tenants`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use whydrop_core::{
    diagnosis::Class,
    flow::{Flow, Protocol, Worked},
    heal::{
        Action, Between, CaseId, DropCause, DropReport, FlowPast, Healer, IncidentReport,
        IncidentState, Ledger, Mode, PathName, Proposal, Refusal, SETTLE, Settings, Standing,
        WatchOutcome,
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
fn recovered(id: u64, client: &str, at: Option<Timestamp>, second: i64) -> IncidentReport {
    let recovered = BTreeMap::from([(path(client), at)]);
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

/// Others are denied in the same namespace, by the same policy, in the same incident and in others,
/// and go on trying.
#[test]
fn what_others_do_takes_nothing_back() {
    for state in [Some(at(20)), None] {
        let mut healer = watching();
        healer.incident_reported(recovered(1, "frontend", state, 100));
        healer.drop_reported(&of("tenant", 1, dropped_after(1, 1, 100, None, Some(0))));
        healer.incident_reported(report(3, IncidentState::Open, 100));
        for class in [Class::DefaultDeny, Class::OutOfSync, Class::NotPolicy] {
            // Also where it is the youngest of those that isolate the pod.
            let changed = Some(policy("backend", "allow-1"));
            let cause = DropCause { class, changed, ..cause() };
            healer.drop_reported(&DropReport { cause, ..of("tenant", 2, dropped(3, 1, 100)) });
        }
        let end = 10 + WATCH.as_secs();
        let actions = healer.tick(at(end), true);
        let kept = actions.iter().find(|action| matches!(action, Action::Keep(..)));
        let back = actions.iter().any(|action| matches!(action, Action::RollBack(..)));
        assert!(kept.is_some() && !back, "{actions:?}");
    }
    // That another's path has recovered says nothing of this one.
    let mut healer = watching();
    healer.incident_reported(recovered(1, "tenant", Some(at(20)), 100));
    let back = healer.tick(at(10 + WATCH.as_secs()), true);
    assert!(matches!(&back[..], [Action::RollBack(_, WatchOutcome::NotSeen)]), "{back:?}");
}

/// A tenant dials what others have lost: that neither keeps them from it nor gets it anything.
#[test]
fn each_pair_of_namespaces_is_healed_for_itself() {
    let mut healer = Healer::new(settings());
    let stranger = || of("tenant", 1, dropped_after(1, 1, 6, None, Some(0)));
    healer.drop_reported(&stranger());
    healer.drop_reported(&dropped(1, 1, 5));
    let tenants = IncidentReport { client: Some("tenant".into()), ..report(1, IncidentState::Open, 6) };
    healer.incident_reported(tenants);
    let actions = healer.tick(at(10), true);
    let [Action::Examine { wanted, .. }, Action::Refuse { case: refused, why }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(wanted.flows.keys().collect::<Vec<_>>(), [&flow(1)]);
    assert_eq!(refused.between, between("tenant", "backend"));
    assert!(matches!(why, Refusal::NeverWorked(_)));
    // One that worked for the tenant, too, is another's matter, tried for itself.
    healer.drop_reported(&of("tenant", 1, dropped(1, 1, 11)));
    let proposal = proposal(1, "backend");
    let action = healer.examined(&case(1), Some(Ok((proposal.clone(), Mode::Apply))), at(12));
    assert!(matches!(action, Some(Action::Apply { .. })), "{action:?}");
    healer.applied(&case(1), Ok(standing(&case(1), &proposal, at(12))), at(12));
    let theirs = CaseId { between: between("tenant", "backend"), ..case(1) };
    assert_eq!(healer.ledger().tried(&theirs), None);
    heal(&mut healer, &theirs, 13, "backend");
}

/// Whoever may write policies can make one that looks like the healer's.
#[test]
fn a_policy_that_the_ledger_does_not_know_counts_for_nothing() {
    let mut healer = watching();
    let ledger = healer.ledger().clone();
    let own = standing(&case(1), &proposal(1, "backend"), at(10));
    let forged = |namespace: &str, id: u64, applied: i64, expires: i64| Standing {
        expires: at(expires),
        policies: vec![policy(namespace, &format!("looks-like-{id}"))],
        ..standing(&case(id), &proposal(id, namespace), at(applied))
    };
    let strays = [forged("tenant", 1, 11, 100), forged("tenant", 7, 11, 101), forged("backend", 1, 900, 102)];
    let all = [strays.as_slice(), &[own]].concat();
    healer.take_over(ledger.clone(), all, at(60));
    assert_eq!(*healer.ledger(), ledger, "they are no healings");
    assert_eq!(healer.standing(), 1);
    // When the time is over that they state, they are deleted, one after the other.
    let mut gone = Vec::new();
    for _ in 0..4 {
        for action in healer.tick(at(110), true) {
            let Action::Expire(stray) = action else { panic!("{action:?}") };
            healer.removed(&stray);
            gone.push(stray);
        }
    }
    assert_eq!(gone, strays);
    assert_eq!(healer.standing(), 1);
}

#[test]
fn bounds_are_those_of_who_is_let_in_as_well() {
    let mut healer = Healer::new(Settings { per_hour: 9, per_namespace_and_hour: 9, ..settings() });
    for id in 1..=3 {
        healer.drop_reported(&of("tenant", 1, dropped(id, 1, 5)));
        healer.incident_reported(report(id, IncidentState::Open, 5));
    }
    healer.drop_reported(&dropped(4, 1, 5));
    healer.incident_reported(report(4, IncidentState::Open, 5));
    let mut answers = Vec::new();
    // Dry runs take no place of what is done.
    for mode in [Mode::DryRun, Mode::Apply] {
        let mut actions = healer.tick(at(10), true);
        healer.incident_reported(report(1, IncidentState::Open, 5));
        for id in 1..=4 {
            let of = if id == 4 { "frontend" } else { "tenant" };
            let case = CaseId { incident: IncidentId(id), between: between(of, "backend") };
            let found = Some(Ok((proposal(id, "backend"), mode)));
            actions.extend(healer.examined(&case, found, at(10)));
        }
        answers.push(actions.into_iter().filter_map(|action| match action {
            Action::Apply { case, mode, .. } => Some((case.incident.0, mode.name().to_owned())),
            Action::Refuse { why, .. } => Some((0, why.to_string())),
            _ => None,
        }).collect::<Vec<_>>());
    }
    let refused = (0, "2 were healed for clients in namespace tenant within 60 minutes, and no more may be".to_owned());
    let of = |mode: &str| [(1, mode.to_owned()), (2, mode.to_owned()), refused.clone(), (4, mode.to_owned())];
    assert_eq!(answers[0], of("dry-run"));
    let mut applied = of("apply").to_vec();
    applied.remove(2);
    assert_eq!(answers[1], applied, "each reason once");
}

/// Floods of incidents, flows and drops of one namespace evict nothing of another's.
#[test]
fn whoever_has_the_most_gives_way_in_every_table() {
    let mut healer = Healer::new(settings());
    healer.drop_reported(&dropped(1, 1, 5));
    healer.incident_reported(report(1, IncidentState::Open, 5));
    for n in 0..12_000_u32 {
        let source = std::net::Ipv4Addr::from(0x0b00_0000 + n).into();
        let id = if n % 3 == 0 { 1 } else { 1_000 + u64::from(n) };
        let drop = of("tenant", 1, dropped_after(id, 1, 6, None, Some(0)));
        healer.drop_reported(&DropReport { flow: Flow { source, ..drop.flow }, ..drop });
        let client = Some("tenant".into());
        healer.incident_reported(IncidentReport { client, ..report(id, IncidentState::Open, 6) });
    }
    let wanted = (0..200).find_map(|_| {
        healer.tick(at(10), true).into_iter().find_map(|action| match action {
            Action::Examine { wanted, .. } => Some(wanted),
            _ => None,
        })
    });
    let wanted = wanted.expect("it is examined");
    assert_eq!((wanted.case, wanted.flows.len()), (case(1), 1));
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
        (Some(used(-min + 1, since, 99)), Some(0), Some("was seen to work for 4 minutes before it")),
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
    // Where its policies are gone, somebody has decided: it is not healed again either.
    let mut healer = Healer::new(settings());
    healer.take_over(before.ledger().clone(), Vec::new(), at(60));
    healer.drop_reported(&dropped(1, 1, 61));
    healer.incident_reported(report(1, IncidentState::Open, 61));
    let refused = healer.tick(at(62), true);
    assert!(matches!(&refused[..], [Action::Refuse { why: Refusal::Tried { .. }, .. }]));
}

/// Something that happens to a healer.
#[derive(Clone, Debug)]
enum Event {
    Incident { id: u64, open: bool, confidence: f64, severity: usize },
    Drop { id: u64, to: u8, connections: u64, denied_ago: i64, class: usize },
    Time(i64),
    TakesOver,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1..12u64, any::<bool>(), 0.5..1.0, 0..3usize).prop_map(
            |(id, open, confidence, severity)| Event::Incident { id, open, confidence, severity }
        ),
        (1..12u64, 1..6u8, 0..20u64, 0..20i64, 0..2 * Class::ALL.len()).prop_map(
            |(id, to, connections, denied_ago, class)| {
                Event::Drop { id, to, connections, denied_ago, class }
            }
        ),
        (1..900i64).prop_map(Event::Time),
        Just(Event::TakesOver),
    ]
}

/// Where an incident's policy would be, and whose clients it is about.
fn of_incident(id: u64) -> (&'static str, CaseId) {
    let namespace = if id.is_multiple_of(2) { "backend" } else { "database" };
    let client = ["frontend", "shop", "tenant"][usize::try_from(id % 3).expect("small")];
    (namespace, CaseId { incident: IncidentId(id), between: between(client, "backend") })
}

/// What a course of events has come to.
struct Course {
    healer: Healer,
    now: Timestamp,
    applied: Vec<(Timestamp, u64)>,
    in_force: Vec<Standing>,
    latest: BTreeMap<u64, IncidentReport>,
    /// Whether a flow of an incident may be healed, by what was reported of it last.
    is_fit: BTreeMap<(u64, Flow), bool>,
    consents: Vec<usize>,
}

impl Course {
    fn second(&self) -> i64 {
        self.now.as_second() - at(0).as_second()
    }

    fn mode(&self, id: u64) -> usize {
        self.consents[usize::try_from(id).expect("small") % self.consents.len()]
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Incident { id, open, confidence, severity } => {
                let severities = [Severity::Info, Severity::Warning, Severity::Critical];
                let state =
                    if open { IncidentState::Open } else { IncidentState::Passes(self.now) };
                let report = IncidentReport {
                    confidence: confidence.max(0.6) + 0.2,
                    severity: severities[severity],
                    ..report(id, state, self.second())
                };
                self.latest.insert(id, report.clone());
                self.healer.incident_reported(report);
            }
            Event::Drop { id, to, connections, denied_ago, class } => {
                // Most worked until a second ago, and were denied since.
                let second = self.second();
                let worked = used(second - 999, second - 1, connections);
                let worked = (connections > 0).then_some(worked);
                let denied = second - if denied_ago == 0 { 86_400 } else { denied_ago / 2 };
                let class = Class::ALL.get(class).copied().unwrap_or(Class::DefaultDeny);
                let fits = class.is_denial() && class != Class::ExplicitDeny;
                self.is_fit.insert((id, flow(to)), fits && connections > 1 && denied_ago > 0);
                self.healer.drop_reported(&DropReport {
                    cause: DropCause { class, confidence: 0.5, ..cause() },
                    between: of_incident(id).1.between,
                    ..dropped_after(id, to, second, worked, Some(denied))
                });
            }
            Event::Time(seconds) => self.now += SignedDuration::from_secs(seconds),
            Event::TakesOver => {
                let mut next = Healer::new(settings());
                for report in self.latest.values() {
                    next.incident_reported(report.clone());
                }
                next.take_over(self.healer.ledger().clone(), self.in_force.clone(), self.now);
                self.healer = next;
            }
        }
    }

    /// What follows from an action; more to do.
    fn acts(&mut self, action: Action) -> Result<Option<Action>, TestCaseError> {
        match action {
            Action::Examine { wanted, .. } => {
                let id = wanted.case.incident.0;
                let fit = wanted.flows.keys().all(|flow| self.is_fit[&(id, *flow)]);
                prop_assert!(fit && !wanted.flows.is_empty(), "not known to have worked before");
                let report = &self.latest[&id];
                prop_assert!(report.confidence >= 0.9 && report.severity > Severity::Info);
                let name: Arc<str> = of_incident(id).0.into();
                let asks = [None, Some("dry-run"), Some("apply")];
                let mode = Mode::from_annotation(&name, asks[self.mode(id)]);
                let found = mode.map(|mode| (proposal(id, &name), mode));
                return Ok(self.healer.examined(&wanted.case, Some(found), self.now));
            }
            Action::Apply { case, proposal, mode, .. } => {
                let id = case.incident.0;
                prop_assert!(self.mode(id) > 0, "without consent");
                prop_assert_eq!(mode == Mode::Apply, self.mode(id) == 2);
                if mode == Mode::Apply {
                    prop_assert!(!self.applied.iter().any(|(_, of)| *of == id), "twice");
                    self.applied.push((self.now, id));
                    let standing = standing(&case, &proposal, self.now);
                    self.in_force.push(standing.clone());
                    self.healer.applied(&case, Ok(standing), self.now);
                }
                self.is_within_bounds()?;
            }
            Action::RollBack(standing, _) | Action::Expire(standing) => {
                prop_assert!(self.in_force.iter().any(|s| s.case == standing.case), "not its own");
                self.in_force.retain(|s| s.case != standing.case);
                self.healer.removed(&standing);
            }
            Action::Keep(..) | Action::Warn(_) | Action::Refuse { .. } => {}
        }
        Ok(None)
    }

    fn is_within_bounds(&self) -> Result<(), TestCaseError> {
        let hour = self.now - SignedDuration::from_hours(1);
        let recent = self.applied.iter().filter(|(at, _)| *at > hour).map(|(_, id)| *id);
        let recent: Vec<u64> = recent.collect();
        prop_assert!(recent.len() <= 3, "{} in an hour", recent.len());
        let (mut namespaces, mut clients) = (BTreeMap::new(), BTreeMap::new());
        for id in recent {
            let (namespace, case) = of_incident(id);
            *namespaces.entry(namespace).or_insert(0) += 1;
            *clients.entry(case.between.client).or_insert(0) += 1;
        }
        let most = namespaces.into_values().chain(clients.into_values()).max().unwrap_or(0);
        prop_assert!(most <= 2, "{most} in one namespace");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens: no more than so many an hour, in all, in a namespace and for its clients,
    /// across leaders; no incident twice; nothing without consent; nothing of an explicit deny, or of a
    /// cause that no policy is, or that is not sure enough, or that did not work before; and every
    /// policy's end comes.
    #[test]
    fn no_course_of_events_makes_it_do_what_it_must_not(
        events in prop::collection::vec(event(), 1..300),
        consents in prop::collection::vec(0..3usize, 12),
    ) {
        let mut course = Course {
            healer: Healer::new(settings()),
            now: at(0),
            applied: Vec::new(),
            in_force: Vec::new(),
            latest: BTreeMap::new(),
            is_fit: BTreeMap::new(),
            consents,
        };
        for event in &events {
            course.happens(event);
            let mut actions = course.healer.tick(course.now, true);
            while let Some(action) = actions.pop() {
                actions.extend(course.acts(action)?);
            }
        }
        course.now += SignedDuration::from_hours(25);
        for action in course.healer.tick(course.now, true) {
            course.acts(action)?;
        }
        prop_assert!(course.in_force.is_empty(), "{:?} stands for ever", course.in_force);
    }
}
