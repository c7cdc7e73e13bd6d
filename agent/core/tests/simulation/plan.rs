//! What is to happen in a run, drawn from its seed. All that is left to chance is drawn here, so that a
//! plan from which something is left out plays the rest as before.

use std::fmt;

use whydrop_core::flow::Direction;

use crate::{
    cluster::{API, BATCH, CANARY, CAST, DB, NAMESPACES, ROLE, TEAM, WEB},
    policies::{Allow, Net, Whom},
    random::Random,
    time::{Lag, Ms, PLUGIN_LAG, WATCH_LAG},
};

/// What a run has besides clients, servers and policies that are there from the start.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each may be there without the others")]
pub(crate) struct Dimensions {
    /// Policies come, change and go, labels change.
    pub(crate) changes: bool,
    /// Pods come and go, and addresses are given again.
    pub(crate) churn: bool,
    /// Clients dial Services.
    pub(crate) services: bool,
    /// Services keep to the endpoints of the client's node, or nobody is behind them.
    pub(crate) no_endpoints: bool,
    /// Answers take their time.
    pub(crate) slow_answers: bool,
    /// Some pods are another node's.
    pub(crate) other_node: bool,
    /// The agent follows its own node's pods, and looks up all others.
    pub(crate) look_ups: bool,
}

impl Dimensions {
    /// Whether it has all that another one has.
    pub(crate) fn has(self, other: Self) -> bool {
        let all = |of: Self| {
            [
                of.changes,
                of.churn,
                of.services,
                of.no_endpoints,
                of.slow_answers,
                of.other_node,
                of.look_ups,
            ]
        };
        all(self).into_iter().zip(all(other)).all(|(own, other)| own || !other)
    }
}

/// All that is to happen.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) looks_up: bool,
    pub(crate) keeps_local: bool,
    /// In the order of their times; those before 0 are the start.
    pub(crate) events: Vec<(Ms, Event)>,
    pub(crate) until: Ms,
}

/// Something that happens. What is no longer there for it to happen to is left alone.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A pod is created in a place; a canary has a label by which policies select it.
    PodComes {
        deployment: usize,
        slot: usize,
        is_local: bool,
        is_canary: bool,
        steps: Steps,
        lag: Lag,
    },
    /// The pod in a place is deleted, with so much grace; `None`: without any, by force.
    PodGoes { deployment: usize, slot: usize, grace: Option<Ms>, steps: Steps, lag: Lag },
    /// The pod in a place has the label by which policies select clients, or has it no more.
    PodLabelled { deployment: usize, slot: usize, is_client: bool, lag: Lag },
    /// The pod in a place is ready, or is not.
    PodReady { deployment: usize, slot: usize, is_ready: bool, steps: Steps, lag: Lag },
    /// A namespace has the label of a team, or has it no more.
    NamespaceLabelled { namespace: &'static str, has_team: bool, lag: Lag },
    /// A policy is so from now on; `None`: it is not there.
    Policy { name: &'static str, is: Option<Net>, lag: Lag },
    /// The pod in a place connects.
    Connect(Connect),
}

/// How long things take one after the other.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Steps {
    /// Until the pod's network is there, or is gone.
    pub(crate) network: Ms,
    /// From then on, until the API server has it.
    pub(crate) status: Ms,
    /// From then on, until it is ready.
    pub(crate) ready: Ms,
    /// Until the endpoint slice has it, and from then on kube-proxy.
    pub(crate) slice: Ms,
    pub(crate) proxy: Ms,
}

/// A connection to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connect {
    pub(crate) deployment: usize,
    pub(crate) slot: usize,
    pub(crate) to: To,
    /// How long the client waits; what is longer than the kernel does is up to the kernel.
    pub(crate) patience: Ms,
    /// How long an answer is under way.
    pub(crate) delay: Ms,
    /// By which kube-proxy takes its picks.
    pub(crate) salt: u64,
}

/// What is dialled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To {
    Service(usize),
    /// The pod that is in a place when the connection begins.
    Pod {
        deployment: usize,
        slot: usize,
    },
}

/// How long clients connect, and how long a run goes on afterwards.
const BUSY: Ms = 150_000;
const QUIET: Ms = 40_000;

/// How long it goes on in some: longer than what an incident is open for after the last attempt.
const SILENT: Ms = 700_000;

const PATIENCE: [Ms; 4] = [2_000, 5_000, 10_000, 200_000];

struct Writer {
    random: Random,
    of: Dimensions,
    events: Vec<(Ms, Event)>,
    replicas: [usize; CAST.len()],
}

impl Plan {
    pub(crate) fn of(seed: u64, of: Dimensions) -> Self {
        let mut random = Random::new(seed);
        // Seeds that follow each other have nothing in common.
        random = Random::new(random.next());
        let looks_up = of.look_ups && random.chance(50);
        let keeps_local = of.no_endpoints && random.chance(30);
        let quiet = if random.chance(10) { SILENT } else { QUIET };
        let mut writer = Writer { random, of, events: Vec::new(), replicas: [0; CAST.len()] };
        writer.start();
        if of.changes {
            writer.changes();
        }
        if of.churn {
            writer.churn();
        }
        if of.no_endpoints {
            writer.outages();
        }
        writer.connects();
        let mut events = writer.events;
        events.sort_by_key(|(time, _)| *time);
        Self { seed, looks_up, keeps_local, events, until: BUSY + quiet }
    }
}

impl Writer {
    fn lag(&mut self) -> Lag {
        Lag {
            plugin: self.random.between(50, PLUGIN_LAG),
            watch: self.random.between(10, WATCH_LAG),
        }
    }

    fn steps(&mut self) -> Steps {
        Steps {
            network: self.random.between(100, 1_500),
            status: self.random.between(50, 1_000),
            ready: self.random.between(100, 4_000),
            slice: self.random.between(50, 800),
            proxy: self.random.between(50, 1_000),
        }
    }

    /// Pods and policies that are there from the start, long since.
    fn start(&mut self) {
        for deployment in 0..CAST.len() {
            let count = 1 + self.random.below(3);
            self.replicas[deployment] = count;
            for slot in 0..count {
                let is_local = !self.of.other_node || self.random.chance(60);
                let (steps, lag) = (Steps::default(), Lag::default());
                let is_canary = self.is_canary(deployment);
                let comes = Event::PodComes { deployment, slot, is_local, is_canary, steps, lag };
                self.events.push((-86_400_000, comes));
            }
        }
        for namespace in NAMESPACES {
            let has_team = self.random.chance(50);
            let lag = Lag::default();
            let labelled = Event::NamespaceLabelled { namespace, has_team, lag };
            self.events.push((-86_400_000, labelled));
        }
        for name in POLICIES {
            if self.random.chance(if self.of.changes { 35 } else { 25 }) {
                let is = Some(self.policy(name));
                self.events.push((-3_600_000, Event::Policy { name, is, lag: Lag::default() }));
            }
        }
    }

    /// Some of what is behind a Service differs from the rest.
    fn is_canary(&mut self, deployment: usize) -> bool {
        self.of.services && CAST[deployment].port.is_some() && self.random.chance(30)
    }

    fn policy(&mut self, name: &'static str) -> Net {
        let (namespace, direction, selects) = match name {
            "deny" | "open" => ("back", Direction::Ingress, None),
            "api-in" => ("back", Direction::Ingress, Some(("app", CAST[API].name))),
            "canary-in" => ("back", Direction::Ingress, Some(CANARY)),
            "db-in" => ("back", Direction::Ingress, Some(("app", CAST[DB].name))),
            _ => ("shop", Direction::Egress, None),
        };
        let allows = match name {
            "deny" => Vec::new(),
            "open" => vec![Allow { peer: Whom::Everyone, port: None }],
            _ => self.allows(direction),
        };
        Net { namespace, name, selects, direction, allows }
    }

    fn allows(&mut self, direction: Direction) -> Vec<Allow> {
        let peers = match direction {
            Direction::Ingress => [
                Whom::Pods { of: Some(TEAM), pods: None },
                Whom::Pods { of: None, pods: Some(("app", CAST[WEB].name)) },
                Whom::Pods { of: None, pods: Some(ROLE) },
                Whom::Pods { of: None, pods: Some(("app", CAST[BATCH].name)) },
            ],
            Direction::Egress => [
                Whom::Everyone,
                Whom::Pods { of: Some(TEAM), pods: None },
                Whom::Pods { of: None, pods: Some(("app", CAST[API].name)) },
                Whom::Pods { of: None, pods: Some(("app", CAST[DB].name)) },
            ],
        };
        let ports = [None, None, Some(8080), Some(5432)];
        let count = self.random.below(3);
        (0..count)
            .map(|_| Allow { peer: *self.random.pick(&peers), port: *self.random.pick(&ports) })
            .collect()
    }

    fn changes(&mut self) {
        let count = 2 + self.random.below(5);
        for _ in 0..count {
            let time = self.random.between(5_000, BUSY - 10_000);
            let lag = self.lag();
            let event = match self.random.below(10) {
                0 => self.pod_labelled(lag),
                1 => Event::NamespaceLabelled {
                    namespace: self.random.pick(&NAMESPACES),
                    has_team: self.random.chance(50),
                    lag,
                },
                _ => {
                    let name = *self.random.pick(&POLICIES);
                    let is = self.random.chance(60).then(|| self.policy(name));
                    Event::Policy { name, is, lag }
                }
            };
            self.events.push((time, event));
        }
    }

    fn place(&mut self, of: &[usize]) -> (usize, usize) {
        let deployment = *self.random.pick(of);
        (deployment, self.random.below(self.replicas[deployment]))
    }

    fn pod_labelled(&mut self, lag: Lag) -> Event {
        let (deployment, slot) = self.place(&[WEB, BATCH]);
        Event::PodLabelled { deployment, slot, is_client: self.random.chance(50), lag }
    }

    /// Pods that are replaced, at once or after a while.
    fn churn(&mut self) {
        let count = 1 + self.random.below(4);
        for _ in 0..count {
            let time = self.random.between(5_000, BUSY - 20_000);
            let (deployment, slot) = self.place(&[WEB, BATCH, API, DB]);
            let grace = self.random.chance(80).then(|| self.random.between(500, 6_000));
            let (steps, lag) = (self.steps(), self.lag());
            self.events.push((time, Event::PodGoes { deployment, slot, grace, steps, lag }));
            let pause = *self.random.pick(&[10, 500, 3_000, 15_000]);
            let is_local = !self.of.other_node || self.random.chance(60);
            let (steps, lag) = (self.steps(), self.lag());
            let is_canary = self.is_canary(deployment);
            let comes = Event::PodComes { deployment, slot, is_local, is_canary, steps, lag };
            self.events.push((time + pause, comes));
        }
    }

    /// Servers that are not ready for a while.
    fn outages(&mut self) {
        let deployment = *self.random.pick(&[API, DB]);
        let time = self.random.between(5_000, BUSY / 2);
        let lasts = self.random.between(5_000, 60_000);
        for slot in 0..self.replicas[deployment] {
            for (time, is_ready) in [(time, false), (time + lasts, true)] {
                let (steps, lag) = (self.steps(), self.lag());
                let ready = Event::PodReady { deployment, slot, is_ready, steps, lag };
                self.events.push((time, ready));
            }
        }
    }

    fn connects(&mut self) {
        for deployment in [WEB, BATCH] {
            for slot in 0..self.replicas[deployment] {
                let interval = self.random.between(3_000, 20_000);
                let server = *self.random.pick(&[API, DB]);
                let by_service = self.of.services && self.random.chance(70);
                let patience = *self.random.pick(&PATIENCE);
                let target = self.random.below(self.replicas[server]);
                let mut time = self.random.between(0, interval);
                while time < BUSY {
                    let to = match by_service {
                        true => To::Service(server),
                        false => To::Pod { deployment: server, slot: target },
                    };
                    let is_slow = self.of.slow_answers && self.random.chance(30);
                    let delay = self.random.between(0, if is_slow { 8_000 } else { 40 });
                    let salt = self.random.next();
                    let connect = Connect { deployment, slot, to, patience, delay, salt };
                    self.events.push((time, Event::Connect(connect)));
                    time += interval + self.random.between(0, interval / 4);
                }
            }
        }
    }
}

/// The names that policies may have.
const POLICIES: [&str; 6] = ["deny", "open", "api-in", "db-in", "canary-in", "out"];

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place =
            |deployment: &usize, slot: &usize| format!("{}[{slot}]", CAST[*deployment].name);
        match self {
            Self::PodComes { deployment, slot, is_local, is_canary, .. } => {
                let node = if *is_local { "this node" } else { "another node" };
                let canary = if *is_canary { ", a canary" } else { "" };
                write!(f, "pod {} comes, of {node}{canary}", place(deployment, slot))
            }
            Self::PodGoes { deployment, slot, grace, .. } => {
                write!(f, "pod {} is deleted, with grace {grace:?}", place(deployment, slot))
            }
            Self::PodLabelled { deployment, slot, is_client, .. } => {
                write!(f, "pod {} has label role=client: {is_client}", place(deployment, slot))
            }
            Self::PodReady { deployment, slot, is_ready, .. } => {
                write!(f, "pod {} is ready: {is_ready}", place(deployment, slot))
            }
            Self::NamespaceLabelled { namespace, has_team, .. } => {
                write!(f, "namespace {namespace} has label team=front: {has_team}")
            }
            Self::Policy { name, is: None, .. } => write!(f, "no policy {name}"),
            Self::Policy { is: Some(policy), lag, .. } => {
                let Net { selects, direction, allows, .. } = policy;
                let lag = format!("in {} ms, seen in {} ms", lag.plugin, lag.watch);
                write!(
                    f,
                    "policy {} {direction} of {selects:?} allows {allows:?}, {lag}",
                    policy.id()
                )
            }
            Self::Connect(Connect { deployment, slot, to, patience, delay, .. }) => {
                let to = match to {
                    To::Service(of) => format!("Service {}", CAST[*of].name),
                    To::Pod { deployment, slot } => place(deployment, slot),
                };
                let from = place(deployment, slot);
                write!(f, "{from} dials {to}, waits {patience} ms, answers take {delay} ms")
            }
        }
    }
}
