//! The agent's own path is cut: by a policy over what it connects to, and by a filter of its node.

use std::time::Duration;

use serde_json::Value;
use whydrop_tests::agent::Agent;

use crate::{stage::Stage, states};

/// How long the agent may take to look up who it connects to, and to say so; and to give up
/// connecting once and try again.
const SAID_WAIT: Duration = Duration::from_secs(40);

/// Waits until the agent says that it is degraded, in a record with all of these words.
fn says(agent: &mut Agent, words: &[&str]) {
    let is_said = |record: &Value| {
        let what = record["what"].as_str().unwrap_or_default();
        record["state"] == "degraded" && words.iter().all(|word| what.contains(word))
    };
    let told = agent.wait_for(SAID_WAIT, |heard| heard.iter().any(|heard| is_said(&heard.record)));
    told.unwrap_or_else(|error| panic!("{error:#}\n{:#?}\n{}", agent.records(), agent.stderr()));
}

#[test]
fn a_policy_over_the_api_server_is_named_until_it_goes() {
    let stage = Stage::new(2);
    stage.frontend_to_backend();
    // As where control planes are pods of another cluster's: the API server is one, on another node.
    stage.pod("backend", "apiserver", "worker-2", "127.0.0.1", &Value::Null);
    let mut agent = stage.agent();
    says(
        &mut agent,
        &["NetworkPolicy backend/default-deny cuts this agent off from the API server"],
    );

    stage.run(&["delete", "networkpolicy", "-n", "backend", "--all"]);
    let is_ready_again = agent.wait_for(SAID_WAIT, |heard| {
        heard.iter().filter(|heard| heard.record["state"] == "ready").count() > 1
    });
    is_ready_again.expect("it says that it is well again");
    assert_eq!(states(&agent, "degraded").count(), 1, "{:#?}", agent.records());
    agent.stop().expect("it ends");
}

#[test]
fn a_filter_of_the_node_that_stops_its_connections_is_seen() {
    let mut stage = Stage::new(2);
    let mut agent = stage.agent();
    let server = stage.api.server();
    let port = server.rsplit(':').next().expect("a port").to_owned();
    let rules = format!(
        "table inet host {{\n  chain output {{\n    type filter hook output priority filter\n    \
         tcp dport {port} tcp flags & (syn | ack) == syn counter drop\n  }}\n}}\n"
    );
    stage.node.nft(&rules).expect("rules");
    // It has to connect anew.
    stage.api.stop_apiserver().expect("stopped");
    let address = format!("to the API server (127.0.0.1:{port}) die");
    says(&mut agent, &[&address, "NETFILTER_DROP", "host endpoints"]);
}
