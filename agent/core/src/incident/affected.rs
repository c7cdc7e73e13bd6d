//! Who is affected by an incident, and how many of how many.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use jiff::Timestamp;

use super::affected_flow::{AffectedFlow, AffectedPod};
use crate::{
    cluster::{
        Snapshot,
        object::{Pod, Service, Workload},
        resolve::{Endpoint, Holder},
    },
    flow::{Protocol, Worked},
    verdict::Question,
};

/// A source of so many different ports that never got an answer looks for open ones.
const SCANNED_PORTS_MIN: usize = 8;

/// One end of a path: what stands for all replicas.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A workload of a namespace.
    Workload(Arc<str>, Workload),
    /// A pod of a namespace that nothing owns.
    Pod(Arc<str>, Arc<str>),
    /// A node.
    Node(Arc<str>),
    /// Addresses outside the cluster.
    Outside,
    /// A Service, or an address that nothing is known about.
    Other(String),
}

impl Party {
    fn at(end: &Endpoint) -> Self {
        match &end.holder {
            Holder::Pod(pod) => match &pod.workload {
                Some(workload) => Self::Workload(pod.namespace.clone(), workload.clone()),
                None => Self::Pod(pod.namespace.clone(), pod.name.clone()),
            },
            Holder::Node(node) => Self::Node(node.name.clone()),
            Holder::Outside => Self::Outside,
            Holder::SecondNetwork(..)
            | Holder::Service(_)
            | Holder::Hidden(_)
            | Holder::Unknown(_) => Self::Other(end.to_string()),
        }
    }

    /// Whether it is made of pods.
    pub(super) fn is_of_pods(&self) -> bool {
        matches!(self, Self::Workload(..) | Self::Pod(..))
    }

    fn has(&self, pod: &Pod) -> bool {
        match self {
            Self::Workload(namespace, workload) => {
                pod.namespace == *namespace && pod.workload.as_ref() == Some(workload)
            }
            Self::Pod(namespace, name) => pod.namespace == *namespace && pod.name == *name,
            Self::Node(_) | Self::Outside | Self::Other(_) => false,
        }
    }
}

impl fmt::Display for Party {
    /// `backend/backend-api`, `node worker-1`, `outside the cluster`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(namespace, workload) => write!(f, "{namespace}/{}", workload.name),
            Self::Pod(namespace, name) => write!(f, "{namespace}/{name}"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Outside => f.write_str("outside the cluster"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

/// From which party to which, and on what port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// Who connects.
    pub source: Party,
    /// Who is connected to.
    pub destination: Party,
    /// Destination port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

impl Path {
    pub(super) fn of(question: &Question) -> Self {
        Self {
            source: Party::at(&question.source),
            destination: Party::at(&question.destination),
            port: question.port,
            protocol: question.protocol,
        }
    }

    /// Who is affected: the source, if it is of the cluster's pods; else the destination.
    pub fn affected_party(&self) -> &Party {
        if self.source.is_of_pods() { &self.source } else { &self.destination }
    }
}

/// A path that is cut, and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct CutPath {
    /// The path.
    pub path: Path,
    /// The affected party's pods that it is cut for, `NAMESPACE/NAME`: of those that are there, unless
    /// all are gone.
    pub pods: BTreeSet<String>,
    /// These pods are gone by now.
    pub are_gone: bool,
    /// When the first of its packets was dropped.
    pub first: Timestamp,
    /// When the last one was.
    pub last: Timestamp,
    /// How many pods that party has: all of them, or those with an address that are known.
    pub replicas: usize,
    /// These are all of them: every pod of the cluster is known, or the workload's own status says.
    pub knows_all: bool,
    /// How many of all are ready, by the workload's own status.
    pub replicas_ready: Option<usize>,
    /// How many of that party's pods with an address are known one by one.
    pub known: usize,
    /// The health of the pods that it is cut for.
    pub health: PodHealth,
    /// The pods or addresses at the other end.
    pub others: BTreeSet<String>,
    /// When one of the flows last got an answer.
    pub worked: Option<Timestamp>,
    /// How many connections were answered of the flow that had the fewest, at the least.
    pub connections: u64,
    /// When the first of that party's pods was made, if that is known.
    pub oldest_pod: Option<Timestamp>,
    /// The source tries many ports and never got an answer.
    pub is_scan: bool,
}

/// The health of some pods, as far as their statuses say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodHealth {
    /// How many are not ready.
    pub not_ready: Option<usize>,
    /// How often their containers were restarted.
    pub restarts: Option<u64>,
    /// How often at least since this node first saw them affected.
    pub restarts_since: Option<u64>,
}

impl CutPath {
    /// Whether the affected party is a workload with all of its pods affected.
    pub fn is_whole_workload(&self) -> bool {
        matches!(self.path.affected_party(), Party::Workload(..))
            && self.knows_all
            && !self.are_gone
            && self.replicas > 0
            && self.pods.len() >= self.replicas
    }

    /// Whether the affected party is a workload without a ready pod, with all of its known pods
    /// affected: this node's agent sees its own pods cut off, and the others are not ready either.
    pub fn is_down(&self) -> bool {
        matches!(self.path.affected_party(), Party::Workload(..))
            && self.replicas_ready == Some(0)
            && !self.are_gone
            && self.known > 0
            && self.pods.len() >= self.known
    }
}

/// The paths that these flows stand for, those that affect most pods first. `is_leading`: whether it may
/// lead, as it is known why it is cut.
pub(super) fn affected<'a>(
    snapshot: &Snapshot,
    flows: impl Iterator<Item = &'a AffectedFlow>,
    is_leading: impl Fn(&Path) -> bool,
) -> Vec<CutPath> {
    let mut paths: BTreeMap<Path, CutPath> = BTreeMap::new();
    let mut ports: BTreeMap<Party, BTreeSet<u16>> = BTreeMap::new();
    let mut there: BTreeMap<Path, Vec<AffectedPod>> = BTreeMap::new();
    let mut gone: BTreeMap<Path, BTreeSet<String>> = BTreeMap::new();
    for affected in flows {
        let question = &affected.question;
        let path = Path::of(question);
        if affected.worked.is_none() {
            ports.entry(path.source.clone()).or_default().insert(question.port);
        }
        let from_source = *path.affected_party() == path.source;
        let (end, other) = match from_source {
            true => (&question.source, &question.destination),
            false => (&question.destination, &question.source),
        };
        let of_path =
            paths.entry(path.clone()).or_insert_with(|| path_of(snapshot, path.clone(), affected));
        let now = affected.pod_now(snapshot).filter(|now| now.holds(end));
        let is_gone = now.is_none() && end.pod().is_some();
        let pods = if is_gone { gone.entry(path.clone()).or_default() } else { &mut of_path.pods };
        pods.insert(end.to_string());
        there.entry(path).or_default().extend(now);
        of_path.first = of_path.first.min(affected.first);
        of_path.last = of_path.last.max(affected.dropped);
        of_path.others.insert(other.to_string());
        of_path.worked = of_path.worked.max(affected.worked);
        let connections = affected.answered.map_or(0, |Worked { connections, .. }| connections);
        of_path.connections = of_path.connections.min(connections);
    }
    let mut affected: Vec<CutPath> = paths.into_values().collect();
    for of_path in &mut affected {
        let tried = ports.get(&of_path.path.source).map_or(0, BTreeSet::len);
        of_path.is_scan = of_path.worked.is_none() && tried >= SCANNED_PORTS_MIN;
        // Those that a rollout has replaced count where no other is affected.
        if of_path.pods.is_empty() {
            of_path.pods = gone.remove(&of_path.path).unwrap_or_default();
            of_path.are_gone = true;
        } else {
            // In a rollout what is known of a workload may be behind its pods.
            of_path.replicas = of_path.replicas.max(of_path.pods.len());
        }
        of_path.health = health(there.remove(&of_path.path).unwrap_or_default());
    }
    affected.sort_by_key(|of_path| {
        let CutPath { path, is_scan, are_gone, pods, .. } = of_path;
        (!is_leading(path), *is_scan, *are_gone, Reverse(pods.len()))
    });
    affected
}

fn path_of(snapshot: &Snapshot, path: Path, of: &AffectedFlow) -> CutPath {
    let own = |pod: &&Arc<Pod>| path.affected_party().has(pod) && !pod.addresses.is_empty();
    let (mut known, mut oldest_pod) = (0, None);
    for pod in snapshot.pods().filter(own) {
        known += 1;
        oldest_pod = [oldest_pod, pod.created].into_iter().flatten().min();
    }
    let scale = match path.affected_party() {
        Party::Workload(namespace, workload) => snapshot.scale(namespace, workload),
        _ => None,
    };
    CutPath {
        path,
        pods: BTreeSet::new(),
        are_gone: false,
        first: of.first,
        last: of.dropped,
        // In a rollout its status may be behind the pods.
        replicas: scale.map_or(known, |scale| scale.replicas.max(known)),
        knows_all: snapshot.knows_all_pods() || scale.is_some(),
        replicas_ready: scale.map(|scale| scale.ready),
        known,
        health: PodHealth::default(),
        others: BTreeSet::new(),
        worked: None,
        // Of no flow yet: the first says how many.
        connections: u64::MAX,
        oldest_pod,
        is_scan: false,
    }
}

/// The health of pods; one that is affected by several flows counts once.
fn health(affected: Vec<AffectedPod>) -> PodHealth {
    let mut pods: BTreeMap<Arc<str>, AffectedPod> = BTreeMap::new();
    for AffectedPod { pod, restarts_then } in affected {
        // Without a condition there is no status: nothing is known of it.
        if pod.ready.is_some() {
            let known = pods.entry(pod.name.clone()).or_insert(AffectedPod { pod, restarts_then });
            known.restarts_then = [known.restarts_then, restarts_then].into_iter().flatten().min();
        }
    }
    if pods.is_empty() {
        return PodHealth::default();
    }
    let since = |s: &AffectedPod| Some(s.pod.restarts.saturating_sub(s.restarts_then?));
    let is_known = pods.values().any(|affected| affected.restarts_then.is_some());
    PodHealth {
        not_ready: Some(pods.values().filter(|s| s.pod.ready == Some(false)).count()),
        restarts: Some(pods.values().map(|s| s.pod.restarts).sum()),
        restarts_since: is_known.then(|| pods.values().filter_map(since).sum()),
    }
}

/// The Services that select a pod of these flows and have no ready endpoint, where their slices are
/// known.
pub(super) fn services_lost<'a>(
    snapshot: &Snapshot,
    flows: impl Iterator<Item = &'a AffectedFlow>,
) -> Vec<String> {
    let ends = flows.flat_map(|f| [&f.question.source, &f.question.destination]);
    let pods: Vec<&Arc<Pod>> = ends.filter_map(Endpoint::pod).collect();
    let selects = |service: &Service, pod: &Pod| {
        service.namespace == pod.namespace && service.selects(&pod.labels)
    };
    let is_lost = |service: &&Arc<Service>| {
        let mut slices = snapshot.slices(service).peekable();
        slices.peek().is_some() && slices.all(|slice| slice.ready().next().is_none())
    };
    let services = snapshot.services().filter(|s| pods.iter().any(|pod| selects(s, pod)));
    let lost = services.filter(is_lost);
    let mut lost: Vec<_> = lost.map(|s| format!("{}/{}", s.namespace, s.name)).collect();
    lost.sort();
    lost
}
