//! A world with what is played on it: agents that watch, servers in pods, and stories.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    expect::differences,
    story::{Attempt, Change, Fix, Story},
};
use crate::{
    kube::wait::{Look, until},
    world::{
        ENFORCED_WAIT, RECORD_WAIT, World,
        agent::Agent,
        lab::server::Server,
        manifest::{self, documents, namespace, pod},
        namespace::checked,
    },
};

/// How long an incident may take to be over once its traffic passes: a flow that keeps being dropped
/// is reported once a minute, and only then is it known that it is not.
pub const OVER_WAIT: Duration = Duration::from_secs(120);

/// What comes closer together than a second counts as one change; and what was dropped while the
/// enforcer was still at work on the one before is another drop only once it has worked for so long.
const APART: Duration = Duration::from_secs(6);

/// How long to listen to one agent of several.
const LISTEN: Duration = Duration::from_millis(500);

/// A world, and what is played on it.
#[derive(Debug)]
pub struct Stage<W> {
    // In the order in which they end.
    agents: Vec<Agent>,
    serving: Vec<Server>,
    /// The world.
    pub world: W,
    /// What agents reported that have been stopped.
    earlier: Vec<Value>,
}

/// What came of a story.
#[derive(Debug)]
pub struct Played {
    /// The drop's record, of the node that reports it first of all.
    pub drop: Value,
    /// The incident's id.
    pub incident: String,
}

/// Labels of an object, by which it is as it was.
#[derive(Clone)]
struct Labels {
    object: Vec<String>,
    labels: Vec<String>,
}

impl<W: World> Stage<W> {
    /// Nobody watches yet, and nobody serves.
    pub fn new(world: W) -> Self {
        Self { agents: Vec::new(), serving: Vec::new(), world, earlier: Vec::new() }
    }

    /// Runs the cast of a story in a world that is empty: the client, labelled `app: web`, and its
    /// server, labelled `app: api`.
    pub fn cast(&mut self) -> Result<()> {
        let namespaces = ["frontend", "backend"].map(namespace);
        self.world.apply(&documents(&namespaces))?;
        for (key, app) in [("frontend/pod-a", "web"), ("backend/pod-b", "api")] {
            let mut pod = pod(key);
            pod["metadata"]["labels"]["app"] = app.into();
            self.world.run(&pod)?;
        }
        Ok(())
    }

    /// Has a pod answer HTTP requests on a port.
    pub fn serve(&mut self, key: &str, port: u16) -> Result<SocketAddr> {
        let (address, name) = (self.world.address(key, port)?, key.to_owned());
        let serving = self.world.pod(key)?.enter(move || Server::http(address, name))?;
        self.serving.push(serving);
        Ok(address)
    }

    /// Starts the servers that stories need.
    pub fn serve_all<'s>(&mut self, stories: impl IntoIterator<Item = &'s Story>) -> Result<()> {
        let servers: BTreeSet<_> = stories.into_iter().flat_map(Story::servers).collect();
        servers.into_iter().try_for_each(|(pod, port)| self.serve(pod, port).map(drop))
    }

    /// Starts an agent on each node.
    pub fn watch(&mut self) -> Result<()> {
        for node in self.world.nodes() {
            let agent = self.world.agent(&node)?;
            self.agents.push(agent);
        }
        Ok(())
    }

    /// Everything that was reported so far.
    pub fn records(&self) -> impl Iterator<Item = &Value> {
        let now = self.agents.iter().flat_map(Agent::records).map(|heard| &heard.record);
        self.earlier.iter().chain(now)
    }

    /// Waits for the first record of any agent that is like this.
    pub fn record(
        &mut self,
        what: &str,
        patience: Duration,
        like: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let deadline = Instant::now() + patience;
        loop {
            for agent in &mut self.agents {
                agent.listen(LISTEN, |heard| heard.iter().any(|h| like(&h.record)))?;
            }
            if let Some(record) = self.records().find(|record| like(record)) {
                return Ok(record.clone());
            }
            ensure!(Instant::now() < deadline, "no {what} within {patience:?}\n{}", self.said());
        }
    }

    /// Ends the agents; everything that they have reported, to the last.
    pub fn end(mut self) -> Result<Vec<Value>> {
        let mut records = self.earlier;
        for agent in self.agents.drain(..) {
            records.extend(agent.stop_and_read()?);
        }
        Ok(records)
    }

    fn said(&self) -> String {
        let said: Vec<String> = self.agents.iter().map(Agent::said).collect();
        said.join("\n")
    }

    /// Plays a story from onset to recovery, and leaves the cluster as it was.
    pub fn play(&mut self, name: &str, story: &Story) -> Result<Played> {
        self.play_all(story).with_context(|| format!("{name} ({})", story.title))
    }

    fn play_all(&mut self, story: &Story) -> Result<Played> {
        let before = [self.labels(&story.from)?, self.labels(&story.to)?].concat();
        let server = self.world.address(&story.to, story.port)?;
        if !story.before.is_empty() {
            self.world.apply(&documents(&story.before))?;
        }
        self.wait_working(&story.from, server)?;
        let since = Timestamp::now();
        self.change(&story.change)?;
        self.world.stand_in(&story.to, false)?;
        self.world.wait_connects(&story.from, server, false)?;

        for Attempt { from, to, port } in &story.still {
            let connects = self.world.connects(from, self.world.address(to, *port)?)?;
            ensure!(connects, "{from} does not connect to {to}:{port} either");
        }
        let played = self.reported(story, since)?;
        self.fix(&played.incident, story.fix)?;
        self.world.stand_in(&story.to, true)?;
        self.world.wait_connects(&story.from, server, true)?;
        self.world.kubectl_run(&["delete", "networkpolicy", "--all", "-A"])?;
        before.iter().try_for_each(|labels| self.restore(labels))?;
        Ok(played)
    }

    /// Waits until it works, and has for a while.
    fn wait_working(&self, from: &str, server: SocketAddr) -> Result<()> {
        let mut works_since = Instant::now();
        until("a change of its own", ENFORCED_WAIT, || {
            let connects = self.world.connects(from, server)?;
            if !connects {
                works_since = Instant::now();
            }
            let apart = connects && works_since.elapsed() > APART;
            Ok(if apart { Look::Seen(()) } else { Look::NotYet(format!("connects: {connects}")) })
        })
    }

    fn change(&mut self, change: &Change) -> Result<()> {
        if !change.apply.is_empty() {
            self.world.apply(&documents(&change.apply))?;
        }
        if !change.kubectl.is_empty() {
            let words: Vec<&str> = change.kubectl.iter().map(String::as_str).collect();
            self.world.kubectl_run(&words)?;
        }
        if change.restart {
            for agent in self.agents.drain(..) {
                self.earlier.extend(agent.records().iter().map(|heard| heard.record.clone()));
            }
            self.watch()?;
        }
        Ok(())
    }

    /// Waits for what a story expects to be reported.
    fn reported(&mut self, story: &Story, since: Timestamp) -> Result<Played> {
        let is_its = |record: &Value| {
            let first = record["evidence"]["first"].as_str().and_then(|at| at.parse().ok());
            record["kind"] == "drop"
                && record["flow"]["destination"]["port"] == story.port
                && record["primary"] == true
                && first > Some(since)
        };
        let drop = self.record("drop", RECORD_WAIT, is_its)?;
        let wrong = differences(&story.drop, &drop);
        ensure!(wrong.is_empty(), "{wrong:?}\n{drop}");
        let incident = drop["incident"].as_str().context("an id")?.to_owned();
        // Each node reports it by what it knows; one of them has to know all that is expected.
        let opened = |record: &Value| record["kind"] == "incident" && record["id"] == *incident;
        self.record("incident", RECORD_WAIT, opened)?;
        let as_expected =
            |record: &Value| opened(record) && differences(&story.incident, record).is_empty();
        self.record("incident as expected", RECORD_WAIT, as_expected)?;
        Ok(Played { drop, incident })
    }

    /// Runs `whydrop fix ID` over what the agents have reported, and does what it prints.
    pub(super) fn fix(&mut self, id: &str, form: Fix) -> Result<()> {
        let records = tempfile::NamedTempFile::new()?;
        let lines: Vec<String> = self.records().map(Value::to_string).collect();
        fs::write(records.path(), lines.join("\n"))?;
        let path = records.path().to_string_lossy();
        let mut fix = vec!["fix", id, "--records", &path];
        if form == Fix::Patch {
            fix.push("--patch");
        }
        let node = self.world.nodes().into_iter().next().context("a node")?;
        let fixed = self.world.whydrop(&node, &fix)?;
        let text = String::from_utf8_lossy(&fixed.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&fixed.stderr);
        ensure!(fixed.status.success(), "{id}: {text}{complaint}");
        match form {
            Fix::New => self.world.apply(&text),
            Fix::Patch => commands(&text)?.iter().try_for_each(|words| {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                self.world.kubectl_run(&words).map(drop)
            }),
        }
    }

    /// The labels of a pod and of its namespace.
    fn labels(&self, key: &str) -> Result<Vec<Labels>> {
        let (namespace, name) = manifest::parts(key)?;
        let objects = [vec!["namespace", namespace], vec!["pod", name, "-n", namespace]];
        let labels = |object: Vec<&str>| {
            let get = [&["get"], &object[..], &["-o", "json"]].concat();
            let found = self.world.kubectl()?.json(get)?;
            let labels = found["metadata"]["labels"].as_object().into_iter().flatten();
            let labels =
                labels.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
            let object = object.into_iter().map(str::to_owned).collect();
            Ok(Labels { object, labels: labels.collect() })
        };
        objects.into_iter().map(labels).collect()
    }

    fn restore(&self, Labels { object, labels }: &Labels) -> Result<()> {
        let words = ["label", "--overwrite"].into_iter();
        let words = words.chain(object.iter().chain(labels).map(String::as_str));
        self.world.kubectl_run(&words.collect::<Vec<_>>()).map(drop)
    }
}

/// The words of each kubectl command, as a shell takes them.
fn commands(script: &str) -> Result<Vec<Vec<String>>> {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("kubectl() {{ printf '%s\\0' \"$@\"; echo; }}\n{script}")]);
    let text = checked(shell.stdin(Stdio::null()))?;
    let words = |line: &str| line.split_terminator('\0').map(str::to_owned).collect();
    let commands: Vec<Vec<String>> = text.lines().map(words).collect();
    ensure!(!commands.is_empty(), "no command in {script}");
    Ok(commands)
}
