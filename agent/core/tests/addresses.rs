//! Whose an address is, and what it is to them: nodes' addresses from their plugins, second networks,
//! and addresses that have a meaning by themselves.

use std::{collections::BTreeSet, net::IpAddr};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use whydrop_core::{
    cluster::{
        Addresses, Cluster, Interface as NodeInterface, Snapshot,
        look_up::{LookUp, Query},
        node_address::{AddressSort, Basis, Plugin},
        object::{Key, Kind, PluginNodeKind},
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Case, Class, Diagnosis, Fate, diagnose, remark::Remark},
    flow::{Flow, Protocol},
    kinds,
    verdict::Decision,
};

use AddressSort::{External, Gateway, Interface, Internal, Management, Router, Tunnel, Underlay};
use Basis::{Convention, Derived, Stated};
use Plugin::{Antrea, Calico, Cilium, Flannel, KubeRouter, OvnKubernetes};

fn at() -> Timestamp {
    Timestamp::from_second(1_767_323_045).expect("a time")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

fn apply(cluster: &mut Cluster, object: Value) {
    let [version, kind] = ["apiVersion", "kind"].map(|field| object[field].as_str().expect("it"));
    let (version, kind) = (version.to_owned(), kind.to_owned());
    let row = kinds::named(&version, &kind).expect("a kind that is read");
    let object = row.decode(object, &version).unwrap_or_else(|problem| panic!("{problem}"));
    cluster.apply(object.expect("an object"), None);
}

fn cluster(objects: impl IntoIterator<Item = Value>) -> Cluster {
    let mut cluster = Cluster::default();
    objects.into_iter().for_each(|object| apply(&mut cluster, object));
    cluster
}

fn node(name: &str, annotations: &Value, internal: &str, pod_cidrs: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "annotations": annotations },
        "spec": { "podCIDRs": pod_cidrs },
        "status": { "addresses": [
            { "type": "Hostname", "address": name },
            { "type": "InternalIP", "address": internal },
        ] },
    })
}

fn pod(name: &str, node: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": name } },
        "spec": { "nodeName": node, "containers": [] },
        "status": { "podIPs": [{ "ip": address }] },
    })
}

/// A policy that isolates all pods of `shop` in a direction.
fn isolating(direction: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": format!("no-{}", direction.to_lowercase()), "namespace": "shop" },
        "spec": { "podSelector": {}, "policyTypes": [direction] },
    })
}

fn ask(snapshot: &Snapshot, source: &str, destination: &str) -> Diagnosis {
    let (source, destination) = (ip(source), ip(destination));
    let flow = Flow { source, destination, port: 8080, protocol: Protocol::Tcp };
    diagnose(snapshot, &Case { flow, dialled: None, at: None, fate: Fate::Asked })
}

type Known = (&'static str, AddressSort, Basis);

/// What a plugin's annotations make of a node of this `podCIDR`, beside its `InternalIP`.
fn by_annotations() -> Vec<(&'static str, Value, &'static [&'static str], Vec<Known>)> {
    let calico = json!({
        "projectcalico.org/IPv4Address": "192.0.2.11/24",
        "projectcalico.org/IPv4VXLANTunnelAddr": "10.61.1.0",
        "projectcalico.org/IPv6VXLANTunnelAddr": "fd61::1:0",
        "projectcalico.org/IPv4WireguardInterfaceAddr": "10.61.1.9",
        "projectcalico.org/VXLANTunnelMACAddr": "66:00:00:00:00:01",
    });
    let calico_of_two_networks = json!({
        "projectcalico.org/IPv4Address": "198.51.100.11/24",
        "projectcalico.org/IPv4IPIPTunnelAddr": "10.61.1.64",
    });
    let flannel = json!({
        "flannel.alpha.coreos.com/backend-type": "vxlan",
        "flannel.alpha.coreos.com/backend-data": "{\"VNI\":1,\"VtepMAC\":\"52:54:00:00:00:01\"}",
        "flannel.alpha.coreos.com/public-ip": "192.0.2.11",
        "flannel.alpha.coreos.com/public-ipv6": "2001:db8::11",
    });
    let host_gw = json!({
        "flannel.alpha.coreos.com/backend-type": "host-gw",
        "flannel.alpha.coreos.com/public-ip": "192.0.2.11",
    });
    let cilium = json!({
        "network.cilium.io/ipv4-cilium-host": "10.0.1.180",
        "network.cilium.io/ipv6-cilium-host": "fd00::1:1f",
        "network.cilium.io/ipv4-health-ip": "10.0.1.22",
        "network.cilium.io/ipv4-pod-cidr": "10.0.1.0/24",
    });
    let older_cilium = json!({ "io.cilium.network.ipv4-cilium-host": "10.0.1.180" });
    let antrea = json!({ "node.antrea.io/transport-addresses": "198.51.100.11,2001:db8::11" });
    let kube_router = json!({ "kube-router.io/pod-cidr": "10.70.1.0/24" });
    let ovn = json!({
        "k8s.ovn.org/node-subnets": "{\"default\":[\"10.128.2.0/23\"],\"blue\":[\"10.20.0.0/24\"]}",
        "k8s.ovn.org/node-primary-ifaddr": "{\"ipv4\":\"192.0.2.11/24\"}",
        "k8s.ovn.org/host-cidrs": "[\"192.0.2.11/24\",\"198.51.100.11/24\",\"169.254.169.2/29\"]",
        "k8s.ovn.org/node-gateway-router-lrp-ifaddrs": "{\"default\":{\"ipv4\":\"100.64.0.3/16\"}}",
        "k8s.ovn.org/node-transit-switch-port-ifaddr": "{\"ipv4\":\"100.88.0.3/16\"}",
        "k8s.ovn.org/l3-gateway-config":
            "{\"default\":{\"mode\":\"shared\",\"mac-address\":\"52:54:00:00:00:01\",\
              \"ip-addresses\":[\"192.0.2.11/24\"],\"next-hops\":[\"192.0.2.1\"]}}",
    });
    vec![
        (
            "Calico",
            calico,
            &["10.61.1.0/24"],
            vec![
                ("10.61.1.0", Tunnel(Some(Calico)), Stated),
                ("fd61::1:0", Tunnel(Some(Calico)), Stated),
                ("10.61.1.9", Tunnel(Some(Calico)), Stated),
            ],
        ),
        (
            "Calico on a node of two networks",
            calico_of_two_networks,
            &[],
            vec![
                ("198.51.100.11", Underlay(Calico), Stated),
                ("10.61.1.64", Tunnel(Some(Calico)), Stated),
            ],
        ),
        (
            "flannel",
            flannel,
            &["10.61.1.0/24", "fd61::1:0/112"],
            vec![
                ("2001:db8::11", Underlay(Flannel), Stated),
                ("10.61.1.0", Tunnel(Some(Flannel)), Derived),
                ("10.61.1.1", Gateway(Some(Flannel)), Derived),
                ("fd61::1:0", Tunnel(Some(Flannel)), Derived),
                ("fd61::1:1", Gateway(Some(Flannel)), Derived),
            ],
        ),
        (
            "flannel without a tunnel",
            host_gw,
            &["10.61.1.0/24"],
            vec![("10.61.1.1", Gateway(Some(Flannel)), Derived)],
        ),
        (
            "Cilium",
            cilium,
            &["10.61.1.0/24"],
            vec![
                ("10.0.1.180", Gateway(Some(Cilium)), Stated),
                ("fd00::1:1f", Gateway(Some(Cilium)), Stated),
            ],
        ),
        (
            "Cilium before 1.13",
            older_cilium,
            &["10.61.1.0/24"],
            vec![("10.0.1.180", Gateway(Some(Cilium)), Stated)],
        ),
        (
            "Antrea",
            antrea,
            &["10.61.1.0/24"],
            vec![
                ("198.51.100.11", Underlay(Antrea), Stated),
                ("2001:db8::11", Underlay(Antrea), Stated),
                ("10.61.1.1", Gateway(Some(Antrea)), Derived),
            ],
        ),
        ("kube-router", kube_router, &[], vec![("10.70.1.1", Gateway(Some(KubeRouter)), Derived)]),
        (
            "OVN-Kubernetes",
            ovn,
            &[],
            vec![
                ("100.64.0.3", Router(OvnKubernetes), Stated),
                ("100.88.0.3", Router(OvnKubernetes), Stated),
                ("198.51.100.11", Interface, Stated),
                ("10.128.2.1", Gateway(Some(OvnKubernetes)), Derived),
                ("10.128.2.2", Management(OvnKubernetes), Derived),
            ],
        ),
        (
            "an unknown plugin",
            json!({ "example.com/x": "10.9.9.9" }),
            &["10.61.1.0/24"],
            vec![("10.61.1.0", Tunnel(None), Convention), ("10.61.1.1", Gateway(None), Convention)],
        ),
        (
            "what is no address",
            json!({
                "projectcalico.org/IPv4VXLANTunnelAddr": "none",
                "k8s.ovn.org/host-cidrs": "[{}, 7, \"x\", \"127.0.0.1/8\", \"fe80::1/64\", \"0.0.0.0\"]",
            }),
            &["10.61.1.0/31"],
            vec![],
        ),
    ]
}

#[test]
fn a_node_has_the_addresses_that_its_plugin_gives_it() {
    for (plugin, annotations, pod_cidrs, expected) in by_annotations() {
        let cluster = cluster([node("alder", &annotations, "192.0.2.11", pod_cidrs)]);
        let snapshot = cluster.snapshot();
        let known = &snapshot.node("alder").expect("the node").addresses;
        let found: Vec<_> = known.iter().map(|k| (k.address, k.sort, k.basis)).collect();
        let internal = ("192.0.2.11", Internal, Stated);
        let expected = [internal].into_iter().chain(expected);
        let expected: Vec<_> =
            expected.map(|(text, sort, basis)| (ip(text), sort, basis)).collect();
        assert_eq!(found, expected, "{plugin}");
        for (address, sort, _) in expected {
            let end = snapshot.resolve(address, None);
            assert!(matches!(end.holder, Holder::Node(_)), "{plugin}: {address}");
            assert_eq!(end.node_address().map(|known| known.sort), Some(sort), "{plugin}");
        }
    }
}

#[test]
fn what_the_node_object_lists_is_what_it_says_there() {
    let mut object = node("alder", &json!({}), "192.0.2.11", &[]);
    let listed = object["status"]["addresses"].as_array_mut().expect("a list");
    listed.push(json!({ "type": "ExternalIP", "address": "203.0.113.11" }));
    listed.push(json!({ "type": "InternalIP", "address": "::ffff:192.0.2.12" }));
    listed.push(json!({ "type": "InternalDNS", "address": "192.0.2.99" }));
    let snapshot = cluster([object]).snapshot();
    let known = &snapshot.node("alder").expect("the node").addresses;
    let found: Vec<_> = known.iter().map(|known| (known.address, known.sort)).collect();
    let expected = [("192.0.2.11", Internal), ("203.0.113.11", External), ("192.0.2.12", Internal)];
    assert_eq!(found, expected.map(|(text, sort)| (ip(text), sort)));
}

#[test]
fn a_pod_holds_an_address_rather_than_the_node_that_would_by_convention() {
    let alder = || node("alder", &json!({}), "192.0.2.11", &["10.61.1.0/24"]);
    let snapshot = cluster([alder(), pod("web", "alder", "10.61.1.1")]).snapshot();
    assert!(matches!(snapshot.resolve(ip("10.61.1.1"), None).holder, Holder::Pod(_)));
    // Where pods are looked up, it is not known before that.
    let mut cluster = Cluster::default();
    cluster.look_up_on_demand();
    apply(&mut cluster, alder());
    let holder = |cluster: &Cluster| cluster.snapshot().resolve(ip("10.61.1.1"), None).holder;
    assert!(matches!(holder(&cluster), Holder::Unknown(_)));
    assert!(cluster.snapshot().is_missing(ip("10.61.1.1"), None, at()));
    let found = LookUp { at: at(), failed: None, scale: None };
    cluster.looked_up(Query::from(ip("10.61.1.1")), found);
    assert!(matches!(holder(&cluster), Holder::Node(_)));
    // What is certain need not be looked up.
    let annotations = json!({ "flannel.alpha.coreos.com/backend-type": "vxlan" });
    apply(&mut cluster, node("birch", &annotations, "192.0.2.12", &["10.61.2.0/24"]));
    assert!(!cluster.snapshot().is_missing(ip("10.61.2.0"), None, at()));
}

#[test]
fn a_guess_is_said_to_be_one() {
    let words = |annotations: &Value, address: &str| {
        let snapshot = cluster([
            node("alder", annotations, "192.0.2.11", &["10.61.1.0/24"]),
            node("birch", &json!({}), "192.0.2.12", &[]),
            pod("web", "birch", "10.61.2.9"),
        ]);
        let diagnosis = ask(&snapshot.snapshot(), address, "10.61.2.9");
        Remark::on(&diagnosis.question).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let flannel = json!({ "flannel.alpha.coreos.com/backend-type": "vxlan" });
    assert_eq!(
        words(&flannel, "10.61.1.0"),
        ["10.61.1.0 is node alder's tunnel address (flannel)"]
    );
    assert_eq!(
        words(&flannel, "10.61.1.1"),
        ["10.61.1.1 is node alder's address on cni0 (flannel)"]
    );
    assert_eq!(
        words(&json!({}), "10.61.1.1"),
        ["10.61.1.1 is node alder's gateway of its pods, by convention of its podCIDR \
         10.61.1.0/24: nothing states it"]
    );
    assert_eq!(words(&json!({}), "192.0.2.11"), [""; 0]);
}

fn cilium_node(name: &str) -> Value {
    json!({
        "apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": { "name": name },
        "spec": {
            "addresses": [
                { "type": "InternalIP", "ip": "192.0.2.11" },
                { "type": "CiliumInternalIP", "ip": "10.0.1.180" },
            ],
            "health": { "ipv4": "10.0.1.22" },
            "ipam": { "podCIDRs": ["10.0.1.0/24"] },
        },
    })
}

#[test]
fn a_plugins_own_object_adds_to_its_node() {
    let mut cluster =
        cluster([cilium_node("alder"), node("alder", &json!({}), "192.0.2.11", &["10.61.1.0/24"])]);
    let is_node = |cluster: &Cluster, address: &str| {
        matches!(cluster.snapshot().resolve(ip(address), None).holder, Holder::Node(_))
    };
    assert!(is_node(&cluster, "10.0.1.180"));
    // Cilium takes other addresses than the first.
    assert!(!is_node(&cluster, "10.61.1.1"));
    // The health endpoint is in a network of its own, and nobody's as far as the objects say.
    let health = cluster.snapshot().resolve(ip("10.0.1.22"), None).holder;
    assert!(matches!(health, Holder::Unknown(_)), "{health:?}");
    let kind = Kind::PluginNode(PluginNodeKind::Cilium);
    let key = Key { kind, namespace: None, name: "alder".into() };
    cluster.delete(&key, at());
    assert!(!is_node(&cluster, "10.0.1.180") && is_node(&cluster, "10.61.1.1"));
    cluster.delete(&Key { kind: Kind::Node, ..key }, at());
    assert!(!is_node(&cluster, "192.0.2.11"));
}

#[test]
fn calicos_own_node_is_read_where_manifests_hold_it() {
    let own = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": { "name": "alder" },
        "spec": {
            "addresses": [{ "address": "192.0.2.11/24", "type": "CalicoNodeIP" }],
            "bgp": { "ipv4Address": "192.0.2.11/24", "ipv4IPIPTunnelAddr": "10.61.1.64" },
            "ipv4VXLANTunnelAddr": "10.61.1.0",
            "wireguard": { "interfaceIPv4Address": "10.61.1.9" },
            "orchRefs": [{ "nodeName": "alder", "orchestrator": "k8s" }],
        },
    });
    let snapshot = cluster([own, node("alder", &json!({}), "192.0.2.11", &[])]).snapshot();
    for address in ["10.61.1.64", "10.61.1.0", "10.61.1.9"] {
        let end = snapshot.resolve(ip(address), None);
        let sort = end.node_address().map(|known| known.sort);
        assert_eq!(sort, Some(Tunnel(Some(Calico))), "{address}");
    }
}

#[test]
fn an_address_of_an_interface_is_its_nodes_as_long_as_it_is_there() {
    let mut cluster = cluster([node("alder", &json!({}), "192.0.2.11", &[])]);
    let local = |addresses: &[&str]| Addresses {
        local: addresses.iter().map(|text| ip(text)).collect(),
        routed: BTreeSet::new(),
    };
    cluster.set_addresses(&"alder".into(), local(&["127.0.0.1", "192.0.2.11", "10.61.1.1"]));
    let end = |cluster: &Cluster, address: &str| cluster.snapshot().resolve(ip(address), None);
    let known = end(&cluster, "10.61.1.1").node_address().map(|known| known.sort);
    assert_eq!(known, Some(Interface));
    let known = end(&cluster, "192.0.2.11").node_address().map(|known| known.sort);
    assert_eq!(known, Some(Internal));
    cluster.set_addresses(&"alder".into(), local(&["127.0.0.1"]));
    assert_eq!(end(&cluster, "10.61.1.1").holder, Holder::Outside);
    // The Node object lists it still.
    assert!(matches!(end(&cluster, "192.0.2.11").holder, Holder::Node(_)));
}

#[test]
fn what_an_interface_of_every_node_has_keeps_its_meaning() {
    let mut cluster = cluster([node("alder", &json!({}), "192.0.2.11", &[])]);
    let local = ["192.0.2.11", "169.254.20.10", "169.254.170.23", "169.254.3.4"];
    let addresses =
        Addresses { local: local.iter().map(|text| ip(text)).collect(), routed: BTreeSet::new() };
    cluster.set_addresses(&"alder".into(), addresses);
    let snapshot = cluster.snapshot();
    for (address, is_alike) in
        [("169.254.20.10", true), ("169.254.170.23", true), ("169.254.3.4", false)]
    {
        let end = snapshot.resolve(ip(address), None);
        assert_eq!(end.known_address().is_some(), is_alike, "{address}: {end}");
        assert_eq!(matches!(end.holder, Holder::Node(_)), !is_alike, "{address}: {end}");
    }
}

/// By which addresses a node with these annotations reaches pods of its own and of another.
fn sources(annotations: &Value, pod_cidrs: &[&str]) -> [Vec<String>; 2] {
    let cluster = cluster([
        node("alder", annotations, "192.0.2.11", pod_cidrs),
        node("birch", &json!({}), "192.0.2.12", &[]),
        pod("own", "alder", "10.61.1.9"),
        pod("other", "birch", "10.61.2.9"),
    ]);
    let snapshot = cluster.snapshot();
    ["10.61.1.9", "10.61.2.9"].map(|to| {
        let to = snapshot.resolve(ip(to), None);
        let alder = snapshot.node("alder").expect("the node");
        let sources = snapshot.sources_of_node(alder, &to);
        sources.iter().map(Endpoint::address_text).collect()
    })
}

#[test]
fn a_nodes_own_packets_have_the_addresses_of_the_ways_that_its_plugin_has() {
    let expected: [(&str, &[&str], &[&str]); 11] = [
        ("Calico", &["192.0.2.11"], &["10.61.1.0", "10.61.1.9", "192.0.2.11"]),
        (
            "Calico on a node of two networks",
            &["192.0.2.11"],
            &["10.61.1.64", "192.0.2.11", "198.51.100.11"],
        ),
        ("flannel", &["10.61.1.1"], &["10.61.1.0"]),
        ("flannel without a tunnel", &["10.61.1.1"], &["192.0.2.11"]),
        ("Cilium", &["10.0.1.180"], &["10.0.1.180", "192.0.2.11"]),
        ("Cilium before 1.13", &["10.0.1.180"], &["10.0.1.180", "192.0.2.11"]),
        ("Antrea", &["10.61.1.1"], &["10.61.1.1", "192.0.2.11", "198.51.100.11"]),
        ("kube-router", &["10.70.1.1"], &["192.0.2.11"]),
        ("OVN-Kubernetes", &["10.128.2.2"], &["10.128.2.2"]),
        ("an unknown plugin", &["192.0.2.11"], &["192.0.2.11"]),
        ("what is no address", &["192.0.2.11"], &["192.0.2.11"]),
    ];
    for ((plugin, annotations, pod_cidrs, _), (name, own, other)) in
        by_annotations().into_iter().zip(expected)
    {
        assert_eq!(plugin, name);
        let [to_own, to_other] = sources(&annotations, pod_cidrs);
        assert_eq!((to_own, to_other), (strings(own), strings(other)), "{plugin}");
    }
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

fn shop() -> Cluster {
    cluster([
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } }),
        pod("web", "alder", "10.61.1.9"),
        isolating("Egress"),
        isolating("Ingress"),
    ])
}

#[test]
fn loopback_is_never_judged() {
    let snapshot = shop().snapshot();
    for address in ["127.0.0.1", "127.8.8.8", "::ffff:127.0.0.1"] {
        let diagnosis = ask(&snapshot, "10.61.1.9", address);
        assert_eq!(diagnosis.verdict.decision(), Decision::NotIsolated, "{address}");
        assert_eq!(diagnosis.cause.class, Class::None, "{address}");
        let words = "no policy sees it: 127.";
        assert!(diagnosis.cause.text.starts_with(words), "{}", diagnosis.cause.text);
    }
    let from_loopback = ask(&snapshot, "127.0.0.1", "10.61.1.9");
    assert_eq!(from_loopback.verdict.decision(), Decision::Unknown);
}

#[test]
fn what_is_no_hosts_address_is_not_judged_and_said_so() {
    let snapshot = shop().snapshot();
    for address in ["0.0.0.0", "255.255.255.255", "224.0.0.251"] {
        let diagnosis = ask(&snapshot, "10.61.1.9", address);
        assert_eq!(diagnosis.cause.class, Class::CannotTell, "{address}");
        let words = "policies do not judge it";
        assert!(diagnosis.cause.text.contains(words), "{}", diagnosis.cause.text);
    }
}

#[test]
fn an_address_with_a_meaning_is_judged_and_has_it_in_words() {
    let snapshot = shop().snapshot();
    for (source, destination, words) in [
        ("10.61.1.9", "169.254.20.10", "169.254.20.10 is where the node-local DNS cache"),
        ("10.61.1.9", "169.254.169.254", "169.254.169.254 is the cloud's metadata service"),
        ("169.254.7.127", "10.61.1.9", "169.254.7.127 is the source that Istio's ambient mode"),
    ] {
        let diagnosis = ask(&snapshot, source, destination);
        assert_eq!(diagnosis.verdict.decision(), Decision::Denied, "{words}");
        let remarks: Vec<_> =
            Remark::on(&diagnosis.question).iter().map(Remark::to_string).collect();
        assert!(remarks.iter().any(|remark| remark.starts_with(words)), "{remarks:?}");
    }
    // Nobody holds them, so that nobody is asked.
    let mut cluster = Cluster::default();
    cluster.look_up_on_demand();
    let snapshot = cluster.snapshot();
    assert!(!snapshot.is_missing(ip("169.254.169.254"), None, at()));
    assert_eq!(snapshot.resolve(ip("169.254.169.254"), None).holder, Holder::Outside);
}

fn on_two_networks() -> Cluster {
    let mut object = pod("press", "alder", "10.61.1.8");
    object["metadata"]["annotations"] = json!({
        "k8s.v1.cni.cncf.io/network-status": json!([
            { "name": "cbr0", "interface": "eth0", "ips": ["10.61.1.8"], "default": true },
            { "name": "plant/machines", "interface": "net1", "ips": ["198.51.100.8"] },
        ]).to_string(),
    });
    let mut cluster = shop();
    apply(&mut cluster, object);
    cluster
}

#[test]
fn a_second_network_is_not_governed() {
    let mut cluster = on_two_networks();
    let snapshot = cluster.snapshot();
    let diagnosis = ask(&snapshot, "203.0.113.7", "198.51.100.8");
    assert_eq!(diagnosis.verdict.decision(), Decision::NotIsolated);
    let remarks: Vec<_> = Remark::on(&diagnosis.question).iter().map(Remark::to_string).collect();
    assert_eq!(
        remarks,
        [
            "198.51.100.8 is pod shop/press's on network plant/machines: a second network, which is not \
         governed by NetworkPolicy"
        ]
    );
    // What another pod sends there leaves by its own default network, whose policies go by addresses.
    let diagnosis = ask(&snapshot, "10.61.1.9", "198.51.100.8");
    assert_eq!(diagnosis.verdict.egress.decision, Decision::Denied);
    assert_eq!(diagnosis.verdict.ingress.decision, Decision::NotIsolated);
    // On the default network all is as ever.
    assert_eq!(ask(&snapshot, "203.0.113.7", "10.61.1.8").verdict.decision(), Decision::Denied);
    let key = Key { kind: Kind::Pod, namespace: Some("shop".into()), name: "press".into() };
    cluster.delete(&key, at());
    let later = at() + SignedDuration::from_hours(1);
    let end = cluster.snapshot().resolve(ip("198.51.100.8"), Some(later));
    assert_eq!(end.holder, Holder::Outside);
}

fn pool(field: &str, mode: &str) -> Value {
    json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool",
        "metadata": { "name": format!("pods-{field}") },
        "spec": { "cidr": "10.61.0.0/16", field: mode, "natOutgoing": true, "blockSize": 26 },
    })
}

/// By which addresses a node reaches a pod of another, whose `InternalIP` this is.
fn sources_by_pool(pools: Vec<Value>, other: &str) -> Vec<String> {
    let calico = json!({
        "projectcalico.org/IPv4Address": "192.0.2.11/25",
        "projectcalico.org/IPv4VXLANTunnelAddr": "10.61.1.0",
    });
    let mut cluster = cluster([
        node("alder", &calico, "192.0.2.11", &[]),
        node("birch", &json!({}), other, &[]),
        pod("other", "birch", "10.61.2.9"),
    ]);
    for pool in pools {
        apply(&mut cluster, pool);
    }
    let snapshot = cluster.snapshot();
    let to = snapshot.resolve(ip("10.61.2.9"), None);
    let sources = snapshot.sources_of_node(snapshot.node("alder").expect("the node"), &to);
    sources.iter().map(Endpoint::address_text).collect()
}

#[test]
fn the_pool_of_a_pod_says_whether_calicos_tunnel_leads_to_it() {
    let (tunnel, direct) = ("10.61.1.0", "192.0.2.11");
    let near = "192.0.2.12";
    for (pools, other, expected) in [
        (vec![], near, &[tunnel, direct][..]),
        (vec![pool("vxlanMode", "Always")], near, &[tunnel]),
        (vec![pool("ipipMode", "Always")], near, &[tunnel]),
        (vec![pool("vxlanMode", "Never")], near, &[direct]),
        (vec![pool("vxlanMode", "CrossSubnet")], near, &[direct]),
        (vec![pool("vxlanMode", "CrossSubnet")], "192.0.2.212", &[tunnel]),
        // Of another network.
        (
            vec![json!({
                "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "x" },
                "spec": { "cidr": "10.62.0.0/16", "vxlanMode": "Always" },
            })],
            near,
            &[tunnel, direct],
        ),
    ] {
        let of = format!("{pools:?} {other}");
        assert_eq!(sources_by_pool(pools, other), strings(expected), "{of}");
    }
    let row = kinds::named("projectcalico.org/v3", "IPPool").expect("a row");
    let refused = row.decode(pool("vxlanMode", "Sometimes"), "projectcalico.org/v3");
    let why = refused.expect_err("no such mode").to_string();
    assert!(why.starts_with("spec.vxlanMode: expected Always"), "{why}");
}

/// The pod behind a veth has what the kernel routes there alone, and what its object says, however that is
/// routed; an annotation of its maker's counts for no address of anybody else's.
#[test]
fn the_pod_object_says_which_addresses_are_behind_a_veth() {
    let own = |name: &str, addresses: [&str; 2], beside: &str| {
        let status = json!([{ "name": "shop/second", "interface": "net1", "ips": [beside] }]);
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "shop", "annotations":
                { "k8s.v1.cni.cncf.io/network-status": status.to_string() } },
            "spec": { "nodeName": "worker-1" },
            "status": { "phase": "Running", "podIP": addresses[0],
                "podIPs": addresses.map(|ip| json!({ "ip": ip })) },
        })
    };
    let mut cluster = cluster([
        own("victim", ["10.7.0.10", "fd78::10"], "192.0.2.10"),
        // It claims the other's addresses, and one that is nobody's.
        own("evil", ["10.7.0.12", "fd78::12"], "fd78::10"),
        own("worse", ["10.7.0.13", "fd78::13"], "10.7.0.10"),
    ]);
    let routed = ["10.7.0.10", "10.7.0.12", "10.7.0.13"].map(ip);
    let addresses = Addresses { routed: routed.into(), ..Addresses::default() };
    cluster.set_addresses(&"worker-1".into(), addresses);
    let snapshot = cluster.snapshot();
    for (route, expected) in [
        ("10.7.0.10", ["10.7.0.10", "fd78::10", "192.0.2.10"].map(ip).into()),
        ("10.7.0.12", BTreeSet::from(["10.7.0.12", "fd78::12"].map(ip))),
        ("10.7.0.13", ["10.7.0.13", "fd78::13"].map(ip).into()),
        // Who is behind it is not known yet.
        ("10.7.0.14", ["10.7.0.14"].map(ip).into()),
    ] {
        let interface =
            NodeInterface { name: "veth".into(), addresses: vec![ip(route)], since: None };
        assert_eq!(snapshot.addresses_behind(&interface), expected, "{route}");
    }
    let unknown = NodeInterface { name: "veth".into(), addresses: Vec::new(), since: None };
    assert_eq!(snapshot.addresses_behind(&unknown), BTreeSet::new());
}
