//! The agent's process: the only place that spawns tasks, and the one that owns the clock.
//!
//! ```text
//!  probe::Interfaces ──▶ Cluster (interfaces, addresses)
//!  cluster::Folder ────▶ Cluster ──▶ Snapshot ─────────────┐
//!                                                          ▼
//!  probe::Observations ▶ Correlator ─▶ Drop ─────▶ diagnose, remedy ─▶ Record ─▶ sink::Log
//!            tick ─────▶      │        Answered ─▶ diagnose ─▶ finding ─┘
//!                             └──────▶ Folded ─────────────────────────┘
//! ```
//!
//! One task drives all of it: each state has one writer by construction. The sink has a thread and
//! a bounded queue of its own, so that a slow reader of standard output holds up nothing.

mod losses;
mod recheck;
mod waiting;

use std::{collections::BTreeMap, future::Future, net::IpAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use jiff::Timestamp;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep_until};
use whydrop_core::{
    cluster::{Cluster, Interface, Snapshot, object::Kind, resolve::Holder},
    correlate::{Correlated, Correlator, Drop},
    diagnosis::{Case, Class, Diagnosis, Fate, Judgement, diagnose},
    flow::Flow,
    policy::PolicyKind,
};

use crate::{
    cluster::folder::Folder,
    probe::{Attach, Change, Config, Probe, State},
    report::{AgentState, Reporter},
    sink::log::{Format, Log},
};
use losses::Losses;
use recheck::Recheck;
use waiting::{Waiting, WaitingRoom};

/// How often the kernel's counters are drained, and so how late a count may be.
const TURN_INTERVAL: Duration = Duration::from_secs(1);

/// How often losses are looked for and told.
const LOSSES_INTERVAL: Duration = Duration::from_secs(10);

/// What the agent is told by its command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of manifests that describes the cluster.
    pub manifests: PathBuf,
    /// The node it runs on.
    pub node: String,
    /// The form of its records.
    pub format: Format,
    /// How to attach to interfaces.
    pub attach: Attach,
}

/// Everything that the agent's one task owns.
struct Agent {
    reporter: Reporter,
    cluster: Cluster,
    correlator: Correlator,
    recheck: Recheck,
    waiting: WaitingRoom,
    losses: Losses,
    log: Log,
    probe: Probe,
    folder: Folder,
    node: Arc<str>,
}

/// Runs until `shutdown` resolves.
///
/// # Errors
/// What keeps the agent from starting: manifests that cannot be read, a kernel or privileges that
/// do not allow the programs.
pub async fn run(
    options: Options,
    shutdown: impl Future<Output = &'static str>,
) -> anyhow::Result<()> {
    let mut cluster = Cluster::default();
    let folder = Folder::open(options.manifests, &mut cluster)?;
    let config = Config { attach: options.attach, ..Config::default() };
    let probe = Probe::start(&config).context("cannot watch this node")?;
    let mut agent = Agent {
        reporter: Reporter { node: options.node.clone() },
        cluster,
        correlator: Correlator::default(),
        recheck: Recheck::default(),
        waiting: WaitingRoom::default(),
        losses: Losses::default(),
        log: Log::start(options.format),
        probe,
        folder,
        node: options.node.as_str().into(),
    };
    agent.take_topology();
    agent.tell_ready();
    let why = agent.follow(shutdown).await;
    agent.stop(why).await;
    Ok(())
}

impl Agent {
    /// Takes whatever comes next, until it is time to stop, and says why.
    async fn follow(&mut self, shutdown: impl Future<Output = &'static str>) -> String {
        tokio::pin!(shutdown);
        let mut turns = interval(TURN_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut losses = interval(LOSSES_INTERVAL);
        losses.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.due();
            tokio::select! {
                why = &mut shutdown => return why.to_owned(),
                batch = self.probe.observations.next() => match batch {
                    Ok(batch) => batch.iter().for_each(|seen| self.correlator.observe(seen)),
                    Err(error) => return format!("the ring cannot be read: {error}"),
                },
                changes = self.probe.interfaces.next() => match changes {
                    Ok(changes) => self.interfaces_changed(changes),
                    Err(error) => return format!("interfaces cannot be followed: {error}"),
                },
                changed = self.folder.changed() => match changed {
                    Ok(()) => self.manifests_changed(),
                    Err(error) => self.degraded(&error),
                },
                _ = turns.tick() => self.turn().await,
                _ = losses.tick() => self.tell_losses(),
                () = sleep_until(due) => {}
            }
            self.judge(Timestamp::now());
        }
    }

    /// When there is something to judge without anything coming in.
    fn due(&self) -> Instant {
        let now = Timestamp::now();
        let due = [self.correlator.deadline(), self.recheck.deadline(), self.waiting.deadline()];
        let due = due.into_iter().flatten().min();
        let wait = due.map(|due| Duration::try_from(due.duration_since(now)).unwrap_or_default());
        // Turns come around anyway.
        Instant::now() + wait.unwrap_or(TURN_INTERVAL).min(TURN_INTERVAL)
    }

    async fn turn(&mut self) {
        match self.probe.observations.turn().await {
            Ok(counted) => counted.iter().for_each(|seen| self.correlator.observe(seen)),
            Err(error) => self.degraded(&error),
        }
    }

    /// Judges what has become clear by now, and tells it.
    fn judge(&mut self, now: Timestamp) {
        for correlated in self.correlator.tick(now) {
            self.take(correlated, now);
        }
        if let Some(since) = self.recheck.due(now) {
            match self.probe.successes.since(since) {
                Ok(answered) => {
                    for (flow, at) in answered {
                        self.judge_answer(flow, at, now);
                    }
                }
                Err(error) => self.degraded(&error),
            }
        }
        while let Some(waited) = self.waiting.leave(now) {
            self.judge_again(waited, now);
        }
    }

    fn take(&mut self, correlated: Correlated, now: Timestamp) {
        match correlated {
            Correlated::Drop(drop) => self.judge_drop(drop, now),
            Correlated::Answered { flow, at } => self.judge_answer(flow, at, now),
            Correlated::Folded(folded) => {
                let snapshot = self.cluster.snapshot();
                self.log.write(self.reporter.folded(now, &snapshot, &folded));
            }
        }
    }

    /// Tells a drop; one that policies do not explain waits, for they may be on their way.
    fn judge_drop(&mut self, drop: Drop, now: Timestamp) {
        let diagnosis = diagnose(&self.cluster.snapshot(), &case_of(&drop));
        if !concerns_pods(&diagnosis, &drop) {
            return self.losses.of_no_pod(drop.evidence.packets());
        }
        if matches!(diagnosis.cause.class, Class::OutOfSync | Class::NotPolicy | Class::CannotTell)
        {
            if let Some(unwaited) = self.waiting.enter(now, Waiting::Drop(drop)) {
                self.judge_again(unwaited, now);
            }
        } else {
            self.tell_drop(&drop, diagnosis, now);
        }
    }

    /// A flow was answered: if policies deny it, then the CNI does not enforce them, unless they
    /// are about to say otherwise.
    fn judge_answer(&mut self, flow: Flow, at: Timestamp, now: Timestamp) {
        let then = self.cluster.snapshot();
        if not_enforced(&then, flow, at).is_some() {
            let waiting = Waiting::Answer { flow, at, then: Box::new(then) };
            if let Some(unwaited) = self.waiting.enter(now, waiting) {
                self.judge_again(unwaited, now);
            }
        }
    }

    fn judge_again(&mut self, waited: Waiting, now: Timestamp) {
        let snapshot = self.cluster.snapshot();
        match waited {
            Waiting::Drop(drop) => {
                let diagnosis = diagnose(&snapshot, &case_of(&drop));
                self.tell_drop(&drop, diagnosis, now);
            }
            Waiting::Answer { flow, at, then } => {
                let still = not_enforced(&snapshot, flow, at);
                let both = still.filter(|_| not_enforced(&then, flow, at).is_some());
                if let Some(diagnosis) = both.filter(|_| self.recheck.is_news(flow, now)) {
                    self.log.write(self.reporter.finding(now, at, diagnosis));
                }
            }
        }
    }

    fn tell_drop(&mut self, drop: &Drop, diagnosis: Diagnosis, now: Timestamp) {
        if !diagnosis.is_reportable(&drop.evidence) {
            return;
        }
        let snapshot = self.cluster.snapshot();
        let judgement = Judgement::of(&snapshot, self.cluster.history(), diagnosis);
        let last = self.last_success(drop);
        self.log.write(self.reporter.drop(now, &snapshot, drop, &judgement, last));
    }

    /// When the flow, as dialled or as translated, last got an answer.
    fn last_success(&mut self, drop: &Drop) -> Option<Timestamp> {
        let dialled =
            drop.dialled.map(|(destination, port)| Flow { destination, port, ..drop.flow });
        let mut last = None;
        for flow in [Some(drop.flow), dialled].into_iter().flatten() {
            match self.probe.successes.last(&flow) {
                Ok(success) => last = last.max(success),
                Err(error) => self.degraded(&error),
            }
        }
        last
    }

    fn interfaces_changed(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Attached { name, .. } => tracing::info!(name, "attached"),
                Change::Detached { index, name } => {
                    tracing::info!(name, "detached");
                    self.cluster.set_interface(index, None);
                }
                Change::Failed { name, reason, .. } => {
                    self.degraded(&format!("interface {name} is not watched: {reason}"));
                }
                Change::Routes => {}
            }
        }
        self.take_topology();
    }

    /// Takes over what the kernel routes where.
    fn take_topology(&mut self) {
        let topology = self.probe.interfaces.topology();
        for (index, name) in topology.links() {
            let addresses: Vec<IpAddr> = topology.addresses(index).collect();
            let interface = Interface { name: name.into(), addresses };
            self.cluster.set_interface(index, Some(interface));
        }
        let local: Vec<IpAddr> =
            topology.local().filter(|address| !address.is_loopback()).collect();
        self.cluster.set_local_addresses(&self.node, &local);
    }

    fn manifests_changed(&mut self) {
        let now = Timestamp::now();
        let problems = self.folder.reload(&mut self.cluster, now);
        let revision = self.cluster.snapshot().revision();
        tracing::info!(revision, "manifests changed");
        self.recheck.changed(now);
        for problem in problems {
            self.degraded(&problem);
        }
    }

    fn tell_ready(&mut self) {
        let snapshot = self.cluster.snapshot();
        let kinds = [Kind::Pod, Kind::Namespace, Kind::Node, Kind::Service, Kind::EndpointSlice];
        let kinds = kinds.into_iter().chain(PolicyKind::ALL.map(Kind::Policy));
        let objects: BTreeMap<_, _> = kinds
            .map(|kind| (kind.to_string(), snapshot.count(kind)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let mut cannot: Vec<String> = self
            .probe
            .parts
            .iter()
            .filter_map(|part| match &part.state {
                State::Active => None,
                State::Unavailable(why) | State::Failed(why) => {
                    Some(format!("{}: {why}", part.name))
                }
            })
            .collect();
        for (kind, count) in snapshot.unread() {
            cannot
                .push(format!("read {count} of kind {kind}: what they may decide cannot be told"));
        }
        if snapshot.node(&self.node).is_none() {
            tracing::warn!(node = &*self.node, "no Node object of this name among the manifests");
        }
        let attached = self.probe.interfaces.attached();
        let state = AgentState::Ready {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: kernel_release(),
            interfaces: attached.map(|(_, name)| name.to_owned()).collect(),
            objects,
            cannot,
        };
        self.tell(state);
        let failed: Vec<_> =
            self.probe.interfaces.failed().map(|(_, why)| why.to_owned()).collect();
        for why in failed {
            self.degraded(&format!("an interface is not watched: {why}"));
        }
    }

    fn tell_losses(&mut self) {
        let totals = match self.probe.observations.totals() {
            Ok(totals) => totals,
            Err(error) => return self.degraded(&error),
        };
        let counts = self.losses.news(&totals, self.correlator.account(), self.log.shed());
        if !counts.is_empty() {
            self.tell(AgentState::Lost { counts });
        }
    }

    /// Says what does not work, on both streams; the agent goes on.
    fn degraded(&self, what: &dyn std::fmt::Display) {
        tracing::warn!("{what}");
        let since = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        self.tell(AgentState::Degraded { what: what.to_string(), since });
    }

    fn tell(&self, state: AgentState) {
        self.log.write(self.reporter.agent(Timestamp::now(), state));
    }

    /// Tells what is left to tell.
    async fn stop(mut self, why: String) {
        for seen in self.probe.observations.rest() {
            self.correlator.observe(&seen);
        }
        self.turn().await;
        let now = Timestamp::now();
        for correlated in self.correlator.flush(now) {
            self.take(correlated, now);
        }
        while let Some(waited) = self.waiting.leave(Timestamp::MAX) {
            self.judge_again(waited, now);
        }
        self.tell_losses();
        let counts = match self.probe.observations.totals() {
            Ok(totals) => self.losses.account(&totals, &self.correlator),
            Err(_) => BTreeMap::new(),
        };
        self.tell(AgentState::Stopping { why, counts });
        self.log.finish().await;
    }
}

/// An answered flow's diagnosis, if policies deny it.
fn not_enforced(snapshot: &Snapshot, flow: Flow, at: Timestamp) -> Option<Diagnosis> {
    let case = Case { flow, dialled: None, at: Some(at), fate: Fate::Answered };
    let diagnosis = diagnose(snapshot, &case);
    (diagnosis.cause.class == Class::NotEnforced).then_some(diagnosis)
}

fn case_of(drop: &Drop) -> Case<'_> {
    Case {
        flow: drop.flow,
        dialled: drop.dialled,
        at: Some(drop.evidence.last()),
        fate: Fate::Died(&drop.evidence),
    }
}

/// Whether a pod is at either end: the kernel drops much else on a node that is none of ours.
fn concerns_pods(diagnosis: &Diagnosis, drop: &Drop) -> bool {
    let question = &diagnosis.question;
    let may_be_pod = |holder: &Holder| matches!(holder, Holder::Pod(_) | Holder::Unknown(_));
    drop.evidence.entered.is_some()
        || drop.evidence.delivered
        || may_be_pod(&question.source.holder)
        || may_be_pod(&question.destination.holder)
}

fn kernel_release() -> String {
    match nix::sys::utsname::uname() {
        Ok(name) => name.release().to_string_lossy().into_owned(),
        Err(_) => "(unknown)".to_owned(),
    }
}
