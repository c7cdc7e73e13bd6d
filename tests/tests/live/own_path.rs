//! The agent's own path is cut: by a policy over what it connects to, and by a filter of its node.

use std::{net::Ipv4Addr, time::Duration};

use serde_json::Value;
use whydrop_tests::world::{World as _, agent::Agent};

use crate::fixture::{apply, frontend_to_backend, kubectl, node, pod, start_agent, states};

/// How long the agent may take to look up who it connects to, and to say so; and to give up
/// connecting once and try again.
const SAID_WAIT: Duration = Duration::from_secs(40);

/// Waits until the agent says that it is degraded, in a record with all of these words.
fn says(agent: &mut Agent, words: &[&str]) {
    let is_said = |record: &Value| {
        let what = record["what"].as_str().unwrap_or_default();
        record["state"] == "degraded" && words.iter().all(|word| what.contains(word))
    };
    let said = agent.record("word of it", SAID_WAIT, is_said);
    said.unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn a_policy_over_the_api_server_is_named_until_it_goes() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    // As where control planes are pods of another cluster's: the API server is one, on another node.
    let server = pod("backend/apiserver", "worker-2", Ipv4Addr::LOCALHOST.into(), &Value::Null);
    apply(&mut node, &server.to_string());
    let mut agent = start_agent(&node);
    says(
        &mut agent,
        &["NetworkPolicy backend/default-deny cuts this agent off from the API server"],
    );

    kubectl(&node, &["delete", "networkpolicy", "-n", "backend", "--all"]);
    let is_ready_again = agent.wait_for(SAID_WAIT, |heard| {
        heard.iter().filter(|heard| heard.record["state"] == "ready").count() > 1
    });
    is_ready_again.expect("it says that it is well again");
    assert_eq!(states(&agent, "degraded").count(), 1, "{:#?}", agent.records());
    agent.stop().expect("it ends");
}

#[test]
fn a_filter_of_the_node_that_stops_its_connections_is_seen() {
    let mut node = node(2);
    let mut agent = start_agent(&node);
    let server = node.server().expect("a server").server();
    let port = server.rsplit(':').next().expect("a port").to_owned();
    let rules = format!(
        "table inet host {{\n  chain output {{\n    type filter hook output priority filter\n    \
         tcp dport {port} tcp flags & (syn | ack) == syn counter drop\n  }}\n}}\n"
    );
    node.nft(&rules).expect("rules");
    // It has to connect again.
    node.server_mut().expect("a server").stop_apiserver().expect("stopped");
    let address = format!("to the API server (127.0.0.1:{port}) are dropped");
    says(&mut agent, &[&address, "NETFILTER_DROP", "host endpoints"]);
}
