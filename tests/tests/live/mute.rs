//! An annotation on a real Namespace, set while an agent runs. When policies' and flows' mute what is
//! decided by the docket's own tests.

use std::net::SocketAddr;

use serde_json::{Value, json};
use whydrop_tests::{play::expect::matches, world::RECORD_WAIT};

use crate::fixture::{PORT, dropped, enforce, frontend_to_backend, kubectl, node, start_agent, to};

#[test]
fn a_namespace_is_muted_from_when_it_is_annotated_until_it_is_not() {
    let mut node = node(2);
    frontend_to_backend(&mut node);
    enforce(&node, 1);
    let mut agent = start_agent(&node);
    let address = to(&node, 1).ip();
    let annotate = |value: &str| {
        kubectl(&node, &["annotate", "--overwrite", "namespace", "backend", value]);
    };
    let drop_of = |record: &Value, port: u16| {
        record["kind"] == "drop" && record["flow"]["destination"]["port"] == json!(port)
    };

    annotate("whydrop.io/mute=on purpose");
    dropped(&node, "frontend/pod-a", SocketAddr::new(address, PORT));
    annotate("whydrop.io/mute-");
    dropped(&node, "frontend/pod-a", SocketAddr::new(address, PORT + 1));
    let after = agent.record("drop", RECORD_WAIT, |record| drop_of(record, PORT + 1));
    after.unwrap_or_else(|error| panic!("{error:#}"));
    // In the end comes what was dropped of the first flow once it was no longer muted.
    let muted = agent.records().iter().any(|heard| drop_of(&heard.record, PORT));
    assert!(!muted, "{:#?}", agent.records());
    let records = agent.stop_and_read().expect("it ends");

    let example = format!("frontend/pod-a -> backend/pod-b:{PORT}/TCP");
    let muted = json!({"state": "muted", "muted": [
        {"by": "namespace", "name": "backend", "reason": "on purpose", "reports": 1, "example": example},
    ]});
    assert!(records.iter().any(|record| matches(&muted, record)), "{records:#?}");
}
