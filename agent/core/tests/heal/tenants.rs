//! What tenants do counts for their own namespaces alone. Whole clusters of them are in `tests/tenants`.

use whydrop_core::{
    diagnosis::Class,
    flow::Flow,
    heal::{
        Action, CaseId, DropCause, DropReport, Healer, IncidentReport, IncidentState, Mode,
        Recovery, Refusal, Settings, Standing, WatchOutcome,
    },
    incident::IncidentId,
};

use crate::{
    WATCH, at, between, case, cause, dropped, dropped_after, flow, heal, of, policy, proposal,
    recovered, report, settings, standing, watching,
};

/// Others are denied in the same namespace, by the same policy, in the same incident and in others,
/// and go on trying.
#[test]
fn what_others_do_takes_nothing_back() {
    for state in [Recovery::Passes(at(20)), Recovery::Allowed] {
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
    healer.incident_reported(recovered(1, "tenant", Recovery::Passes(at(20)), 100));
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
    let tenants =
        IncidentReport { client: Some("tenant".into()), ..report(1, IncidentState::Open, 6) };
    healer.incident_reported(tenants);
    let actions = healer.tick(at(10), true);
    let [Action::Examine { wanted, .. }, Action::Refuse { case: refused, why }] = &actions[..]
    else {
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
    let strays = [
        forged("tenant", 1, 11, 100),
        forged("tenant", 7, 11, 101),
        forged("backend", 1, 900, 102),
    ];
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
        answers.push(
            actions
                .into_iter()
                .filter_map(|action| match action {
                    Action::Apply { case, mode, .. } => {
                        Some((case.incident.0, mode.name().to_owned()))
                    }
                    Action::Refuse { why, .. } => Some((0, why.to_string())),
                    _ => None,
                })
                .collect::<Vec<_>>(),
        );
    }
    let refused = (
        0,
        "2 were healed for clients in namespace tenant within 60 minutes, and no more may be"
            .to_owned(),
    );
    let of = |mode: &str| {
        [(1, mode.to_owned()), (2, mode.to_owned()), refused.clone(), (4, mode.to_owned())]
    };
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
