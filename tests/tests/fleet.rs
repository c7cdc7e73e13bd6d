//! Nodes on which a real Felix enforces. Needs root.

use std::time::Duration;

use whydrop_tests::{
    fleet::{Fleet, Settings},
    kube::wait::{Look, until},
    lab::server::Server,
};

const TWO_NODES: &str = include_str!("../fleet/two-nodes.yaml");

const DEFAULT_DENY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: backend}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

#[test]
fn two_nodes_tell_of_one_drop_by_one_name() {
    let fleet = Fleet::start(Settings { services: true, ..Settings::default() }, TWO_NODES)
        .expect("a fleet");
    let server = fleet.address("backend/pod-b", 8080).expect("an address");
    let pod = &fleet.pod("backend/pod-b").expect("a pod").namespace;
    let _server = pod.enter(|| Server::http(server, "pod-b".into())).expect("a server");
    let mut agents = ["worker-1", "worker-2"].map(|node| fleet.agent(node).expect("an agent"));
    let connect = |to: &str| {
        let to = to.parse().expect("an address");
        fleet.connect("frontend/pod-a", to, Duration::from_secs(4)).expect("a client")
    };
    connect(&server.to_string()).expect("it connects");
    connect("10.96.0.80:80").expect("it connects by the Service");
    fleet.kubectl().apply(DEFAULT_DENY).expect("applied");
    until("policy in force", Duration::from_secs(20), || {
        Ok(match connect(&server.to_string()) {
            Ok(_) => Look::NotYet("connected".into()),
            Err(_) => Look::Seen(()),
        })
    })
    .expect("in force");
    connect("10.96.0.80:80").expect_err("dropped");
    for agent in &mut agents {
        let _ = agent.wait_for(Duration::from_secs(8), |heard| {
            heard.iter().filter(|h| h.record["kind"] == "drop").count() >= 2
        });
        for heard in agent.records() {
            println!("{}", heard.record);
        }
    }
}
