//! The agent's process: the one task that hands facts to the [`Docket`], carries out what that
//! decides, and owns the clock.
//!
//! ```text
//!  probe::Interfaces ──▶ Cluster (interfaces, addresses)
//!  cluster::Source ────▶ Cluster ─┐
//!                                 ▼
//!  probe::Observations, time ─▶ Docket ─▶ Action ─┬─▶ Record, Note ─▶ sink::Sinks
//!                                 ▲               ├─▶ look up: cluster::Source
//!                                 └── answers ◀───┴─▶ ask: probe::Successes
//!  counts and lengths of all of these ─▶ Reading ───────────────────▶ sink::Sinks
//!  probe::Successes ◀─▶ LastSuccess ◀─▶ state directory     from one agent to the next
//! ```
//!
//! One task drives all of it: each state has one writer by construction. What has to wait (watches
//! and look-ups in the source, each sink) does so by itself, behind a bounded queue, so that neither
//! a slow API server nor a slow reader of standard output holds up anything.

mod actions;
mod gauges;
mod last_success;
mod losses;
mod own_state;
mod single_instance;

use std::{
    collections::BTreeMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep_until};
use whydrop_core::{
    chain::chain,
    cluster::{Addresses, Cluster, Interface, profile::Engine},
    docket::{Docket, Settings},
    mute,
    observation::Observation,
    own_path::Destination,
};

use crate::{
    cluster::{
        connect::{KubeArgs, address_of, dialled, target},
        folder::Folder,
        live::Live,
        source::Source,
    },
    probe::{Attach, Change, Config, ConntrackNews, Probe},
    report::{AgentState, Reporter},
    sink::http::Health,
    sink::{self, AgentHost, Outgoing, Sinks, metrics::Metrics},
    state::StateDirectory,
};
use last_success::LastSuccess;
use losses::Losses;

/// How often the kernel's counters are drained, and so how late a count may be.
const TURN_INTERVAL: Duration = Duration::from_secs(1);

/// How often losses are looked for and reported, and so how old a reading in the metrics may be: no
/// older than what lies between two scrapes, as a rule.
const GAUGES_INTERVAL: Duration = Duration::from_secs(10);

/// How long to wait for the API server before the agent begins to decide without it. A warm server
/// lists everything within a second.
const SYNC_PATIENCE: SignedDuration = SignedDuration::from_secs(20);

/// How an agent is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of manifests that describes the cluster; `None`: an API server does.
    pub manifests: Option<PathBuf>,
    /// How to reach the API server.
    pub kube: KubeArgs,
    /// Who enforces policies; `None`: what the objects show.
    pub engine: Option<Engine>,
    /// The node it runs on.
    pub node: String,
    /// How to attach to interfaces.
    pub attach: Attach,
    /// Where to serve `/healthz`, `/readyz` and `/metrics`; `None`: nowhere.
    pub health: Option<SocketAddr>,
    /// Where to write records.
    pub sinks: sink::Options,
    /// Where to keep state for the next agent on this node; `None`: nowhere.
    pub state_directory: Option<PathBuf>,
    /// What is expected, and counted instead of reported.
    pub mute: Vec<mute::Rule>,
}

/// Everything that the agent's one task owns: what decides, and its ports.
struct Agent {
    docket: Docket,
    cluster: Cluster,
    reporter: Reporter,
    losses: Losses,
    last_success: LastSuccess,
    sinks: Sinks,
    probe: Probe,
    source: Source,
    health: Health,
    node: Arc<str>,
    /// False at the start: nothing is decided before it is ready.
    is_ready: bool,
    started: Timestamp,
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
    let node: Arc<str> = options.node.as_str().into();
    let mut cluster = Cluster::default();
    let mut api = None;
    let mut destinations = Vec::new();
    let source = if let Some(path) = options.manifests {
        let folder = Folder::open(path, &mut cluster)?;
        cluster.history_begins(Timestamp::now());
        Source::Manifests(folder)
    } else {
        let target = target(&options.kube).await.context("cannot reach the cluster")?;
        destinations.extend(destination("API server", dialled(&target.config).await));
        let client = target.client().context("cannot reach the cluster")?;
        api = Some(client.clone());
        Source::Api(Box::new(Live::start(client, node.clone(), &mut cluster)))
    };
    if let Some(engine) = options.engine {
        cluster.give_engine(engine);
    }
    let _claim = single_instance::claim()?;
    let (state, no_state) = open_state(options.state_directory.as_deref());
    let folder = state.as_ref().map(StateDirectory::path);
    let host = AgentHost { node: &options.node, folder, client: api.as_ref() };
    let metrics = Metrics::default();
    let sinks = Sinks::start(options.sinks, host, metrics.clone());
    let sinks = sinks.context("cannot send to a collector")?;
    for (what, url) in sinks.destinations() {
        destinations.extend(destination(what, address_of(url).await));
    }
    let health = Health::start(options.health, metrics).await.context("--health-address")?;
    let config = Config { attach: options.attach, ..Config::default() };
    let probe = Probe::start(&config).context("cannot watch this node")?;
    let mut agent = Agent {
        docket: Docket::new(Settings { node: node.clone(), mute: options.mute, destinations }),
        cluster,
        reporter: Reporter { node: options.node },
        losses: Losses::default(),
        last_success: LastSuccess::new(state),
        sinks,
        probe,
        source,
        health,
        node,
        is_ready: false,
        started: Timestamp::now(),
    };
    if let Some(what) = no_state {
        agent.degraded(&what);
    }
    agent.recall();
    agent.take_topology();
    agent.get_ready(Timestamp::now());
    let why = agent.follow(shutdown).await;
    agent.stop(why).await;
    Ok(())
}

/// What the agent before this one left, or why that cannot be had.
fn open_state(directory: Option<&Path>) -> (Option<StateDirectory>, Option<String>) {
    match directory.map(StateDirectory::open).transpose() {
        Ok(state) => (state, None),
        Err(why) => (None, Some(last_success::not_saved(&why))),
    }
}

impl Agent {
    /// Handles whatever comes next, until it is time to stop; returns why.
    async fn follow(&mut self, shutdown: impl Future<Output = &'static str>) -> String {
        tokio::pin!(shutdown);
        let mut turns = interval(TURN_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gauges = interval(GAUGES_INTERVAL);
        gauges.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.due();
            tokio::select! {
                why = &mut shutdown => return why.to_owned(),
                batch = self.probe.observations.next() => match batch {
                    Ok(batch) => self.observed(&batch),
                    Err(error) => return format!("cannot read the ring: {}", chain(&error)),
                },
                changes = self.probe.interfaces.next() => match changes {
                    Ok(changes) => self.interfaces_changed(changes),
                    Err(error) => return format!("cannot follow interfaces: {}", chain(&error)),
                },
                changed = self.source.changed() => match changed {
                    Ok(()) => self.cluster_changed(),
                    Err(error) => self.failed(&error),
                },
                _ = turns.tick() => self.turn().await,
                _ = gauges.tick() => self.read_gauges(Timestamp::now()),
                () = sleep_until(due) => {}
            }
            let now = Timestamp::now();
            self.get_ready(now);
            if self.is_ready {
                let actions = self.docket.tick(&self.cluster, now);
                self.carry_out(actions, now);
            }
        }
    }

    /// When there is something to decide without anything coming in.
    fn due(&self) -> Instant {
        if !self.is_ready {
            return Instant::now() + TURN_INTERVAL;
        }
        let now = Timestamp::now();
        let until =
            |due: Timestamp| Duration::try_from(due.duration_since(now)).unwrap_or_default();
        let wait = self.docket.deadline().map(until);
        // Turns come around anyway.
        Instant::now() + wait.unwrap_or(TURN_INTERVAL).min(TURN_INTERVAL)
    }

    /// Hands over what the kernel saw.
    fn observed(&mut self, batch: &[Observation]) {
        let now = Timestamp::now();
        for seen in batch {
            let action = self.docket.observed(seen);
            self.carry_out(action, now);
        }
    }

    /// What is done once a second.
    async fn turn(&mut self) {
        let now = Timestamp::now();
        self.health.beat(now, self.source.is_synced());
        let trouble = self.source.turn(&mut self.cluster, now).filter(|_| self.is_ready);
        self.report_troubles(trouble);
        match self.probe.connections.look(now) {
            Ok(ConntrackNews { full, invalid }) => {
                if let Some(full) = full {
                    self.cluster.set_table_full(full);
                }
                if let Some(invalid) = invalid {
                    self.cluster.add_invalid(invalid);
                }
            }
            Err(error) => self.failed(&error),
        }
        match self.probe.observations.turn().await {
            Ok(counted) => self.observed(&counted),
            Err(error) => self.failed(&error),
        }
        if self.is_ready {
            let actions = self.docket.turn(&self.cluster, now);
            self.carry_out(actions, now);
        }
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
        let snapshot = self.cluster.snapshot();
        for (index, name) in topology.links() {
            let addresses: Vec<IpAddr> = topology.addresses(index).collect();
            // What is there when the agent starts is older than that.
            let since = match snapshot.node_facts().interface(index) {
                Some(known) => known.since,
                None => self.is_ready.then(Timestamp::now),
            };
            let interface = Interface { name: name.into(), addresses, since };
            self.cluster.set_interface(index, Some(interface));
        }
        let (local, routed) = (topology.local().collect(), topology.routed().collect());
        self.cluster.set_addresses(&self.node, Addresses { local, routed });
    }

    fn cluster_changed(&mut self) {
        let now = Timestamp::now();
        let update = self.source.update(&mut self.cluster, now);
        if update.policies_changed && self.is_ready {
            self.docket.policies_changed(now);
        }
        self.report_troubles(update.troubles);
    }

    /// Gets ready once the cluster is known, or has kept silent for too long.
    fn get_ready(&mut self, now: Timestamp) {
        let patience = now.duration_since(self.started) < SYNC_PATIENCE;
        if self.is_ready || (!self.source.is_synced() && patience) {
            return;
        }
        self.is_ready = true;
        self.health.beat(now, self.source.is_synced());
        self.read_gauges(now);
        self.report_ready();
    }

    /// Hands something to every sink.
    fn write(&self, outgoing: impl Into<Outgoing>) {
        self.sinks.write(&outgoing.into());
    }

    /// Decides and reports what is left.
    async fn stop(mut self, why: String) {
        let rest = self.probe.observations.rest();
        self.observed(&rest);
        self.turn().await;
        let now = Timestamp::now();
        let actions = self.docket.flush(&self.cluster, now);
        self.carry_out(actions, now);
        self.sinks.finish_without_records().await;
        // All losses, however recently they were reported.
        self.read_gauges(Timestamp::MAX);
        let muted = self.docket.take_muted();
        self.carry_out(muted, now);
        let counts = match self.probe.observations.totals() {
            Ok(totals) => {
                self.keep_last_success(&totals).await;
                losses::account(&totals, &self.docket.account())
            }
            Err(_) => BTreeMap::new(),
        };
        self.report_state(AgentState::Stopping { why, counts });
        self.sinks.finish().await;
    }
}

/// What the agent must reach, where its address is known.
fn destination(what: &str, address: Option<SocketAddr>) -> Option<Destination> {
    Some(Destination { what: what.to_owned(), address: address? })
}
