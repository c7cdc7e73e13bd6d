//! Tenants who try the healer: what a real API server, a real Felix and a real agent make of it.

use serde_json::{Value, json};
use whydrop_tests::{
    play::stage::Stage,
    world::{
        World as _,
        fleet::{Fleet, Settings},
    },
};

use crate::{
    DEFAULT_DENY, SERVER, apply, connects,
    heal::{
        HEAL_WAIT, WATCH, actions, annotate, consent, healed_while, manifests, refused, standing,
        strangers, works,
    },
    record_while, stage_of, wait_for,
};

/// Another tenant's pods dial what the victim has lost, all the while, in a namespace that consents, and
/// a policy of theirs says that it is the victim's healing. They get nothing, and the victim is healed.
#[test]
fn what_tenants_do_opens_nothing_and_undoes_nothing() {
    let stage: Stage<Fleet> = stage_of(Settings::default(), &(manifests() + &strangers("")));
    let fleet = &stage.world;
    let kubeconfig = fleet.admit_healer().expect("rights");
    let mut agent = fleet.agent("worker-2").expect("an agent");
    consent(fleet, "apply");
    annotate(fleet, "tenant", "apply");
    works(&stage, SERVER);
    apply(fleet, DEFAULT_DENY);
    wait_for(&stage, false);
    let dial = || {
        for stranger in ["tenant/stranger-0", "tenant/stranger-1"] {
            let connects = fleet.connects(stranger, SERVER).expect("a client");
            assert!(!connects, "{stranger} is let in");
        }
    };
    let is_open = |record: &Value| record["kind"] == "incident";
    let incident = record_while(&mut agent, "incident", is_open, dial);
    let incident = incident["id"].as_str().expect("an id");
    looks_like_the_healers(fleet, incident);

    // An incident that goes on is reported again after a minute: only then is it known what recovered.
    let flags = [&WATCH[2..], &["--watch-time", "80s"]].concat();
    let mut healer = fleet.healer("worker-2", &agent, &kubeconfig, &flags).expect("a healer");
    let applied = healed_while(&mut healer, "applied", || {
        dial();
        connects(&stage, SERVER);
    });
    assert_eq!(applied["incident"], incident, "{applied}");
    let manifest = applied["manifest"].as_str().expect("a manifest");
    assert!(!manifest.contains("tenant") && !manifest.contains("stranger"), "{manifest}");
    wait_for(&stage, true);
    let mut kept = None;
    for _ in 0..KEPT_TRIES {
        let seen = healer.record_while(
            "kept",
            HEAL_WAIT,
            |record| record["action"] == "kept",
            || {
                dial();
                assert!(connects(&stage, SERVER));
                Ok(())
            },
        );
        kept = kept.or(seen.ok());
    }
    let kept = kept.unwrap_or_else(|| panic!("{}\n{}", healer.said(), agent.said()));
    assert_eq!(kept["incident"], incident, "{kept}");
    assert_eq!(actions(&healer), ["applied", "kept"]);
    refused(&mut healer, "was never seen to work: a person decides");
    let namespaces: Vec<Value> =
        standing(fleet).iter().map(|policy| policy["metadata"]["namespace"].clone()).collect();
    assert_eq!(namespaces, ["backend", "tenant"], "theirs is left to them until its time is over");
    dial();
    healer.stop().expect("it ends");
}

/// How often [`HEAL_WAIT`] may pass until a watch of 80 s has ended.
const KEPT_TRIES: usize = 3;

/// A policy of the tenant's own, with all marks of the healer's: whoever may write policies can.
fn looks_like_the_healers(fleet: &Fleet, incident: &str) {
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {
            "name": "looks-like-it", "namespace": "tenant",
            "labels": {"app.kubernetes.io/managed-by": "whydrop-heal"},
            "annotations": {
                "whydrop.io/incident": incident, "whydrop.io/owner": "whydrop/whydrop-heal",
                "whydrop.io/between": "frontend/backend", "whydrop.io/outcome": "kept",
                "whydrop.io/expires": "2126-01-02T03:04:05Z",
            },
        },
        "spec": {"podSelector": {"matchLabels": {"app": "none"}}},
    });
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), policy.to_string()).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    let manager = "--field-manager=whydrop-heal";
    fleet.kubectl_run(&["apply", "--server-side", manager, "-f", path]).expect("applied");
}
