//! Policy verdicts against independent oracles: every case of `conformance/`, every probe.
//!
//! The format is told in `conformance/README.md`.

use std::{collections::BTreeSet, fmt::Write as _, fs, net::IpAddr, path::Path};

use serde_json::Value;
use whydrop::cluster::manifests::Manifests;
use whydrop_core::{
    cluster::Snapshot,
    flow::Direction,
    policy::{
        Layer, RuleRef,
        evaluate::{Decision, DirectionVerdict, Exemption, Question, Verdict, evaluate},
        nearest::half_matches,
    },
};

/// Reads a case's cluster as a user's manifests would be read.
fn cluster(case: &Value) -> Snapshot {
    let mut manifests = Manifests::default();
    for object in case["objects"].as_array().expect("objects") {
        manifests.read_text(case["id"].as_str().expect("id"), &object.to_string());
    }
    assert!(manifests.errors.is_empty(), "{:?}", manifests.errors);
    assert!(manifests.unread.is_empty(), "{:?}", manifests.unread);
    manifests.cluster().snapshot()
}

fn question(snapshot: &Snapshot, probe: &Value) -> Question {
    let address = |field: &str| -> IpAddr {
        probe[field].as_str().and_then(|text| text.parse().ok()).expect("an address")
    };
    Question {
        source: snapshot.resolve(address("src_ip"), None),
        destination: snapshot.resolve(address("dst_ip"), None),
        port: u16::try_from(probe["port"].as_u64().expect("port")).expect("a port"),
        protocol: probe["protocol"].as_str().expect("protocol").parse().expect("a protocol"),
    }
}

/// A direction in the words of the cases, with sets in a canonical order.
fn told(verdict: &DirectionVerdict) -> Told {
    let rule_name = |rule: &RuleRef| (rule.policy.to_string(), rule.rule);
    let additive = |rule: &&RuleRef| rule.policy.namespace.is_some();
    Told {
        verdict: match verdict.decision {
            Decision::Denied => "deny",
            Decision::Unknown => "unknown",
            Decision::Allowed | Decision::NotIsolated => "allow",
        }
        .to_owned(),
        by: match verdict.layer {
            Some(Layer::Admin) => "anp",
            Some(Layer::NetworkPolicy) => "np",
            Some(Layer::Baseline) => "banp",
            None => "default",
        }
        .to_owned(),
        isolating: verdict.isolating.iter().map(|policy| policy.reference.to_string()).collect(),
        allowing: verdict.allowed_by.iter().filter(additive).map(rule_name).collect(),
        near: half_matches(verdict)
            .iter()
            .map(|half| (half.rule.policy.to_string(), half.rule.rule, half.peer, half.port))
            .collect(),
        denied_by: verdict.denied_by.as_ref().map(rule_name),
    }
}

#[derive(Debug, PartialEq)]
struct Told {
    verdict: String,
    by: String,
    isolating: BTreeSet<String>,
    allowing: BTreeSet<(String, usize)>,
    near: BTreeSet<(String, usize, bool, bool)>,
    denied_by: Option<(String, usize)>,
}

fn index(value: &Value) -> usize {
    usize::try_from(value.as_u64().expect("an index")).expect("an index")
}

fn name(value: &Value) -> String {
    value.as_str().expect("a name").to_owned()
}

fn expected(direction: &Value) -> Told {
    let list = |field: &str| direction[field].as_array().cloned().unwrap_or_default();
    let by = match name(&direction["by"]).as_str() {
        // The record schema tells both as "not isolated, no layer".
        "not-a-pod" => "default".to_owned(),
        other => other.to_owned(),
    };
    let ordered = match by.as_str() {
        "anp" => Some(&direction["admin"]),
        "banp" => Some(&direction["baseline"]),
        _ => None,
    };
    Told {
        verdict: name(&direction["verdict"]),
        isolating: list("isolating").iter().map(name).collect(),
        allowing: list("allowing")
            .iter()
            .flat_map(|entry| {
                let rules = entry["rules"].as_array().expect("rules");
                rules.iter().map(|rule| (name(&entry["policy"]), index(rule)))
            })
            .collect(),
        near: list("near")
            .iter()
            .map(|near| {
                let half = |field: &str| near[field].as_bool().expect("a boolean");
                (name(&near["policy"]), index(&near["rule"]), half("peer"), half("port"))
            })
            .collect(),
        denied_by: ordered
            .filter(|rule| rule["action"] == "Deny")
            .map(|rule| (name(&rule["policy"]), index(&rule["rule"]))),
        by,
    }
}

fn exemption(verdict: &Verdict) -> Value {
    match verdict.exempt {
        None => Value::Null,
        Some(Exemption::SamePod) => "same-pod".into(),
        Some(Exemption::LocalNode) => "local-node".into(),
    }
}

fn check(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(file);
    let text = fs::read_to_string(&path).expect("the cases are part of the project");
    let mut probes = 0;
    let mut differences = String::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let snapshot = cluster(&case);
        for probe in case["probes"].as_array().expect("probes") {
            probes += 1;
            let question = question(&snapshot, probe);
            let verdict = evaluate(&snapshot, &question);
            let expect = &probe["expect"];
            let mut differs = exemption(&verdict) != expect["exempt"];
            for direction in [Direction::Egress, Direction::Ingress] {
                let want = expected(&expect[direction.to_string()]);
                let got = told(verdict.direction(direction));
                if got != want {
                    differs = true;
                    let _ = writeln!(differences, "{direction}: got {got:#?}\nwant {want:#?}");
                }
            }
            if differs {
                let _ = writeln!(differences, "in {} probe {probe}\n", case["id"]);
            }
        }
    }
    assert!(probes > 0, "{file} holds no probes");
    assert!(differences.is_empty(), "{file}, {probes} probes:\n{differences}");
}

#[test]
fn network_policies_of_random_clusters() {
    check("np.jsonl");
}

#[test]
fn well_known_traps() {
    check("traps.jsonl");
}

#[test]
fn admin_policies_of_random_clusters() {
    check("anp.jsonl");
}
