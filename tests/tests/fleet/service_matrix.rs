//! The differential of Services: clusters from seeds on two nodes, every Service dialled by every pod,
//! node and somebody outside; what a real kube-proxy and Felix do of it, and what whydrop says of that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};
use whydrop::cluster::manifests::Manifests;
use whydrop_core::cluster::Snapshot;
use whydrop_tests::{
    kube::{
        calico::Backend,
        proxy::Mode,
        wait::{Look, until},
    },
    play::differential::{
        BALANCERS, CaseNode, Client, EXTERNAL, NODES, OUTSIDE, Served, Sort, seeds,
        services::{
            Expectation, Outcome, Speaking, Tally, compare, compare_answers, dial_all,
            expectations, speak,
        },
    },
    world::{
        World as _,
        agent::{Agent, whydrop},
        fleet::{Fleet, Settings},
        manifest::{documents, namespace, pod, running},
        namespace::Network,
    },
};

use crate::matrix::{CANARY_WAIT, ENFORCED_WAIT, FEATURES, KINDS, canary, port, wait_answered};

/// How long the reports of one case may take to come.
const REPORTS_WAIT: Duration = Duration::from_secs(30);
/// How often the pods of a case are there: before a rollout, and after it.
const ROUNDS: u16 = 2;
/// A pod that is being deleted is there for so long: longer than its case.
const GRACE: &str = "--grace-period=3600";
/// What whydrop's commands read, as kubectl prints it.
const READ: &str = "namespaces,nodes,pods,services,endpointslices,endpoints,\
    networkpolicies.networking.k8s.io,networkpolicies.crd.projectcalico.org,\
    globalnetworkpolicies.crd.projectcalico.org,networksets.crd.projectcalico.org,\
    globalnetworksets.crd.projectcalico.org,clusterinformations.crd.projectcalico.org";

#[test]
fn every_sort_of_service_is_what_kube_proxy_makes_of_it() {
    play(Backend::Nft, Mode::Iptables, 1..=1);
}

#[test]
fn every_sort_of_service_is_what_kube_proxy_makes_of_it_with_nftables() {
    play(Backend::Legacy, Mode::Nftables, 2..=2);
}

#[expect(clippy::print_stdout, reason = "what was played, for those who ask to see it")]
fn play(backend: Backend, proxy: Mode, otherwise: RangeInclusive<u64>) {
    let (mut fleet, _outside) = start(backend, proxy).expect("a fleet");
    let seeds = seeds(otherwise).expect("WHYDROP_SEEDS");
    let (mut tally, mut sorts) = (Tally::default(), BTreeSet::new());
    for (number, seed) in (0..).zip(seeds.clone()) {
        let served = Served::generate(seed, FEATURES);
        sorts.extend(served.sorts());
        tally += play_seed(&mut fleet, number, served).unwrap_or_else(|error| panic!("{error:#}"));
    }
    println!("{backend:?}, kube-proxy {proxy:?}: seeds {seeds:?}, {tally:?}");
    let missed: Vec<&Sort> = Sort::ALL.iter().filter(|sort| !sorts.contains(sort)).collect();
    println!("sorts: {} of {}, without {missed:?}", sorts.len(), Sort::ALL.len());
    let Tally { answered, dropped, rejected, reported, .. } = tally;
    let is_mixed = [answered, dropped, rejected, reported].iter().all(|count| *count > 0);
    assert!(is_mixed, "nothing to compare: {tally:?}");
}

/// Two nodes, and who speaks outside, for as long as what this returns is there.
pub(crate) fn start(backend: Backend, proxy: Mode) -> Result<(Fleet, Speaking)> {
    let settings = Settings { backend, services: true, proxy, ..Settings::default() };
    let fleet = Fleet::start(settings, &documents(&stage()))?;
    let outside = prepare(&fleet)?;
    Ok((fleet, outside))
}

/// The nodes, and on each two pods by which it is seen how far Felix and kube-proxy are.
fn stage() -> Vec<Value> {
    let mut objects = vec![namespace("canary")];
    for (number, node) in NODES.iter().enumerate() {
        objects.push(node.manifest());
        let [a, b, third, _] = first(node);
        for (part, last) in [("singer", 2), ("listener", 3)] {
            let mut pod = pod(&key(part, number));
            pod["metadata"]["labels"] = json!({ "part": part });
            objects.push(running(pod, node.name, &[[a, b, third, last].into()]));
        }
    }
    objects
}

/// The bytes of a node's network of pods.
fn first(node: &CaseNode) -> [u8; 4] {
    let network: ipnet::Ipv4Net = node.pods().parse().expect("a network");
    network.network().octets()
}

/// A canary's pod on the node of this number.
fn key(part: &str, node: usize) -> String {
    format!("canary/{part}-{node}")
}

/// Rejections come however many there are, and addresses of Services are reached from outside; who
/// speaks there does until what this returns is dropped.
fn prepare(fleet: &Fleet) -> Result<Speaking> {
    // "Bit mask of ICMP types whose rate is being limited" (Documentation/networking/ip-sysctl.rst).
    let all_at_once = [("ipv4/icmp_ratemask", "0")];
    for node in fleet.nodes() {
        fleet.network(&node)?.set(&all_at_once)?;
    }
    let fabric = fleet.outside();
    fabric.set(&all_at_once)?;
    let by = NODES[0].address;
    let routes = [EXTERNAL, BALANCERS].map(|network| format!("route add {network} via {by}\n"));
    fabric.ip(&routes.concat())?;
    fabric.enter(|| speak(OUTSIDE.into()))
}

/// A case as it is, and again after a rollout of all its pods, before the same agents.
fn play_seed(fleet: &mut Fleet, number: u16, served: Served) -> Result<Tally> {
    let mut agents = agents(fleet)?;
    let rounds = play_rounds(fleet, &mut agents, number, served)?;
    end_and_compare(agents, &rounds)
}

/// An agent on each node.
pub(crate) fn agents(fleet: &Fleet) -> Result<Vec<Agent>> {
    NODES.iter().map(|node| fleet.agent(node.name)).collect()
}

/// A case, the `number`th of its fleet, and its rollout.
pub(crate) fn play_rounds(
    fleet: &mut Fleet,
    agents: &mut [Agent],
    number: u16,
    served: Served,
) -> Result<Vec<Round>> {
    let rolled = served.rolled();
    let rounds = (0..).zip([served, rolled]);
    rounds.map(|(n, served)| Round::play(fleet, agents, number * ROUNDS + n, served)).collect()
}

/// Ends the agents that these rounds, in their order, were played before; the error is all that they
/// reported otherwise than it was.
pub(crate) fn end_and_compare(agents: Vec<Agent>, rounds: &[Round]) -> Result<Tally> {
    let records: Vec<Vec<Value>> =
        agents.into_iter().map(Agent::stop_and_read).collect::<Result<_>>()?;
    let (mut tally, mut wrong) = (Tally::default(), Vec::new());
    for (number, round) in rounds.iter().enumerate() {
        let end = rounds.get(number + 1).map_or(Timestamp::MAX, |next| next.began);
        let records: Vec<Vec<Value>> =
            records.iter().map(|records| round.own(records.iter(), end)).collect();
        match compare(&round.served, &round.expected, &round.outcomes, &records) {
            Ok(of_round) => tally += of_round,
            Err(error) => wrong.push(format!("round {number}: {error:#}")),
        }
        tally.checked += round.checked;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(tally)
}

/// What came of a case while its pods were there.
pub(crate) struct Round {
    served: Served,
    expected: Vec<Expectation>,
    outcomes: Vec<Vec<Outcome>>,
    began: Timestamp,
    checked: usize,
}

impl Round {
    fn play(fleet: &mut Fleet, agents: &mut [Agent], canary: u16, served: Served) -> Result<Self> {
        let keys: Vec<String> =
            (0..served.pods.len()).map(|pod| served.name_of(Client::Pod(pod))).collect();
        let _speaking = run_pods(fleet, &served, &keys)?;
        let services = put_in_force(fleet, canary, &served)?;
        // Before the first packet by more than a tick of the kernel's coarse clock.
        let began = Timestamp::now();
        let dump = fleet.kubectl()?.run(["get", READ, "--all-namespaces", "-o", "yaml"])?;
        let expected = expectations(&served, &snapshot(&dump)?);
        let outcomes = dial_all(&networks(fleet, &served, &keys)?, &served.probes(), &expected)?;
        let mut round = Self { served, expected, outcomes, began, checked: 0 };
        round.hear(agents)?;
        round.checked = check(fleet, &round.served, &round.expected, &dump)
            .with_context(|| format!("seed {}", round.served.case.seed))?;
        fleet.delete(&json!({ "apiVersion": "v1", "kind": "List", "items": services }))?;
        for key in &keys {
            fleet.remove(key)?;
        }
        Ok(round)
    }

    /// Listens to the agents until all that is expected was reported, or for so long: what is missing
    /// then is found by who compares once more at the end, when what was late has come.
    #[expect(clippy::print_stdout, reason = "what was late, for who waits")]
    fn hear(&self, agents: &mut [Agent]) -> Result<()> {
        let deadline = Instant::now() + REPORTS_WAIT;
        loop {
            for agent in &mut *agents {
                agent.listen(CANARY_WAIT, |_| false)?;
            }
            let of_agent = |agent: &Agent| {
                self.own(agent.records().iter().map(|heard| &heard.record), Timestamp::MAX)
            };
            let records: Vec<Vec<Value>> = agents.iter().map(of_agent).collect();
            match compare(&self.served, &self.expected, &self.outcomes, &records) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => {
                    println!("not within {REPORTS_WAIT:?}: {error:#}");
                    return Ok(());
                }
                Err(_) => {}
            }
        }
    }

    /// What was reported of packets since it began, until then.
    fn own<'r>(&self, records: impl Iterator<Item = &'r Value>, end: Timestamp) -> Vec<Value> {
        let is_own = |record: &&Value| {
            let first = record["evidence"]["first"].as_str().and_then(|first| first.parse().ok());
            first.is_none_or(|first: Timestamp| (self.began..end).contains(&first))
        };
        records.filter(is_own).cloned().collect()
    }
}

/// Runs the pods of a case, as they are to be, and waits until they have a network.
fn run_pods(fleet: &mut Fleet, served: &Served, keys: &[String]) -> Result<Vec<Speaking>> {
    fleet.apply(&documents(&served.case.namespaces))?;
    fleet.apply(&documents(&served.running()))?;
    let mut speaking = Vec::new();
    for (key, placed) in keys.iter().zip(&served.pods) {
        let address = placed.address.into();
        speaking.push(fleet.pod(key)?.enter(|| speak(address))?);
        if placed.state.is_ending() {
            let (namespace, name) = key.split_once('/').context("a key")?;
            let delete = ["delete", "pod", name, "-n", namespace, "--wait=false", GRACE];
            fleet.kubectl_run(&delete)?;
        }
        // No policy selects the singers.
        wait_answered(fleet, key, fleet.address(&self::key("singer", 0), 1)?);
    }
    Ok(speaking)
}

/// Applies the policies and Services of a case, and waits until both nodes have them; what is to be
/// deleted afterwards.
fn put_in_force(fleet: &mut Fleet, number: u16, served: &Served) -> Result<Vec<Value>> {
    let canaries: Vec<Value> = KINDS.iter().map(|kind| canary(kind, number)).collect();
    let [service, slice] = proxy_canary(number);
    let services = served.services();
    fleet.apply(&documents(services.iter().chain(&served.case.policies).chain(&canaries)))?;
    // After all others of its kind.
    fleet.apply(&documents([&service, &slice]))?;
    let to: SocketAddr =
        format!("{}:80", service["spec"]["clusterIP"].as_str().context("one")?).parse()?;
    for (node, described) in NODES.iter().enumerate() {
        let singer = key("singer", node);
        for kind in KINDS {
            let at = fleet.address(&key("listener", node), port(kind, number))?;
            wait_answered(fleet, &singer, at);
        }
        until(&format!("Services on {}", described.name), ENFORCED_WAIT, || {
            Ok(match fleet.connect(&singer, to, CANARY_WAIT)? {
                Ok(_) => Look::Seen(()),
                Err(error) => Look::NotYet(error.to_string()),
            })
        })?;
    }
    let mut all = [services, served.case.policies.clone(), vec![service, slice]].concat();
    // Those the API server deletes with their Service.
    all.retain(|object| object["kind"] != "Endpoints");
    Ok(all)
}

/// A Service, and what is behind it: outside, where no policy of a pod's keeps anybody away.
fn proxy_canary(number: u16) -> [Value; 2] {
    let name = format!("canary-{number}");
    let metadata = json!({ "name": name, "namespace": "canary" });
    let mut of_slice = metadata.clone();
    of_slice["labels"] = json!({ "kubernetes.io/service-name": name });
    let [high, low] = number.to_be_bytes();
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {
            "clusterIP": format!("10.96.{}.{low}", 200 + u16::from(high)),
            "ports": [{ "port": 80 }],
        },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": of_slice,
        "addressType": "IPv4", "ports": [{ "name": "", "port": 80, "protocol": "TCP" }],
        "endpoints": [{ "addresses": [OUTSIDE], "conditions": { "ready": true } }],
    });
    [service, slice]
}

fn snapshot(dump: &str) -> Result<Snapshot> {
    let mut manifests = Manifests::default();
    manifests.read_text("dump", dump);
    anyhow::ensure!(manifests.errors.is_empty(), "{:?}", manifests.errors);
    Ok(manifests.cluster().snapshot())
}

/// Where each client is.
fn networks(fleet: &Fleet, served: &Served, keys: &[String]) -> Result<BTreeMap<Client, Network>> {
    let network = |client: Client| -> Result<Network> {
        Ok(match client {
            Client::Pod(number) => fleet.pod(&keys[number])?.network,
            Client::Node(number) => fleet.network(NODES[number].name)?,
            Client::Outside => fleet.outside().clone(),
        })
    };
    served.clients().into_iter().map(|client| Ok((client, network(client)?))).collect()
}

/// Asks `whydrop check` the same of what kubectl printed, and of the API server.
fn check(fleet: &Fleet, served: &Served, expected: &[Expectation], dump: &str) -> Result<usize> {
    let folder = tempfile::tempdir()?;
    let [objects, flows] = ["dump.yaml", "flows.json"].map(|name| folder.path().join(name));
    fs::write(&objects, dump)?;
    fs::write(&flows, served.flows().to_string())?;
    let [objects, flows] = [&objects, &flows].map(|path| path.to_str().unwrap_or_default());
    let asked = ["check", "--flows", flows, "-o", "json"];
    let mut command = whydrop(&fleet.network(NODES[0].name)?)?;
    let of_file = command.args(asked).args(["-f", objects]).output()?;
    let of_server = fleet.whydrop(NODES[0].name, &asked)?;
    let mut checked = 0;
    for output in [of_file, of_server] {
        let text = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let words = || String::from_utf8_lossy(&output.stderr).into_owned();
        checked += compare_answers(served, expected, &lines).with_context(words)?;
    }
    Ok(checked)
}
