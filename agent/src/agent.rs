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
mod interfaces;
mod last_success;
mod losses;
mod memory;
mod own_state;

use std::{
    collections::BTreeMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::pin,
    sync::Arc,
};

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp, Unit};
use tokio::{
    task::spawn_blocking,
    time::{Duration, Instant, MissedTickBehavior, interval, sleep_until},
};
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
    probe::{Attach, Claim, ConntrackNews, Probe, Programs},
    report::{AgentState, Reporter},
    sink::http::Health,
    sink::{self, AgentHost, Outgoing, Sinks, metrics::Metrics},
    state::StateDirectory,
};
use last_success::LastSuccess;
use losses::Losses;
use memory::Memory;

/// How often the kernel's counters are drained, and so how late a count may be.
const TURN_INTERVAL: Duration = Duration::from_secs(1);

/// How often losses are looked for and reported, and so how old a reading in the metrics may be: no
/// older than what lies between two scrapes, as a rule.
const GAUGES_INTERVAL: Duration = Duration::from_secs(10);

/// How long to wait for the API server before the agent begins to decide without it. A warm server
/// lists everything within a second.
const SYNC_PATIENCE: SignedDuration = SignedDuration::from_secs(20);

/// The wall clock has been set if it differs by this much from what it was and the time that has passed:
/// more than clocks of one cluster differ as a rule.
const CLOCK_SET: SignedDuration = SignedDuration::from_secs(5);

/// So long an agent runs before it starts again for a clock that was set: one that is set all the time is
/// not to keep it from its work.
const AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Why an agent has ended.
pub enum Ended {
    /// It was asked to, or cannot go on.
    ForGood,
    /// The wall clock was set, and all times that the agent knows are another clock's: it is to be run
    /// again, with this.
    ToBeginAgain(Eyes),
}

/// What an agent sees with: loaded once, since the privileges that this takes are given up then.
pub enum Eyes {
    /// The programs, as they were loaded.
    New(Box<Programs>),
    /// What an agent before this one in the same process saw with.
    Used(Box<Probe>),
}

/// Whether to go on when an agent stops.
#[derive(Clone, Copy)]
enum Then {
    End,
    BeginAgain,
}

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
    memory: Memory,
    sinks: Sinks,
    probe: Probe,
    source: Source,
    health: Health,
    node: Arc<str>,
    /// False at the start: nothing is decided before it is ready.
    is_ready: bool,
    started: Timestamp,
    /// As long as it lives, no other agent watches this node.
    _claim: Claim,
}

/// Runs until `shutdown` resolves, or until the wall clock is set.
///
/// # Errors
/// What keeps the agent from starting: manifests that cannot be read, an API server that nothing names,
/// another agent.
pub async fn run(
    options: Options,
    eyes: Eyes,
    shutdown: impl Future<Output = &'static str>,
) -> anyhow::Result<Ended> {
    let mut shutdown = pin!(shutdown);
    let mut agent = tokio::select! {
        why = &mut shutdown => {
            tracing::info!("stopping before it has begun: {why}");
            return Ok(Ended::ForGood);
        }
        agent = start(options, eyes) => agent?,
    };
    let (why, then) = agent.follow(&mut shutdown).await;
    let probe = Box::pin(agent.stop(why)).await;
    Ok(match then {
        Then::End => Ended::ForGood,
        Then::BeginAgain => Ended::ToBeginAgain(Eyes::Used(Box::new(probe))),
    })
}

/// Starts to watch.
async fn start(options: Options, eyes: Eyes) -> anyhow::Result<Agent> {
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
        // A program that it asks for a credential may take as long as it likes.
        let client = spawn_blocking(move || target.client()).await?;
        let client = client.context("cannot reach the cluster")?;
        api = Some(client.clone());
        Source::Api(Box::new(Live::start(client, node.clone(), &mut cluster)))
    };
    if let Some(engine) = options.engine {
        cluster.give_engine(engine);
    }
    let claim = Claim::make()?;
    let (state, no_state) = last_success::open(options.state_directory.as_deref()).await;
    let folder = state.as_ref().map(StateDirectory::path);
    let host = AgentHost { node: &options.node, folder, client: api.as_ref() };
    let metrics = Metrics::default();
    let sinks = Sinks::start(options.sinks, host, metrics.clone());
    let sinks = sinks.context("cannot send to a collector")?;
    for (what, url) in sinks.destinations() {
        destinations.extend(destination(what, address_of(url).await));
    }
    let health = Health::start(options.health, metrics).await.context("--health-address")?;
    let is_first = matches!(eyes, Eyes::New(_));
    let probe = match eyes {
        Eyes::New(programs) => programs.watch(options.attach),
        Eyes::Used(probe) => probe.begin_again(),
    };
    let probe = probe.context("cannot watch this node")?;
    let started = probe.clock.now();
    let mut agent = Agent {
        docket: Docket::new(Settings { node: node.clone(), mute: options.mute, destinations }),
        cluster,
        reporter: Reporter { node: options.node },
        losses: Losses::default(),
        last_success: LastSuccess::new(state),
        memory: Memory::of_this_process(),
        sinks,
        probe,
        source,
        health,
        node,
        is_ready: false,
        started,
        _claim: claim,
    };
    if let Some(what) = no_state {
        agent.degraded(&what);
    }
    // One that begins again has not forgotten.
    if is_first {
        agent.recall().await;
    }
    agent.take_topology();
    agent.get_ready(started);
    Ok(agent)
}

impl Agent {
    /// Handles whatever comes next, until it is time to stop; returns why.
    async fn follow(
        &mut self,
        mut shutdown: impl Future<Output = &'static str> + Unpin,
    ) -> (String, Then) {
        let begun = Instant::now();
        let mut turns = interval(TURN_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gauges = interval(GAUGES_INTERVAL);
        gauges.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.due();
            tokio::select! {
                why = &mut shutdown => return (why.to_owned(), Then::End),
                batch = self.probe.observations.next() => match batch {
                    Ok(batch) => self.observed(&batch),
                    Err(error) => return cannot("read the ring", &error),
                },
                changes = self.probe.interfaces.next() => match changes {
                    Ok(changes) => self.interfaces_changed(changes),
                    Err(error) => return cannot("follow interfaces", &error),
                },
                changed = self.source.changed() => match changed {
                    Ok(()) => self.cluster_changed(),
                    Err(error) => self.failed(&error),
                },
                _ = turns.tick() => self.turn().await,
                _ = gauges.tick() => self.read_gauges(self.now()),
                () = sleep_until(due) => {}
            }
            let set_by = self.probe.clock.was_set_by();
            if set_by.abs() >= CLOCK_SET && begun.elapsed() >= AGAIN_AFTER {
                return (clock_was_set(set_by), Then::BeginAgain);
            }
            let now = self.now();
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
        let now = self.now();
        let until =
            |due: Timestamp| Duration::try_from(due.duration_since(now)).unwrap_or_default();
        let wait = self.docket.deadline().map(until);
        // Turns come around anyway.
        Instant::now() + wait.unwrap_or(TURN_INTERVAL).min(TURN_INTERVAL)
    }

    /// What time it is, by a clock that nobody sets.
    fn now(&self) -> Timestamp {
        self.probe.clock.now()
    }

    /// Hands over what the kernel saw.
    fn observed(&mut self, batch: &[Observation]) {
        let now = self.now();
        for seen in batch {
            let action = self.docket.observed(seen);
            self.carry_out(action, now);
        }
    }

    /// What is done once a second.
    async fn turn(&mut self) {
        let now = self.now();
        self.health.beat(self.source.is_synced());
        self.look_at_interfaces();
        self.look_at_memory();
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

    /// Takes over what the kernel routes where.
    fn take_topology(&mut self) {
        let topology = self.probe.interfaces.topology();
        let (snapshot, now) = (self.cluster.snapshot(), self.probe.clock.now());
        for (index, name) in topology.links() {
            let addresses: Vec<IpAddr> = topology.addresses(index).collect();
            // What is there when the agent starts is older than that.
            let since = match snapshot.node_facts().interface(index) {
                Some(known) => known.since,
                None => self.is_ready.then_some(now),
            };
            let interface = Interface { name: name.into(), addresses, since };
            self.cluster.set_interface(index, Some(interface));
        }
        let (local, routed) = (topology.local().collect(), topology.routed().collect());
        self.cluster.set_addresses(&self.node, Addresses { local, routed });
        self.take_senders();
    }

    fn cluster_changed(&mut self) {
        let now = self.now();
        let update = self.source.update(&mut self.cluster, now);
        if update.policies_changed && self.is_ready {
            self.docket.policies_changed(now);
        }
        self.take_senders();
        self.report_troubles(update.troubles);
    }

    /// Gets ready once the cluster is known, or has kept silent for too long.
    fn get_ready(&mut self, now: Timestamp) {
        let patience = now.duration_since(self.started) < SYNC_PATIENCE;
        if self.is_ready || (!self.source.is_synced() && patience) {
            return;
        }
        self.is_ready = true;
        self.health.beat(self.source.is_synced());
        self.read_gauges(now);
        self.report_ready();
    }

    /// Hands something to every sink.
    fn write(&self, outgoing: impl Into<Outgoing>) {
        self.sinks.write(&outgoing.into());
    }

    /// Decides and reports what is left. Every wait in here has an end, so that it ends well within the
    /// half minute that a pod has. Returns what it saw with.
    async fn stop(mut self, why: String) -> Probe {
        // What is seen from here on would be in no account. First the counts, for whose exchange the
        // kernel waits until no program runs any more; then what these have put into the ring.
        self.probe.end_drops();
        self.turn().await;
        let rest = self.probe.observations.rest();
        self.observed(&rest);
        let now = self.now();
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
        self.probe
    }
}

fn cannot(what: &str, error: &dyn std::error::Error) -> (String, Then) {
    (format!("cannot {what}: {}", chain(error)), Then::End)
}

fn clock_was_set(by: SignedDuration) -> String {
    let to = if by.is_negative() { "back" } else { "forward" };
    let by = by.round(Unit::Second).unwrap_or(by);
    format!("the clock of this node was set {to} by {:#}: starting again", by.abs())
}

/// What the agent must reach, where its address is known.
fn destination(what: &str, address: Option<SocketAddr>) -> Option<Destination> {
    Some(Destination { what: what.to_owned(), address: address? })
}
