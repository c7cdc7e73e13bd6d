//! Healing: which incidents a machine may put right by itself, for how long, and whether it helped.
//!
//! The fold of what agents report of incidents, what the cluster says of consent, and the time, into
//! what is to be done. It never acts where an incident's own record or the cluster as it is now gives
//! a reason not to ([`Refusal`]), once for each incident between two namespaces ([`CaseId`]), a bounded
//! number of times an hour. It only puts back what worked before, as the agents saw: who is new, or
//! dials what was denied for long, is given nothing. What it applies it watches, and rolls back unless
//! the agents see it help; a policy that helps is deleted after a time to live, unless a person keeps
//! it. Whom it trusts with what, and against whom, is in `docs/security.md`.
//!
//! ```text
//! records ────────┐                       ┌─▶ Examine ─▶ (snapshot, consent) ─▶ examined ─┐
//!                 ├─▶ Healer ─▶ tick(now) ┼─▶ Keep | RollBack           Apply | Refuse ◀──┘
//! owned policies ─┘                       └─▶ Warn | Expire
//! ```

mod case;
mod known;
mod ledger;
mod past;
mod proposal;
mod refusal;
mod share;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ops::Bound,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use strum::IntoStaticStr;

use crate::{
    flow::Flow,
    incident::{SILENCE, Severity},
    policy::PolicyRef,
};
pub use case::{Between, CaseId, NotBetween, PathName};
pub use known::{
    DropCause, DropReport, FLOWS_MAX, INCIDENTS_MAX, IncidentReport, IncidentState, Recovery,
};
use known::{Incidents, KnownFlow};
use ledger::Within;
pub use ledger::{ENTRIES_MAX, Ledger, LedgerEntry};
pub use past::{CONNECTIONS_MIN, FlowPast, Past};
pub use proposal::{POLICIES_MAX, Proposal, Wanted, propose};
use refusal::RefusalKind;
pub use refusal::{Refusal, Unclear};
use watch::Watch;
pub use watch::{WatchOutcome, WatchOutcomeKind};

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

/// How many policies that look like the healer's, and that the Lease does not know, are deleted when
/// their time is over: more than a lost Lease leaves behind (at the most healings an hour by default,
/// half a day's). Anyone who may write policies can make such.
const STRAYS_MAX: usize = 64;

/// What bounds the healer.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How sure an incident's cause must be, from 0 to 1.
    pub confidence_min: f64,
    /// How many incidents may be healed within an hour.
    pub per_hour: usize,
    /// How many of them may write into one namespace.
    pub per_namespace_and_hour: usize,
    /// How many of them may be for clients of one namespace.
    pub per_client_and_hour: usize,
    /// For how long a flow must have worked before it was denied.
    pub min_worked: SignedDuration,
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
    /// Look whether this can be helped, and call [`Healer::examined`].
    Examine {
        /// What.
        wanted: Wanted,
        /// It was proposed before in a dry run: only consent to more is news.
        is_proposed: bool,
    },
    /// Create the policies, or in a dry run validate them, and call [`Healer::applied`].
    Apply {
        /// What for.
        case: CaseId,
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
        /// What for.
        case: CaseId,
        /// Why.
        why: Refusal,
    },
}

/// Active policies of the healer's.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// What they are to heal.
    pub case: CaseId,
    /// Their names.
    pub policies: Vec<PolicyRef>,
    /// When they were created.
    pub applied: Timestamp,
    /// Until when they are in force at most.
    pub expires: Timestamp,
    /// Whether it was seen that they help; until then they are watched.
    pub is_kept: bool,
}

impl Standing {
    /// With more policies of the same healing: they stand and fall together.
    fn join(&mut self, other: Self) {
        self.policies.extend(other.policies);
        self.applied = self.applied.min(other.applied);
        self.expires = self.expires.min(other.expires);
        self.is_kept &= other.is_kept;
    }
}

/// What an incident between two namespaces has come to so far, for the healer.
#[derive(Clone, Debug, Default)]
struct Case {
    /// Something was reported since it was last looked at.
    has_news: bool,
    /// It is being examined, or applied.
    is_pending: bool,
    /// They do not consent, or to a dry run only: when to ask them again.
    ask_again: Option<Timestamp>,
    /// The reasons that were reported, once each.
    reported: HashSet<RefusalKind>,
}

/// The fold. Only its own methods change it.
#[derive(Debug)]
pub struct Healer {
    settings: Settings,
    incidents: Incidents,
    cases: BTreeMap<CaseId, Case>,
    /// The last one that was examined: the others come before it comes again.
    examined: Option<CaseId>,
    watches: BTreeMap<CaseId, Watch>,
    /// Policies that say that they are the healer's, and that the ledger does not know.
    strays: Vec<Standing>,
    ledger: Ledger,
}

impl Healer {
    /// One that knows nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            incidents: Incidents::default(),
            cases: BTreeMap::new(),
            examined: None,
            watches: BTreeMap::new(),
            strays: Vec::new(),
            ledger: Ledger::default(),
        }
    }

    /// What was done, to be kept where the next one finds it.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// How many healings have active policies.
    pub fn standing(&self) -> usize {
        self.watches.len()
    }

    /// Begins to lead: with what was done before, and the active policies. Those that are not
    /// known to help are watched again from the start, since what was reported in between was missed.
    /// Those that the ledger does not know are nobody's healing: they are deleted when their time is
    /// over, and count for nothing.
    pub fn take_over(&mut self, ledger: Ledger, standing: Vec<Standing>, now: Timestamp) {
        self.ledger = ledger;
        self.watches.clear();
        self.strays.clear();
        for case in self.cases.values_mut() {
            case.has_news = true;
            case.is_pending = false;
        }
        for standing in standing {
            if self.ledger.has_made(&standing) {
                match self.watches.get_mut(&standing.case) {
                    Some(watch) => watch.standing.join(standing),
                    None => self.watch(standing, now),
                }
            } else if self.strays.len() < STRAYS_MAX {
                self.strays.push(standing);
            }
        }
    }

    /// Handles an agent's report of an incident.
    pub fn incident_reported(&mut self, report: IncidentReport) {
        let is_open = report.state == IncidentState::Open;
        for case in self.incidents.add_report(report) {
            self.cases.entry(case).or_default().has_news |= is_open;
        }
        self.cases.retain(|case, _| self.incidents.get(case.incident).is_some());
    }

    /// Handles an agent's report of a flow.
    pub fn drop_reported(&mut self, report: &DropReport) {
        let is_news = self.incidents.add_drop(report);
        if is_news {
            let case = CaseId { incident: report.incident, between: report.between.clone() };
            self.cases.entry(case).or_default().has_news = true;
        }
    }

    /// What the leader is to do by now. `hears`: whether the agents' logs can be read; while they
    /// cannot, no watch ends.
    pub fn tick(&mut self, now: Timestamp, hears: bool) -> Vec<Action> {
        let mut actions = self.look_after(now, hears);
        let mut examined = 0;
        for id in self.due(now) {
            if examined >= EXAMINED_AT_ONCE {
                break;
            }
            let (wanted, verdict) = self.may_examine(&id, now);
            let is_watched = self.watches.contains_key(&id);
            let is_proposed = self.ledger.knows(&id);
            let Some(case) = self.cases.get_mut(&id) else { continue };
            case.has_news = false;
            case.ask_again = None;
            // Nobody attempts it any more: nothing to heal, whatever the reason.
            let Some(wanted) = wanted.filter(|_| !is_watched) else { continue };
            match verdict {
                Ok(()) => {
                    case.is_pending = true;
                    examined += 1;
                    self.examined = Some(id);
                    actions.push(Action::Examine { wanted, is_proposed });
                }
                Err(why) => actions.extend(self.refuse(id, why)),
            }
        }
        actions
    }

    /// What there is to look at by now, those first that come after the last one that was examined:
    /// who has news all the time is not looked at all the time.
    fn due(&self, now: Timestamp) -> Vec<CaseId> {
        let is_due = |case: &Case| {
            let asks = case.ask_again.is_some_and(|at| now >= at);
            (case.has_news || asks) && !case.is_pending
        };
        let (rest, first) = match &self.examined {
            Some(last) => (
                Some(self.cases.range((Bound::Excluded(last), Bound::Unbounded))),
                self.cases.range((Bound::Unbounded, Bound::Included(last))),
            ),
            None => (None, self.cases.range::<CaseId, _>(..)),
        };
        let all = rest.into_iter().flatten().chain(first);
        all.filter(|(_, case)| is_due(case)).map(|(id, _)| id.clone()).collect()
    }

    /// Handles what the cluster says: what would help, and whether its namespaces agree; `None` where
    /// it was proposed before, and they agree to no more.
    pub fn examined(
        &mut self,
        id: &CaseId,
        found: Option<Result<(Proposal, Mode), Refusal>>,
        now: Timestamp,
    ) -> Option<Action> {
        let case = self.cases.entry(id.clone()).or_default();
        case.is_pending = false;
        let waits =
            matches!(found, None | Some(Ok((_, Mode::DryRun)) | Err(Refusal::NoConsent(_))));
        case.ask_again = waits.then(|| now + ASK_AGAIN);
        let found = found?;
        let may = found.and_then(|(proposal, mode)| {
            self.may_act(id, &proposal.namespaces(), mode, now)?;
            Ok((proposal, mode))
        });
        let (proposal, mode) = match may {
            Ok(may) => may,
            Err(why) => return self.refuse(id.clone(), why),
        };
        if mode == Mode::DryRun && self.ledger.knows(id) {
            // Reported before; nothing has changed but the time.
            return None;
        }
        self.ledger.enter(id, now, mode, proposal.namespaces());
        self.cases.entry(id.clone()).or_default().is_pending = mode == Mode::Apply;
        let expires = now + self.settings.time_to_live;
        Some(Action::Apply { case: id.clone(), proposal, mode, expires })
    }

    /// Handles what became of policies that were to be created.
    pub fn applied(
        &mut self,
        id: &CaseId,
        result: Result<Standing, Refusal>,
        now: Timestamp,
    ) -> Option<Action> {
        self.cases.entry(id.clone()).or_default().is_pending = false;
        match result {
            Ok(standing) => {
                self.watch(standing, now);
                None
            }
            Err(why) => self.refuse(id.clone(), why),
        }
    }

    /// Policies are gone, or are no longer the healer's.
    pub fn removed(&mut self, standing: &Standing) {
        let is_it = |other: &Standing| other.policies == standing.policies;
        self.watches.retain(|_, watch| !is_it(&watch.standing));
        self.strays.retain(|stray| !is_it(stray));
    }

    fn watch(&mut self, standing: Standing, now: Timestamp) {
        let watch = Watch::new(standing, now + self.settings.watch);
        self.watches.insert(watch.standing.case.clone(), watch);
    }

    /// What is to be done about active policies.
    fn look_after(&mut self, now: Timestamp, hears: bool) -> Vec<Action> {
        let Self { settings, incidents, watches, strays, .. } = self;
        let watches = watches.values_mut();
        let mut actions: Vec<Action> =
            watches.flat_map(|watch| watch.look(incidents, settings, now, hears)).collect();
        // One at a time: nobody who makes more of them keeps the healer from its own.
        let stray = strays.iter().find(|stray| now >= stray.expires);
        actions.extend(stray.cloned().map(Action::Expire));
        actions
    }

    /// What is wanted of the cluster for a case, and whether what was reported gives no reason to leave
    /// it alone; nothing where nobody attempts it.
    fn may_examine(&self, id: &CaseId, now: Timestamp) -> (Option<Wanted>, Result<(), Refusal>) {
        let nothing = Wanted::nothing(id.clone());
        let Some(known) = self.incidents.get(id.incident) else { return (None, Ok(())) };
        let last = known.recent(&id.between).map(|(_, flow)| flow.last).max();
        let is_silent = last.is_none_or(|last| now.duration_since(last) > SILENCE);
        if !known.is_open() || is_silent {
            return (None, Ok(()));
        }
        let min_worked = self.settings.min_worked;
        let qualified = match self.incidents.qualified(id, min_worked) {
            Ok(qualified) => qualified,
            Err(why) => return (Some(nothing), Err(why)),
        };
        let severity = known.severity();
        if severity == Severity::Info {
            return (Some(nothing), Err(Refusal::Severity(severity)));
        }
        let of_incident = known.confidence();
        match self.sure(qualified, of_incident) {
            Ok(flows) => {
                let verdict = self.may_act(id, &BTreeSet::new(), Mode::Apply, now);
                (Some(Wanted { flows, min_worked, ..nothing }), verdict)
            }
            Err(why) => (Some(nothing), Err(why)),
        }
    }

    /// Those of these flows whose cause is certain, and for which there is a remedy.
    fn sure(
        &self,
        qualified: BTreeMap<Flow, &KnownFlow>,
        of_incident: f64,
    ) -> Result<BTreeMap<Flow, Past>, Refusal> {
        let (mut sure, mut first) = (BTreeMap::new(), None);
        for (flow, known) in qualified {
            let (found, wanted) =
                (known.cause.confidence.max(of_incident), self.settings.confidence_min);
            if found < wanted {
                first = first.or(Some(Refusal::Confidence { found, wanted }));
            } else if !known.cause.has_remedy {
                first = first.or(Some(Refusal::NoRemedy));
            } else {
                sure.insert(flow, known.past.clone());
            }
        }
        match first {
            Some(why) if sure.is_empty() => Err(why),
            _ => Ok(sure),
        }
    }

    /// Whether it was not tried before, and there is room for it within the hour.
    fn may_act(
        &self,
        id: &CaseId,
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
        let Settings { per_hour, per_namespace_and_hour, per_client_and_hour, .. } = self.settings;
        let count = |within: Within<'_>| self.ledger.within_hour(within, mode, now);
        if count(Within::All) >= per_hour {
            return Err(Refusal::TooMany(per_hour));
        }
        let client = id.between.client.as_ref();
        if let Some(name) =
            client.filter(|name| count(Within::Clients(name)) >= per_client_and_hour)
        {
            let namespace = name.clone();
            return Err(Refusal::TooManyForClients { most: per_client_and_hour, namespace });
        }
        let full = |name: &&Arc<str>| count(Within::Namespace(name)) >= per_namespace_and_hour;
        match namespaces.iter().find(full) {
            Some(name) => Err(Refusal::TooManyInNamespace {
                most: per_namespace_and_hour,
                namespace: name.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Says why nothing is done, each reason once for one case. That it was tried is no news.
    fn refuse(&mut self, id: CaseId, why: Refusal) -> Option<Action> {
        let case = self.cases.entry(id.clone()).or_default();
        case.reported.insert(why.kind()).then_some(Action::Refuse { case: id, why })
    }
}
