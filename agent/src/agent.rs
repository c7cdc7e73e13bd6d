//! The agent's process: the one task that decides, and owns the clock.
//!
//! ```text
//!  probe::Interfaces ──▶ Cluster (interfaces, addresses)
//!  cluster::Source ────▶ Cluster ──▶ Snapshot ─────────────┐
//!                                                          ▼
//!  probe::Observations ▶ Correlator ─▶ Drop ─────▶ diagnose, remedy ─▶ Record ─▶ sink::Sinks
//!            tick ─────▶      │                           └▶ IncidentBook ─┤           ▲
//!                             │        Answered ─▶ diagnose ─▶ finding ─┤           │
//!                             └──────▶ Folded ─────────────────────────┘           │
//!  counts and lengths of all of these ─▶ Reading ──────────────────────────────────┘
//!  probe::Successes ◀─▶ Past ◀─▶ state directory     when flows worked last, from agent to agent
//! ```
//!
//! One task drives all of it: each state has one writer by construction. What has to wait (watches
//! and look-ups in the source, each sink) does so by itself, behind a bounded queue, so that neither
//! a slow API server nor a slow reader of standard output holds up anything.

mod alone;
mod gauges;
mod incidents;
mod judge;
mod losses;
mod own_path;
mod past;
mod recheck;
mod waiting;

use std::{
    collections::BTreeMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::time::{Duration, Instant, MissedTickBehavior, interval, sleep_until};
use whydrop_core::{
    cluster::{Cluster, Interface, object::Kind},
    correlate::Correlator,
    incident::IncidentBook,
    mute::{self, Muted},
    observation::Observation,
};

use crate::{
    cluster::{
        connect::{KubeArgs, address_of, config, dialled},
        folder::Folder,
        live::{Live, Trouble},
        source::Source,
    },
    http::Health,
    probe::{Attach, Change, Config, Happened, Probe, State},
    report::{AgentState, Reporter},
    sink::{self, Outgoing, Place, Sinks, metrics::Metrics},
    state::StateDirectory,
};
use incidents::Notes;
use losses::Losses;
pub use own_path::Destination;
use own_path::OwnPath;
use past::Past;
use recheck::Recheck;
use waiting::{Seekers, Seeking, WaitingRoom};

/// How often the kernel's counters are drained, and so how late a count may be.
const TURN_INTERVAL: Duration = Duration::from_secs(1);

/// How often losses are looked for and reported, and so how old a reading in the metrics may be: no
/// older than what lies between two scrapes, as a rule.
const GAUGES_INTERVAL: Duration = Duration::from_secs(10);

/// How long to wait for the API server before the agent begins to judge without it. A warm one
/// lists everything within a second.
const SYNC_PATIENCE: SignedDuration = SignedDuration::from_secs(20);

/// How an agent is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of manifests that describes the cluster; `None`: an API server does.
    pub manifests: Option<PathBuf>,
    /// How to reach the API server.
    pub kube: KubeArgs,
    /// The node it runs on.
    pub node: String,
    /// How to attach to interfaces.
    pub attach: Attach,
    /// Where to answer whether the agent lives and is ready, and how it fares.
    pub health: Option<SocketAddr>,
    /// Where to write records.
    pub sinks: sink::Options,
    /// Where to keep what the next agent on this node goes on from; `None`: nowhere.
    pub state_directory: Option<PathBuf>,
    /// What is meant and not to be told.
    pub mute: Vec<mute::Rule>,
}

/// Everything that the agent's one task owns.
struct Agent {
    reporter: Reporter,
    cluster: Cluster,
    correlator: Correlator,
    incidents: IncidentBook,
    notes: Notes,
    recheck: Recheck,
    own_path: OwnPath,
    waiting: WaitingRoom,
    seekers: Seekers,
    losses: Losses,
    past: Past,
    mute: Vec<mute::Rule>,
    muted: Muted,
    sinks: Sinks,
    probe: Probe,
    source: Source,
    health: Health,
    node: Arc<str>,
    /// Judges nothing before it is ready, and is from then on.
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
        let config = config(&options.kube).await.context("cannot reach the cluster")?;
        destinations.extend(destination("API server", dialled(&config).await));
        let client = Client::try_from(config).context("cannot reach the cluster")?;
        api = Some(client.clone());
        Source::Api(Box::new(Live::start(client, node.clone(), &mut cluster)))
    };
    let _alone = alone::claim()?;
    let opened = options.state_directory.as_deref().map(StateDirectory::open).transpose();
    let (state, no_state) = match opened {
        Ok(state) => (state, None),
        Err(why) => (None, Some(format!("what is known ends with this agent: {why:#}"))),
    };
    let folder = state.as_ref().map(StateDirectory::path);
    let place = Place { node: &options.node, folder, client: api.as_ref() };
    let metrics = Metrics::default();
    let sinks = Sinks::start(options.sinks, place, metrics.clone())?;
    for (what, url) in sinks.destinations() {
        destinations.extend(destination(what, address_of(url).await));
    }
    let health = Health::start(options.health, metrics).await?;
    let config = Config { attach: options.attach, ..Config::default() };
    let probe = Probe::start(&config).context("cannot watch this node")?;
    let mut agent = Agent {
        reporter: Reporter { node: options.node.clone() },
        cluster,
        correlator: Correlator::default(),
        incidents: IncidentBook::default(),
        notes: Notes::default(),
        recheck: Recheck::default(),
        own_path: OwnPath::to(destinations),
        waiting: WaitingRoom::default(),
        seekers: Seekers::default(),
        losses: Losses::default(),
        past: Past::new(state),
        mute: options.mute,
        muted: Muted::default(),
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

impl Agent {
    /// Takes whatever comes next, until it is time to stop, and says why.
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
                    Ok(batch) => batch.iter().for_each(|seen| self.observe(seen)),
                    Err(error) => return format!("the ring cannot be read: {error}"),
                },
                changes = self.probe.interfaces.next() => match changes {
                    Ok(changes) => self.interfaces_changed(changes),
                    Err(error) => return format!("interfaces cannot be followed: {error}"),
                },
                changed = self.source.changed() => match changed {
                    Ok(()) => self.cluster_changed(),
                    Err(error) => self.degraded(&error),
                },
                _ = turns.tick() => self.turn().await,
                _ = gauges.tick() => self.read_gauges(Timestamp::now()),
                () = sleep_until(due) => {}
            }
            let now = Timestamp::now();
            self.get_ready(now);
            if self.is_ready {
                self.judge(now);
            }
        }
    }

    /// When there is something to judge without anything coming in.
    fn due(&self) -> Instant {
        if !self.is_ready {
            return Instant::now() + TURN_INTERVAL;
        }
        let now = Timestamp::now();
        let due = [self.correlator.deadline(), self.recheck.deadline(), self.waiting.deadline()];
        let due = due.into_iter().flatten().min();
        let wait = due.map(|due| Duration::try_from(due.duration_since(now)).unwrap_or_default());
        // Turns come around anyway.
        Instant::now() + wait.unwrap_or(TURN_INTERVAL).min(TURN_INTERVAL)
    }

    /// Takes what was observed. Of a flow that dies once more, the kernel knows whether it worked in
    /// between.
    fn observe(&mut self, seen: &Observation) {
        if let Some(flow) = self.correlator.dies_again(seen) {
            match self.probe.successes.last(&flow) {
                Ok(Some(at)) => self.correlator.worked(&flow, at),
                Ok(None) => {}
                Err(error) => self.degraded(&error),
            }
        }
        self.correlator.observe(seen);
    }

    async fn turn(&mut self) {
        let now = Timestamp::now();
        self.health.beat(now, self.source.is_synced());
        let trouble = self.source.turn(&mut self.cluster, now).filter(|_| self.is_ready);
        self.tell_troubles(trouble);
        match self.probe.connections.look(now) {
            Ok(Happened { full, invalid }) => {
                if let Some(full) = full {
                    self.cluster.set_table_full(full);
                }
                if let Some(invalid) = invalid {
                    self.cluster.add_invalid(invalid);
                }
            }
            Err(error) => self.degraded(&error),
        }
        match self.probe.observations.turn().await {
            Ok(counted) => counted.iter().for_each(|seen| self.correlator.observe(seen)),
            Err(error) => self.degraded(&error),
        }
        if self.is_ready {
            self.check_own_path(now);
            self.follow_incidents(now);
        }
        if let Some((since, tallies)) = self.muted.due(now) {
            self.write(self.reporter.muted(now, since, tallies));
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
        let local: Vec<IpAddr> =
            topology.local().filter(|address| !address.is_loopback()).collect();
        self.cluster.set_local_addresses(&self.node, &local);
    }

    fn cluster_changed(&mut self) {
        let now = Timestamp::now();
        let taken = self.source.take(&mut self.cluster, now);
        if taken.policies_changed && self.is_ready {
            self.recheck.changed(now);
            self.own_path.changed();
        }
        self.tell_troubles(taken.troubles);
    }

    fn tell_troubles(&mut self, troubles: impl IntoIterator<Item = Trouble>) {
        for trouble in troubles {
            match trouble {
                Trouble::Skipped(what) => self.degraded(&what),
                Trouble::Failing { what, since } => self.degraded_since(&what, since),
                Trouble::Recovered => self.tell_ready(),
            }
        }
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
        self.tell_ready();
    }

    fn tell_ready(&mut self) {
        let snapshot = self.cluster.snapshot();
        let objects: BTreeMap<_, _> = Kind::all()
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
                    Some(format!("use {}: {why}", part.name))
                }
            })
            .collect();
        for (kind, count) in snapshot.sync().unread() {
            cannot
                .push(format!("read {count} of kind {kind}: what they may decide cannot be told"));
        }
        for (kind, why) in snapshot.sync().unsynced() {
            let why = why.as_deref().unwrap_or("the API server has not listed them yet");
            cannot.push(format!("tell what depends on {kind} objects: {why}"));
        }
        if snapshot.node(&self.node).is_none()
            && !snapshot.sync().unsynced().contains_key(&Kind::Node)
        {
            cannot.push(format!(
                "find a Node object named {}: see --node-name and NODE_NAME",
                self.node
            ));
        }
        cannot.extend(self.sinks.readings().cannot);
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

    /// Says what does not work, on both streams; the agent goes on.
    fn degraded(&self, what: &dyn std::fmt::Display) {
        self.degraded_since(what, Timestamp::now());
    }

    fn degraded_since(&self, what: &dyn std::fmt::Display, since: Timestamp) {
        tracing::warn!("{what}");
        let since = since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        self.tell(AgentState::Degraded { what: what.to_string(), since });
    }

    fn tell(&self, state: AgentState) {
        self.write(self.reporter.agent(Timestamp::now(), state));
    }

    /// Hands something to every sink.
    fn write(&self, outgoing: impl Into<Outgoing>) {
        self.sinks.write(&outgoing.into());
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
        for seeking in self.seekers.leave(Timestamp::MAX, |_| true) {
            if let Seeking::Drop(drop) = seeking {
                self.judge_known_drop(drop, now);
            }
        }
        while let Some(waited) = self.waiting.leave(Timestamp::MAX) {
            self.judge_again(waited, now);
        }
        self.hand_on_notes(Timestamp::MAX);
        self.sinks.finish_without_records().await;
        // Everything, however recently it was reported.
        self.read_gauges(Timestamp::MAX);
        if let Some((since, tallies)) = self.muted.take() {
            self.write(self.reporter.muted(now, since, tallies));
        }
        let counts = match self.probe.observations.totals() {
            Ok(totals) => {
                self.keep_last(&totals).await;
                self.losses.account(&totals, &self.correlator, self.muted.packets())
            }
            Err(_) => BTreeMap::new(),
        };
        self.tell(AgentState::Stopping { why, counts });
        self.sinks.finish().await;
    }
}

/// What the agent must reach, where its address is known.
fn destination(what: &str, address: Option<SocketAddr>) -> Option<Destination> {
    Some(Destination { what: what.to_owned(), address: address? })
}

fn kernel_release() -> String {
    match nix::sys::utsname::uname() {
        Ok(name) => name.release().to_string_lossy().into_owned(),
        Err(_) => "(unknown)".to_owned(),
    }
}
