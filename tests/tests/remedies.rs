//! Closing the loop: a remedy, applied to the cluster it was found in, lets its flow pass, takes
//! nothing away, and leaves every explicit deny in force. Over every denied probe of the cases.

use std::{fs, net::IpAddr, path::Path};

use serde_json::Value;
use whydrop::{
    cluster::manifests::Manifests,
    report::{Remedy, remedy_of},
};
use whydrop_core::{
    cluster::{Cluster, Snapshot, history::History},
    diagnosis::{Case, Fate, Judgement, judge},
    flow::Flow,
    policy::evaluate::{Decision, evaluate},
};

struct Probe {
    flow: Flow,
    judgement: Judgement,
}

fn objects(case: &Value) -> Manifests {
    let mut manifests = Manifests::default();
    for object in case["objects"].as_array().expect("objects") {
        manifests.read_text("case", &object.to_string());
    }
    assert!(manifests.errors.is_empty(), "{:?}", manifests.errors);
    manifests
}

fn probes(snapshot: &Snapshot, case: &Value) -> Vec<Probe> {
    let judged = |probe: &Value| {
        let address = |field: &str| -> IpAddr {
            probe[field].as_str().and_then(|text| text.parse().ok()).expect("an address")
        };
        let flow = Flow {
            source: address("src_ip"),
            destination: address("dst_ip"),
            port: u16::try_from(probe["port"].as_u64().expect("port")).expect("a port"),
            protocol: probe["protocol"].as_str().expect("protocol").parse().expect("a protocol"),
        };
        let case = Case { flow, dialled: None, at: None, fate: Fate::Asked };
        Probe { flow, judgement: judge(snapshot, &History::default(), &case) }
    };
    case["probes"].as_array().expect("probes").iter().map(judged).collect()
}

/// The cluster with the remedy's YAML read as a user's manifest.
fn applied(case: &Value, remedy: &Remedy) -> Snapshot {
    let mut cluster: Cluster = objects(case).cluster();
    let mut manifests = Manifests::default();
    manifests.read_text("remedy", &remedy.manifest);
    assert!(manifests.errors.is_empty(), "{:?}\n{}", manifests.errors, remedy.manifest);
    for object in manifests.objects {
        cluster.apply(object, None);
    }
    cluster.snapshot()
}

fn check(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(file);
    let text = fs::read_to_string(&path).expect("the cases are part of the project");
    let (mut denied, mut remedied) = (0, 0);
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let snapshot = objects(&case).cluster().snapshot();
        let probes = probes(&snapshot, &case);
        for probe in &probes {
            let decision = |p: &Probe, snapshot: &Snapshot| {
                evaluate(snapshot, &p.judgement.diagnosis.question).decision()
            };
            let explicitly = |p: &Probe| {
                let verdict = &p.judgement.diagnosis.verdict;
                [&verdict.egress, &verdict.ingress].into_iter().any(|d| d.denied_by.is_some())
            };
            let Some(remedy) = &probe.judgement.remedy else {
                let decision = decision(probe, &snapshot);
                assert!(
                    decision != Decision::Denied || explicitly(probe),
                    "{}: {} is denied, by no explicit rule, and has no remedy",
                    case["id"],
                    probe.flow
                );
                continue;
            };
            denied += 1;
            let remedy = remedy_of(remedy);
            let after = applied(&case, &remedy);
            let place = || format!("{}: {}\n{}", case["id"], probe.flow, remedy.manifest);
            assert_ne!(decision(probe, &after), Decision::Denied, "{}", place());
            remedied += 1;
            for other in &probes {
                let (before, now) = (decision(other, &snapshot), decision(other, &after));
                let newly_denied = now == Decision::Denied && before != Decision::Denied;
                assert!(!newly_denied, "{} newly denied by {}", other.flow, place());
                if explicitly(other) {
                    assert_eq!(now, Decision::Denied, "{} let in by {}", other.flow, place());
                }
            }
        }
    }
    assert!(denied > 0 && denied == remedied, "{remedied} of {denied}");
}

#[test]
fn every_denied_flow_of_random_clusters_has_a_remedy_that_works() {
    check("np.jsonl");
}

#[test]
fn every_denied_flow_of_the_traps_has_a_remedy_that_works() {
    check("traps.jsonl");
}

#[test]
fn no_remedy_defeats_an_explicit_deny() {
    check("anp.jsonl");
}

#[test]
fn every_flow_that_a_calico_tier_denies_by_its_end_has_a_remedy_that_works() {
    check("calico.jsonl");
}
