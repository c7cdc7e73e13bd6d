//! What the agent keeps of its privileges once it watches, and that it suffices for what comes later.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
};

use caps::Capability;
use serde_json::{Value, json};
use whydrop::probe::LOOKED_AT;
use whydrop_tests::{
    kube::wait::{Look, until},
    world::{
        RECORD_WAIT, World as _,
        agent::Agent,
        manifest::{self, documents, namespace},
        netns::{NAME, Node},
    },
};

use crate::shipped::Shipped;

const PORT: u16 = 8080;

/// The sets of capabilities that a thread has, as the kernel calls them (`proc_pid_status(5)`).
const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// A node with an API server, a client, a server that nothing passes to, and a policy that is why.
pub(crate) fn node() -> Node {
    let mut node = Node::with_server(0).expect("a node");
    node.apply(&documents(&["frontend", "backend"].map(namespace))).expect("namespaces");
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "default-deny", "namespace": "backend" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    });
    node.apply(&policy.to_string()).expect("a policy");
    for pod in ["frontend/pod-a", "backend/pod-b"] {
        node.run(&manifest::pod(pod)).expect("a pod");
    }
    node
}

/// What every thread of a process may do: the lines of its status, by their names.
pub(crate) fn threads(pid: u32) -> Vec<BTreeMap<String, String>> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("threads").flatten();
    let statuses =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let of = |status: String| {
        let lines = status.lines().filter_map(|line| line.split_once(':'));
        lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect()
    };
    statuses.map(of).collect()
}

/// What an agent of the shipped form keeps on this kernel.
fn kept() -> u64 {
    Capability::CAP_NET_ADMIN.bitmask()
}

fn set(thread: &BTreeMap<String, String>, name: &str) -> u64 {
    u64::from_str_radix(&thread[name], 16).expect("hexadecimal")
}

/// A connect to this pod is dropped, and reported with the policy.
pub(crate) fn is_reported(agent: &mut Agent, node: &mut Node, pod: &str) {
    node.stand_in(pod, false).expect("rules");
    let address = node.pod(pod).and_then(|pod| pod.address()).expect("an address");
    let to = SocketAddr::new(address, PORT);
    assert!(!node.connects("frontend/pod-a", to).expect("a client"), "{pod} is reached");
    let name = pod.rsplit('/').next().expect("a name");
    let is_its = |record: &Value| record["flow"]["destination"]["pod"] == name;
    let record = agent.record("drop", RECORD_WAIT, is_its);
    let record = record.unwrap_or_else(|error| panic!("{pod}: {error:#}\n{}", agent.said()));
    assert_eq!(record["cause"]["policy"]["name"], "default-deny", "{record}");
    assert_eq!(record["evidence"]["level"], "kernel-drop", "{record}");
}

/// A pod that comes while the agent runs is watched, and what it was attached to before is looked at.
pub(crate) fn what_comes_later_is_watched(agent: &mut Agent, node: &mut Node) {
    node.run(&manifest::pod("backend/later")).expect("a pod");
    is_reported(agent, node, "backend/later");
    let uptime = || -> anyhow::Result<f64> {
        let text = fs::read_to_string("/proc/uptime")?;
        Ok(text.split(' ').next().unwrap_or_default().parse()?)
    };
    // Every interface has had its turn.
    let end = uptime().expect("a clock") + LOOKED_AT.as_secs_f64() + 1.0;
    until("a look at each interface", RECORD_WAIT, || {
        let now = uptime()?;
        Ok(if now >= end { Look::Seen(()) } else { Look::NotYet(format!("{now} of {end}")) })
    })
    .expect("time passes");
    agent.catch_up().expect("records");
    let degraded: Vec<_> =
        agent.records().iter().filter(|heard| heard.record["state"] == "degraded").collect();
    assert!(degraded.is_empty(), "{degraded:#?}");
    assert!(!agent.stderr().contains("cannot check whether"), "{}", agent.stderr());
}

/// A connect that is answered, which is to be saved.
pub(crate) fn answer(node: &mut Node) {
    node.stand_in("backend/pod-b", true).expect("rules");
    let server = node.pod("backend/pod-b").expect("a pod");
    let address = SocketAddr::new(server.address().expect("an address"), PORT);
    let _listener = server.enter(|| Ok(TcpListener::bind(address)?)).expect("a server");
    assert!(node.connects("frontend/pod-a", address).expect("a client"));
}

#[test]
fn an_agent_as_it_is_shipped_keeps_one_capability_and_watches_what_comes_later() {
    let mut node = node();
    let shipped = Shipped::new(&node);
    let mut agent = shipped.start(&node);
    is_reported(&mut agent, &mut node, "backend/pod-b");
    let given = shipped.capabilities();
    assert_eq!(given.len(), 3, "{given:?}");
    let threads = threads(agent.pid());
    assert!(threads.len() > 1, "{threads:?}");
    for thread in &threads {
        let has = SETS.map(|name| set(thread, name));
        // To leave the bounding set takes a capability that the agent has never had; without new
        // privileges nothing in there can be had again.
        let bounding = has[3];
        assert_eq!(has, [0, kept(), kept(), bounding, 0], "{thread:?}");
        assert_eq!(bounding.count_ones(), 3, "{thread:?}");
        assert_eq!(thread["NoNewPrivs"], "1", "{thread:?}");
    }
    let said = agent.stderr();
    let files = "files: it reads what a pod's agent needs, writes /var/lib/whydrop";
    assert!(said.contains(files), "{said}");
    shipped.renew_account(&node);
    what_comes_later_is_watched(&mut agent, &mut node);
    answer(&mut node);
    agent.stop().expect("it ends");
    assert_eq!(shipped.state(), ["last-answers.json"]);
}

/// On a host, where root may do everything.
#[test]
fn an_agent_of_a_root_that_may_do_everything_keeps_no_more() {
    let mut node = node();
    let mut agent = node.agent(NAME).expect("it gets ready");
    is_reported(&mut agent, &mut node, "backend/pod-b");
    let threads = threads(agent.pid());
    assert!(threads.len() > 1, "{threads:?}");
    for thread in &threads {
        let has = SETS.map(|name| set(thread, name));
        assert_eq!(has, [0, kept(), kept(), kept(), 0], "{thread:?}");
        assert_eq!(thread["NoNewPrivs"], "1", "{thread:?}");
    }
    what_comes_later_is_watched(&mut agent, &mut node);
    agent.stop().expect("it ends");
}
