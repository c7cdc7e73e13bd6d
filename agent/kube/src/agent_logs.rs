//! The agents' records, from the logs of their pods: read once, or followed.
//!
//! Pods come and go, kubelets restart, streams end: each is resumed where it ended, by the times
//! that the kubelet gives the lines. What a reader has no room for waits in the nodes' own log files.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{AsyncBufReadExt as _, AsyncReadExt as _, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{ListParams, LogParams},
    core::PartialObjectMeta,
    runtime::watcher::{self, Event, watcher},
};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Duration, sleep},
};

use whydrop_report::records::lines::LINE_BYTES_MAX;

use crate::api_error::ApiError;

/// The label of the agents' pods.
pub const SELECTOR: &str = "app.kubernetes.io/name=whydrop";

/// The container of theirs that writes the records.
const CONTAINER: &str = "whydrop";

/// How many lines wait to be read (about 3 kB each): some seconds of a bad moment.
pub const LINES_MAX: usize = 1024;

/// How many agents are followed at once, each by a stream of its own through the API server. In a
/// cluster with more, those that are found last are not followed, which is logged.
const AGENTS_MAX: usize = 1000;

/// The pause before a stream that ended is resumed: the kubelet closes those of containers
/// that restart, and a node that is gone answers with an error each time.
const PAUSE: Duration = Duration::from_secs(2);

/// A line of an agent's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// The agent's pod.
    pub pod: Arc<str>,
    /// The line, without the time that the kubelet gives it.
    pub text: String,
}

/// Why agents' logs cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// The API server does not say which agents there are.
    #[error("the agents in namespace {namespace} cannot be listed: {why}")]
    Unlisted {
        /// Where.
        namespace: String,
        /// Why.
        why: ApiError,
    },
    /// No pod has their label.
    #[error("no agent to ask: no pod with the label {selector} in namespace {namespace}")]
    NoAgent {
        /// Where.
        namespace: String,
        /// Which label.
        selector: String,
    },
    /// The API server, or the kubelet behind it, does not give a log.
    #[error(transparent)]
    NotGiven(ApiError),
    /// A log ends before its end.
    #[error(transparent)]
    Broken(#[from] io::Error),
}

impl From<kube::Error> for LogsError {
    fn from(error: kube::Error) -> Self {
        Self::NotGiven(error.into())
    }
}

/// What all agents have logged since then that their nodes still keep; unordered between pods. An
/// agent whose log cannot be read is named in a warning.
///
/// # Errors
/// Where the agents cannot be listed, or there is none.
pub async fn once(
    client: &Client,
    namespace: &str,
    selector: &str,
    since: Option<Timestamp>,
) -> Result<Vec<LogLine>, LogsError> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let agents = api.list_metadata(&ListParams::default().labels(selector)).await;
    let agents = agents.map_err(|error| LogsError::Unlisted {
        namespace: namespace.to_owned(),
        why: error.into(),
    })?;
    if agents.items.is_empty() {
        let (namespace, selector) = (namespace.to_owned(), selector.to_owned());
        return Err(LogsError::NoAgent { namespace, selector });
    }
    let mut lines = Vec::new();
    for agent in agents.items.into_iter().take(AGENTS_MAX) {
        let pod: Arc<str> = agent.metadata.name.unwrap_or_default().into();
        let parameters = LogParams { since_time: since, ..parameters(false) };
        let read = async {
            let mut log = std::pin::pin!(api.log_stream(&pod, &parameters).await?);
            while let Some(line) = line(&mut log).await? {
                let text = split(&line).1.to_owned();
                lines.push(LogLine { pod: pod.clone(), text });
            }
            Ok::<(), LogsError>(())
        };
        if let Err(why) = read.await {
            tracing::warn!("the log of agent {namespace}/{pod} cannot be read: {why}");
        }
    }
    Ok(lines)
}

/// The agents' logs, followed.
#[derive(Debug)]
pub struct Following {
    /// The lines; at most [`LINES_MAX`] wait.
    pub lines: mpsc::Receiver<LogLine>,
    counts: Arc<Counts>,
}

/// How many agents there are, and to how many of them there is a stream at this moment.
#[derive(Debug, Default)]
struct Counts {
    agents: AtomicUsize,
    connected: AtomicUsize,
}

impl Following {
    /// To how many agents there is a stream at this moment, of how many that there are.
    pub fn connected(&self) -> (usize, usize) {
        let Counts { agents, connected } = &*self.counts;
        (connected.load(Ordering::Relaxed), agents.load(Ordering::Relaxed))
    }
}

/// Follows the logs of all agents from then on, until nobody listens.
pub fn follow(client: Client, namespace: String, selector: String, since: Timestamp) -> Following {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    let counts = Arc::<Counts>::default();
    let agents = Agents {
        api: Api::namespaced(client.clone(), &namespace),
        pods: Api::namespaced(client, &namespace),
        namespace,
        since,
        sender,
        counts: counts.clone(),
        streams: BTreeMap::new(),
    };
    tokio::spawn(agents.run(selector));
    Following { lines, counts }
}

/// The agents that there are, and a task for each.
struct Agents {
    api: Api<Pod>,
    /// The same, without what is not needed of them.
    pods: Api<PartialObjectMeta<Pod>>,
    namespace: String,
    since: Timestamp,
    sender: mpsc::Sender<LogLine>,
    counts: Arc<Counts>,
    streams: BTreeMap<Arc<str>, Stream>,
}

/// Ends what it follows with itself.
struct Stream(JoinHandle<()>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Agents {
    async fn run(mut self, selector: String) {
        let config = watcher::Config::default().labels(&selector);
        let mut complaint = String::new();
        while !self.sender.is_closed() {
            let mut events = Box::pin(watcher(self.pods.clone(), config.clone()));
            // Those that a list brings; the others are gone by its end.
            let mut listed = Vec::new();
            while let Some(event) = events.next().await {
                let name = |meta: &kube::core::ObjectMeta| -> Arc<str> {
                    meta.name.as_deref().unwrap_or_default().into()
                };
                match event {
                    Ok(Event::Init) => listed.clear(),
                    Ok(Event::InitApply(pod)) => {
                        listed.push(name(&pod.metadata));
                        self.follow(name(&pod.metadata));
                    }
                    Ok(Event::InitDone) => self.streams.retain(|pod, _| listed.contains(pod)),
                    Ok(Event::Apply(pod)) => self.follow(name(&pod.metadata)),
                    Ok(Event::Delete(pod)) => {
                        self.streams.remove(&name(&pod.metadata));
                    }
                    Err(error) => {
                        let namespace = &self.namespace;
                        let why = ApiError::from(&error);
                        warn_once(
                            &mut complaint,
                            format!("the agents in {namespace} cannot be found: {why}"),
                        );
                        break;
                    }
                }
                self.counts.agents.store(self.streams.len(), Ordering::Relaxed);
            }
            sleep(PAUSE).await;
        }
    }

    fn follow(&mut self, pod: Arc<str>) {
        if self.streams.contains_key(&pod) {
            return;
        }
        if self.streams.len() >= AGENTS_MAX {
            tracing::warn!("the log of agent {pod} is not followed: there are {AGENTS_MAX} others");
            return;
        }
        let follower = Follower {
            api: self.api.clone(),
            pod: pod.clone(),
            since: self.since,
            sender: self.sender.clone(),
            connected: Connected { counts: self.counts.clone(), is_connected: false },
        };
        self.streams.insert(pod, Stream(tokio::spawn(follower.run())));
    }
}

/// Logs a complaint, unless it was the last one.
fn warn_once(last: &mut String, complaint: String) {
    if *last != complaint {
        tracing::warn!("{complaint}");
        *last = complaint;
    }
}

/// Counts an agent as connected, for as long as it is.
struct Connected {
    counts: Arc<Counts>,
    is_connected: bool,
}

impl Connected {
    fn set(&mut self, is_connected: bool) {
        match (self.is_connected, is_connected) {
            (false, true) => self.counts.connected.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.counts.connected.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
        self.is_connected = is_connected;
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// Follows one agent's log.
struct Follower {
    api: Api<Pod>,
    pod: Arc<str>,
    /// The time of the last line that was passed on; the API takes whole seconds, so some come again.
    since: Timestamp,
    sender: mpsc::Sender<LogLine>,
    connected: Connected,
}

impl Follower {
    async fn run(mut self) {
        let mut complaint = String::new();
        while !self.sender.is_closed() {
            if let Err(why) = self.stream().await {
                let pod = &self.pod;
                warn_once(&mut complaint, format!("the log of agent {pod} cannot be read: {why}"));
            }
            self.connected.set(false);
            sleep(PAUSE).await;
        }
    }

    async fn stream(&mut self) -> Result<(), LogsError> {
        let parameters = LogParams { since_time: Some(self.since), ..parameters(true) };
        let mut log = std::pin::pin!(self.api.log_stream(&self.pod, &parameters).await?);
        self.connected.set(true);
        while let Some(line) = line(&mut log).await? {
            let (time, text) = split(&line);
            if time.is_some_and(|time| time <= self.since) {
                continue;
            }
            self.since = time.unwrap_or(self.since);
            let line = LogLine { pod: self.pod.clone(), text: text.to_owned() };
            if self.sender.send(line).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn parameters(follow: bool) -> LogParams {
    let container = Some(CONTAINER.to_owned());
    LogParams { container, follow, timestamps: true, ..LogParams::default() }
}

/// The time before a line, as the kubelet writes it, and the line.
fn split(line: &str) -> (Option<Timestamp>, &str) {
    let Some((time, text)) = line.split_once(' ') else { return (None, line) };
    match time.parse() {
        Ok(time) => (Some(time), text),
        Err(_) => (None, line),
    }
}

/// The next line that is not too long.
async fn line(log: &mut (impl futures_util::AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut is_cut = false;
    loop {
        let read = log.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line).await?;
        let is_whole = line.last() == Some(&b'\n');
        if is_whole && !is_cut {
            return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
        }
        // The end of a log may lack its newline: it is cut off, or continues later.
        if read == 0 {
            return Ok(None);
        }
        is_cut = !is_whole;
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubelets_time_is_taken_off_a_line() {
        let (time, text) = split(r#"2026-01-02T03:04:05.123456789Z {"schema":"whydrop/v1"}"#);
        assert_eq!(time, "2026-01-02T03:04:05.123456789Z".parse().ok());
        assert_eq!(text, r#"{"schema":"whydrop/v1"}"#);
        assert_eq!(split("no time"), (None, "no time"));
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_left_out() {
        let long = "x".repeat(2 * LINE_BYTES_MAX + 7);
        let text = format!("one\n{long}\ntwo\n\nthree");
        let mut log = text.as_bytes();
        let mut lines = Vec::new();
        while let Some(line) = line(&mut log).await.expect("memory") {
            lines.push(line);
        }
        assert_eq!(lines, ["one", "two", ""]);
    }
}
