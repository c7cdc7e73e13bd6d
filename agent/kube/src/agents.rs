//! The agents' records, from the logs of their pods: read once, or followed.
//!
//! Pods come and go, kubelets restart, streams end: each is taken up where it ended, by the times
//! that the kubelet gives the lines. What comes more than a reader can take waits in the nodes' own
//! log files.

use std::{
    collections::BTreeMap,
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

use whydrop_core::chain::chain;

use crate::chain::kube_chain;
use whydrop_report::records::lines::LINE_BYTES_MAX;

/// By what the agents' pods are found.
pub const SELECTOR: &str = "app.kubernetes.io/name=whydrop";

/// The container of theirs that writes the records.
const CONTAINER: &str = "whydrop";

/// How many lines wait to be read (about 3 kB each): some seconds of a bad moment.
pub const LINES_MAX: usize = 1024;

/// How many agents are followed at once, each by a stream of its own through the API server. In a
/// cluster with more, those that are found last are not heard, which is said.
const AGENTS_MAX: usize = 1000;

/// The pause before a stream that ended is taken up again: the kubelet closes those of containers
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

/// What all agents have logged since then that their nodes still keep; unordered between pods.
///
/// # Errors
/// Where the agents cannot be listed, or there is none. An agent whose log cannot be read is told in
/// a message.
pub async fn once(
    client: &Client,
    namespace: &str,
    selector: &str,
    since: Option<Timestamp>,
) -> anyhow::Result<Vec<LogLine>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let agents = api.list_metadata(&ListParams::default().labels(selector)).await;
    let agents = agents.map_err(|error| {
        anyhow::anyhow!(
            "the agents in namespace {namespace} cannot be listed: {}",
            kube_chain(&error)
        )
    })?;
    anyhow::ensure!(
        !agents.items.is_empty(),
        "no agent to ask: no pod with the label {selector} in namespace {namespace}"
    );
    let mut lines = Vec::new();
    for agent in agents.items.into_iter().take(AGENTS_MAX) {
        let pod: Arc<str> = agent.metadata.name.unwrap_or_default().into();
        let parameters = LogParams { since_time: since, ..parameters(false) };
        let read = async {
            let mut log = std::pin::pin!(
                api.log_stream(&pod, &parameters).await.map_err(|e| kube_chain(&e))?
            );
            while let Some(line) = line(&mut log).await? {
                let text = split(&line).1.to_owned();
                lines.push(LogLine { pod: pod.clone(), text });
            }
            Ok::<(), String>(())
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
    /// The lines, at most [`LINES_MAX`] of which wait.
    pub lines: mpsc::Receiver<LogLine>,
    hearing: Arc<Hearing>,
}

/// How many agents there are, and how many of them are heard.
#[derive(Debug, Default)]
struct Hearing {
    agents: AtomicUsize,
    heard: AtomicUsize,
}

impl Following {
    /// How many agents are heard, of how many that there are.
    pub fn heard(&self) -> (usize, usize) {
        let Hearing { agents, heard } = &*self.hearing;
        (heard.load(Ordering::Relaxed), agents.load(Ordering::Relaxed))
    }
}

/// Follows the logs of all agents from then on, until nobody listens.
pub fn follow(client: Client, namespace: String, selector: String, since: Timestamp) -> Following {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    let hearing = Arc::<Hearing>::default();
    let agents = Agents {
        api: Api::namespaced(client.clone(), &namespace),
        pods: Api::namespaced(client, &namespace),
        namespace,
        since,
        sender,
        hearing: hearing.clone(),
        streams: BTreeMap::new(),
    };
    tokio::spawn(agents.run(selector));
    Following { lines, hearing }
}

/// The agents that there are, and a task for each.
struct Agents {
    api: Api<Pod>,
    /// The same, without what is not needed of them.
    pods: Api<PartialObjectMeta<Pod>>,
    namespace: String,
    since: Timestamp,
    sender: mpsc::Sender<LogLine>,
    hearing: Arc<Hearing>,
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
                        let why = chain(&error);
                        if why != complaint {
                            let namespace = &self.namespace;
                            tracing::warn!("the agents in {namespace} cannot be found: {why}");
                            complaint = why;
                        }
                        break;
                    }
                }
                self.hearing.agents.store(self.streams.len(), Ordering::Relaxed);
            }
            sleep(PAUSE).await;
        }
    }

    fn follow(&mut self, pod: Arc<str>) {
        if self.streams.contains_key(&pod) {
            return;
        }
        if self.streams.len() >= AGENTS_MAX {
            tracing::warn!("agent {pod} is not heard: {AGENTS_MAX} are followed already");
            return;
        }
        let follower = Follower {
            api: self.api.clone(),
            pod: pod.clone(),
            since: self.since,
            sender: self.sender.clone(),
            heard: Heard { hearing: self.hearing.clone(), is_heard: false },
        };
        self.streams.insert(pod, Stream(tokio::spawn(follower.run())));
    }
}

/// Counts an agent as heard, for as long as it is.
struct Heard {
    hearing: Arc<Hearing>,
    is_heard: bool,
}

impl Heard {
    fn set(&mut self, is_heard: bool) {
        match (self.is_heard, is_heard) {
            (false, true) => self.hearing.heard.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.hearing.heard.fetch_sub(1, Ordering::Relaxed),
            _ => return,
        };
        self.is_heard = is_heard;
    }
}

impl Drop for Heard {
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
    heard: Heard,
}

impl Follower {
    async fn run(mut self) {
        let mut complaint = String::new();
        while !self.sender.is_closed() {
            if let Err(why) = self.stream().await
                && why != complaint
            {
                tracing::warn!("agent {} is not heard: {why}", self.pod);
                complaint = why;
            }
            self.heard.set(false);
            sleep(PAUSE).await;
        }
    }

    async fn stream(&mut self) -> Result<(), String> {
        let parameters = LogParams { since_time: Some(self.since), ..parameters(true) };
        let log = self.api.log_stream(&self.pod, &parameters).await.map_err(|e| kube_chain(&e))?;
        let mut log = std::pin::pin!(log);
        self.heard.set(true);
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
async fn line(
    log: &mut (impl futures_util::AsyncBufRead + Unpin),
) -> Result<Option<String>, String> {
    let mut line = Vec::new();
    let mut is_cut = false;
    loop {
        let read = read_until(log.take(LINE_BYTES_MAX as u64), &mut line).await?;
        let is_whole = line.last() == Some(&b'\n');
        if is_whole && !is_cut {
            return Ok(Some(String::from_utf8_lossy(&line).trim_end().to_owned()));
        }
        // The end of a log may lack its newline: it is cut off, or goes on later.
        if read == 0 {
            return Ok(None);
        }
        is_cut = !is_whole;
        line.clear();
    }
}

async fn read_until(
    mut log: impl futures_util::AsyncBufRead + Unpin,
    line: &mut Vec<u8>,
) -> Result<usize, String> {
    log.read_until(b'\n', line).await.map_err(|error| error.to_string())
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
