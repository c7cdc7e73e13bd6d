//! Kubernetes Events on the pods that are affected: what `kubectl describe pod` shows.
//!
//! An Event is written once per incident and pod, under a name that every agent gives it, so that
//! two nodes that see the same do not write two; what follows is counted in its series
//! (<https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/>). Events are
//! help, not record: what cannot be written is counted, and nothing waits for it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{events::v1::Event, events::v1::EventSeries},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Duration, Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    host::AgentHost,
    note::Note,
    outgoing::Outgoing,
    reading::{Loss, Queue, SinkReadings},
    sink::Sink,
};
use whydrop_kube::api_error::ApiError;
use whydrop_report::escape::escape;

/// How many notes wait for a slow API server (about 1 kB each).
pub const QUEUE_MAX: usize = 256;

/// How many Events are remembered, so as to be counted on: one per incident and pod.
const REMEMBERED_MAX: usize = 1024;

/// A series is written again at most this often.
const SERIES_INTERVAL: Duration = Duration::from_secs(30);

/// The API server keeps Events for an hour (`--event-ttl`); one that has been quiet for half of it
/// begins again.
const QUIET: SignedDuration = SignedDuration::from_mins(30);

/// New Events in a minute: of one namespace, and of this node. When a policy cuts off a whole
/// namespace, its first pods get Events; the log has all of them.
const PER_NAMESPACE_AND_MINUTE: usize = 20;
const PER_MINUTE: usize = 60;

/// How often a series is written at a turn where another agent writes it, too: two nodes see a flow.
const TRIES_MAX: usize = 4;

/// The API's bound is 1 kB for a note.
const NOTE_BYTES_MAX: usize = 1000;

const CONTROLLER: &str = "whydrop.io/agent";
const ACTION: &str = "Connect";

/// How long the agent's end waits for the last to be written: a few requests to an API server that
/// answers, and well within the half minute that a pod has to end.
const FINISH_WAIT: Duration = Duration::from_secs(3);

/// The queue to the task that writes Events.
#[derive(Debug)]
pub struct Events {
    /// `None`: it was closed.
    queue: Option<mpsc::Sender<Note>>,
    /// `None`: it has ended.
    writer: Option<JoinHandle<()>>,
    shed: Arc<AtomicU64>,
    /// Notes that were taken in, and of which it is not known yet what they came to.
    open: Arc<AtomicU64>,
}

impl Events {
    /// Starts the sink of an agent; `None` where there is no API server to write to.
    pub(super) fn of_agent(reason: String, host: AgentHost<'_>) -> Option<Self> {
        Some(Self::start(host.client?.clone(), host.node.to_owned(), reason))
    }

    /// Starts the task that writes; it ends with the queue.
    pub fn start(client: Client, node: String, reason: String) -> Self {
        let (queue, notes) = mpsc::channel(QUEUE_MAX);
        let (shed, open) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let writer = Writer {
            client,
            node,
            reason,
            shed: shed.clone(),
            open: open.clone(),
            known: HashMap::new(),
            minute: (0, BTreeMap::new()),
            complaint: String::new(),
        };
        let writer = tokio::spawn(writer.run(notes));
        Self { queue: Some(queue), writer: Some(writer), shed, open }
    }

    /// Notes that wait to be written.
    pub fn queued(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.max_capacity() - queue.capacity())
    }

    /// Notes that are in no Event.
    pub fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }
}

impl Sink for Events {
    /// Queues a note; where there is no room, it is counted as shed.
    fn write(&self, outgoing: &Outgoing) {
        let Outgoing::Note(note) = outgoing else { return };
        // Before it is sent: it may be written at once.
        self.open.fetch_add(1, Ordering::Relaxed);
        if self.queue.as_ref().is_none_or(|queue| queue.try_send((**note).clone()).is_err()) {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.shed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn readings(&self) -> SinkReadings {
        readings(self.queued(), self.shed())
    }

    fn off() -> SinkReadings {
        readings(0, 0)
    }

    fn takes_records(&self) -> bool {
        false
    }

    /// Waits for at most [`FINISH_WAIT`].
    fn finish(&mut self) -> BoxFuture<'_, ()> {
        self.queue = None;
        let writer = self.writer.take();
        Box::pin(async {
            let Some(mut writer) = writer else { return };
            // What comes to nothing was counted by the task.
            if timeout(FINISH_WAIT, &mut writer).await.is_err() {
                writer.abort();
                self.shed.fetch_add(self.open.swap(0, Ordering::Relaxed), Ordering::Relaxed);
            }
        })
    }
}

fn readings(queued: usize, shed: u64) -> SinkReadings {
    SinkReadings {
        queues: vec![Queue { name: "events", length: queued, limit: QUEUE_MAX }],
        losses: vec![Loss {
            name: "notes",
            words: "reports without a Kubernetes Event",
            interval: SignedDuration::ZERO,
            count: shed,
        }],
        ..SinkReadings::default()
    }
}

struct Writer {
    client: Client,
    node: String,
    reason: String,
    shed: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
    known: HashMap<String, WrittenEvent>,
    /// New Events in the current minute, by namespace.
    minute: (i64, BTreeMap<String, usize>),
    complaint: String,
}

/// An Event that was written, or was found to be there.
struct WrittenEvent {
    namespace: String,
    /// When; `None`: its series is due.
    written: Option<Instant>,
    last: Timestamp,
    /// Notes that its series does not count yet.
    uncounted: i32,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::Receiver<Note>) {
        let mut turns = interval(Duration::from_secs(5));
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                note = notes.recv() => match note {
                    Some(note) => {
                        self.take(note).await;
                        self.open.fetch_sub(1, Ordering::Relaxed);
                    }
                    None => return self.count(None).await,
                },
                _ = turns.tick() => self.count(Some(Instant::now())).await,
            }
        }
    }

    async fn take(&mut self, note: Note) {
        let name = name(&note);
        if let Some(known) = self.known.get_mut(&name) {
            if note.at.duration_since(known.last) < QUIET {
                known.last = known.last.max(note.at);
                known.uncounted += 1;
                return;
            }
            self.known.remove(&name);
        }
        let namespace = note.regarding.namespace.clone().unwrap_or_default();
        if !self.may_write(&namespace, note.at) {
            self.shed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let at = note.at;
        let event = self.event(&name, note);
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let uncounted = match api.create(&PostParams::default(), &event).await {
            Ok(_) => 0,
            // Another agent's, or this one's before it was restarted.
            Err(kube::Error::Api(status)) if status.code == 409 => 1,
            Err(error) => return self.failed(&error, 1),
        };
        if self.known.len() >= REMEMBERED_MAX {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.last);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.known.remove(&name);
            }
        }
        // One found is counted on at the next turn.
        let written = (uncounted == 0).then(Instant::now);
        self.known.insert(name, WrittenEvent { namespace, written, last: at, uncounted });
    }

    /// Writes the series of Events that were noted again; `None`: all of them, as the last thing.
    async fn count(&mut self, now: Option<Instant>) {
        let is_due = |known: &WrittenEvent| match (now, known.written) {
            (Some(now), Some(written)) => now.duration_since(written) > SERIES_INTERVAL,
            _ => true,
        };
        let due: Vec<_> = self
            .known
            .iter()
            .filter(|(_, known)| known.uncounted > 0)
            .filter(|(_, known)| is_due(known))
            .map(|(name, known)| {
                (name.clone(), known.namespace.clone(), known.last, known.uncounted)
            })
            .collect();
        for (name, namespace, last, uncounted) in due {
            match self.add(&namespace, &name, last, uncounted).await {
                Ok(()) => {
                    if let Some(known) = self.known.get_mut(&name) {
                        known.written = Some(Instant::now());
                        known.uncounted -= uncounted;
                    }
                }
                // Others are quicker each time: there is another turn.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                // Gone, or not available: the next note begins again.
                Err(error) => {
                    self.known.remove(&name);
                    self.failed(&error, u64::try_from(uncounted).unwrap_or(0));
                }
            }
        }
    }

    /// Counts on in an Event's series. Of two agents that do so at one time neither is lost.
    async fn add(
        &self,
        namespace: &str,
        name: &str,
        last: Timestamp,
        uncounted: i32,
    ) -> kube::Result<()> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let mut tries = 1;
        loop {
            let before = api.get(name).await?;
            let (count, last) = match &before.series {
                Some(series) => (series.count, last.max(series.last_observed_time.0)),
                None => (1, last),
            };
            let count = count.saturating_add(uncounted);
            let series = EventSeries { count, last_observed_time: MicroTime(last) };
            // Refused if it is another by then.
            let version = json!({ "resourceVersion": before.metadata.resource_version });
            let patch = Patch::Merge(json!({ "metadata": version, "series": series }));
            match api.patch(name, &PatchParams::default(), &patch).await {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES_MAX => {
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn may_write(&mut self, namespace: &str, at: Timestamp) -> bool {
        let minute = at.as_second().div_euclid(60);
        if self.minute.0 != minute {
            self.minute = (minute, BTreeMap::new());
        }
        let written = &mut self.minute.1;
        if written.values().sum::<usize>() >= PER_MINUTE {
            return false;
        }
        let of_namespace = written.entry(namespace.to_owned()).or_default();
        let may = *of_namespace < PER_NAMESPACE_AND_MINUTE;
        *of_namespace += usize::from(may);
        may
    }

    /// Counts notes without an Event; logs why once, not each time.
    fn failed(&mut self, error: &kube::Error, notes: u64) {
        self.shed.fetch_add(notes, Ordering::Relaxed);
        let complaint = ApiError::from(error).to_string();
        if complaint != self.complaint {
            tracing::warn!("cannot write Kubernetes Events: {complaint}");
            self.complaint = complaint;
        }
    }

    fn event(&self, name: &str, note: Note) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: note.regarding.namespace.clone(),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(note.at)),
            type_: Some("Warning".to_owned()),
            reason: Some(self.reason.clone()),
            action: Some(ACTION.to_owned()),
            note: Some(bounded(&note.text)),
            regarding: Some(note.regarding),
            related: note.related,
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        }
    }
}

/// The Event's name: the same for one incident and pod, whichever agent writes it.
fn name(note: &Note) -> String {
    let pod = note.regarding.name.as_deref().unwrap_or_default();
    let uid = note.regarding.uid.as_deref().unwrap_or_default();
    let hash = blake3::hash(format!("{:016x} {uid}", note.incident).as_bytes());
    // Names have at most 253 characters, as pods' have.
    let pod = &pod[..pod.floor_char_boundary(200)];
    format!("{}.{}", pod.trim_end_matches(['-', '.']), &hash.to_hex()[..16])
}

/// A text in one line, cut off where the API would refuse more.
pub fn bounded(text: &str) -> String {
    let text = escape(text);
    if text.len() <= NOTE_BYTES_MAX {
        return text.into_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(NOTE_BYTES_MAX)])
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    #[test]
    fn an_incident_and_a_pod_have_one_name() {
        let note = |pod: &str, uid: &str, incident| Note {
            regarding: ObjectReference {
                name: Some(pod.to_owned()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            },
            related: None,
            text: String::new(),
            incident,
            at: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(name(&note("web-0", "a", 1)), name(&note("web-0", "a", 1)));
        assert_ne!(name(&note("web-0", "a", 1)), name(&note("web-0", "a", 2)));
        assert_ne!(name(&note("web-0", "a", 1)), name(&note("web-0", "b", 1)));
        assert!(name(&note(&"x".repeat(253), "a", 1)).len() <= 253);
    }

    #[test]
    fn a_long_note_is_cut_off_between_characters() {
        assert_eq!(bounded("short"), "short");
        let long = bounded(&"é".repeat(600));
        assert!(long.len() <= 1024 && long.ends_with('…'), "{}", long.len());
    }
}
