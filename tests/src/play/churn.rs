//! Generated churn on a whole node: policies, labels, Services, rollouts and pods come and go under clients
//! that connect all the time. Their own account is compared with what an agent reports: nothing missed,
//! nothing invented, no end that is not true.

mod account;
mod plan;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;

use self::plan::{Action, Plan};
use super::living::caller::{Caller, Outcome, Pace, Try};
use crate::{
    kube::{
        kubectl::Kubectl,
        node::{NAME, Node},
        wait::{Look, until},
    },
    world::{World as _, manifest::documents},
};
pub use account::Differences;

/// How often a client connects, and how long it waits: for a second SYN, and what comes of that.
const PACE: Pace =
    Pace { every: Duration::from_millis(800), patience: Duration::from_millis(2_500) };

/// How long it is quiet in the end, with everything allowed and there: incidents end once nothing was
/// dropped for as long as drops are reported again, and a little.
const QUIET: Duration = Duration::from_secs(110);

/// How long a pod may take to be there again.
const POD_WAIT: Duration = Duration::from_secs(60);

/// How it is to be.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long something happens.
    pub time: Duration,
    /// What happens.
    pub seed: u64,
}

/// What a client dials, and its connects: one line for each pod that had its name.
#[derive(Debug)]
pub struct Line {
    /// The pod that connects, `namespace/name`.
    pub client: String,
    /// What it dials.
    pub to: SocketAddr,
    /// What came of it.
    pub tries: Vec<Try>,
}

/// Something that was done.
#[derive(Debug)]
pub struct Done {
    /// When it was begun and when it was over.
    pub at: (Timestamp, Timestamp),
    /// What.
    pub action: Action,
}

/// What came of it.
#[derive(Debug)]
pub struct Churned {
    /// The clients' account.
    pub lines: Vec<Line>,
    /// What was done.
    pub done: Vec<Done>,
    /// What was reported.
    pub records: Vec<Value>,
}

impl Churned {
    /// Where what was reported is not what happened.
    pub fn differences(&self) -> Differences {
        account::compare(self)
    }

    fn count(&self, outcome: Outcome) -> usize {
        self.lines.iter().flat_map(|line| &line.tries).filter(|one| one.outcome == outcome).count()
    }
}

impl fmt::Display for Churned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_kind =
            |kind: &str| self.records.iter().filter(|record| record["kind"] == kind).count();
        write!(
            f,
            "{} actions; {} connects answered, {} refused, {} silent; {} drops and {} incidents reported",
            self.done.len(),
            self.count(Outcome::Answered),
            self.count(Outcome::Refused),
            self.count(Outcome::Silent),
            of_kind("drop"),
            of_kind("incident"),
        )
    }
}

/// Plays it on a node of its own.
///
/// # Errors
/// What could not be done; nothing of what was reported.
pub fn play(node: &Node, settings: Settings) -> Result<Churned> {
    let kubectl = node.kubectl()?;
    let mut plan = Plan::new(settings.seed);
    kubectl.apply(&documents(&Plan::objects()))?;
    for (namespace, name) in plan::deployments() {
        let deployment = format!("deployment/{name}");
        kubectl.run(["rollout", "status", &deployment, "-n", &namespace, "--timeout=90s"])?;
    }
    let agent = node.agent(NAME)?;
    let mut callers = Callers::default();
    for client in plan::clients() {
        callers.start(node, &kubectl, &client)?;
    }
    let mut done = Vec::new();
    let end = Instant::now() + settings.time;
    while Instant::now() < end {
        let (action, then) = plan.next();
        done.push(act(node, &kubectl, &mut callers, action)?);
        thread::park_timeout(then);
    }
    for action in Plan::restore() {
        done.push(act(node, &kubectl, &mut callers, action)?);
    }
    thread::park_timeout(QUIET);
    let lines = callers.stop();
    Ok(Churned { lines, done, records: agent.stop_and_read()? })
}

fn act(node: &Node, kubectl: &Kubectl, callers: &mut Callers, action: Action) -> Result<Done> {
    let began = Timestamp::now();
    let described = format!("{action:?}");
    match &action {
        Action::Apply(object) => kubectl.apply(&object.to_string()).map(drop),
        Action::Kubectl(words) => kubectl.run(words.iter().map(String::as_str)).map(drop),
        Action::Renew(client, object) => {
            callers.end(client);
            let (namespace, name) = client.split_once('/').context("a client")?;
            let delete = ["delete", "pod", name, "-n", namespace, "--grace-period=0", "--force"];
            kubectl.run(delete)?;
            until("its end", POD_WAIT, || {
                let get = ["get", "pod", name, "-n", namespace, "--ignore-not-found", "-o", "name"];
                let found = kubectl.run(get)?;
                Ok(if found.is_empty() { Look::Seen(()) } else { Look::NotYet(found) })
            })?;
            kubectl.apply(&object.to_string())?;
            callers.start(node, kubectl, client)
        }
    }
    .context(described)?;
    Ok(Done { at: (began, Timestamp::now()), action })
}

/// The clients that connect, and the account of those that do no more.
#[derive(Default)]
struct Callers {
    running: BTreeMap<String, Vec<(SocketAddr, Caller)>>,
    over: Vec<Line>,
}

impl Callers {
    fn start(&mut self, node: &Node, kubectl: &Kubectl, client: &str) -> Result<()> {
        let (namespace, name) = client.split_once('/').context("a client")?;
        let pod = format!("pod/{name}");
        let wait = ["wait", &pod, "-n", namespace, "--for=condition=Ready", "--timeout=60s"];
        kubectl.run(wait)?;
        let network = node.pod(client)?.network;
        let dialled = plan::dialled_by(client);
        let callers = dialled.into_iter().map(|to| (to, Caller::start(&network, to, PACE)));
        self.running.insert(client.to_owned(), callers.collect());
        Ok(())
    }

    fn end(&mut self, client: &str) {
        for (to, caller) in self.running.remove(client).unwrap_or_default() {
            self.over.push(Line { client: client.to_owned(), to, tries: caller.stop() });
        }
    }

    fn stop(mut self) -> Vec<Line> {
        for client in self.running.keys().cloned().collect::<Vec<_>>() {
            self.end(&client);
        }
        self.over
    }
}
