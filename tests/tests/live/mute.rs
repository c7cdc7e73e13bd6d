//! Denials that are meant: annotations on real objects, set while an agent runs.

use std::{collections::BTreeMap, net::SocketAddr};

use serde_json::json;
use whydrop_tests::{agent::Heard, expect::matches};

use crate::{
    stage::{PORT, RECORD_WAIT, Stage, drop_to},
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
    let of_port =
        |port: u16| move |heard: &Heard| heard.record["flow"]["destination"]["port"] == json!(port);
    let last = |heard: &[Heard]| heard.iter().any(of_port(PORT + 3));
    agent.wait_for(RECORD_WAIT, last).unwrap_or_else(|error| panic!("{error:#}"));
    for muted in [PORT + 1, PORT + 2] {
        assert!(!agent.records().iter().any(of_port(muted)), "{:#?}", agent.records());
    }
    let records = agent.stop_and_read().expect("it ends");

    let flow = |port: u16| format!("frontend/pod-a -> backend/pod-b:{port}/TCP");
    let muted = json!({"state": "muted", "muted": [
        {"by": "policy", "kind": "NetworkPolicy", "name": "backend/default-deny",
         "reason": "on purpose", "reports": 1, "example": flow(PORT + 1)},
        {"by": "namespace", "name": "backend", "reports": 1, "example": flow(PORT + 2)},
    ]});
    let told = records.iter().find(|record| matches(&muted, record));
    let told = told.unwrap_or_else(|| panic!("{records:#?}"));

    // Told and counted is all that was dropped: of the muted flows, what died after the annotation
    // had gone is told in the end.
    let mut packets: BTreeMap<&str, u64> = BTreeMap::new();
    for drop in records.iter().filter(|record| record["kind"] == "drop") {
        let id = drop["id"].as_str().expect("an id");
        packets.insert(id, drop["evidence"]["attempts"].as_u64().expect("a number"));
    }
    let muted = told["muted"].as_array().expect("a list").iter();
    let muted: u64 = muted.filter_map(|muted| muted["packets"].as_u64()).sum();
    let stopping = records.last().expect("a record");
    assert_eq!(stopping["counts"]["dropped packets muted"], muted, "{stopping}");
    let all = packets.values().sum::<u64>() + muted;
    assert_eq!(stopping["counts"]["dropped packets observed"], all, "{records:#?}");
}
