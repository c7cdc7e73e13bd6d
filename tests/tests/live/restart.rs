//! What an agent knew, its successor knows.

use std::{fs, net::TcpListener, path::Path, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use whydrop::state::last_answers;
use whydrop_tests::{
    agent::Agent,
    kube::wait::{Look, until},
};

use crate::{
    stage::{NODE, POLICIES, PORT, RECORD_WAIT, Stage, drop_to},
    states, to,
};

/// How long until an answer is written down: the agent does it every ten seconds.
const KEPT_WAIT: Duration = Duration::from_secs(30);
/// The programs' clock goes by the kernel's ticks, of which there are at least a hundred a second.
const TICK: SignedDuration = SignedDuration::from_millis(20);

fn agent(stage: &Stage, folder: &Path) -> Agent {
    let folder = folder.to_str().expect("a path");
    let mut agent = stage.agent_command(&["--state-directory", folder]).expect("it starts");
    agent.wait_ready().expect("it gets ready");
    agent
}

fn time(value: &Value) -> Timestamp {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no time: {value}"))
}

#[test]
fn when_it_worked_last_is_known_after_the_agent_was_killed() {
    let stage = Stage::new(2);
    let addresses = [0, 1].map(|number| stage.node.pod(number).ip.to_string());
    stage.pod("frontend", "pod-a", NODE, &addresses[0], &Value::Null);
    stage.pod("backend", "pod-b", NODE, &addresses[1], &Value::Null);
    let listen = || Ok(TcpListener::bind(("0.0.0.0", PORT))?);
    let _server = stage.node.pod(1).namespace.enter(listen).expect("a server");
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path().join("state");

    let killed = agent(&stage, &folder);
    let before = Timestamp::now() - TICK;
    stage.connect(0, to(&stage, 1)).expect("it works");
    let worked = Timestamp::now();
    until("answer written down", KEPT_WAIT, || {
        let kept = fs::read_to_string(folder.join(last_answers::NAME)).unwrap_or_default();
        let is_kept = kept.contains(&format!("\"{}\",\"{}\",{PORT}", addresses[0], addresses[1]));
        Ok(if is_kept { Look::Seen(()) } else { Look::NotYet(kept) })
    })
    .expect("the state");
    // With SIGKILL.
    drop(killed);

    let mut agent = agent(&stage, &folder);
    stage.apply(POLICIES);
    stage.enforce(1);
    stage.connect(0, to(&stage, 1)).expect_err("it is dropped");
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
    let stage = Stage::new(2);
    stage.frontend_to_backend();
    stage.enforce(1);
    let degraded =
        |agent: &Agent| states(agent, "degraded").map(Value::to_string).collect::<String>();

    // Broken, and not this agent's to trust.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(last_answers::NAME);
    fs::write(&file, "{\"format\":\"whydrop last ans").expect("write");
    let mut first = agent(&stage, folder.path());
    let said = degraded(&first);
    assert!(said.contains("when flows last worked is not known"), "{said}");
    assert!(said.contains(last_answers::NAME), "{said}");
    stage.connect(0, to(&stage, 1)).expect_err("it is dropped");
    assert_eq!(drop_to(&mut first, "pod-b")["evidence"]["last_success"], Value::Null);
    first.stop().expect("it ends");

    // Where nobody can write.
    let mut second = agent(&stage, Path::new("/proc"));
    let said = degraded(&second);
    assert!(said.contains("what is known ends with this agent: cannot write to /proc"), "{said}");
    stage.connect(0, to(&stage, 1)).expect_err("it is dropped");
    drop_to(&mut second, "pod-b");
    second.stop().expect("it ends");
}
