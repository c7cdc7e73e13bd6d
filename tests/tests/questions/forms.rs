//! The forms in which a packet can be asked about, and the cluster in which it can.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};
use whydrop::command::Asked;
use whydrop_core::{
    cluster::{
        Snapshot,
        object::{Pod, WorkloadKind},
        resolve::{Endpoint, Holder},
    },
    verdict::{Decision, evaluate},
};

use crate::dump::{Dump, Packet};

/// A cluster with the questions about it.
pub(crate) struct Variant {
    pub(crate) name: String,
    /// What it is made of beside the files of its dump.
    pub(crate) objects: Vec<Value>,
    pub(crate) snapshot: Snapshot,
    pub(crate) questions: Vec<Form>,
}

/// A question in one form.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    /// Which form.
    pub(crate) kind: &'static str,
    /// It.
    pub(crate) asked: Asked,
    /// Others that what is printed for it is for as well: the workloads of its pods.
    pub(crate) also: Option<Asked>,
}

/// Which of the denied packets of a cluster are asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) first: usize,
    pub(crate) every: usize,
}

impl Part {
    pub(crate) const ALL: Self = Self { first: 0, every: 1 };

    /// All where `WHYDROP_ALL_QUESTIONS` is set, or else this part of them.
    pub(crate) fn of(first: usize, every: usize) -> Self {
        match std::env::var_os("WHYDROP_ALL_QUESTIONS") {
            Some(_) => Self::ALL,
            None => Self { first, every },
        }
    }
}

/// A part of the denied packets, in every form.
pub(crate) fn all(dump: &Dump, part: Part) -> Vec<Variant> {
    let snapshot = dump.snapshot(&[]);
    let denied = dump.packets.iter().filter(|packet| is_denied(&snapshot, packet));
    let denied: Vec<&Packet> = denied.skip(part.first).step_by(part.every).collect();
    let mut variants = Vec::new();
    let mut own = Vec::new();
    for packet in &denied {
        own.extend(by_address(packet));
        own.extend(by_name(&snapshot, packet));
    }
    let (name, objects) = (dump.name.clone(), dump.objects.clone());
    variants.push(Variant { name, objects, snapshot, questions: unique(own) });
    variants.push(with_workloads(dump, &denied));
    variants.extend(with_services(dump, &denied));
    variants
}

fn is_denied(snapshot: &Snapshot, packet: &Packet) -> bool {
    evaluate(snapshot, &packet.question).decision() == Decision::Denied
}

fn unique(questions: Vec<Form>) -> Vec<Form> {
    let mut unique: Vec<Form> = Vec::new();
    for question in questions {
        if !unique.iter().any(|known| known.asked == question.asked) {
            unique.push(question);
        }
    }
    unique
}

fn question(from: String, to: String, packet: &Packet) -> Asked {
    Asked { from, to, port: Some(packet.port()), namespace: None, as_is: false }
}

/// By the addresses of the packet.
fn by_address(packet: &Packet) -> Option<Form> {
    let question = &packet.question;
    let from = question.source.address?.to_string();
    let to = question.destination.address?.to_string();
    let asked = Asked { as_is: true, ..self::question(from, to, packet) };
    Some(Form { kind: "address", asked, also: None })
}

/// By the names of its ends; of what has none by its address.
fn by_name(snapshot: &Snapshot, packet: &Packet) -> Option<Form> {
    let from = name(&packet.question.source)?;
    let to = name(&packet.question.destination)?;
    let asked = question(from, to, packet);
    let also = by_workload(snapshot, packet);
    Some(Form { kind: "pod", asked, also })
}

fn name(end: &Endpoint) -> Option<String> {
    match &end.holder {
        Holder::Pod(pod) if pod.is_template => Some(format!("{}/{}", pod.namespace, pod.name)),
        Holder::Pod(pod) => Some(format!("{}/pod/{}", pod.namespace, pod.name)),
        // One of which nothing is known but that a template's pods will be on it.
        Holder::Node(node) if node.name.contains('/') => Some(node.name.to_string()),
        Holder::Node(node) => Some(format!("node/{}", node.name)),
        _ => end.address.map(|address| address.to_string()),
    }
}

/// By what its pods belong to; nothing where none belongs to anything.
fn by_workload(snapshot: &Snapshot, packet: &Packet) -> Option<Asked> {
    let ends = [&packet.question.source, &packet.question.destination];
    let of = ends.map(|end| end.pod().and_then(|pod| workload(snapshot, pod)));
    if of.iter().all(Option::is_none) {
        return None;
    }
    let [from, to] = [0, 1].map(|place| of[place].clone().or_else(|| name(ends[place])));
    Some(question(from?, to?, packet))
}

/// The furthest of a pod's owners that can be asked about.
fn workload(snapshot: &Snapshot, pod: &Pod) -> Option<String> {
    let of = snapshot.workloads_of(pod);
    of.iter().rev().find_map(|workload| {
        let kind: WorkloadKind = workload.kind.parse().ok()?;
        Some(format!("{}/{}/{}", pod.namespace, kind.short(), workload.name))
    })
}

/// The cluster with a Deployment for every pod that nothing owns, and another pod of each.
fn with_workloads(dump: &Dump, denied: &[&Packet]) -> Variant {
    let objects = replicated(&dump.objects);
    let snapshot = dump.snapshot_of(&objects, &[]);
    let mut questions = Vec::new();
    for packet in denied {
        let again = |end: &Endpoint| end.now(&snapshot);
        let mut packet = Packet::clone(packet);
        packet.question.source = again(&packet.question.source);
        packet.question.destination = again(&packet.question.destination);
        questions.extend(by_name(&snapshot, &packet).map(|form| Form { kind: "replica", ..form }));
        let asked = by_workload(&snapshot, &packet);
        questions.extend(asked.map(|asked| Form { kind: "workload", asked, also: None }));
    }
    let name = format!("{} with workloads", dump.name);
    Variant { name, objects, snapshot, questions: unique(questions) }
}

/// The hash of every template here.
const HASH: &str = "5d9c7b9f4d";

/// The objects with a Deployment above every pod that has an address of its own, and a second pod.
fn replicated(objects: &[Value]) -> Vec<Value> {
    let mut all = Vec::new();
    for object in objects {
        let is_own = object["spec"]["hostNetwork"] != true && !object["status"]["podIP"].is_null();
        let is_bare = object["metadata"]["ownerReferences"].is_null();
        if object["kind"] != "Pod" || !is_own || !is_bare {
            all.push(object.clone());
            continue;
        }
        let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
        let mut pod = object.clone();
        let mut deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": pod["metadata"]["namespace"]},
            "spec": {"template": {"metadata": {}, "spec": pod["spec"]}},
        });
        deployment["spec"]["template"]["metadata"]["labels"] = pod["metadata"]["labels"].clone();
        if let Some(spec) = deployment["spec"]["template"]["spec"].as_object_mut() {
            spec.remove("nodeName");
        }
        pod["metadata"]["labels"]["pod-template-hash"] = HASH.into();
        pod["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{name}-{HASH}"),
            "uid": name, "controller": true,
        }]);
        let mut twin = pod.clone();
        twin["metadata"]["name"] = format!("{name}-twin").into();
        twin["status"]["podIP"] = beside(&twin["status"]["podIP"]);
        for ip in twin["status"]["podIPs"].as_array_mut().into_iter().flatten() {
            ip["ip"] = beside(&ip["ip"]);
        }
        all.extend([deployment, pod, twin]);
    }
    all
}

/// An address of the same network that no pod of the cases has.
fn beside(address: &Value) -> Value {
    match address.as_str().and_then(|text| text.parse().ok()).expect("an address") {
        IpAddr::V4(own) => (own | Ipv4Addr::new(0, 0, 0, 128)).to_string().into(),
        IpAddr::V6(own) => Ipv6Addr::from_bits(own.to_bits() | 0x8000).to_string().into(),
    }
}

/// The port of every Service that is put in front of pods: another than any of theirs.
const SERVICE_PORT: u16 = 4242;

/// The cluster with a Service in front of each pod that is connected to, and of those that have the
/// same labels, asked by its name and by its address.
fn with_services(dump: &Dump, denied: &[&Packet]) -> Vec<Variant> {
    let objects = replicated(&dump.objects);
    let before = dump.snapshot_of(&objects, &[]);
    let mut more: Vec<Value> = Vec::new();
    let mut questions = Vec::new();
    for packet in denied {
        let destination = packet.question.destination.now(&before);
        let Some(pod) = destination.pod().filter(|pod| !pod.addresses.is_empty()) else { continue };
        let Some(from) = name(&packet.question.source.now(&before)) else { continue };
        let number = more.len() / 2;
        let service = service(&before, pod, packet, number);
        let known = more.iter().find(|known| {
            known["spec"]["selector"] == service[0]["spec"]["selector"]
                && known["metadata"]["namespace"] == service[0]["metadata"]["namespace"]
                && known["spec"]["ports"] == service[0]["spec"]["ports"]
        });
        let own = known.unwrap_or(&service[0]).clone();
        if known.is_none() {
            more.extend(service);
        }
        let place = &own["metadata"];
        let [namespace, name] = ["namespace", "name"].map(|f| place[f].as_str().expect("text"));
        let of_family = |address: &&Value| {
            let address = address.as_str().and_then(|text| text.parse::<IpAddr>().ok());
            address.is_some_and(|address| packet.question.source.may_be_of_family(address))
        };
        let addresses = own["spec"]["clusterIPs"].as_array().expect("addresses");
        let address = addresses.iter().find(of_family).and_then(Value::as_str);
        let port = format!("{SERVICE_PORT}/{}", packet.protocol());
        let asked = |to: String| Asked {
            from: from.clone(),
            to,
            port: Some(port.clone()),
            namespace: None,
            as_is: false,
        };
        let by_name = asked(format!("{namespace}/svc/{name}"));
        questions.push(Form { kind: "Service", asked: by_name, also: None });
        let by_address = address.map(|address| asked(address.to_owned()));
        let kind = "address of a Service";
        questions.extend(by_address.map(|asked| Form { kind, asked, also: None }));
    }
    if questions.is_empty() {
        return Vec::new();
    }
    let snapshot = dump.snapshot_of(&objects, &more);
    let name = format!("{} with Services", dump.name);
    let objects = [objects, more].concat();
    vec![Variant { name, objects, snapshot, questions: unique(questions) }]
}

/// A Service of all families of a pod, and its slices.
fn service(snapshot: &Snapshot, pod: &Pod, packet: &Packet, number: usize) -> [Value; 2] {
    let name = format!("front-{number}");
    let protocol = packet.protocol().to_string();
    let labels: serde_json::Map<String, Value> =
        pod.labels.iter().map(|(key, value)| (key.to_string(), (&**value).into())).collect();
    let is_v4 = |address: &IpAddr| address.is_ipv4();
    let mut cluster_ips = Vec::new();
    if pod.addresses.iter().any(is_v4) {
        cluster_ips.push(format!("10.97.{}.{}", number / 250, number % 250 + 1));
    }
    if !pod.addresses.iter().all(is_v4) {
        cluster_ips.push(format!("fd00:10:97::{:x}", number + 1));
    }
    let is_selected = |other: &&std::sync::Arc<Pod>| {
        other.namespace == pod.namespace
            && pod.labels.iter().all(|(key, value)| other.labels.get(key) == Some(value))
    };
    let selected = snapshot.pods().filter(is_selected);
    let of_family = packet.question.source.address.or(packet.question.destination.address);
    let is_v4 = of_family.is_none_or(|address| address.is_ipv4());
    let mut addresses: Vec<IpAddr> = selected
        .filter_map(|pod| pod.addresses.iter().find(|own| own.is_ipv4() == is_v4).copied())
        .collect();
    addresses.sort_unstable();
    let endpoints: Vec<Value> = addresses.iter().map(|ip| json!({"addresses": [ip]})).collect();
    let namespace = &*pod.namespace;
    [
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "clusterIP": cluster_ips[0], "clusterIPs": cluster_ips,
                "selector": labels,
                "ports": [{
                    "port": SERVICE_PORT, "targetPort": packet.question.port,
                    "protocol": protocol,
                }],
            },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": namespace,
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": if is_v4 { "IPv4" } else { "IPv6" },
            "endpoints": endpoints,
            "ports": [{"port": packet.question.port, "protocol": protocol}],
        }),
    ]
}
