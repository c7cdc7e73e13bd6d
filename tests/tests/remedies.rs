//! Closing the loop: a remedy, applied to the cluster it was found in, lets its flow pass, takes
//! nothing away, and leaves every explicit deny in force; so does its rule, added to a policy that
//! is there. Over every denied probe of the cases, asked as an address, as a Service in front of the
//! destination's namespace, and as one pod of a workload that has another.

use std::{fs, net::IpAddr, path::Path};

use serde_json::{Value, json};
use whydrop::{
    cluster::manifests::Manifests,
    report::{Direction, Remedy, patch::edits_of, remedy_of},
};
use whydrop_core::{
    answer::{Answer, Effective},
    cluster::{
        Cluster, Snapshot,
        history::History,
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Case, Fate},
    flow::Flow,
    judgement::{Judgement, judge},
    remedy::{
        mark::Mark,
        patch::{Patch, patch},
    },
    service::{Dial, to_address},
    verdict::{Decision, Question, Verdict, evaluate},
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

/// Every how manieth random cluster is taken, for the time that each takes; all where
/// `WHYDROP_ALL_QUESTIONS` is set, and all that were made by hand.
const EVERY: usize = 2;

fn cases(file: &str) -> Vec<Value> {
    let is_random = file != "traps.jsonl";
    let is_part = is_random && std::env::var_os("WHYDROP_ALL_QUESTIONS").is_none();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(file);
    let text = fs::read_to_string(&path).expect("the cases are part of the project");
    let lines = text.lines().step_by(if is_part { EVERY } else { 1 });
    lines.map(|line| serde_json::from_str(line).expect("a case")).collect()
}

fn is_beyond_help(verdict: &Verdict) -> bool {
    let directions = [&verdict.egress, &verdict.ingress];
    directions.iter().any(|d| d.denied_by.is_some() || d.decision == Decision::Unknown)
}

/// The address of the Service that stands in front of every pod of the cases' namespaces.
const SERVICE: [&str; 2] = ["10.96.7.7", "fd00:10:96::7"];

/// The case with a Service in front of all pods of a namespace, on one port.
fn with_service(case: &Value, pods: &[IpAddr], namespace: &str, flow: &Flow) -> Snapshot {
    let mut case = case.clone();
    let objects = case["objects"].as_array_mut().expect("objects");
    let is_v4 = flow.source.is_ipv4();
    let protocol = flow.protocol.to_string();
    objects.push(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "every", "namespace": namespace},
        "spec": {
            "clusterIP": SERVICE[usize::from(!is_v4)],
            "ports": [{"port": flow.port, "protocol": protocol}],
        },
    }));
    let endpoints: Vec<_> = pods.iter().map(|address| json!({"addresses": [address]})).collect();
    objects.push(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "every", "namespace": namespace,
            "labels": {"kubernetes.io/service-name": "every"},
        },
        "addressType": if is_v4 { "IPv4" } else { "IPv6" },
        "endpoints": endpoints,
        "ports": [{"port": flow.port, "protocol": protocol}],
    }));
    objects_of(&case).cluster().snapshot()
}

/// What comes of a flow's source that dials the Service.
fn dialled(snapshot: &Snapshot, flow: &Flow) -> Answer {
    let client = snapshot.resolve(flow.source, None);
    let address = SERVICE[usize::from(!flow.source.is_ipv4())].parse().expect("an address");
    let dial = Dial { client: &client, port: flow.port, protocol: flow.protocol };
    let mut answer = Answer::default();
    let course = to_address(snapshot, &dial, address, None).expect("it is the Service's");
    answer.add_course(snapshot, course);
    answer
}

/// A Service of which some backends are denied has one remedy for all of them, or a rule denies one.
fn check_services(file: &str) {
    let (mut remedied, mut hopeless) = (0, 0);
    for case in cases(file) {
        let snapshot = objects_of(&case).cluster().snapshot();
        let mut asked: Vec<(IpAddr, String, u16)> = Vec::new();
        for probe in probes(&snapshot, &case) {
            let Question { destination, .. } = &probe.judgement.diagnosis.question;
            let Some(pod) = destination.pod() else { continue };
            let question = (probe.flow.source, pod.namespace.to_string(), probe.flow.port);
            if decision(&probe, &snapshot) != Decision::Denied || asked.contains(&question) {
                continue;
            }
            asked.push(question);
            let of_namespace = snapshot.pods().filter(|other| other.namespace == pod.namespace);
            let addresses: Vec<IpAddr> = of_namespace
                .filter(|other| !other.host_network)
                .flat_map(|other| other.addresses.iter().copied())
                .filter(|address| address.is_ipv4() == probe.flow.source.is_ipv4())
                .collect();
            let snapshot = with_service(&case, &addresses, &pod.namespace, &probe.flow);
            let answer = dialled(&snapshot, &probe.flow);
            if !matches!(answer.effective(), Effective::Deny | Effective::Some) {
                continue;
            }
            let place = format!("{}: {} to a Service", case["id"], probe.flow);
            let verdicts = || answer.questions().map(|question| evaluate(&snapshot, question));
            if let Ok(remedy) = answer.remedy(&snapshot) {
                let after = dialled(&remedy.applied(&snapshot), &probe.flow);
                assert_eq!(after.effective(), Effective::Allow, "{place}: {remedy:#?}");
                remedied += 1;
            } else {
                assert!(verdicts().any(|v| is_beyond_help(&v)), "{place} has no remedy");
                hopeless += 1;
            }
        }
    }
    assert!(remedied > 0, "{remedied} and {hopeless} of {file}");
}

/// The case with another pod beside each, of the same labels and of one `StatefulSet` with it.
fn with_twins(case: &Value) -> Value {
    let mut case = case.clone();
    let objects = case["objects"].as_array_mut().expect("objects");
    let mut twins = Vec::new();
    for object in objects.iter_mut().filter(|object| object["kind"] == "Pod") {
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        object["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": name, "uid": name,
            "controller": true,
        }]);
        let mut twin = object.clone();
        twin["metadata"]["name"] = format!("{name}-twin").into();
        for pod in [&mut *object, &mut twin] {
            let own = pod["metadata"]["name"].clone();
            pod["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] = own;
        }
        if twin["spec"]["hostNetwork"] == true || twin["status"]["podIP"].is_null() {
            continue;
        }
        let beside = |address: &Value| -> Value {
            match address.as_str().and_then(|text| text.parse().ok()).expect("an address") {
                IpAddr::V4(own) => (own | std::net::Ipv4Addr::new(0, 0, 0, 128)).to_string().into(),
                IpAddr::V6(own) => {
                    std::net::Ipv6Addr::from_bits(own.to_bits() | 0x8000).to_string().into()
                }
            }
        };
        twin["status"]["podIP"] = beside(&twin["status"]["podIP"]);
        for ip in twin["status"]["podIPs"].as_array_mut().into_iter().flatten() {
            ip["ip"] = beside(&ip["ip"]);
        }
        twins.push(twin);
    }
    objects.extend(twins);
    case
}

/// The same end, or the pod beside it.
fn twin_of(snapshot: &Snapshot, end: &Endpoint) -> Endpoint {
    let twin = end.pod().and_then(|pod| {
        snapshot.pod(&pod.namespace, &format!("{}-twin", pod.name)).filter(|pod| !pod.host_network)
    });
    let address = |pod: &whydrop_core::cluster::object::Pod| {
        pod.addresses.iter().copied().find(|address| end.may_be_of_family(*address))
    };
    match twin {
        Some(twin) => Endpoint { address: address(twin), holder: Holder::Pod(twin.clone()) },
        None => end.clone(),
    }
}

/// A remedy for one pod is for the other of its workload, at both ends.
fn check_replicas(file: &str) {
    let mut replicas = 0;
    for case in cases(file) {
        let case = with_twins(&case);
        let snapshot = objects_of(&case).cluster().snapshot();
        for probe in probes(&snapshot, &case) {
            let Some(remedy) = &probe.judgement.remedy else { continue };
            let asked = &probe.judgement.diagnosis.question;
            let source = twin_of(&snapshot, &asked.source);
            let destination = twin_of(&snapshot, &asked.destination);
            let after = remedy.applied(&snapshot);
            for (source, destination) in [
                (source.clone(), asked.destination.clone()),
                (asked.source.clone(), destination.clone()),
                (source, destination),
            ] {
                let question =
                    Question::new(source, destination, probe.flow.port, probe.flow.protocol);
                let before = evaluate(&snapshot, &question);
                if before.decision() != Decision::Denied || is_beyond_help(&before) {
                    continue;
                }
                replicas += 1;
                let now = evaluate(&after, &question).decision();
                let place = format!("{}: {question}, with that for {asked}", case["id"]);
                assert!(now.lets_pass(), "{place}: {remedy:#?}");
            }
        }
    }
    assert!(replicas > 0, "{file}");
}

fn check(file: &str) {
    let (mut denied, mut remedied, mut patches) = (0, 0, 0);
    for case in cases(file) {
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

#[test]
fn every_denied_service_has_a_remedy_for_all_of_its_backends() {
    for file in ["np.jsonl", "anp.jsonl", "traps.jsonl", "calico.jsonl"] {
        check_services(file);
    }
}

#[test]
fn every_remedy_is_for_the_other_pod_of_a_workload_too() {
    for file in ["np.jsonl", "anp.jsonl", "traps.jsonl", "calico.jsonl"] {
        check_replicas(file);
    }
}
