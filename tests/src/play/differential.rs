//! What an enforcer of policies does, beside what the objects imply and what whydrop says of it, over
//! clusters that a seed makes.
//!
//! A test that has an enforcer makes the pods of a [`Case`], applies its policies, connects each pair
//! with [`listen`] and [`connect`], and gives [`compare`] what came of it. Which enforcer that is,
//! nothing here knows.

mod generate;
pub mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use serde_json::Value;
use whydrop::{cluster::manifests::Manifests, report::verdict_of};
use whydrop_core::{
    cluster::{Snapshot, history::History},
    diagnosis::{Case as Asked, Fate},
    flow::{Flow, Protocol},
    judgement::judge,
    verdict::{Decision, Verdict},
};

use crate::world::{
    Pod,
    agent::Agent,
    lab::{client, server::Server},
    manifest::running,
};
pub use generate::{
    Case, CasePod, DNS, Features, PORTS,
    services::{BALANCERS, By, CaseNode, Client, EXTERNAL, Frontend, NODES, OUTSIDE, Served, Sort},
};

/// How long a client tries, and so that a busy machine is not taken for a policy: three SYNs, after
/// 0, 1 and 3 s.
const CONNECT_WAIT: Duration = Duration::from_millis(3500);
/// How long the reports of one case may take to come.
const REPORTS_WAIT: Duration = Duration::from_secs(30);

/// The seeds to play: those of `$WHYDROP_SEEDS`, `FIRST-LAST` or one number, else these.
pub fn seeds(otherwise: std::ops::RangeInclusive<u64>) -> Result<std::ops::RangeInclusive<u64>> {
    let Ok(text) = std::env::var("WHYDROP_SEEDS") else { return Ok(otherwise) };
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    Ok(first.parse()?..=last.parse()?)
}

/// An attempt to connect, from one pod of a case to another, by their places in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Who connects.
    pub from: usize,
    /// To whom.
    pub to: usize,
    /// To which port.
    pub port: u16,
}

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The other end answered.
    Connected,
    /// Nobody did.
    TimedOut,
    /// Something else, which no enforcer that drops in silence gives.
    Failed(ErrorKind),
}

/// What was counted over a case without a difference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attempts.
    pub probes: usize,
    /// Those that nobody answered, each of which was reported.
    pub dropped: usize,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.probes += other.probes;
        self.dropped += other.dropped;
    }
}

impl Case {
    /// Every pair of pods, on every port that they listen on.
    pub fn probes(&self) -> Vec<Probe> {
        let pods = 0..self.pods.len();
        let pairs = pods.clone().flat_map(|from| pods.clone().map(move |to| (from, to)));
        pairs
            .filter(|(from, to)| from != to)
            .flat_map(|(from, to)| {
                PORTS.iter().chain([&DNS]).map(move |&port| Probe { from, to, port })
            })
            .collect()
    }

    /// The pods' manifests, running on the node `node` at these addresses.
    pub fn running(&self, addresses: &[IpAddr]) -> Vec<Value> {
        let pods = self.pods.iter().zip(addresses);
        pods.map(|(pod, address)| running(pod.manifest.clone(), "node", &[*address])).collect()
    }

    /// Everything, as manifests; pods at these addresses.
    fn objects(&self, addresses: &[IpAddr]) -> Vec<Value> {
        [&self.namespaces[..], &self.running(addresses), &self.policies].concat()
    }
}

/// What answers on a pod's ports, until dropped.
#[derive(Debug)]
pub struct Listening {
    /// The kernel answers without anybody accepting.
    _connections: Vec<TcpListener>,
    _dns: Server,
}

/// Listens on every port of [`PORTS`], and on [`DNS`], in the network namespace of the calling thread:
/// at the addresses of both families, since one socket of the kernel's does for both.
pub fn listen() -> Result<Listening> {
    let bind = |port: &u16| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port))?);
    Ok(Listening {
        _connections: PORTS.iter().map(bind).collect::<Result<_>>()?,
        _dns: Server::dns((Ipv6Addr::UNSPECIFIED, DNS).into())?,
    })
}

/// How an attempt at a port is made.
fn protocol(port: u16) -> Protocol {
    if port == DNS { Protocol::Udp } else { Protocol::Tcp }
}

/// Connects to all these at once, from the network namespace of the calling thread; a resolver is
/// asked for a name, over UDP.
pub fn connect(to: &[SocketAddr]) -> Vec<Outcome> {
    let try_one = |to: &SocketAddr| match protocol(to.port()) {
        Protocol::Udp => client::ask(*to, "example.com"),
        _ => TcpStream::connect_timeout(to, CONNECT_WAIT).map(drop),
    };
    let connect = |to| match try_one(to) {
        Ok(()) => Outcome::Connected,
        Err(error) if error.kind() == ErrorKind::TimedOut => Outcome::TimedOut,
        Err(error) => Outcome::Failed(error.kind()),
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = to.iter().map(|to| scope.spawn(move || connect(to))).collect();
        let outcomes = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        outcomes.map(|outcome| outcome.unwrap_or(Outcome::Failed(ErrorKind::Other))).collect()
    })
}

/// Plays a case whose policies are in force: tries each of [`Case::probes`] between its pods, all at
/// once, hears the agent to its end, and compares.
///
/// # Errors
///
/// As [`compare`].
pub fn play_case(case: &Case, pods: &[Pod], mut agent: Agent) -> Result<Tally> {
    let addresses: Vec<IpAddr> = pods.iter().map(Pod::address).collect::<Result<_>>()?;
    let outcomes = try_all(case, pods, &addresses)?;
    let dropped = outcomes.iter().filter(|outcome| **outcome == Outcome::TimedOut).count();
    // One that is missing is found below, with all about it.
    agent.listen(REPORTS_WAIT, |heard| {
        let drops = heard.iter().filter(|heard| heard.record["kind"] == "drop");
        let ids: BTreeSet<_> = drops.filter_map(|heard| heard.id()).collect();
        ids.len() >= dropped
    })?;
    compare(case, &addresses, &outcomes, &agent.stop_and_read()?)
}

/// The outcome of each probe, all of them tried at once.
fn try_all(case: &Case, pods: &[Pod], addresses: &[IpAddr]) -> Result<Vec<Outcome>> {
    let probes = case.probes();
    // The probes are in the order of who connects.
    std::thread::scope(|scope| {
        let of_one = |(number, pod): (usize, &'_ Pod)| {
            let own = probes.iter().filter(move |probe| probe.from == number);
            let to: Vec<SocketAddr> =
                own.map(|probe| (addresses[probe.to], probe.port).into()).collect();
            let network = pod.network.clone();
            scope.spawn(move || network.enter(|| Ok(connect(&to))))
        };
        let threads: Vec<_> = pods.iter().enumerate().map(of_one).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<_>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        Ok(threads.into_iter().map(join).collect::<Result<Vec<_>>>()?.concat())
    })
}

/// Holds what an enforcer did and what whydrop reported of it against what the objects imply.
///
/// `outcomes` has that of each of [`Case::probes`], `records` everything that the agent printed to
/// its end.
///
/// # Errors
///
/// The first difference, with all that it takes to see it again.
pub fn compare(
    case: &Case,
    addresses: &[IpAddr],
    outcomes: &[Outcome],
    records: &[Value],
) -> Result<Tally> {
    let probes = case.probes();
    ensure!(probes.len() == outcomes.len(), "{} outcomes", outcomes.len());
    let snapshot = snapshot(&case.objects(addresses))?;
    let mut reports: BTreeMap<(String, String, u64), Vec<&Value>> = BTreeMap::new();
    for record in records.iter().filter(|record| record["flow"].is_object()) {
        let flow = &record["flow"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let port = flow["destination"]["port"].as_u64().unwrap_or_default();
        let key = (text(&flow["source"]["ip"]), text(&flow["destination"]["ip"]), port);
        reports.entry(key).or_default().push(record);
    }
    let mut tally = Tally::default();
    for (probe, outcome) in probes.iter().zip(outcomes) {
        let (from, to) = (addresses[probe.from], addresses[probe.to]);
        let key = (from.to_string(), to.to_string(), u64::from(probe.port));
        let reports = reports.remove(&key).unwrap_or_default();
        let verdict = implied(&snapshot, from, to, probe.port);
        if let Err(difference) = agree(&verdict, *outcome, &reports) {
            let account = Account { case, addresses, probe: *probe, outcome: *outcome };
            bail!("{difference}\n{}", account.in_full(&verdict, &reports));
        }
        tally.probes += 1;
        tally.dropped += usize::from(*outcome == Outcome::TimedOut);
    }
    ensure!(reports.is_empty(), "seed {}: reported, and nobody tried: {reports:#?}", case.seed);
    Ok(tally)
}

fn snapshot(objects: &[Value]) -> Result<Snapshot> {
    let mut manifests = Manifests::default();
    for object in objects {
        manifests.read_text("case", &object.to_string());
    }
    ensure!(manifests.errors.is_empty(), "{:?}", manifests.errors);
    Ok(manifests.cluster().snapshot())
}

/// What the objects imply for a flow.
fn implied(snapshot: &Snapshot, source: IpAddr, destination: IpAddr, port: u16) -> Verdict {
    let flow = Flow { source, destination, port, protocol: protocol(port) };
    let asked = Asked { flow, dialled: None, at: None, fate: Fate::Asked };
    judge(snapshot, &History::default(), &asked).diagnosis.verdict
}

/// Whether all three agree on one attempt; the error is the difference in words.
fn agree(verdict: &Verdict, outcome: Outcome, reports: &[&Value]) -> Result<(), Difference> {
    let is_denied = match verdict.decision() {
        Decision::Denied => true,
        Decision::Allowed | Decision::NotIsolated => false,
        Decision::Unknown => return Err(Difference::Undecided),
    };
    match (outcome, is_denied) {
        (Outcome::Connected, false) if reports.is_empty() => return Ok(()),
        (Outcome::Connected, false) => return Err(Difference::Invented),
        (Outcome::TimedOut, true) => {}
        _ => return Err(Difference::Enforced),
    }
    let names: BTreeSet<&str> = reports.iter().filter_map(|report| report["id"].as_str()).collect();
    if names.len() != 1 {
        return Err(Difference::Reported(names.len()));
    }
    let implied = serde_json::to_value(verdict_of(verdict)).unwrap_or_default();
    for report in reports {
        if report["kind"] != "drop" || report["evidence"]["level"] != "kernel-drop" {
            return Err(Difference::Evidence);
        }
        for direction in ["egress", "ingress"] {
            let [said, implied] = [&report["verdict"], &implied].map(|verdict| {
                let isolating = verdict[direction]["isolating"].as_array().into_iter().flatten();
                let isolating: BTreeSet<String> = isolating.map(Value::to_string).collect();
                (verdict[direction]["decision"].clone(), isolating)
            });
            if said != implied {
                return Err(Difference::Verdict(direction));
            }
        }
        // The packet is dropped at the first end that denies it, and that end is the cause.
        let denied =
            ["egress", "ingress"].into_iter().filter(|d| implied[d]["decision"] == "denied");
        // A rule that denies leads before what no rule admits.
        let by_rule = denied.clone().find(|direction| !implied[direction]["denied_by"].is_null());
        let leading = by_rule.or_else(|| denied.clone().next());
        let cause = &report["cause"];
        let is_policy = cause["policy"].is_object() && cause["direction"].as_str() == leading;
        if !is_policy {
            return Err(Difference::Cause);
        }
    }
    Ok(())
}

/// How an enforcer, the objects and whydrop can disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    /// The objects leave it open, which no object of a case may.
    Undecided,
    /// The enforcer did not do what the objects imply.
    Enforced,
    /// Reported, although it connected.
    Invented,
    /// Reported so often.
    Reported(usize),
    /// Reported as something else than a drop by this kernel.
    Evidence,
    /// Reported with another verdict than the objects imply for this direction.
    Verdict(&'static str),
    /// Reported with another cause than the policies of the direction that denied it.
    Cause,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecided => f.write_str("the objects leave it open"),
            Self::Enforced => f.write_str("the enforcer did not do what the objects imply"),
            Self::Invented => f.write_str("it connected, and was reported"),
            Self::Reported(times) => write!(f, "it timed out, and was reported {times} times"),
            Self::Evidence => f.write_str("it was not reported as dropped by this kernel"),
            Self::Verdict(direction) => {
                write!(f, "it was reported with another {direction} verdict")
            }
            Self::Cause => f.write_str("it was reported with another cause"),
        }
    }
}

/// What a difference is about.
struct Account<'a> {
    case: &'a Case,
    addresses: &'a [IpAddr],
    probe: Probe,
    outcome: Outcome,
}

impl Account<'_> {
    /// The seed, the attempt, both accounts of it, and the cluster.
    fn in_full(&self, verdict: &Verdict, reports: &[&Value]) -> String {
        let Self { case, addresses, probe, outcome } = self;
        let (from, to) = (&case.pods[probe.from], &case.pods[probe.to]);
        let mut text = format!(
            "seed {}: {from} ({}) -> {to} ({}):{}\nthe enforcer: {outcome:?}\n",
            case.seed, addresses[probe.from], addresses[probe.to], probe.port
        );
        let implied = serde_json::to_string(&verdict_of(verdict)).unwrap_or_default();
        // Writing to a text does not fail.
        let _ = writeln!(text, "the objects: {implied}\nwhydrop: {} records", reports.len());
        for line in reports
            .iter()
            .map(ToString::to_string)
            .chain(case.objects(addresses).iter().map(Value::to_string))
        {
            let _ = writeln!(text, "{line}");
        }
        text
    }
}

#[cfg(test)]
mod tests;
