//! Closing the loop: a remedy, applied to the cluster it was found in, lets its flow pass, takes
//! nothing away, and leaves every explicit deny in force; so does its rule, added to a policy that
//! is there. Over every denied probe of the cases.

use std::{fs, net::IpAddr, path::Path};

use serde_json::Value;
use whydrop::{
    cluster::manifests::Manifests,
    report::{Direction, Remedy, patch::edits_of, remedy_of},
};
use whydrop_core::{
    cluster::{Cluster, Snapshot, history::History},
    diagnosis::{Case, Fate},
    flow::Flow,
    judgement::{Judgement, judge},
    remedy::{
        mark::Mark,
        patch::{Patch, patch},
    },
    verdict::{Decision, evaluate},
};

struct Probe {
    flow: Flow,
    judgement: Judgement,
}

fn objects_of(case: &Value) -> Manifests {
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
        let case = Case { flow, dialled: None, at: None, fate: Fate::Policed };
        Probe { flow, judgement: judge(snapshot, &History::default(), &case) }
    };
    case["probes"].as_array().expect("probes").iter().map(judged).collect()
}

/// The cluster with the remedy's YAML read as a user's manifest.
fn applied(case: &Value, remedy: &Remedy) -> Snapshot {
    let mut cluster: Cluster = objects_of(case).cluster();
    let mut manifests = Manifests::default();
    manifests.read_text("remedy", &remedy.manifest);
    assert!(manifests.errors.is_empty(), "{:?}\n{}", manifests.errors, remedy.manifest);
    for object in manifests.objects {
        cluster.apply(object, None);
    }
    cluster.snapshot()
}

/// The cluster with the rules added to the policies as the commands of a patch would add them.
fn patched(case: &Value, patch: &Patch) -> Snapshot {
    let mut case = case.clone();
    let objects = case["objects"].as_array_mut().expect("objects");
    for (edit, own) in edits_of(patch).iter().zip(&patch.edits) {
        let is_it = |object: &&mut Value| {
            let metadata = &object["metadata"];
            object["apiVersion"].as_str() == Some(&*own.api_version)
                && metadata["name"].as_str() == Some(&*edit.policy.name)
                && metadata["namespace"].as_str() == edit.policy.namespace.as_deref()
        };
        let policy = objects.iter_mut().find(is_it).expect("the policy of the patch");
        let rules = match edit.direction {
            Direction::Egress => &mut policy["spec"]["egress"],
            Direction::Ingress => &mut policy["spec"]["ingress"],
        };
        let has_rules = rules.as_array().is_some_and(|rules| !rules.is_empty());
        let appends = edit.command.contains("/-\"");
        assert_eq!(has_rules, appends, "{}", edit.command);
        match rules {
            Value::Array(rules) => rules.push(edit.rule.clone()),
            absent => *absent = Value::Array(vec![edit.rule.clone()]),
        }
    }
    objects_of(&case).cluster().snapshot()
}

fn decision(probe: &Probe, snapshot: &Snapshot) -> Decision {
    evaluate(snapshot, &probe.judgement.diagnosis.question).decision()
}

fn explicitly(probe: &Probe) -> bool {
    let verdict = &probe.judgement.diagnosis.verdict;
    [&verdict.egress, &verdict.ingress].into_iter().any(|d| d.denied_by.is_some())
}

/// What passed passes, and what a rule denies is denied.
fn takes_nothing_away(probes: &[Probe], before: &Snapshot, after: &Snapshot, place: &str) {
    for other in probes {
        let (before, now) = (decision(other, before), decision(other, after));
        let newly_denied = now == Decision::Denied && before != Decision::Denied;
        assert!(!newly_denied, "{} newly denied by {place}", other.flow);
        if explicitly(other) {
            assert_eq!(now, Decision::Denied, "{} let in by {place}", other.flow);
        }
    }
}

fn check(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(file);
    let text = fs::read_to_string(&path).expect("the cases are part of the project");
    let (mut denied, mut remedied, mut patches) = (0, 0, 0);
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let snapshot = objects_of(&case).cluster().snapshot();
        let probes = probes(&snapshot, &case);
        for probe in &probes {
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
            let patch = patch(&snapshot, &probe.judgement.diagnosis, remedy);
            let remedy = remedy_of(remedy, &Mark::default());
            let after = applied(&case, &remedy);
            let place = || format!("{}: {}\n{}", case["id"], probe.flow, remedy.manifest);
            assert_ne!(decision(probe, &after), Decision::Denied, "{}", place());
            remedied += 1;
            takes_nothing_away(&probes, &snapshot, &after, &place());
            if let Some(patch) = patch {
                patches += 1;
                let after = patched(&case, &patch);
                let place = format!("{} {:?}", place(), edits_of(&patch));
                assert_ne!(decision(probe, &after), Decision::Denied, "{place}");
                takes_nothing_away(&probes, &snapshot, &after, &place);
            }
        }
    }
    assert!(denied > 0 && denied == remedied, "{remedied} of {denied}");
    assert!(patches > 0, "no policy of {file} can be added to");
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
