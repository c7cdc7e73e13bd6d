//! Denials that are meant: annotations on real objects, set while an agent runs.

use std::net::SocketAddr;

use serde_json::{Value, json};
use whydrop_tests::expect::matches;

use crate::{
    stage::{PORT, Stage, drop_to},
    to,
};

#[test]
fn an_annotation_mutes_from_when_it_is_set_to_when_it_goes() {
    let stage = Stage::new(2);
    stage.frontend_to_backend();
    stage.enforce(1);
    let mut agent = stage.agent();
    let address = to(&stage, 1).ip();
    let dies = |port: u16| {
        stage.connect(0, SocketAddr::from((address, port))).expect_err("it is dropped");
    };
    let annotate = |what: &[&str], value: &str| {
        stage.run(&[&["annotate", "--overwrite"], what, &[value]].concat());
    };
    let (policy, namespace) =
        (["-n", "backend", "networkpolicy", "default-deny"], ["namespace", "backend"]);

    dies(PORT);
    drop_to(&mut agent, "pod-b");
    annotate(&policy, "whydrop.io/mute=on purpose");
    dies(PORT + 1);
    annotate(&policy, "whydrop.io/mute-");
    annotate(&namespace, "whydrop.io/mute=true");
    dies(PORT + 2);
    // That of those who suffer says nothing of what others deny them.
    annotate(&namespace, "whydrop.io/mute-");
    annotate(&["namespace", "frontend"], "whydrop.io/mute=true");
    dies(PORT + 3);
    let records = agent.stop_and_read().expect("it ends");

    let drops = records.iter().filter(|record| record["kind"] == "drop");
    let ports: Vec<&Value> = drops.map(|record| &record["flow"]["destination"]["port"]).collect();
    assert_eq!(ports, [&json!(PORT), &json!(PORT + 3)], "{records:#?}");
    let flow = |port: u16| format!("frontend/pod-a -> backend/pod-b:{port}/TCP");
    let muted = json!({"state": "muted", "muted": [
        {"by": "policy", "kind": "NetworkPolicy", "name": "backend/default-deny",
         "reason": "on purpose", "reports": 1, "example": flow(PORT + 1)},
        {"by": "namespace", "name": "backend", "reports": 1, "example": flow(PORT + 2)},
    ]});
    assert!(records.iter().any(|record| matches(&muted, record)), "{records:#?}");
}
