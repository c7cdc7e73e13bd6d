//! That no course of events makes the healer do what it must not.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use whydrop_core::{
    diagnosis::Class,
    flow::Flow,
    heal::{
        Action, CaseId, DropCause, DropReport, Healer, IncidentReport, IncidentState, Mode,
        Standing,
    },
    incident::{IncidentId, Severity},
};

use crate::{at, between, cause, dropped_after, flow, proposal, report, settings, standing, used};

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
