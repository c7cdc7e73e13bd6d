//! Many drops with one cause become one incident: opened, updated, resolved, reopened.
//!
//! A pure fold. [`IncidentBook::add`] links a judged drop to the incident of its cause,
//! [`IncidentBook::answered`] hears of traffic that passes, and [`IncidentBook::tick`] says what has
//! become of each incident by then. The id is a hash of what every node can see, so that the
//! records of several nodes merge without any of them knowing of the others.
//!
//! ```
//! use jiff::{SignedDuration, Timestamp};
//! use whydrop_core::{
//!     cluster::Cluster,
//!     correlate::{Correlated, Correlator},
//!     diagnosis::{Case, Fate},
//!     flow::{Flow, Protocol},
//!     incident::{Happened, IncidentBook, JudgedDrop, Resolution, SILENCE},
//!     judgement::judge,
//!     observation::{DropReason, Fact, Observation, Sender},
//! };
//!
//! // This kernel's filter drops a connect, in a cluster that nothing is known about …
//! let start = Timestamp::from_second(1_767_323_045)?;
//! let flow = Flow {
//!     source: "10.1.0.10".parse()?,
//!     destination: "10.1.0.20".parse()?,
//!     port: 5432,
//!     protocol: Protocol::Tcp,
//! };
//! let mut correlator = Correlator::default();
//! correlator.observe(&Observation {
//!     at: start,
//!     first: start,
//!     attempt: None,
//!     packets: 3,
//!     flow,
//!     dialled: None,
//!     sender: Sender::default(),
//!     entered: None,
//!     delivered: false,
//!     fact: Fact::KernelDrop {
//!         reason: DropReason { number: 12, name: "NETFILTER_DROP".into() },
//!         location: None,
//!         interface: 5,
//!     },
//! });
//! let cluster = Cluster::default();
//! let mut book = IncidentBook::default();
//! let mut now = start + SignedDuration::from_secs(5);
//! for correlated in correlator.tick(now) {
//!     let Correlated::Drop(drop) = correlated else { continue };
//!     let at = Some(drop.evidence.last());
//!     let case = Case { flow, dialled: None, at, fate: Fate::Dropped(&drop.evidence) };
//!     let judgement = judge(&cluster.snapshot(), cluster.history(), &case);
//!     let judged = JudgedDrop::new(drop, judgement, None);
//!     book.add(&judged, now);
//! }
//! // … which opens an incident …
//! now += SignedDuration::from_secs(5);
//! let changes = book.tick(&cluster.snapshot(), now);
//! assert_eq!(changes[0].happened, Happened::Opened);
//! // … that is resolved once nobody has tried again for long enough.
//! now += SILENCE;
//! let changes = book.tick(&cluster.snapshot(), now);
//! assert!(matches!(changes[0].happened, Happened::Resolved(Resolution::Silence)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod affected;
mod affected_flow;
mod assessment;
mod cut;
mod entry;
mod facts;
mod plan;
mod recovered;
pub mod words;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::EnumDiscriminants;

use crate::{
    cluster::{Snapshot, look_up::Query},
    correlate::{
        Drop, DropId, REPORT_INTERVAL,
        places::{Places, Sending, Way},
    },
    diagnosis::{Cause, Class, reason::Established},
    flow::{Answer, Direction, Flow, Worked},
    hash::hash64,
    judgement::{Attribution, Judgement},
    policy::PolicyRef,
};
pub use affected::{CutPath, Party, Path, PodHealth};
pub use assessment::{Assessment, Severity};
use entry::Entry;
pub use plan::{Step, StepKind};

/// How long an incident gathers drops before it is reported: replicas of one workload are cut off
/// within a second or two of each other, and one page should say that all of them are.
pub const GATHER: SignedDuration = SignedDuration::from_secs(2);

/// An incident is updated at most once in this time, unless it becomes more severe.
pub const UPDATE_INTERVAL: SignedDuration = SignedDuration::from_secs(60);

/// An incident that has had no drop for this long is over: nothing attempts any more. Clients
/// with exponential backoff commonly wait five minutes at most (the kubelet does); twice that.
pub const SILENCE: SignedDuration = SignedDuration::from_mins(10);

/// Once something has passed, how long no drop may come for the incident to be resolved: a flow
/// that keeps being dropped is reported once in [`REPORT_INTERVAL`], and some seconds late.
const PASSING: SignedDuration = SignedDuration::from_secs(REPORT_INTERVAL.as_secs() + 15);

/// How long a resolved incident may be reopened. After that, the same cause is news.
pub const REMEMBERED: SignedDuration = SignedDuration::from_hours(1);

/// How many incidents are kept. Each is a set of policies and a workload; a node whose pods are
/// affected by more of them at once has one cause that no policy is.
pub const INCIDENTS_MAX: usize = 128;

/// How many flows of an incident are kept apart (about 300 bytes each): some replicas times some
/// destinations. The drops of others are linked and counted.
pub const FLOWS_MAX: usize = 256;

/// How many drops of an incident are linked by their ids. Others are counted, each time they are
/// reported.
pub const LINKED_MAX: usize = 1024;

/// How many paths of an incident are reported one by one, those that affect most pods first.
pub const PATHS_REPORTED_MAX: usize = 16;

/// Names an incident, alike on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IncidentId(pub u64);

impl IncidentId {
    /// That of what one sender sends in others' names: of no incident.
    #[must_use]
    pub fn of_sender(self, interface: u32) -> Self {
        Self(hash64(&format!("{self} by {interface}")))
    }
}

impl fmt::Display for IncidentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Of the connects of a client through a Service, how many needed more than one SYN, since this backend
/// drops theirs and another one answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Connects that were dropped here and answered by another backend, once their SYN was sent again.
    pub needed_again: u64,
    /// Connects that the same client made through the Service in that time, answered or not; `None`: that
    /// is not known yet.
    pub connects: Option<u64>,
}

/// A drop, judged.
#[derive(Clone, Debug)]
pub struct JudgedDrop {
    /// The drop.
    pub drop: Drop,
    /// Why, since when and what to do.
    pub judgement: Judgement,
    /// Which of the flow's connections were answered.
    pub worked: Option<Worked>,
    /// How many connects another backend of the Service answered instead, if any.
    pub share: Option<Share>,
    /// The incident that it belongs to.
    pub incident: IncidentId,
}

impl JudgedDrop {
    /// One that belongs to the incident of its cause; [`IncidentBook::add`] may know another that it
    /// goes on as.
    pub fn new(drop: Drop, judgement: Judgement, worked: Option<Worked>) -> Self {
        let incident = IncidentId(judgement.diagnosis.incident());
        Self { drop, judgement, worked, share: None, incident }
    }
}

/// One cause with all that it affects, as it was when it was reported.
#[derive(Clone, Debug)]
pub struct Incident {
    /// Its name.
    pub id: IncidentId,
    /// Why, of the first path: by the drop of it whose cause is most certain.
    pub cause: Cause,
    /// The policies responsible; of an implicit denial all that isolate the pod.
    pub responsible: Vec<PolicyRef>,
    /// The directions that deny the first path.
    pub denied: Vec<Direction>,
    /// What made it so, of the first path.
    pub changed: Attribution,
    /// Since when the flow is denied that is denied longest, at the least.
    pub denied_since: Option<Timestamp>,
    /// Who cannot reach whom, what affects most pods first; at most [`PATHS_REPORTED_MAX`]. Of one that
    /// is open those that go on, if any does.
    pub affected: Vec<CutPath>,
    /// How many paths more there are.
    pub affected_untold: usize,
    /// The paths that pass by now, or that policies allow, whether it goes on or not: each with why, the
    /// latest to pass first; at most [`PATHS_REPORTED_MAX`].
    pub recovered: Vec<(Path, Resolution)>,
    /// Services that have no ready endpoint any more, as far as is known: `NAMESPACE/NAME`.
    pub services_lost: Vec<String>,
    /// What becomes of established connections by this filter; `None`: not known.
    pub established: Option<Established>,
    /// The drops linked by id.
    pub drops: BTreeSet<DropId>,
    /// All drops, those beyond [`LINKED_MAX`] included.
    pub drop_count: u64,
    /// Packets that were dropped, of the drops that are linked.
    pub packets: u64,
    /// When the first packet was dropped.
    pub first: Timestamp,
    /// When the last one did.
    pub last: Timestamp,
    /// When the first path last got an answer before its first packet was dropped.
    pub last_success: Option<Timestamp>,
    /// How often it came back after it was resolved.
    pub reopened: u32,
    /// How bad it is, and how sure that is.
    pub assessment: Assessment,
    /// What happened, in words.
    pub text: String,
    /// What to do, in order.
    pub plan: Vec<Step>,
}

impl Incident {
    /// When the first packet of the first path was dropped.
    fn first_of_lead(&self) -> Timestamp {
        self.affected.first().map_or(self.first, |lead| lead.first)
    }
}

/// What happened to an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumDiscriminants)]
#[strum_discriminants(
    name(HappenedKind),
    doc = "What happened to an incident, without why.",
    derive(PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema),
    serde(rename_all = "lowercase"),
    schemars(rename = "IncidentHappened")
)]
pub enum Happened {
    /// It began.
    Opened,
    /// It goes on.
    Updated,
    /// It is over.
    Resolved(Resolution),
    /// It was over, and is back.
    Reopened,
}

/// Why an incident is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Its traffic passes again.
    Passes {
        /// When an attempt was answered.
        at: Timestamp,
    },
    /// Policies do not deny it any more.
    Allowed,
    /// Nobody attempts it any more, since its pods are gone.
    Gone,
    /// Nothing has attempted it for [`SILENCE`].
    Silence,
    /// It goes on, and is expected, see [`crate::mute`].
    Muted,
}

/// What happened to which incident.
#[derive(Clone, Debug)]
pub struct IncidentChange {
    /// What happened.
    pub happened: Happened,
    /// The incident as it is now.
    pub incident: Incident,
}

/// All incidents of one agent. Only its own methods change it.
#[derive(Debug, Default)]
pub struct IncidentBook {
    entries: BTreeMap<IncidentId, Entry>,
    /// Whose they are: of who sends what first belonged to each.
    places: Places<IncidentId>,
    shed: u64,
    /// The node whose pods are followed, where not all are.
    own_node: Option<Arc<str>>,
}

impl IncidentBook {
    /// That of the agent of this node.
    pub fn of_node(node: Arc<str>) -> Self {
        Self { own_node: Some(node), ..Self::default() }
    }

    /// Links a judged drop that is worth reporting to the incident of its cause, or to that which it goes
    /// on as: which that is.
    pub fn add(&mut self, judged: &JudgedDrop, now: Timestamp) -> IncidentId {
        if judged.judgement.diagnosis.cause.class == Class::None {
            return judged.incident;
        }
        let id = self.of_drop(judged);
        if !self.entries.contains_key(&id) {
            let party = Sending::of_drop(&judged.drop);
            if !self.make_room(&party) {
                self.shed += 1;
                return id;
            }
            self.places.insert(id, party);
        }
        self.entries.entry(id).or_insert_with(|| Entry::new(judged, now)).add(judged, now);
        id
    }

    /// The incident that a drop belongs to: that of its cause, if it is open with this path; one that
    /// is, and that the same denial goes on as, since policies came or went that make no difference to
    /// it; one that is with this flow, where it cannot be said why now, or could not until now; one that was
    /// over after the drop's last packet; else that of its cause.
    fn of_drop(&self, judged: &JudgedDrop) -> IncidentId {
        let JudgedDrop { drop, judgement, incident, .. } = judged;
        let diagnosis = &judgement.diagnosis;
        let is_own =
            self.entries.get(incident).is_some_and(|e| e.is_open() && e.has_path(diagnosis));
        let is_untold = diagnosis.cause.class == Class::CannotTell;
        let goes_on = |entry: &Entry| {
            let is_its = entry.could_not_tell(&drop.flow)
                || (is_untold && entry.has_flow(&drop.flow))
                || entry.goes_on_as(diagnosis, &drop.flow);
            entry.is_open() && is_its
        };
        let is_late = |entry: &Entry| {
            entry.has_flow(&drop.flow) && entry.resolved_at() >= Some(drop.evidence.last())
        };
        let find = |is_it: &dyn Fn(&Entry) -> bool| {
            self.entries.iter().find(|(_, entry)| is_it(entry)).map(|(id, _)| *id)
        };
        let known = if is_own { None } else { find(&goes_on).or_else(|| find(&is_late)) };
        known.unwrap_or(*incident)
    }

    /// A flow keeps being dropped, and that is expected.
    pub fn mute(&mut self, flow: &Flow) {
        for entry in self.entries.values_mut() {
            entry.mute(flow);
        }
    }

    /// The flows that have not passed since they were dropped, of incidents that are open, each as
    /// dialled as well where that differs: whether they have is for the kernel's table to say.
    pub fn unanswered(&self) -> impl Iterator<Item = (&Flow, Option<&Flow>)> {
        let open = self.entries.values().filter(|entry| entry.is_open());
        open.flat_map(Entry::unanswered)
    }

    /// What to look up so that open incidents report all replicas of who is affected and the Services
    /// that they are behind: those first that lack it longest. Nothing where everything is listed.
    pub fn to_look_up(&self, snapshot: &Snapshot, now: Timestamp) -> Vec<Query> {
        if snapshot.knows_all_pods() {
            return Vec::new();
        }
        let wanted = self.entries.values().flat_map(|entry| entry.queries(snapshot, now)).collect();
        let mut missing = facts::to_look_up(snapshot, wanted, now);
        let open = self.entries.values().filter(|entry| entry.is_open());
        let ends = open.flat_map(|entry| entry.ends(now)).collect();
        missing.extend(facts::ends_to_look_up(snapshot, ends, now));
        missing
    }

    /// A flow, as drops name it, was answered, or what it dialled was: how it speaks for it, and when.
    pub fn answered(
        &mut self,
        answer: (&Flow, Answer, Timestamp),
        snapshot: &Snapshot,
        now: Timestamp,
    ) {
        for entry in self.entries.values_mut() {
            entry.answered(answer, snapshot, now);
        }
    }

    /// Says what has become of the incidents by now, what is most urgent first.
    pub fn tick(&mut self, snapshot: &Snapshot, now: Timestamp) -> Vec<IncidentChange> {
        let places = &mut self.places;
        self.entries.retain(|id, entry| {
            let stays = entry.resolved_at().is_none_or(|at| now.duration_since(at) < REMEMBERED);
            if !stays {
                places.remove(id);
            }
            stays
        });
        let mut changes = Vec::new();
        for (id, entry) in &mut self.entries {
            entry.look(snapshot, self.own_node.as_deref(), now);
            changes.extend(entry.attend(*id, snapshot, now));
        }
        changes.sort_by_key(|change| {
            (Reverse(change.incident.assessment.severity), change.incident.first)
        });
        changes
    }

    /// How many incidents are open.
    pub fn open(&self) -> usize {
        self.entries.values().filter(|entry| entry.is_open()).count()
    }

    /// How bad an incident is, as it was reported last; `None`: it is not reported, or over.
    pub fn severity(&self, id: IncidentId) -> Option<Severity> {
        self.entries.get(&id)?.severity()
    }

    /// How many judged drops belong to no incident, because too many were open.
    pub fn shed(&self) -> u64 {
        self.shed
    }

    /// Whether there is room for one more of a party: what was resolved longest ago is evicted, and where
    /// nothing was, the latest of whoever has most. Its drops belong to no incident any more.
    fn make_room(&mut self, party: &Sending) -> bool {
        if self.entries.len() < INCIDENTS_MAX {
            return true;
        }
        let resolved = self.entries.iter().filter_map(|(id, e)| Some((e.resolved_at()?, *id)));
        if let Some((_, oldest)) = resolved.min() {
            self.places.remove(&oldest);
            return self.entries.remove(&oldest).is_some();
        }
        let Way::Gives(id) = self.places.way(party) else { return false };
        self.places.remove(&id);
        let evicted = self.entries.remove(&id);
        self.shed += evicted.map_or(0, |entry| entry.drop_count());
        true
    }
}
