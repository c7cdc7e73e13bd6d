//! The incident that whydrop was first written for, with the engine that it happened with: 15 pods
//! in one namespace, a policy with an empty ingress rule, 8 API replicas without their database.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use whydrop::report::Record;

use super::{Audience, hint, stage::OVER_WAIT};
use crate::{
    repository,
    world::{
        CONNECT_WAIT, RECORD_WAIT, World as _,
        agent::{Agent, Heard},
        fleet::{Fleet, Settings},
        lab::server::Server,
    },
};

const DATABASE: &str = "backend/postgres-primary-0";
const REPLICAS: usize = 8;

/// Which policy cuts the replicas off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Calico's own.
    Calico,
    /// The Kubernetes policy of that name.
    Kubernetes,
}

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Self::Calico => "tests/fleet/restrict-backend-ingress/calico.yaml",
            Self::Kubernetes => "tests/fleet/restrict-backend-ingress/kubernetes.yaml",
        }
    }

    /// As records name it.
    fn policy(self) -> (&'static str, &'static str) {
        match self {
            Self::Calico => ("CalicoNetworkPolicy", "default.restrict-backend-ingress"),
            Self::Kubernetes => ("NetworkPolicy", "restrict-backend-ingress"),
        }
    }
}

/// Plays it to its end; the error says what was not as it should be.
pub fn play(kind: Kind, audience: &mut dyn Audience) -> Result<()> {
    record(kind, Duration::ZERO, audience).map(drop)
}

/// Plays it, with the replicas trying on for so long before somebody mends it; what the agent
/// reported of it, to its end.
pub fn record(kind: Kind, outage: Duration, audience: &mut dyn Audience) -> Result<Vec<Record>> {
    audience.say(
        "15 pods in the namespace backend, on a node where Calico's Felix enforces what a real API \
         server says. The 8 API replicas talk to postgres-primary-0.",
    );
    let manifests = "tests/scenarios/restrict-backend-ingress/manifests/cluster.yaml";
    let manifests = fs::read_to_string(repository(manifests))?;
    let fleet = Fleet::start(Settings::default(), &manifests)?;
    let database = fleet.address(DATABASE, 5432)?;
    let _serving = fleet.pod(DATABASE)?.enter(|| Server::echo(database))?;
    let replicas = fleet.pods_like("backend/backend-api-");
    let pods = fleet.pods_like("");
    ensure!(replicas.len() == REPLICAS && pods.len() == 15, "{pods:?}");
    let agent = fleet.agent("worker-1")?;
    let mut show = Show { fleet, database, replicas, agent, audience };
    show.play(kind, outage).with_context(|| show.agent.said())?;
    let records = show.agent.stop_and_read()?;
    records.into_iter().map(|record| Ok(serde_json::from_value(record)?)).collect()
}

struct Show<'a> {
    fleet: Fleet,
    database: SocketAddr,
    replicas: Vec<String>,
    agent: Agent,
    audience: &'a mut dyn Audience,
}

impl Show<'_> {
    fn play(&mut self, kind: Kind, outage: Duration) -> Result<()> {
        let mut established = self.all_connect()?.pop().context("a connection")?;
        self.audience.say("Somebody applies a policy that was to keep the outside out.");
        let text = fs::read_to_string(repository(kind.file()))?;
        self.audience.file(kind.file(), &text);
        self.audience.command("", &format!("kubectl apply -f {}", kind.file()));
        self.audience.output(&self.fleet.kubectl()?.apply(&text)?);
        self.wait_connects(false)?;
        self.nobody_connects()?;
        self.audience.say("What was connected before goes on: Calico looks at policy once.");
        echo(&mut established)?;

        let drops = self.drops(REPLICAS)?;
        for drop in &drops {
            let (policy_kind, name) = kind.policy();
            let policy = &drop["cause"]["policy"];
            ensure!(policy["kind"] == policy_kind && policy["name"] == name, "{drop}");
            ensure!(drop["cause"]["changed"]["change"] == "created", "{drop}");
            ensure!(drop["evidence"]["level"] == "kernel-drop", "{drop}");
            ensure!(drop["evidence"]["last_success"].is_string(), "it worked before: {drop}");
            ensure!(drop["incident"] == drops[0]["incident"], "one incident: {drop}");
            if kind == Kind::Calico {
                ensure!(drop["verdict"]["ingress"]["layer"] == "tier", "{drop}");
                ensure!(drop["verdict"]["ingress"]["tier"] == "default", "{drop}");
            }
        }
        self.audience.say("Every replica is reported, and what every report has in common:");
        self.audience.record(&drops[0]);
        let incident = self.critical_incident()?;
        ensure!(incident["id"] == drops[0]["incident"], "{incident}");
        ensure!(incident["affected"][0]["pods"] == REPLICAS, "{incident}");
        self.audience.say("All of it is one incident:");
        self.audience.record(&incident);
        let mended = Instant::now() + outage;
        while Instant::now() < mended {
            self.nobody_connects()?;
        }
        self.remedy(&drops[0])?;
        self.wait_connects(true)?;
        self.all_connect()?;
        echo(&mut established)?;
        if !outage.is_zero() {
            return self.resolved();
        }
        let reported = self.agent.count("drop");
        ensure!(reported == REPLICAS, "{reported} reported");
        Ok(())
    }

    /// Connects from every replica.
    fn all_connect(&mut self) -> Result<Vec<TcpStream>> {
        let mut connections = Vec::new();
        for replica in &self.replicas {
            let stream = self.fleet.connect(replica, self.database, CONNECT_WAIT)?;
            let mut stream = stream.ok().with_context(|| format!("{replica} does not connect"))?;
            echo(&mut stream)?;
            connections.push(stream);
        }
        self.audience.output(&format!("all {REPLICAS} replicas connect to the database"));
        Ok(connections)
    }

    /// Tries from every replica at once.
    fn nobody_connects(&mut self) -> Result<()> {
        let (fleet, database) = (&self.fleet, self.database);
        std::thread::scope(|scope| {
            let tries: Vec<_> = self
                .replicas
                .iter()
                .map(|replica| scope.spawn(|| fleet.connect(replica, database, CONNECT_WAIT)))
                .collect();
            for each in tries {
                let tried = each.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                ensure!(tried.is_err(), "a replica still connects");
            }
            Ok(())
        })?;
        self.audience.output(&format!("all {REPLICAS} replicas time out"));
        Ok(())
    }

    /// Waits until the first replica connects, or does not.
    fn wait_connects(&self, connects: bool) -> Result<()> {
        self.fleet.wait_connects(&self.replicas[0], self.database, connects)
    }

    /// Waits for so many drop records.
    fn drops(&mut self, count: usize) -> Result<Vec<Value>> {
        let enough = |heard: &[Heard]| heard.iter().filter(|heard| is_drop(heard)).count() >= count;
        // What is missing shows in the count.
        let _ = self.agent.wait_for(RECORD_WAIT, enough);
        let drops = self.agent.records().iter().filter(|heard| is_drop(heard));
        let drops: Vec<Value> = drops.map(|heard| heard.record.clone()).collect();
        if drops.len() != count {
            bail!("{} of {count} reported", drops.len());
        }
        Ok(drops)
    }

    /// Waits until an incident is critical: it opens with the first replica.
    fn critical_incident(&mut self) -> Result<Value> {
        let is_it =
            |record: &Value| record["kind"] == "incident" && record["severity"] == "critical";
        self.agent.record("critical incident", RECORD_WAIT, is_it)
    }

    /// Waits until the agent reports that it is over.
    fn resolved(&mut self) -> Result<()> {
        let is_it = |record: &Value| record["happened"] == "resolved";
        self.agent.record("end of the incident", OVER_WAIT, is_it).map(drop)
    }

    /// Runs the command that the record's line proposes, and applies what it prints.
    fn remedy(&mut self, record: &Value) -> Result<()> {
        let words = hint::of_record(record)?;
        self.audience.command("", &format!("whydrop {} | tee remedy.yaml", words.join(" ")));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let fixed = self.fleet.whydrop("worker-1", &words)?;
        ensure!(fixed.status.success(), "{}", String::from_utf8_lossy(&fixed.stderr));
        let manifest = String::from_utf8(fixed.stdout)?;
        self.audience.output(&manifest);
        self.audience.command("", "kubectl apply -f remedy.yaml");
        self.audience.output(&self.fleet.kubectl()?.apply(&manifest)?);
        Ok(())
    }
}

fn is_drop(heard: &Heard) -> bool {
    heard.record["kind"] == "drop"
}

/// Sends something over a connection, and waits until it is back.
fn echo(stream: &mut TcpStream) -> Result<()> {
    let word = b"SELECT 1";
    stream.set_read_timeout(Some(CONNECT_WAIT))?;
    stream.write_all(word)?;
    let mut back = [0; 8];
    stream.read_exact(&mut back).context("the connection does not survive")?;
    ensure!(&back == word, "not the same");
    Ok(())
}
