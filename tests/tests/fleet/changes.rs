//! What changed, why that cut a flow off, and that the fix by the incident's id ends it: each of
//! `changes/*.yaml` on real enforcement, with the agents' records from onset to recovery.

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use whydrop_tests::{
    agent::{Agent, binary},
    expect::differences,
    fleet::{Fleet, Settings},
    kube::wait::{Look, until},
    lab::server::Server,
};

use crate::{CONNECT_WAIT, ENFORCED_WAIT, RECORD_WAIT, TWO_NODES, told};

/// How long an incident may take to be over once its traffic passes: a flow that goes on dying is
/// told once a minute, and only then is it known that it does not.
const OVER_WAIT: Duration = Duration::from_secs(120);

/// What comes closer together than a second counts as one change; and what died while Felix was
/// still about the one before is another drop only once it has worked for so long.
const APART: Duration = Duration::from_secs(6);

const CLIENT: &str = "frontend/pod-a";
const SERVER: &str = "backend/pod-b";

/// A file of `changes/`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Story {
    title: String,
    /// The server's port, its own for each story: a flow that died once is told again later.
    port: u16,
    /// What is in force before, beside the pods.
    #[serde(default)]
    before: Vec<Value>,
    change: Change,
    /// What the drop's record is like.
    drop: Value,
    /// What the incident's record is like.
    incident: Value,
    fix: Fix,
}

/// What happens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    apply: Vec<Value>,
    #[serde(default)]
    kubectl: Vec<String>,
    /// The agents are killed and started again before the flow dies.
    #[serde(default)]
    restart: bool,
}

/// In which form the fix is asked for.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fix {
    /// New policies.
    New,
    /// Rules for policies that are there.
    Patch,
}

struct Stage {
    fleet: Fleet,
    agents: Vec<Agent>,
    /// What agents said that have been stopped.
    earlier: Vec<Value>,
}

#[test]
fn each_change_is_named_and_its_incident_ends_with_the_fix() {
    let stories = stories();
    let fleet = Fleet::start(Settings::default(), TWO_NODES).expect("a fleet");
    let serving: Vec<Server> = stories
        .values()
        .map(|story| {
            let at = fleet.address(SERVER, story.port).expect("an address");
            let pod = &fleet.pod(SERVER).expect("a pod").namespace;
            pod.enter(|| Server::http(at, SERVER.into())).expect("a server")
        })
        .collect();
    let agents = start(&fleet);
    let mut stage = Stage { fleet, agents, earlier: Vec::new() };
    let mut incidents = BTreeMap::new();
    for (name, story) in &stories {
        incidents.insert(name.clone(), stage.play(name, story));
    }
    for (name, id) in &incidents {
        let over = stage.record(name, OVER_WAIT, |record| {
            record["kind"] == "incident" && record["id"] == **id && record["happened"] == "resolved"
        });
        let why = &over["resolution"]["why"];
        assert!(why == "passes" || why == "allowed", "{name}: {over}");
    }
    drop(serving);
}

fn stories() -> BTreeMap<String, Story> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("changes");
    let mut stories = BTreeMap::new();
    for file in fs::read_dir(folder).expect("the folder is part of the project") {
        let path = file.expect("a file").path();
        let text = fs::read_to_string(&path).expect("readable");
        let story =
            serde_saphyr::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        stories.insert(path.file_stem().expect("a name").to_string_lossy().into_owned(), story);
    }
    stories
}

fn start(fleet: &Fleet) -> Vec<Agent> {
    ["worker-1", "worker-2"].map(|node| fleet.agent(node).expect("an agent")).into()
}

impl Stage {
    /// From onset to recovery; the incident's id.
    fn play(&mut self, name: &str, story: &Story) -> String {
        let server = self.fleet.address(SERVER, story.port).expect("an address");
        let place = format!("{name} ({})", story.title);
        self.apply(&story.before);
        let mut works_since = Instant::now();
        until("a change of its own", ENFORCED_WAIT, || {
            let connects = self.fleet.connect(CLIENT, server, CONNECT_WAIT)?.is_ok();
            if !connects {
                works_since = Instant::now();
            }
            let apart = connects && works_since.elapsed() > APART;
            Ok(if apart { Look::Seen(()) } else { Look::NotYet(format!("connects: {connects}")) })
        })
        .expect("works for a while");
        let before = Timestamp::now();
        self.change(&story.change);
        self.wait_for(&place, server, false);

        let is_its = |record: &Value| {
            let first = record["evidence"]["first"].as_str().and_then(|at| at.parse().ok());
            record["kind"] == "drop"
                && record["flow"]["destination"]["port"] == story.port
                && first > Some(before)
        };
        let drop = self.record(&place, RECORD_WAIT, |r| is_its(r) && r["primary"] == true);
        let wrong = differences(&story.drop, &drop);
        assert!(wrong.is_empty(), "{place}: {wrong:?}\n{drop}");
        let id = drop["incident"].as_str().expect("an id").to_owned();
        // Each node tells of it by what it knows; one of them has to know all that is expected.
        let opened = |record: &Value| record["kind"] == "incident" && record["id"] == *id;
        self.record(&place, RECORD_WAIT, opened);
        let as_expected =
            |record: &Value| opened(record) && differences(&story.incident, record).is_empty();
        self.record(&place, RECORD_WAIT, as_expected);

        self.fix(&id, &story.fix);
        self.wait_for(&place, server, true);
        self.fleet.kubectl().run(["delete", "networkpolicy", "--all", "-A"]).expect("deleted");
        self.fleet.run(TWO_NODES).expect("as it was");
        id
    }

    fn apply(&self, objects: &[Value]) {
        let texts: Vec<String> = objects.iter().map(ToString::to_string).collect();
        if !texts.is_empty() {
            self.fleet.kubectl().apply(&texts.join("\n---\n")).expect("applied");
        }
    }

    fn change(&mut self, change: &Change) {
        self.apply(&change.apply);
        if !change.kubectl.is_empty() {
            let words = change.kubectl.iter().map(String::as_str);
            self.fleet.kubectl().run(words).expect("changed");
        }
        if change.restart {
            for agent in self.agents.drain(..) {
                self.earlier.extend(agent.records().iter().map(|heard| heard.record.clone()));
            }
            self.agents = start(&self.fleet);
        }
    }

    /// Waits until connections fare like this.
    fn wait_for(&self, place: &str, server: SocketAddr, connects: bool) {
        until(place, ENFORCED_WAIT, || {
            let tried = self.fleet.connect(CLIENT, server, CONNECT_WAIT)?;
            Ok(match tried.is_ok() == connects {
                true => Look::Seen(()),
                false => Look::NotYet(format!("connects: {}", !connects)),
            })
        })
        .expect("in force");
    }

    /// The first record of any agent that is like this.
    fn record(&mut self, place: &str, patience: Duration, like: impl Fn(&Value) -> bool) -> Value {
        let Self { agents, earlier, .. } = self;
        let found = until(place, patience, || {
            for agent in agents.iter_mut() {
                // What is missing is looked for once more.
                let _ = agent.wait_for(crate::LOOK, |heard| heard.iter().any(|h| like(&h.record)));
            }
            let now = agents.iter().flat_map(Agent::records).map(|heard| &heard.record);
            let found = earlier.iter().chain(now).find(|record| like(record));
            Ok(found.map_or(Look::NotYet(String::new()), |found| Look::Seen(found.clone())))
        });
        found.unwrap_or_else(|error| {
            let told: Vec<String> = agents.iter().map(told).collect();
            panic!("{place}: {error:#}\n{}", told.join("\n"))
        })
    }

    /// Runs `whydrop fix ID` over what the agents have told, and does what it prints.
    fn fix(&self, id: &str, form: &Fix) {
        let records = tempfile::NamedTempFile::new_in(self.fleet.folder()).expect("a file");
        let now = self.agents.iter().flat_map(Agent::records).map(|heard| &heard.record);
        let lines: Vec<String> = self.earlier.iter().chain(now).map(Value::to_string).collect();
        fs::write(records.path(), lines.join("\n")).expect("written");
        let node = &self.fleet.host("worker-1").expect("a node").namespace;
        let mut fix = node.command(binary().expect("built"));
        fix.args(["fix", id, "--records"]).arg(records.path());
        fix.arg("--kubeconfig").arg(self.fleet.api().kubeconfig());
        if let Fix::Patch = form {
            fix.arg("--patch");
        }
        let fixed = fix.output().expect("whydrop runs");
        let text = String::from_utf8_lossy(&fixed.stdout).into_owned();
        assert!(fixed.status.success(), "{id}: {text}{}", String::from_utf8_lossy(&fixed.stderr));
        match form {
            Fix::New => {
                self.fleet.kubectl().apply(&text).expect("applied");
            }
            Fix::Patch => {
                for words in commands(&text) {
                    let words = words.iter().map(String::as_str);
                    self.fleet.kubectl().run(words).expect("patched");
                }
            }
        }
    }
}

/// The words of each kubectl command, as a shell takes them.
fn commands(script: &str) -> Vec<Vec<String>> {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("kubectl() {{ printf '%s\\0' \"$@\"; echo; }}\n{script}")]);
    let output = shell.stdin(Stdio::null()).output().expect("a shell");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let words = |line: &str| line.split_terminator('\0').map(str::to_owned).collect();
    let commands: Vec<Vec<String>> = text.lines().map(words).collect();
    assert!(!commands.is_empty(), "no command in {script}");
    commands
}
