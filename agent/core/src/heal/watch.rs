//! A watch over active policies: whether they help, and until when they stay.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumDiscriminants};

use super::{
    Action, PathName, SETTLE, Settings, Standing,
    known::{Incidents, KnownFlow, Recovery},
};
use crate::{
    diagnosis::Class,
    flow::{Flow, Protocol},
    incident::IncidentId,
};

/// How long before a policy expires that is announced, or a quarter of its time where that is less.
const WARNED_BEFORE: SignedDuration = SignedDuration::from_hours(1);

/// What a watch came to.
#[derive(Clone, Debug, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(
    name(WatchOutcomeKind),
    doc = "What a watch came to, without when.",
    derive(Display, Serialize, Deserialize, JsonSchema),
    strum(serialize_all = "kebab-case"),
    serde(rename_all = "kebab-case")
)]
pub enum WatchOutcome {
    /// The traffic that it is for was seen to pass, at this time.
    Recovered(Timestamp),
    /// Policies allow it, and nothing of it has been dropped since.
    Quiet,
    /// Its flows kept being dropped: the last then.
    StillDying(Timestamp),
    /// No agent says that policies allow it by now, or that it passes.
    NotSeen,
    /// A flow of this incident is denied because of the policies themselves.
    Broke(IncidentId),
}

impl WatchOutcome {
    /// What it came to, as records say it.
    pub fn kind(&self) -> WatchOutcomeKind {
        self.into()
    }

    /// Whether it is worth keeping.
    pub const fn helps(&self) -> bool {
        matches!(self, Self::Recovered(_) | Self::Quiet)
    }
}

impl std::fmt::Display for WatchOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Recovered(at) => {
                write!(f, "its traffic was seen to pass at {}", at.strftime("%FT%TZ"))
            }
            Self::Quiet => {
                f.write_str("policies allow it, and nothing of it has been dropped since")
            }
            Self::StillDying(at) => {
                write!(
                    f,
                    "it did not help: its flows kept being dropped, last at {}",
                    at.strftime("%FT%TZ")
                )
            }
            Self::NotSeen => f.write_str("no agent has seen it help"),
            Self::Broke(other) => {
                write!(f, "it denies a flow of incident {other} that passed before")
            }
        }
    }
}

/// A watch over active policies.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) standing: Standing,
    until: Timestamp,
    /// What they are for, and the paths of that.
    flows: BTreeSet<Flow>,
    paths: BTreeSet<PathName>,
    is_warned: bool,
}

impl Watch {
    pub(super) fn new(standing: Standing, until: Timestamp) -> Self {
        let (flows, paths) = (BTreeSet::new(), BTreeSet::new());
        Self { standing, until, flows, paths, is_warned: false }
    }

    /// What is to be done about them by now.
    pub(super) fn look(
        &mut self,
        incidents: &Incidents,
        settings: &Settings,
        now: Timestamp,
        hears: bool,
    ) -> Vec<Action> {
        let Standing { applied, expires, is_kept, .. } = self.standing;
        let mut actions = Vec::new();
        if now >= expires {
            return vec![Action::Expire(self.standing.clone())];
        }
        if !is_kept {
            self.learn(incidents, settings);
            if !hears {
                self.until = now + settings.watch;
            }
            if now < self.until {
                return actions;
            }
            let outcome = self.outcome(incidents);
            let standing = self.standing.clone();
            actions.push(if outcome.helps() {
                self.standing.is_kept = true;
                Action::Keep(Standing { is_kept: true, ..standing }, outcome)
            } else {
                Action::RollBack(standing, outcome)
            });
        }
        let notice = WARNED_BEFORE.min(expires.duration_since(applied) / 4);
        if self.standing.is_kept && !self.is_warned && now >= expires - notice {
            self.is_warned = true;
            actions.push(Action::Warn(self.standing.clone()));
        }
        actions
    }

    /// What is known by now of the flows that they are for: another leader may have made them.
    fn learn(&mut self, incidents: &Incidents, settings: &Settings) {
        for (flow, known) in incidents.had(&self.standing.case, settings.min_worked) {
            self.flows.insert(*flow);
            self.paths.insert(known.path.clone());
        }
    }

    /// Whether a drop speaks against them: of a flow or a path that they are for, or of another
    /// between the same two namespaces on the same port that policies allow by now. What others do,
    /// in other namespaces, never does.
    fn concerns(&self, flow: &Flow, drop: &KnownFlow) -> bool {
        let on_port = |(port, protocol): (u16, Protocol)| {
            self.flows.iter().any(|own| (own.port, own.protocol) == (port, protocol))
        };
        let is_unhelped =
            drop.cause.class == Class::OutOfSync && on_port((flow.port, flow.protocol));
        let is_own = self.flows.contains(flow) || self.paths.contains(&drop.path);
        drop.between == self.standing.case.between && (is_own || is_unhelped)
    }

    fn outcome(&self, incidents: &Incidents) -> WatchOutcome {
        let Standing { case, policies, applied, .. } = &self.standing;
        let recovered = incidents.get(case.incident).and_then(|known| known.recovered(&self.paths));
        let passes = match recovered {
            Some(Recovery::Passes(at)) if at > *applied => Some(at),
            _ => None,
        };
        let is_late = |last: &Timestamp| *last > *applied + SETTLE;
        let own = incidents.last_drops().filter(|(flow, drop)| self.concerns(flow, &drop.state));
        let last = own.map(|(_, drop)| drop.state.last).max();
        if let Some(last) = last.filter(is_late).filter(|last| passes.is_none_or(|at| *last > at)) {
            return WatchOutcome::StillDying(last);
        }
        let broke = incidents.last_drops().find(|(_, drop)| {
            let KnownFlow { cause, past, last, .. } = &drop.state;
            let by_these = cause.changed.as_ref().is_some_and(|changed| policies.contains(changed));
            // One that isolates what was isolated before is not what denies it.
            let since_these = past.denied_since().is_some_and(|since| since >= *applied);
            by_these && since_these && cause.class.is_denial() && is_late(last)
        });
        match (broke, passes, recovered) {
            (Some((_, drop)), _, _) => WatchOutcome::Broke(drop.incident),
            (None, Some(at), _) => WatchOutcome::Recovered(at),
            (None, None, Some(_)) => WatchOutcome::Quiet,
            (None, None, None) => WatchOutcome::NotSeen,
        }
    }
}
