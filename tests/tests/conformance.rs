//! Policy verdicts against independent oracles: every case of `conformance/`, every probe.
//!
//! The format is described in `conformance/README.md`.

use std::{
    collections::BTreeSet,
    fmt::{Debug, Write as _},
    fs,
    net::IpAddr,
    path::Path,
    process::Command,
};

use serde_json::{Value, json};
use whydrop::cluster::manifests::Manifests;
use whydrop_core::{
    cluster::Snapshot,
    flow::Direction,
    policy::{Layer, RuleRef},
    verdict::{
        Decision, DirectionVerdict, Exemption, Question, Verdict, evaluate, nearest::half_matches,
    },
};
use whydrop_tests::world::agent::binary;

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
    Question::new(
        snapshot.resolve(address("src_ip"), None),
        snapshot.resolve(address("dst_ip"), None),
        u16::try_from(probe["port"].as_u64().expect("port")).expect("a port"),
        probe["protocol"].as_str().expect("protocol").parse().expect("a protocol"),
    )
}

/// A direction in the words of the cases, with sets in a canonical order.
fn reported(verdict: &DirectionVerdict) -> Reported {
    let rule_name = |rule: &RuleRef| (rule.policy.to_string(), rule.rule);
    let additive = |rule: &&RuleRef| rule.policy.namespace.is_some();
    Reported {
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
            Some(Layer::Tier(_)) => "tier",
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
struct Reported {
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

fn expected(direction: &Value) -> Reported {
    let list = |field: &str| direction[field].as_array().cloned().unwrap_or_default();
    let by = match name(&direction["by"]).as_str() {
        // The record schema has both as "not isolated, no layer".
        "not-a-pod" => "default".to_owned(),
        other => other.to_owned(),
    };
    let ordered = match by.as_str() {
        "anp" => Some(&direction["admin"]),
        "banp" => Some(&direction["baseline"]),
        _ => None,
    };
    Reported {
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

/// A direction in the words of the cases of Calico (`conformance/CALICO.md`).
#[derive(Debug, PartialEq)]
struct CalicoReported {
    verdict: String,
    by: String,
    isolating: BTreeSet<(String, String, String)>,
    decided: Option<Decided>,
    passed: Vec<Decided>,
}

/// What decided, or passed a flow on.
#[derive(Clone, Debug, PartialEq)]
struct Decided {
    tier: String,
    action: String,
    /// Kind, policy and rule; none at the end of a tier.
    rule: Option<(String, String, usize)>,
}

fn reported_of_calico(verdict: &DirectionVerdict) -> CalicoReported {
    let rule_name =
        |rule: &RuleRef| (rule.policy.kind.name().to_owned(), rule.policy.to_string(), rule.rule);
    let tier = |layer: &Layer| layer.tier().unwrap_or("none").to_owned();
    let denied = verdict.decision == Decision::Denied;
    let rule = if denied { verdict.denied_by.as_ref() } else { verdict.allowed_by.first() };
    CalicoReported {
        by: match (&verdict.layer, rule) {
            (None, _) if verdict.decision == Decision::NotIsolated => "profile",
            (Some(_), Some(_)) => "policy",
            (Some(_), None) => "end-of-tier",
            (None, _) => "unknown",
        }
        .to_owned(),
        verdict: reported(verdict).verdict,
        isolating: verdict
            .isolating
            .iter()
            .map(|p| (tier(&p.layer), p.reference.kind.name().to_owned(), p.reference.to_string()))
            .collect(),
        decided: verdict.layer.as_ref().map(|layer| Decided {
            tier: tier(layer),
            action: if denied { "deny" } else { "allow" }.to_owned(),
            rule: rule.map(rule_name),
        }),
        passed: verdict
            .passed
            .iter()
            .map(|passed| Decided {
                tier: passed.tier.name.to_string(),
                action: "pass".to_owned(),
                rule: passed.rule.as_ref().map(rule_name),
            })
            .collect(),
    }
}

fn expected_of_calico(direction: &Value) -> CalicoReported {
    let list = |field: &str| direction[field].as_array().cloned().unwrap_or_default();
    let decided = |value: &Value| Decided {
        tier: name(&value["tier"]),
        action: name(&value["action"]),
        rule: value["rule"]
            .as_u64()
            .map(|_| (name(&value["kind"]), name(&value["policy"]), index(&value["rule"]))),
    };
    CalicoReported {
        verdict: name(&direction["verdict"]),
        by: match name(&direction["by"]).as_str() {
            // The record schema has both as "not isolated, no layer".
            "not-a-pod" => "profile".to_owned(),
            other => other.to_owned(),
        },
        isolating: list("isolating")
            .iter()
            .map(|p| (name(&p["tier"]), name(&p["kind"]), name(&p["policy"])))
            .collect(),
        decided: direction["decided"].as_object().map(|_| decided(&direction["decided"])),
        passed: list("passed").iter().map(decided).collect(),
    }
}

/// Whether the oracle's own releases differ in something of a probe.
fn has_corner(probe: &Value, corner: &str) -> bool {
    probe["corner"].as_array().is_some_and(|corners| corners.iter().any(|c| c == corner))
}

/// Holds Calico's account of a direction against ours.
fn compare_calico(probe: &Value, verdict: &DirectionVerdict, expect: &Value) -> Option<String> {
    let mut want = expected_of_calico(expect);
    let got = reported_of_calico(verdict);
    if has_corner(probe, "tie-by") {
        (want.decided, want.passed) = (got.decided.clone(), got.passed.clone());
    }
    // "For Kubernetes policies any one of the allowing rules may be named."
    if let Some(decided) = &mut want.decided
        && let Some((_, _, rule)) = decided.rule.as_ref().filter(|r| r.0 == "NetworkPolicy")
        && verdict.allowed_by.iter().any(|r| {
            let policy = decided.rule.as_ref().map(|(_, policy, _)| policy.as_str());
            r.rule == *rule && Some(r.policy.to_string().as_str()) == policy
        })
    {
        decided.rule = got.decided.as_ref().and_then(|d| d.rule.clone());
    }
    difference(&got, &want)
}

#[test]
fn calico_policies_of_random_clusters() {
    check("calico.jsonl", compare_calico);
}

fn exemption(verdict: &Verdict) -> Value {
    match verdict.exempt {
        None => Value::Null,
        Some(Exemption::SamePod) => "same-pod".into(),
        Some(Exemption::LocalNode) => "local-node".into(),
    }
}

/// Holds an oracle's account of a direction against ours.
fn compare(_probe: &Value, verdict: &DirectionVerdict, expect: &Value) -> Option<String> {
    difference(&reported(verdict), &expected(expect))
}

fn difference<T: PartialEq + Debug>(got: &T, want: &T) -> Option<String> {
    (got != want).then(|| format!("got {got:#?}\nwant {want:#?}"))
}

/// Evaluates every probe of a file; `compare` says how a direction differs.
fn check(file: &str, compare: fn(&Value, &DirectionVerdict, &Value) -> Option<String>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(file);
    let text = fs::read_to_string(&path).expect("the cases are part of the project");
    let mut probes = 0;
    let mut differences = String::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let snapshot = cluster(&case);
        let all = case["probes"].as_array().expect("probes");
        for probe in all.iter().filter(|probe| !has_corner(probe, "tie")) {
            probes += 1;
            let verdict = evaluate(&snapshot, &question(&snapshot, probe));
            let expect = &probe["expect"];
            let mut differs = exemption(&verdict) != expect["exempt"];
            for direction in [Direction::Egress, Direction::Ingress] {
                let expect = &expect[direction.to_string()];
                if let Some(difference) = compare(probe, verdict.direction(direction), expect) {
                    differs = true;
                    let _ = writeln!(differences, "{direction}: {difference}");
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
    check("np.jsonl", compare);
}

#[test]
fn well_known_traps() {
    check("traps.jsonl", compare);
}

#[test]
fn admin_policies_of_random_clusters() {
    check("anp.jsonl", compare);
}

/// What `whydrop check` says of a case's probes, one JSON line each; of those that are scored.
fn check_by_command(case: &Value) -> Vec<Value> {
    let folder = tempfile::tempdir().expect("a folder");
    let (objects, flows) = (folder.path().join("cluster.json"), folder.path().join("flows.json"));
    let list = json!({"apiVersion": "v1", "kind": "List", "items": case["objects"]});
    fs::write(&objects, list.to_string()).expect("written");
    let probes = case["probes"].as_array().expect("probes");
    let expectations: Vec<_> = probes
        .iter()
        .filter(|probe| !has_corner(probe, "tie"))
        .map(|probe| {
            json!({
                "from": probe["src_ip"], "to": probe["dst_ip"], "port": probe["port"],
                "protocol": probe["protocol"], "expect": probe["expect"]["effective"],
            })
        })
        .collect();
    fs::write(&flows, Value::from(expectations).to_string()).expect("written");
    let output = Command::new(binary().expect("whydrop is built"))
        .arg("check")
        .arg("-f")
        .arg(&objects)
        // The oracles judge packets, not what a Service makes of them.
        .args(["--as-is", "--flows"])
        .arg(&flows)
        .args(["-o", "json"])
        .output()
        .expect("whydrop runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{}: {stderr}", case["id"]);
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn the_check_command_says_the_same() {
    for file in ["np.jsonl", "traps.jsonl", "anp.jsonl"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(file);
        let text = fs::read_to_string(&path).expect("the cases are part of the project");
        for line in text.lines() {
            let case: Value = serde_json::from_str(line).expect("a case");
            let answers = check_by_command(&case);
            let probes = case["probes"].as_array().expect("probes");
            assert_eq!(answers.len(), probes.len());
            for (answer, probe) in answers.iter().zip(probes) {
                let expect = &probe["expect"];
                assert_eq!(answer["effective"], expect["effective"], "{probe}\n{answer}");
                assert_eq!(answer["verdict"]["exempt"], expect["exempt"], "{probe}\n{answer}");
                for direction in ["egress", "ingress"] {
                    let (verdict, want) = (&answer["verdict"][direction], &expect[direction]);
                    let decision = match name(&want["by"]).as_str() {
                        "default" | "not-a-pod" => "not-isolated",
                        _ if want["verdict"] == "deny" => "denied",
                        _ => "allowed",
                    };
                    assert_eq!(verdict["decision"], decision, "{direction} of {probe}\n{answer}");
                    let isolating: BTreeSet<_> = verdict["isolating"]
                        .as_array()
                        .expect("a list")
                        .iter()
                        .map(|policy| {
                            format!("{}/{}", name(&policy["namespace"]), name(&policy["name"]))
                        })
                        .collect();
                    assert_eq!(
                        isolating,
                        expected(want).isolating,
                        "{direction} of {probe}\n{answer}"
                    );
                }
            }
        }
    }
}

#[test]
fn the_check_command_says_the_same_of_calico() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/calico.jsonl");
    let text = fs::read_to_string(&path).expect("the cases are part of the project");
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let answers = check_by_command(&case);
        let all = case["probes"].as_array().expect("probes");
        let probes: Vec<_> = all.iter().filter(|probe| !has_corner(probe, "tie")).collect();
        assert_eq!(answers.len(), probes.len());
        for (answer, probe) in answers.iter().zip(probes) {
            let expect = &probe["expect"];
            assert_eq!(answer["effective"], expect["effective"], "{probe}\n{answer}");
            assert_eq!(answer["verdict"]["exempt"], expect["exempt"], "{probe}\n{answer}");
            for direction in ["egress", "ingress"] {
                let verdict = &answer["verdict"][direction];
                let want = expected_of_calico(&expect[direction]);
                let place = format!("{direction} of {probe}\n{answer}");
                let decision = match (want.by.as_str(), want.verdict.as_str()) {
                    ("profile", _) => "not-isolated",
                    (_, "deny") => "denied",
                    _ => "allowed",
                };
                assert_eq!(verdict["decision"], decision, "{place}");
                let is_by_rule = !verdict["denied_by"].is_null();
                assert_eq!(is_by_rule, decision == "denied" && want.by == "policy", "{place}");
                if verdict["layer"] == "tier" && !has_corner(probe, "tie-by") {
                    let tier = want.decided.as_ref().map(|decided| decided.tier.clone());
                    assert_eq!(verdict["tier"].as_str(), tier.as_deref(), "{place}");
                }
                let isolating: BTreeSet<_> = verdict["isolating"]
                    .as_array()
                    .expect("a list")
                    .iter()
                    .map(|policy| {
                        let namespace = policy["namespace"].as_str().map(|ns| format!("{ns}/"));
                        let (kind, own) = (name(&policy["kind"]), name(&policy["name"]));
                        (kind, format!("{}{own}", namespace.unwrap_or_default()))
                    })
                    .collect();
                let wanted: BTreeSet<_> =
                    want.isolating.into_iter().map(|(_, kind, policy)| (kind, policy)).collect();
                assert_eq!(isolating, wanted, "{place}");
            }
        }
    }
}
