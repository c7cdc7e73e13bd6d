//! `whydrop heal`: applies verified remedies where namespaces ask for it, and removes what does not
//! help.
//!
//! ```text
//! agents' logs | file ─▶ input ─▶ facts ─┐
//!                                        ├─▶ core Healer ─▶ Action ─▶ policies (server-side apply)
//! Lease (who leads, what was done) ──────┤                     └────▶ report (records, Events)
//! snapshot, consent, active policies ────┘
//! ```
//!
//! The task here is the only one that decides. The Lease is held by a task of its own, so that it is
//! renewed while the API server takes its time; each log is followed by one.

mod facts;
mod input;
mod lease;
mod policies;
mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::Arc,
};

use anyhow::anyhow;
use jiff::Timestamp;
use kube::Client;
use tokio::{
    sync::watch,
    time::{Duration, MissedTickBehavior, interval, timeout},
};
use whydrop_core::{
    heal::{
        Action, CaseId, Healer, Ledger, Mode, Proposal, Refusal, Settings, Standing, Unclear,
        Wanted, WatchOutcome, propose,
    },
    policy::PolicyRef,
    problem::Problem,
};

pub use input::From;
use input::Input;
use lease::Leadership;
use policies::{NotOurs, Policies, PolicyError};
use report::Reporting;

use crate::{
    cluster::{
        api_error::reason,
        connect::{KubeArgs, target},
        live::once::{Wanted as WantedObjects, read},
    },
    records::{
        Line, Unreadable, read_line,
        text::{bare, is_record},
    },
    report::{HealReporter, Record, heal::HealAction},
    sink::http::Health,
    sink::{log::Format, metrics::Metrics},
};

/// How often it is decided what to do.
const TICK: Duration = Duration::from_secs(1);

/// How long the cluster may take to be read for one incident: a Lease is valid that long, and what is
/// read more slowly is old by then.
const READ_PATIENCE: Duration = Duration::from_secs(15);

/// What becomes of the policies when this one stops.
const NEXT: &str = "the next healer will find the active policies";

/// How a healer is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the API server is reached.
    pub kube: KubeArgs,
    /// Where records come from.
    pub from: From,
    /// The namespace of the Lease.
    pub namespace: String,
    /// The name of the Lease.
    pub lease: String,
    /// The name of this one, which no other that runs has.
    pub identity: String,
    /// What bounds it.
    pub settings: Settings,
    /// The form of its own records.
    pub format: Format,
    /// Where `/healthz` answers.
    pub health: Option<std::net::SocketAddr>,
}

/// Heals until it is asked to stop, or until its file ends.
///
/// # Errors
/// A cluster that cannot be reached, a file that cannot be read, an address that cannot be listened
/// at.
pub async fn run(
    options: Options,
    shutdown: impl Future<Output = &'static str>,
) -> anyhow::Result<()> {
    let Options { kube, from, namespace, lease, identity, settings, format, health } = options;
    // A file that is not there is reported whether there is a cluster or not.
    let opened = from.open()?;
    let target = target(&kube).await?;
    let server = target.server.clone();
    let client = target.client()?;
    // Asked before anything else, so that a fault is reported at once.
    let version = client.apiserver_version().await;
    version.map_err(|error| anyhow!("cannot reach the API server {server}: {}", reason(&error)))?;
    let mut input = Input::start(opened, client.clone());
    let policies = Policies::new(client.clone(), format!("{namespace}/{lease}"));
    let health = Health::start(health, Metrics::default()).await?;
    let leadership = Leadership::seek(client.clone(), &namespace, &lease, &identity);
    let reporting = Reporting::new(client.clone(), format, identity.clone(), policies.clone());
    let mut task = Task {
        client,
        policies,
        leads: leadership.leads.clone(),
        leadership,
        records: HealReporter { healer: identity },
        reporting,
        healer: Healer::new(settings),
        is_leading: false,
        health,
        foreign: BTreeSet::new(),
        complaints: BTreeSet::new(),
    };
    tracing::info!("whydrop heal {} reads records", env!("CARGO_PKG_VERSION"));
    let mut shutdown = std::pin::pin!(shutdown);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            why = &mut shutdown => {
                tracing::info!("stopping: {why}; {NEXT}");
                break;
            }
            line = input.next() => {
                let Some(line) = line else {
                    tracing::info!("stopping: the records end; {NEXT}");
                    break;
                };
                task.handle(&line.pod, &line.text);
            },
            _ = ticks.tick() => {
                task.step(Timestamp::now(), input.is_connected()).await;
            }
        }
    }
    let Task { leadership, reporting, .. } = task;
    leadership.release().await;
    reporting.finish().await;
    Ok(())
}

/// Why a line of an agent's log that may be a record is none for a healer.
#[derive(Debug, thiserror::Error)]
pub enum Unheard {
    /// It is no whole record.
    #[error(transparent)]
    Record(#[from] Unreadable),
    /// It is one as text, which nothing is read from.
    #[error("it writes its records as text: set --log-format json")]
    Text,
    /// A field of it says what no agent writes.
    #[error(transparent)]
    Field(#[from] Problem),
}

/// Has a healer hear a line of an agent's log: records of incidents and drops are for it, and all else that
/// agents write is not.
///
/// # Errors
/// What may be a record, and cannot be read as one.
pub fn hear(healer: &mut Healer, line: &str) -> Result<(), Unheard> {
    match read_line(line) {
        Line::Record(record) => match *record {
            Record::Incident(incident) => {
                healer.incident_reported(facts::incident_report(&incident)?);
            }
            Record::Drop(drop) => {
                if let Some(report) = facts::drop_report(&drop)? {
                    healer.drop_reported(&report);
                }
            }
            Record::Heal(_) | Record::Agent(_) => {}
        },
        Line::Unreadable(why) => return Err(why.into()),
        Line::Other if is_record(bare(line)) => return Err(Unheard::Text),
        Line::Other => {}
    }
    Ok(())
}

struct Task {
    client: Client,
    policies: Policies,
    leads: watch::Receiver<Option<Ledger>>,
    leadership: Leadership,
    records: HealReporter,
    reporting: Reporting,
    healer: Healer,
    /// The lead was taken over, with the active policies.
    is_leading: bool,
    health: Health,
    /// Policies that somebody else has written to since: reported once each.
    foreign: BTreeSet<PolicyRef>,
    /// Pods whose log is not what was expected: reported once each.
    complaints: BTreeSet<String>,
}

/// What the annotations of namespaces ask for; of one without it, nothing.
type Consents = BTreeMap<Arc<str>, Option<String>>;

/// How many pods are remembered whose log is not what was expected.
const COMPLAINTS_MAX: usize = 256;

impl Task {
    /// Handles a line of an agent's log.
    fn handle(&mut self, pod: &str, text: &str) {
        if let Err(why) = hear(&mut self.healer, text) {
            self.complain(pod, &why);
        }
    }

    /// Reports once that a record cannot be read.
    fn complain(&mut self, pod: &str, why: &dyn Display) {
        if self.complaints.len() < COMPLAINTS_MAX && self.complaints.insert(format!("{pod}: {why}"))
        {
            tracing::warn!("a record of {pod} cannot be read: {why}");
        }
    }

    /// Does what is due by now, if this one leads. `is_connected`: to most agents.
    async fn step(&mut self, now: Timestamp, is_connected: bool) {
        self.health.beat(true);
        let changed = self.leads.has_changed().unwrap_or(false);
        let ledger = self.leads.borrow_and_update().clone();
        let Some(ledger) = ledger else {
            self.is_leading = false;
            return;
        };
        if changed || !self.is_leading {
            self.is_leading = false;
            match self.policies.standing().await {
                Ok(standing) => self.healer.take_over(ledger, standing, now),
                Err(why) => {
                    tracing::warn!("cannot list the active policies: {why}");
                    return;
                }
            }
            self.is_leading = true;
        }
        for action in self.healer.tick(now, is_connected) {
            self.act(action).await;
        }
    }

    async fn act(&mut self, action: Action) {
        let mut next = Some(action);
        while let Some(action) = next.take() {
            // Each may take as long as the API server does.
            self.health.beat(true);
            match action {
                Action::Examine { wanted, is_proposed } => {
                    let consents = self.consents(&wanted.case.between.namespaces()).await;
                    let wants_more = |consents: &Consents| {
                        consents.values().flatten().any(|mode| mode != Mode::DryRun.name())
                    };
                    let found = match consents {
                        Ok(consents) if is_proposed && !wants_more(&consents) => None,
                        Ok(consents) => Some(self.examine(&wanted, consents).await),
                        Err(refusal) => Some(Err(refusal)),
                    };
                    next = self.healer.examined(&wanted.case, found, Timestamp::now());
                }
                Action::Apply { case, proposal, mode, expires } => {
                    next = self.apply(&case, &proposal, mode, expires).await;
                }
                Action::Keep(standing, outcome) => self.keep(&standing, &outcome).await,
                Action::RollBack(standing, outcome) => {
                    self.delete(&standing, HealAction::RolledBack, Some(&outcome)).await;
                }
                Action::Expire(standing) => {
                    self.delete(&standing, HealAction::Expired, None).await;
                }
                Action::Warn(standing) => {
                    let why = "decide until then: keep what it allows in a policy of your own, or \
                               take the label app.kubernetes.io/managed-by off this one";
                    let record = self.records.standing(
                        Timestamp::now(),
                        &standing,
                        HealAction::Expiring,
                        why.to_owned(),
                    );
                    self.reporting.report(record, &standing.policies, None).await;
                }
                Action::Refuse { case, why } => self.refuse(&case, &[], &why).await,
            }
        }
    }

    /// What the annotations of these namespaces ask for.
    async fn consents(&self, namespaces: &BTreeSet<Arc<str>>) -> Result<Consents, Refusal> {
        let mut consents = Consents::new();
        for namespace in namespaces {
            let consent = self.policies.consent(namespace).await;
            let consent = consent.map_err(|error| Refusal::Api(error.to_string()))?;
            consents.insert(namespace.clone(), consent);
        }
        Ok(consents)
    }

    /// Looks at the cluster as it is now: what would help, and whether that has consent.
    async fn examine(
        &self,
        wanted: &Wanted,
        mut consents: Consents,
    ) -> Result<(Proposal, Mode), Refusal> {
        // Nobody asks for it: nothing is read.
        if consents.values().all(Option::is_none)
            && let Some(namespace) = consents.keys().next()
        {
            return Err(Refusal::NoConsent(namespace.clone()));
        }
        let flows = wanted.flows.keys();
        let addresses = flows.flat_map(|flow| [flow.source, flow.destination]).collect();
        let objects = WantedObjects { addresses, nodes: true, ..WantedObjects::default() };
        let part = match timeout(READ_PATIENCE, read(self.client.clone(), objects, &|_| {})).await {
            Ok(Ok(part)) => part,
            Ok(Err(error)) => return Err(Refusal::Api(error.to_string())),
            Err(_) => {
                return Err(Refusal::Unclear(Unclear::NotReadWithin(READ_PATIENCE)));
            }
        };
        for line in &part.failed {
            tracing::debug!("{line}");
        }
        if !part.refused.is_empty() {
            tracing::debug!("not readable with these rights: {}", part.refused);
        }
        // Calico's own API asks for rights on tiers beside those on policies.
        let proposal = propose(&part.snapshot.as_stored(), wanted)?;
        // A policy is in the namespace of an end; were it not, that one would be asked as well.
        let consenting = proposal.consenting();
        consents.extend(self.consents(&consenting).await?);
        let mode =
            Mode::agreed_by(&consenting, |namespace| consents.get(namespace).cloned().flatten())?;
        Ok((proposal, mode))
    }

    async fn apply(
        &mut self,
        case: &CaseId,
        proposal: &Proposal,
        mode: Mode,
        expires: Timestamp,
    ) -> Option<Action> {
        let incident = case.incident;
        // Noted before it is done, and only by the one that leads.
        if let Err(why) = self.leadership.write(self.healer.ledger().clone()).await {
            tracing::warn!("nothing is done about incident {incident}: {why}");
            let why = Refusal::Api(why.to_string());
            // The one that leads by now reports it.
            let _ = self.healer.applied(case, Err(why), Timestamp::now());
            return None;
        }
        let dry_run = mode == Mode::DryRun;
        let created = self.policies.create(case, proposal, expires, dry_run).await;
        let now = Timestamp::now();
        if created.is_ok() {
            let record = match mode {
                Mode::DryRun => self.records.proposed(now, incident, proposal, expires),
                Mode::Apply => self.records.applied(now, incident, proposal, expires),
            };
            // What does not exist is reported on its namespace.
            let namespaces = proposal.namespaces();
            let namespace = namespaces.first().filter(|_| dry_run);
            let policies = if dry_run { &[][..] } else { &proposal.policies };
            self.reporting.report(record, policies, namespace.map(|name| &**name)).await;
        }
        match created {
            Ok(None) => None,
            Ok(Some(standing)) => self.healer.applied(case, Ok(standing), now),
            Err(why) => {
                let next = self.healer.applied(case, Err(why), now);
                if let Some(Action::Refuse { case, why }) = next {
                    self.refuse(&case, &proposal.policies, &why).await;
                }
                None
            }
        }
    }

    async fn keep(&mut self, standing: &Standing, outcome: &WatchOutcome) {
        let mut kept = Standing { policies: Vec::new(), ..standing.clone() };
        for policy in &standing.policies {
            match self.policies.keep(policy).await {
                Ok(()) => kept.policies.push(policy.clone()),
                Err(PolicyError::Gone) => tracing::info!("{policy} was deleted by someone else"),
                Err(PolicyError::Foreign(why)) => self.left(&standing.case, policy, &why).await,
                Err(PolicyError::Api(why)) => {
                    // The next leader watches it once more.
                    tracing::warn!("cannot mark {policy} as helpful: {why}");
                    kept.policies.push(policy.clone());
                }
            }
        }
        if kept.policies.is_empty() {
            return self.healer.removed(standing);
        }
        let now = Timestamp::now();
        let record = self.records.watched(now, &kept, HealAction::Kept, outcome);
        self.reporting.report(record, &kept.policies, None).await;
    }

    /// Reports once that a policy is somebody else's by now.
    async fn left(&mut self, case: &CaseId, policy: &PolicyRef, why: &NotOurs) {
        if self.foreign.insert(policy.clone()) {
            let refusal = Refusal::Foreign { policy: policy.clone(), why: why.to_string() };
            self.refuse(case, std::slice::from_ref(policy), &refusal).await;
        }
    }

    /// Deletes policies; what cannot be deleted is tried again at the next tick.
    async fn delete(
        &mut self,
        standing: &Standing,
        action: HealAction,
        outcome: Option<&WatchOutcome>,
    ) {
        if let Err(why) = self.leadership.write(self.healer.ledger().clone()).await {
            tracing::warn!("incident {}: nothing is deleted: {why}", standing.case.incident);
            return;
        }
        let mut is_done = true;
        let mut deleted = Standing { policies: Vec::new(), ..standing.clone() };
        for policy in &standing.policies {
            match self.policies.delete(policy).await {
                Ok(()) => deleted.policies.push(policy.clone()),
                Err(PolicyError::Gone) => tracing::info!("{policy} is gone already"),
                Err(PolicyError::Foreign(why)) => self.left(&standing.case, policy, &why).await,
                Err(PolicyError::Api(why)) => {
                    tracing::warn!("{policy} cannot be deleted: {why}");
                    is_done = false;
                }
            }
        }
        if !deleted.policies.is_empty() {
            let now = Timestamp::now();
            let record = if let Some(outcome) = outcome {
                self.records.watched(now, &deleted, action, outcome)
            } else {
                let why = "nobody has decided in time: what it allowed is denied again";
                self.records.standing(now, &deleted, action, why.to_owned())
            };
            self.reporting.report(record, &deleted.policies, None).await;
        }
        if is_done {
            self.healer.removed(standing);
        }
    }

    async fn refuse(&self, case: &CaseId, policies: &[PolicyRef], why: &Refusal) {
        let record = self.records.refused(Timestamp::now(), case.incident, policies, why);
        self.reporting.report(record, &[], None).await;
    }
}
