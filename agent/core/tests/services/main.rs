//! What becomes of a connection to a Service: a row for each sort of Service and of client.
//!
//! Two nodes, in two zones, with a client and a backend each; what differs in a row is the Service, what
//! is behind it, and who dials what.

mod rows;

use std::net::IpAddr;

use proptest::prelude::*;
use rows::rows;
use serde_json::{Value, json};
use whydrop_core::{
    cluster::{Cluster, Snapshot},
    flow::Protocol,
    kinds,
    service::{Course, Dial, Doubt, Fate, Packet, Source, to_address, to_service, words},
};

#[test]
fn every_sort_of_service_is_what_kube_proxy_makes_of_it() {
    for row in rows() {
        let snapshot = cluster(row.service, row.endpoints);
        let client = snapshot.resolve(row.client.parse().expect("an address"), None);
        let dial = Dial { client: &client, port: row.port, protocol: Protocol::Tcp };
        let courses: Vec<Course> = match row.to {
            "svc" => to_service(&snapshot, &dial, snapshot.service("shop", "web").expect("it")),
            address => {
                let address = address.parse().expect("an address");
                to_address(&snapshot, &dial, address, None).into_iter().collect()
            }
        };
        let mut comes: Vec<String> = courses.iter().flat_map(shown).collect();
        if courses.is_empty() {
            comes.push("nobody's".to_owned());
        }
        assert_eq!(comes, row.comes, "{}", row.what);
        for course in &courses {
            let says = words::fate(course);
            assert_eq!(says.is_none(), matches!(course.fate, Fate::Sent(_)), "{}", row.what);
            for remark in &course.remarks {
                assert!(words::remark(course, remark).contains("shop/web"), "{}", row.what);
            }
        }
    }
}

/// What comes of it, a line for each packet and remark.
fn shown(course: &Course) -> Vec<String> {
    let mut lines = match &course.fate {
        Fate::Sent(packets) => packets.iter().map(line).collect(),
        Fate::Refused { refusal, otherwise } => {
            let otherwise = otherwise.iter().map(|packet| format!("otherwise {}", line(packet)));
            [format!("refused: {refusal:?}")].into_iter().chain(otherwise).collect()
        }
        Fate::Unknown(Doubt::TakenForLocal { node, otherwise }) => {
            let otherwise = otherwise.iter().map(|packet| format!("perhaps {}", line(packet)));
            let unknown = format!("Unknown(TakenForLocal {{ node: {node:?} }})");
            [unknown].into_iter().chain(otherwise).collect()
        }
        Fate::Untranslated(packet) => vec![format!("Untranslated {}", line(packet))],
        other => vec![format!("{other:?}")],
    };
    lines.sort_by_key(|line| !line.starts_with("refused"));
    let refused = usize::from(lines.first().is_some_and(|line| line.starts_with("refused")));
    lines[refused..].sort();
    lines.extend(course.remarks.iter().map(|remark| format!("{remark:?}")));
    lines
}

fn line(packet: &Packet) -> String {
    let address = |address: Option<IpAddr>| address.expect("an address").to_string();
    let hop = |hop: &whydrop_core::service::Hop| {
        let (from, to) = (address(hop.source.address), address(hop.destination.address));
        format!("{from} -> {to}:{}", hop.port)
    };
    let source = match &packet.source {
        Source::Kept => String::new(),
        Source::Hairpin => " hairpin".to_owned(),
        Source::Replaced(node) => format!(" replaced by {node}"),
        Source::PerhapsReplaced(node) => format!(" perhaps replaced by {node}"),
    };
    let leaves = packet.leaves.as_ref().map(|leaves| format!(", leaves {}", hop(leaves)));
    format!("{}{source}{}", hop(&packet.arrives), leaves.unwrap_or_default())
}

fn cluster(service: &str, endpoints: &[&str]) -> Snapshot {
    let mut objects = vec![
        node("n1", "192.0.2.1", "a"),
        node("n2", "192.0.2.2", "b"),
        pod("ask", "n1", &["10.1.1.10", "fd00:1::10"], &json!({"app": "ask"}), None),
        pod("web-1", "n1", &["10.1.1.20", "fd00:1::20"], &web(), Some(8080)),
        pod("web-2", "n2", &["10.1.2.20"], &web(), Some(9090)),
        pod("bare", "n2", &["10.1.2.30"], &json!({"app": "bare", "tier": "back"}), None),
    ];
    objects.push(service_of(service));
    objects.extend(slices(endpoints));
    let mut cluster = Cluster::default();
    for object in objects {
        let text = |field: &str| object[field].as_str().expect("a type").to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let row = kinds::named(&version, &kind).expect("a kind");
        let decoded = row.decode(object.clone(), &version);
        let decoded = decoded.unwrap_or_else(|problem| panic!("{object}: {problem}"));
        cluster.apply(decoded.expect("an object"), None);
    }
    cluster.snapshot()
}

fn web() -> Value {
    json!({"app": "web", "tier": "back"})
}

fn node(name: &str, address: &str, zone: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

fn pod(name: &str, node: &str, addresses: &[&str], labels: &Value, http: Option<u16>) -> Value {
    let ports: Vec<Value> =
        http.iter().map(|port| json!({"name": "http", "containerPort": port})).collect();
    let addresses: Vec<Value> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "ports": ports}]},
        "status": {"phase": "Running", "podIPs": addresses},
    })
}

fn service_of(text: &str) -> Value {
    let start = text.find('{').expect("a spec");
    let (labels, spec) = text.split_at(start);
    let labels: serde_json::Map<String, Value> = labels
        .split_whitespace()
        .filter_map(|label| label.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.into()))
        .collect();
    let mut spec: Value = serde_json::from_str(spec).expect("a spec");
    let ingress = spec.as_object_mut().and_then(|spec| spec.remove("ingress"));
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "labels": labels},
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress.unwrap_or_else(|| json!([]))}},
    })
}

fn slices(endpoints: &[&str]) -> Vec<Value> {
    let of_family = |is_v4: bool| -> Vec<Value> {
        let own = endpoints.iter().filter(|endpoint| endpoint.contains("::") != is_v4);
        own.map(|endpoint| slice_endpoint(endpoint)).collect()
    };
    let slice = |name: &str, kind: &str, endpoints: Vec<Value>| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "shop",
                         "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": kind,
            "endpoints": endpoints,
            "ports": [{"port": 8080, "protocol": "TCP"}],
        })
    };
    let both = [("web-v4", "IPv4", true), ("web-v6", "IPv6", false)];
    let both = both.map(|(name, kind, is_v4)| (name, kind, of_family(is_v4)));
    let used = both.into_iter().filter(|(.., endpoints)| !endpoints.is_empty());
    used.map(|(name, kind, endpoints)| slice(name, kind, endpoints)).collect()
}

fn slice_endpoint(text: &str) -> Value {
    let mut words = text.split_whitespace();
    let address = words.next().expect("an address");
    let node = words.next().filter(|node| *node != "-");
    let mut endpoint = json!({"addresses": [address], "nodeName": node, "conditions": {}});
    for word in words {
        let (conditions, hints) = match word.split_once('=') {
            Some(("zone", zone)) => (json!({}), json!({"forZones": [{"name": zone}]})),
            Some((_, node)) => (json!({}), json!({"forNodes": [{"name": node}]})),
            None => {
                let conditions = match word {
                    "unready" => json!({"ready": false, "serving": false, "terminating": false}),
                    "terminating" => json!({"ready": false, "serving": true, "terminating": true}),
                    _ => json!({"ready": false, "serving": false, "terminating": true}),
                };
                (conditions, json!({}))
            }
        };
        for (field, more) in [("conditions", conditions), ("hints", hints)] {
            for (key, value) in more.as_object().expect("fields") {
                endpoint[field][key] = value.clone();
            }
        }
    }
    endpoint
}

proptest! {
    /// With one backend that is ready, what comes of a connection to the cluster address is the flow to
    /// the backend, whatever else the Service says.
    #[test]
    fn one_ready_backend_is_the_direct_flow(
        port in 1_u16.., target in 1_u16.., last in 30_u8..,
        external_local: bool, internal_local: bool, sticky: bool, publishes: bool,
        selects: bool, client in prop::sample::select(vec!["10.1.1.10", "192.0.2.1", "10.1.2.20"]),
    ) {
        let policy = |local: bool| if local { "Local" } else { "Cluster" };
        let node = if client == "10.1.2.20" { "n2" } else { "n1" };
        let mut spec = json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.7",
            "ports": [{"port": port, "targetPort": target}],
            "externalTrafficPolicy": policy(external_local),
            "internalTrafficPolicy": policy(internal_local),
            "sessionAffinity": if sticky { "ClientIP" } else { "None" },
            "publishNotReadyAddresses": publishes,
        });
        if selects {
            spec["selector"] = json!({"app": "web"});
        }
        let endpoint = format!("10.1.9.{last} {node}");
        let snapshot = cluster(&spec.to_string(), &[&endpoint]);
        let client = snapshot.resolve(client.parse().expect("an address"), None);
        let dial = Dial { client: &client, port, protocol: Protocol::Tcp };
        let course = to_address(&snapshot, &dial, "10.96.0.7".parse().expect("one"), None);
        let expected = format!("{} -> 10.1.9.{last}:8080", client.address_text());
        prop_assert_eq!(shown(&course.expect("the Service's")), vec![expected]);
    }
}
