//! What an agent knew, its successor knows.

use std::{fs, net::TcpListener, path::Path, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use whydrop::state::last_answers;
use whydrop_tests::{
    kube::wait::{Look, until},
    world::{
        RECORD_WAIT, World as _,
        agent::Agent,
        netns::{NAME, Node},
    },
};

use crate::fixture::{
    PORT, apply, describe, drop_to, dropped, enforce, frontend_to_backend, node, policies, states,
    to,
};

/// How long until an answer is written down: the agent does it every ten seconds.
const KEPT_WAIT: Duration = Duration::from_secs(30);
/// The programs' clock goes by the kernel's ticks, of which there are at least a hundred a second.
const TICK: SignedDuration = SignedDuration::from_millis(20);

fn agent(node: &Node, folder: &Path) -> Agent {
    let mut command = node.agent_command(NAME).expect("whydrop");
    command.arg("--state-directory").arg(folder);
    let mut agent = Agent::spawn(&mut command).expect("it starts");
    agent.wait_ready().expect("it gets ready");
    agent
}

fn time(value: &Value) -> Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no time: {value}"))
}

#[test]
fn when_it_worked_last_is_known_after_the_agent_was_killed() {
    let mut node = node(2);
    let addresses = [0, 1].map(|number| node.nth(number).ip.to_string());
    describe(&mut node, 0, "frontend/pod-a");
    describe(&mut node, 1, "backend/pod-b");
    let listen = || Ok(TcpListener::bind(("0.0.0.0", PORT))?);
    let _server = node.nth(1).network.enter(listen).expect("a server");
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("state");

    let killed = agent(&node, &folder);
    let before = Timestamp::now() - TICK;
    assert!(node.connects("frontend/pod-a", to(&node, 1)).expect("a client"), "it works");
    let worked = Timestamp::now();
    until("answer written down", KEPT_WAIT, || {
        let kept = fs::read_to_string(folder.join(last_answers::NAME)).unwrap_or_default();
        let is_kept = kept.contains(&format!("\"{}\",\"{}\",{PORT}", addresses[0], addresses[1]));
        Ok(if is_kept { Look::Seen(()) } else { Look::NotYet(kept) })
    })
    .expect("the state");
    // With SIGKILL.
    drop(killed);

    let mut agent = agent(&node, &folder);
    apply(&mut node, &policies());
    enforce(&node, 1);
    dropped(&node, "frontend/pod-a", to(&node, 1));
    let record = drop_to(&mut agent, "pod-b");
    let success = time(&record["evidence"]["last_success"]);
    assert!(before <= success && success <= worked, "{before} {success} {worked}: {record}");
    let opened = agent.wait_for(RECORD_WAIT, |heard| {
        heard.iter().any(|heard| heard.record["happened"] == "opened")
    });
    opened.expect("an incident");
    let records: Vec<_> = agent.records().iter().map(|heard| &heard.record).collect();
    let incident = records.iter().find(|record| record["kind"] == "incident").expect("it");
    assert_eq!(time(&incident["last_success"]), success, "{incident}");
    let distance = time(&incident["cause"]["changed"][0]["at"]).duration_since(success).as_secs();
    let words = format!("{distance} s before the change");
    let text = incident["text"].as_str().unwrap_or_default();
    assert!(text.contains("worked until") && text.contains(&words), "no {words:?} in {text}");
    agent.stop().expect("it ends");
}

#[test]
fn an_agent_without_a_past_says_so_and_goes_on() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    enforce(&node, 1);
    let degraded =
        |agent: &Agent| states(agent, "degraded").map(Value::to_string).collect::<String>();

    // Broken, and not this agent's to trust.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(last_answers::NAME);
    fs::write(&file, "{\"format\":\"whydrop last ans").expect("write");
    let mut first = agent(&node, folder.path());
    let said = degraded(&first);
    assert!(said.contains("last-success times are unavailable"), "{said}");
    assert!(said.contains(last_answers::NAME), "{said}");
    dropped(&node, "frontend/pod-a", to(&node, 1));
    assert_eq!(drop_to(&mut first, "pod-b")["evidence"]["last_success"], Value::Null);
    first.stop().expect("it ends");

    // Where nobody can write.
    let mut second = agent(&node, Path::new("/proc"));
    let said = degraded(&second);
    assert!(said.contains("state was not saved: cannot write to /proc"), "{said}");
    dropped(&node, "frontend/pod-a", to(&node, 1));
    drop_to(&mut second, "pod-b");
    second.stop().expect("it ends");
}
