//! Healing: which incidents a machine may put right by itself, for how long, and whether it helped.
//!
//! The fold of what agents report of incidents, what the cluster says of consent, and the time, into
//! what is to be done. It never acts where an incident's own record or the cluster as it is now gives
//! a reason not to ([`Refusal`]), once for each incident, a bounded number of times an hour. It only
//! puts back what worked before, as the agents saw: who is new, or dials what was denied for long,
//! is given nothing. What it applies it watches, and rolls back unless the agents see it help; a
//! policy that helps is deleted after a time to live, unless a person keeps it.
//!
//! ```text
//! records ────────┐                       ┌─▶ Examine ─▶ (snapshot, consent) ─▶ examined ─┐
//!                 ├─▶ Healer ─▶ tick(now) ┼─▶ Keep | RollBack           Apply | Refuse ◀──┘
//! owned policies ─┘                       └─▶ Warn | Expire
//! ```

mod known;
mod ledger;
mod proposal;
mod refusal;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumDiscriminants, IntoStaticStr};

use crate::{
    diagnosis::Class,
    flow::Flow,
    incident::{IncidentId, SILENCE, Severity},
    policy::PolicyRef,
};
pub use known::{DropReport, FLOWS_MAX, FlowPast, INCIDENTS_MAX, IncidentReport, IncidentState};
use known::{Incidents, KnownIncident};
pub use ledger::{ENTRIES_MAX, Ledger, LedgerEntry};
pub use proposal::{POLICIES_MAX, Proposal, propose};
use refusal::RefusalKind;
pub use refusal::{Refusal, Unclear};

/// The annotation by which a namespace asks for healing.
pub const CONSENT_ANNOTATION: &str = "whydrop.io/heal";

/// How long a policy may take from the API server into the kernels: what is dropped until then is not
/// held against one that allows, and what passes until then is no sign that none denies it. Network
/// plugins take seconds (<https://docs.tigera.io>: Felix, 1 s and less; on a busy node some), and a
/// client's next SYN comes 1, 2 and 4 s after the one before.
pub const SETTLE: SignedDuration = SignedDuration::from_secs(10);

/// How many incidents are examined at one tick: each reads a part of the cluster.
const EXAMINED_AT_ONCE: usize = 4;

/// How often the namespaces of an open incident are asked again whether they consent by now: soon
/// enough for a person who has just annotated one and waits.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(15);

/// How long before a policy expires that is announced, or a quarter of its time where that is less.
const WARNED_BEFORE: SignedDuration = SignedDuration::from_hours(1);

/// What bounds the healer.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How sure an incident's cause must be, from 0 to 1.
    pub confidence_min: f64,
    /// How many incidents may be healed within an hour.
    pub per_hour: usize,
    /// How many of them in one namespace.
    pub per_namespace_and_hour: usize,
    /// How long to watch whether a policy helps.
    pub watch: SignedDuration,
    /// How long a policy that helps stays in force.
    pub time_to_live: SignedDuration,
}

/// What a namespace asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum Mode {
    /// To say what would be done.
    DryRun,
    /// To do it.
    Apply,
}

impl Mode {
    /// As annotations and records spell it.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// What a namespace's annotation asks for.
    ///
    /// # Errors
    /// That it asks for nothing, or for what is not known.
    pub fn from_annotation(
        namespace: &Arc<str>,
        annotation: Option<&str>,
    ) -> Result<Self, Refusal> {
        match annotation {
            None => Err(Refusal::NoConsent(namespace.clone())),
            Some("dry-run") => Ok(Self::DryRun),
            Some("apply") => Ok(Self::Apply),
            Some(other) => {
                Err(Refusal::BadConsent { namespace: namespace.clone(), found: other.to_owned() })
            }
        }
    }

    /// What all of these namespaces agree to: a dry run, if one of them wants no more.
    ///
    /// # Errors
    /// That one of them does not agree to anything, or that there is none.
    pub fn agreed_by(
        namespaces: &BTreeSet<Arc<str>>,
        annotation: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Refusal> {
        let modes =
            namespaces.iter().map(|name| Self::from_annotation(name, annotation(name).as_deref()));
        let modes = modes.collect::<Result<Vec<_>, _>>()?;
        let none = || Refusal::Unclear(Unclear::NoNamespace);
        modes.into_iter().min().ok_or_else(none)
    }
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Action {
    /// Look whether these flows can be helped, and call [`Healer::examined`].
    Examine {
        /// The incident.
        incident: IncidentId,
        /// The flows that were dropped lately.
        flows: BTreeSet<Flow>,
        /// The namespaces that take part: where none of them consents, nothing is to be read.
        namespaces: BTreeSet<Arc<str>>,
        /// It was proposed before in a dry run: only consent to more is news.
        is_proposed: bool,
    },
    /// Create the policies, or in a dry run validate them, and call [`Healer::applied`].
    Apply {
        /// The incident.
        incident: IncidentId,
        /// What to create.
        proposal: Proposal,
        /// Whether to.
        mode: Mode,
        /// Until when they are to be in force at most.
        expires: Timestamp,
    },
    /// Leave the policies where they are: they help.
    Keep(Standing, WatchOutcome),
    /// Delete the policies: they do not help, or something else broke.
    RollBack(Standing, WatchOutcome),
    /// Announce that the policies expire soon.
    Warn(Standing),
    /// Delete the policies: they have expired.
    Expire(Standing),
    /// Say why nothing is done.
    Refuse {
        /// The incident.
        incident: IncidentId,
        /// Why.
        why: Refusal,
    },
}

/// Active policies of the healer's.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The incident that they are to heal.
    pub incident: IncidentId,
    /// Their names.
    pub policies: Vec<PolicyRef>,
    /// When they were created.
    pub applied: Timestamp,
    /// Until when they are in force at most.
    pub expires: Timestamp,
    /// Whether it was seen that they help; until then they are watched.
    pub is_kept: bool,
}

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
    /// The incident's traffic was seen to pass, at this time.
    Recovered(Timestamp),
    /// Policies allow it, and nothing of it has been dropped since.
    Quiet,
    /// Its flows kept being dropped: the last then.
    StillDying(Timestamp),
    /// No agent says that policies allow it by now, or that it passes.
    NotSeen,
    /// Another incident opened in its namespaces since.
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
                write!(f, "incident {other} opened in the same namespace since")
            }
        }
    }
}

/// A watch over active policies.
#[derive(Clone, Debug)]
struct Watch {
    standing: Standing,
    until: Timestamp,
    flows: BTreeSet<Flow>,
    namespaces: BTreeSet<Arc<str>>,
    is_warned: bool,
}

/// What an incident has come to so far, for the healer.
#[derive(Clone, Debug, Default)]
struct Case {
    /// Something was reported since it was last looked at.
    has_news: bool,
    /// It is being examined, or applied.
    is_pending: bool,
    /// Its namespaces do not consent, or to a dry run only: when to ask them again.
    ask_again: Option<Timestamp>,
    /// The reasons that were reported, once each.
    reported: HashSet<RefusalKind>,
}

/// The fold. Only its own methods change it.
#[derive(Debug)]
pub struct Healer {
    settings: Settings,
    incidents: Incidents,
    cases: BTreeMap<IncidentId, Case>,
    watches: BTreeMap<IncidentId, Watch>,
    ledger: Ledger,
}

impl Healer {
    /// One that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            incidents: Incidents::default(),
            cases: BTreeMap::new(),
            watches: BTreeMap::new(),
            ledger: Ledger::default(),
        }
    }

    /// What was done, to be kept where the next one finds it.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How many incidents have active policies.
    pub fn standing(&self) -> usize {
        self.watches.len()
    }

    /// Begins to lead: with what was done before, and the active policies. Those that are not
    /// known to help are watched again from the start, since what was reported in between was missed.
    pub fn take_over(&mut self, ledger: Ledger, standing: Vec<Standing>, now: Timestamp) {
        self.ledger = ledger;
        self.watches.clear();
        for case in self.cases.values_mut() {
            case.has_news = true;
            case.is_pending = false;
        }
        for standing in standing {
            if self.ledger.tried(standing.incident).is_none() {
                let namespaces = standing.policies.iter().filter_map(|p| p.namespace.clone());
                self.ledger.enter(standing.incident, standing.applied, true, namespaces);
            }
            self.watch(standing, now);
        }
    }

    /// Handles an agent's report of an incident.
    pub fn incident_reported(&mut self, report: IncidentReport) {
        let (id, is_open) = (report.id, report.state == IncidentState::Open);
        self.incidents.add_report(report);
        if is_open {
            self.cases.entry(id).or_default().has_news = true;
        }
        self.cases.retain(|id, _| self.incidents.get(*id).is_some());
    }

    /// Handles an agent's report of a flow.
    pub fn drop_reported(&mut self, report: &DropReport) {
        if self.incidents.add_drop(report)
            && let Some(case) = self.cases.get_mut(&report.incident)
        {
            case.has_news = true;
        }
    }

    /// What the leader is to do by now. `hears`: whether the agents' logs can be read; while they
    /// cannot, no watch ends.
    pub fn tick(&mut self, now: Timestamp, hears: bool) -> Vec<Action> {
        let mut actions = self.look_after(now, hears);
        let is_due = |case: &Case| case.has_news || case.ask_again.is_some_and(|at| now >= at);
        let news = self.cases.iter().filter(|(_, case)| is_due(case) && !case.is_pending);
        let news: Vec<IncidentId> = news.map(|(id, _)| *id).collect();
        let mut examined = 0;
        for id in news {
            if examined >= EXAMINED_AT_ONCE {
                break;
            }
            let Some(known) = self.incidents.get(id) else { continue };
            // Nobody attempts it any more: nothing to heal, whatever the reason.
            let is_over = !known.is_open() || now.duration_since(known.last) > SILENCE;
            let verdict = self.may_examine(id, known, now);
            let (flows, namespaces) = (known.flows(), known.namespaces.clone());
            if flows.is_empty() && verdict.is_ok() && !is_over {
                // Which of them it is will be reported soon: a flow that keeps being dropped is, each
                // minute.
                continue;
            }
            let Some(case) = self.cases.get_mut(&id) else { continue };
            case.has_news = false;
            case.ask_again = None;
            if is_over || self.watches.contains_key(&id) {
                continue;
            }
            match verdict {
                Ok(()) => {
                    case.is_pending = true;
                    examined += 1;
                    let is_proposed = self.ledger.knows(id);
                    let incident = id;
                    actions.push(Action::Examine { incident, flows, namespaces, is_proposed });
                }
                Err(why) => actions.extend(self.refuse(id, why)),
            }
        }
        actions
    }

    /// Handles what the cluster says: what would help, and whether its namespaces agree; `None` where
    /// it was proposed before, and they agree to no more.
    pub fn examined(
        &mut self,
        incident: IncidentId,
        found: Option<Result<(Proposal, Mode), Refusal>>,
        now: Timestamp,
    ) -> Option<Action> {
        let case = self.cases.entry(incident).or_default();
        case.is_pending = false;
        let waits =
            matches!(found, None | Some(Ok((_, Mode::DryRun)) | Err(Refusal::NoConsent(_))));
        case.ask_again = waits.then(|| now + ASK_AGAIN);
        let found = found?;
        let may = found.and_then(|(proposal, mode)| {
            self.may_act(incident, &proposal.namespaces(), mode, now)?;
            Ok((proposal, mode))
        });
        let (proposal, mode) = match may {
            Ok(may) => may,
            Err(why) => return self.refuse(incident, why),
        };
        if mode == Mode::DryRun && self.ledger.knows(incident) {
            // Reported before; nothing has changed but the time.
            return None;
        }
        self.ledger.enter(incident, now, mode == Mode::Apply, proposal.namespaces());
        self.cases.entry(incident).or_default().is_pending = mode == Mode::Apply;
        let expires = now + self.settings.time_to_live;
        Some(Action::Apply { incident, proposal, mode, expires })
    }

    /// Handles what became of policies that were to be created.
    pub fn applied(
        &mut self,
        incident: IncidentId,
        result: Result<Standing, Refusal>,
        now: Timestamp,
    ) -> Option<Action> {
        self.cases.entry(incident).or_default().is_pending = false;
        match result {
            Ok(standing) => {
                self.watch(standing, now);
                None
            }
            Err(why) => self.refuse(incident, why),
        }
    }

    /// Policies are gone, or are no longer the healer's.
    pub fn removed(&mut self, incident: IncidentId) {
        self.watches.remove(&incident);
    }

    fn watch(&mut self, standing: Standing, now: Timestamp) {
        let known = self.incidents.get(standing.incident);
        let of_policies = standing.policies.iter().filter_map(|policy| policy.namespace.clone());
        let watch = Watch {
            until: now + self.settings.watch,
            flows: known.map(KnownIncident::flows).unwrap_or_default(),
            namespaces: of_policies.collect(),
            is_warned: false,
            standing,
        };
        self.watches.insert(watch.standing.incident, watch);
    }

    /// What is to be done about active policies.
    fn look_after(&mut self, now: Timestamp, hears: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        let Self { settings, incidents, watches, .. } = self;
        for watch in watches.values_mut() {
            let Standing { incident, applied, expires, is_kept, .. } = watch.standing;
            if now >= expires {
                actions.push(Action::Expire(watch.standing.clone()));
                continue;
            }
            if !is_kept {
                watch
                    .flows
                    .extend(incidents.get(incident).map(KnownIncident::flows).unwrap_or_default());
                if !hears {
                    watch.until = now + settings.watch;
                }
                if now < watch.until {
                    continue;
                }
                let outcome = outcome(incidents, watch);
                if outcome.helps() {
                    watch.standing.is_kept = true;
                    actions.push(Action::Keep(watch.standing.clone(), outcome));
                } else {
                    actions.push(Action::RollBack(watch.standing.clone(), outcome));
                }
            }
            let notice = WARNED_BEFORE.min(expires.duration_since(applied) / 4);
            if watch.standing.is_kept && !watch.is_warned && now >= expires - notice {
                watch.is_warned = true;
                actions.push(Action::Warn(watch.standing.clone()));
            }
        }
        actions
    }

    /// Whether an incident's own record gives no reason to leave it alone.
    fn may_examine(
        &self,
        id: IncidentId,
        known: &KnownIncident,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let surest = known.surest();
        if surest.class == Class::ExplicitDeny {
            let policy = surest.responsible.first().cloned();
            return Err(policy.map_or(Refusal::ExplicitDenyByUnknown, Refusal::ExplicitDeny));
        }
        if !surest.class.is_denial() {
            return Err(Refusal::NotADenial(surest.class));
        }
        surest.responsible.iter().try_for_each(proposal::is_of_namespace)?;
        known.worked_before()?;
        let severity = known.severity();
        if severity == Severity::Info {
            return Err(Refusal::Severity(severity));
        }
        let (found, wanted) = (surest.confidence, self.settings.confidence_min);
        if found < wanted {
            return Err(Refusal::Confidence { found, wanted });
        }
        if !surest.has_remedy {
            return Err(Refusal::NoRemedy);
        }
        self.may_act(id, &BTreeSet::new(), Mode::Apply, now)
    }

    /// Whether it was not tried before, and there is room for it within the hour.
    fn may_act(
        &self,
        id: IncidentId,
        namespaces: &BTreeSet<Arc<str>>,
        mode: Mode,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if let Some(at) = self.ledger.tried(id) {
            return Err(Refusal::Tried { at });
        }
        if mode == Mode::DryRun && self.ledger.knows(id) {
            return Ok(());
        }
        let Settings { per_hour, per_namespace_and_hour, .. } = self.settings;
        if self.ledger.within_hour(None, now) >= per_hour {
            return Err(Refusal::TooMany(per_hour));
        }
        let full =
            |name: &&Arc<str>| self.ledger.within_hour(Some(name), now) >= per_namespace_and_hour;
        match namespaces.iter().find(full) {
            Some(name) => Err(Refusal::TooManyInNamespace {
                most: per_namespace_and_hour,
                namespace: name.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Says why nothing is done, each reason once for one incident. That it was tried is no news.
    fn refuse(&mut self, incident: IncidentId, why: Refusal) -> Option<Action> {
        let case = self.cases.entry(incident).or_default();
        case.reported.insert(why.kind()).then_some(Action::Refuse { incident, why })
    }
}

/// What the watch over policies came to.
fn outcome(incidents: &Incidents, watch: &Watch) -> WatchOutcome {
    let Standing { incident, applied, .. } = watch.standing;
    let known = incidents.get(incident);
    let passes = known.and_then(KnownIncident::passes).filter(|at| *at > applied);
    let own = known.map(|known| known.last);
    let last = incidents.last_drop(&watch.flows).max(own);
    let late = last.filter(|last| *last > applied + SETTLE && passes.is_none_or(|at| *last > at));
    if let Some(last) = late {
        return WatchOutcome::StillDying(last);
    }
    let broke = incidents.iter().find(|(id, other)| {
        let is_new = *id != incident && other.first > applied && other.is_open();
        // What is dropped though policies allow it is what the remedy was to help, and over once it
        // passes.
        let is_unhelped = other.surest().class == Class::OutOfSync;
        let is_bad = other.severity() != Severity::Info && other.last > applied + SETTLE;
        is_new && (is_unhelped || is_bad) && !other.namespaces.is_disjoint(&watch.namespaces)
    });
    match (broke, passes) {
        (Some((other, _)), _) => WatchOutcome::Broke(other),
        (None, Some(at)) => WatchOutcome::Recovered(at),
        (None, None) if known.is_some_and(KnownIncident::is_allowed) => WatchOutcome::Quiet,
        (None, None) => WatchOutcome::NotSeen,
    }
}
