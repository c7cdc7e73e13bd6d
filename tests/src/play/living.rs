//! Situations of a living cluster, on a whole node: rollouts, endpoints and pods that come and go,
//! Services of which a part works. Data, one file each in `tests/living/`; all are played at the same time,
//! each in namespaces of its own, before one agent.
//!
//! What truly happens is counted from the clients' own connects. What is reported is compared when all
//! is over: what must have been said, and what must never be.

pub mod caller;
mod cast;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use self::{
    caller::{Caller, Outcome, Pace},
    cast::Role,
};
use super::expect::{differences, matches};
use crate::{
    kube::{
        kubectl::Kubectl,
        node::{NAME, Node},
        wait::{Look, until},
    },
    repository,
    world::{
        World as _,
        manifest::{documents, namespace},
    },
};

/// How long a step may wait for what it waits for: a rollout of the kubelet's beside many others, and
/// what Felix and kube-proxy make of it.
const STEP_WAIT: Duration = Duration::from_secs(90);

/// One file of `tests/living/`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Situation {
    /// One line.
    pub title: String,
    /// Its pods by `namespace/name`, ready before an agent watches; each answers HTTP on port 8080.
    #[serde(default)]
    pods: BTreeMap<String, Role>,
    /// Its Deployments, likewise.
    #[serde(default)]
    deployments: BTreeMap<String, Role>,
    /// What else is there before.
    #[serde(default)]
    before: Vec<Value>,
    /// Who connects, by name, from the moment that the agent watches on.
    #[serde(default)]
    callers: BTreeMap<String, Calls>,
    /// What happens.
    #[serde(default)]
    steps: Vec<Step>,
    /// What the callers' account is like in the end: how many connects came to what.
    #[serde(default)]
    account: BTreeMap<String, Value>,
    /// Records that are reported.
    #[serde(default)]
    says: Vec<Value>,
    /// Records that never are.
    #[serde(default)]
    never: Vec<Value>,
}

/// A client that connects again and again.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Calls {
    /// `namespace/pod`, or `outside` of the node.
    from: String,
    /// `namespace/pod:port`, `namespace/svc/service:port`, or `address:port`.
    to: String,
    /// From one connect to the next.
    #[serde(default = "half_a_second")]
    every_ms: u64,
    /// How long it waits: by default for a second SYN.
    #[serde(default = "two_seconds")]
    patience_ms: u64,
}

const fn half_a_second() -> u64 {
    500
}

const fn two_seconds() -> u64 {
    2_000
}

/// Something that happens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum Step {
    /// Objects are applied.
    Apply(Vec<Value>),
    /// A command of kubectl's.
    Kubectl(Vec<String>),
    /// A caller's connects come to this, so many times since the step began.
    Until {
        /// Which caller.
        caller: String,
        /// What they come to.
        is: OutcomeName,
        /// How many times.
        times: usize,
    },
    /// It goes on for so long: what is said once a minute, or never, needs its time.
    GoesOn {
        /// For how many seconds.
        seconds: u64,
    },
}

/// What connects come to, as files spell it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OutcomeName {
    Answered,
    Refused,
    Silent,
}

impl OutcomeName {
    const fn outcome(self) -> Outcome {
        match self {
            Self::Answered => Outcome::Answered,
            Self::Refused => Outcome::Refused,
            Self::Silent => Outcome::Silent,
        }
    }
}

/// All of them, by the names of their files.
///
/// # Errors
/// A file that is no situation.
pub fn situations() -> Result<BTreeMap<String, Situation>> {
    let folder = repository("tests/living");
    let files = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    files.map(|file| read(&file?.path())).collect()
}

fn read(path: &Path) -> Result<(String, Situation)> {
    let place = || path.display().to_string();
    let text = fs::read_to_string(path).with_context(place)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, serde_saphyr::from_str(&text).with_context(place)?))
}

/// Plays all of them on a node at the same time, and compares what happened and what was said.
///
/// # Errors
/// Everything that was not as a situation expects, of all of them.
pub fn play_all(node: &Node, situations: &BTreeMap<String, Situation>) -> Result<()> {
    let kubectl = node.kubectl()?;
    let objects: Vec<Value> = situations.values().flat_map(Situation::objects).collect();
    kubectl.apply(&documents(&objects))?;
    wait_ready(&kubectl)?;
    let agent = node.agent(NAME)?;
    let accounts: Vec<(&String, Result<Vec<String>>)> = thread::scope(|scope| {
        let kubectl = &kubectl;
        let play = |(name, situation)| (name, scope.spawn(move || play(node, kubectl, situation)));
        let threads: Vec<_> = situations.iter().map(play).collect();
        let join = |(name, thread): (_, thread::ScopedJoinHandle<'_, _>)| {
            (name, thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        };
        threads.into_iter().map(join).collect()
    });
    let records = agent.stop_and_read()?;
    keep(&records)?;
    let mut wrong = Vec::new();
    for (name, account) in accounts {
        match account {
            Ok(differs) => wrong.extend(differs.into_iter().map(|what| format!("{name}: {what}"))),
            Err(error) => wrong.push(format!("{name}: {error:#}")),
        }
        wrong.extend(situations[name].compare(&records).map(|what| format!("{name}: {what}")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

/// `WHYDROP_LIVING_RECORDS=FILE` keeps all that was reported, as lines of a log.
fn keep(records: &[Value]) -> Result<()> {
    let Ok(file) = std::env::var("WHYDROP_LIVING_RECORDS") else { return Ok(()) };
    let lines: Vec<String> = records.iter().map(ToString::to_string).collect();
    fs::write(&file, lines.join("\n")).context(file)
}

/// Waits until every pod that is not over is ready.
fn wait_ready(kubectl: &Kubectl) -> Result<()> {
    until("ready pods", STEP_WAIT, || {
        let pods = kubectl.json(["get", "pods", "-A", "-o", "json"])?;
        let is_waited_for = |pod: &&Value| {
            let is_off = pod["metadata"]["annotations"][cast::NEVER_READY] == "true";
            !is_off && pod["status"]["phase"] != "Succeeded"
        };
        let is_ready = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let mut ready = conditions.filter(|condition| condition["type"] == "Ready");
            ready.any(|condition| condition["status"] == "True")
        };
        let pods = pods["items"].as_array().into_iter().flatten().filter(is_waited_for);
        let missing: Vec<String> = pods
            .filter(|pod| !is_ready(pod))
            .map(|pod| pod["metadata"]["name"].to_string())
            .collect();
        Ok(if missing.is_empty() { Look::Seen(()) } else { Look::NotYet(missing.join(", ")) })
    })
}

/// Plays one; how the callers' account differs from what is expected.
fn play(node: &Node, kubectl: &Kubectl, situation: &Situation) -> Result<Vec<String>> {
    let begin = |(name, calls): (&String, &Calls)| {
        let caller = calls.start(node, kubectl).with_context(|| name.clone())?;
        Ok((name.clone(), caller))
    };
    let callers = situation.callers.iter().map(begin).collect::<Result<BTreeMap<_, _>>>()?;
    for step in &situation.steps {
        take(step, kubectl, &callers).with_context(|| format!("{step:?}"))?;
    }
    let account = callers.into_iter().flat_map(|(name, caller)| {
        let tries = caller.stop();
        let count = |outcome| tries.iter().filter(|one| one.outcome == outcome).count();
        let account = json!({
            "answered": count(Outcome::Answered),
            "refused": count(Outcome::Refused),
            "silent": count(Outcome::Silent),
        });
        let expected = situation.account.get(&name).cloned().unwrap_or_else(|| json!({}));
        differences(&expected, &account).into_iter().map(move |differs| format!("{name}{differs}"))
    });
    Ok(account.collect())
}

fn take(step: &Step, kubectl: &Kubectl, callers: &BTreeMap<String, Caller>) -> Result<()> {
    match step {
        Step::Apply(objects) => kubectl.apply(&documents(objects)).map(drop),
        Step::Kubectl(words) => kubectl.run(words.iter().map(String::as_str)).map(drop),
        Step::Until { caller, is, times } => {
            let caller = callers.get(caller).context("no such caller")?;
            let since = Timestamp::now();
            until(&format!("{times} connects that come to {is:?}"), STEP_WAIT, || {
                let count = caller.count(is.outcome(), since);
                Ok(if count >= *times { Look::Seen(()) } else { Look::NotYet(count.to_string()) })
            })
        }
        Step::GoesOn { seconds } => {
            let deadline = Instant::now() + Duration::from_secs(*seconds);
            while let Some(left) = deadline.checked_duration_since(Instant::now()) {
                thread::park_timeout(left);
            }
            Ok(())
        }
    }
}

impl Calls {
    fn start(&self, node: &Node, kubectl: &Kubectl) -> Result<Caller> {
        let network = match self.from.as_str() {
            "outside" => node.outside(),
            pod => node.pod(pod)?.network,
        };
        let pace = Pace {
            every: Duration::from_millis(self.every_ms),
            patience: Duration::from_millis(self.patience_ms),
        };
        Ok(Caller::start(&network, self.target(node, kubectl)?, pace))
    }

    fn target(&self, node: &Node, kubectl: &Kubectl) -> Result<SocketAddr> {
        if let Ok(address) = self.to.parse() {
            return Ok(address);
        }
        let (end, port) = self.to.rsplit_once(':').context("no port")?;
        let port = port.parse().with_context(|| self.to.clone())?;
        let address = match end.split('/').collect::<Vec<_>>().as_slice() {
            [namespace, "svc", name] => {
                let address = "jsonpath={.spec.clusterIP}";
                let get = ["get", "service", name, "-n", namespace, "-o", address];
                kubectl.run(get)?.parse().with_context(|| self.to.clone())?
            }
            _ => node.pod(end)?.address()?,
        };
        Ok(SocketAddr::new(address, port))
    }
}

impl Situation {
    /// What is there before, namespaces first.
    fn objects(&self) -> Vec<Value> {
        let pods = self.pods.iter().map(|(key, role)| role.pod(key));
        let deployments = self.deployments.iter().map(|(key, role)| role.deployment(key));
        let run: Vec<Value> = pods.chain(deployments).collect();
        let others = run.iter().chain(&self.before);
        let names = others.filter_map(|object| object["metadata"]["namespace"].as_str());
        let names: BTreeSet<&str> = names.collect();
        names
            .into_iter()
            .map(namespace)
            .chain(self.before.iter().cloned())
            .chain(run.clone())
            .collect()
    }

    /// What was said that must not be, and what was not that must.
    fn compare(&self, records: &[Value]) -> impl Iterator<Item = String> {
        let is_said = |like: &&Value| records.iter().any(|record| matches(like, record));
        let missing = self.says.iter().filter(move |like| !is_said(like));
        let missing =
            missing.map(|like| format!("nothing was said like {like}{}", nearest(like, records)));
        let wrong = self.never.iter().flat_map(move |like| {
            let said = records.iter().filter(|record| matches(like, record)).take(2);
            said.map(move |record| format!("was said, like {like}:\n{record}"))
        });
        missing.collect::<Vec<_>>().into_iter().chain(wrong.collect::<Vec<_>>())
    }
}

/// The record that differs least.
fn nearest(like: &Value, records: &[Value]) -> String {
    let of_kind = records.iter().filter(|record| record["kind"] == like["kind"]);
    let nearest = of_kind.min_by_key(|record| differences(like, record).len());
    nearest.map_or_else(String::new, |record| {
        format!("\nnearest ({:?}):\n{record}", differences(like, record))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_situation_that_compares_something() {
        let situations = situations().expect("all of them");
        for (name, situation) in situations {
            assert!(!situation.says.is_empty() || !situation.never.is_empty(), "{name}");
            let callers = situation.account.keys().all(|name| situation.callers.contains_key(name));
            assert!(callers, "{name}");
        }
    }
}
