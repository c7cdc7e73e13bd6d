//! Which engine enforces: what shows it, and what it changes of a flow.

use std::net::IpAddr;

use serde_json::{Value, json};
use whydrop_core::{
    cluster::{
        Cluster, Snapshot,
        object::Object,
        profile::{
            Engine, EngineName, Version,
            detect::{detect, of_served, signs, unreadable_switch},
        },
    },
    diagnosis::{Class, diagnose},
    flow::Protocol,
    kinds,
    verdict::{
        Decision, Question, SeenBy, evaluate,
        remarks::{Remark, remarks},
    },
};

use crate::build::{address, case, namespace, pod};

#[expect(clippy::needless_pass_by_value, reason = "callers write the value where they call")]
fn node(annotations: Value, labels: Value, kubelet: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "n1", "annotations": annotations, "labels": labels },
        "status": { "nodeInfo": { "kubeletVersion": kubelet } },
    })
}

fn daemon_set(place: &str, image: &str) -> Value {
    let (namespace, name) = place.split_once('/').expect("a namespace");
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "template": { "spec": { "containers": [{ "image": image }] } } },
    })
}

/// The agent's pod on a node, as its agent sees it.
fn agent_pod(set: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{set}-x2x4z"), "namespace": "kube-system",
            "ownerReferences": [{ "kind": "DaemonSet", "name": set }],
        },
        "spec": { "containers": [{ "image": "registry.k8s.io/pause:3.9" }, { "image": image }] },
    })
}

fn aws_node(flag: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "name": "aws-node", "namespace": "kube-system" },
        "spec": { "template": { "spec": { "containers": [
            { "image": "602401143452.dkr.ecr.eu-west-1.amazonaws.com/amazon-k8s-cni:v1.19.2" },
            {
                "image": "602401143452.dkr.ecr.eu-west-1.amazonaws.com/amazon/aws-network-policy-agent:v1.2.1",
                "args": ["--enable-ipv6=false", flag],
            },
        ] } } },
    })
}

fn config_map(value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "amazon-vpc-cni", "namespace": "kube-system" },
        "data": { "enable-network-policy-controller": value },
    })
}

fn of(objects: &[Value]) -> Engine {
    let signs: Vec<_> = objects.iter().flat_map(signs).collect();
    detect(&signs)
}

#[test]
fn each_engine_shows_by_its_agent_and_its_version_by_the_image() {
    let version = |major, minor| Some(Version(major, minor));
    for (place, image, name, expected) in [
        (
            "calico-system/calico-node",
            "quay.io/calico/node:v3.30.2",
            EngineName::Calico,
            version(3, 30),
        ),
        (
            "kube-system/canal",
            "rancher/hardened-calico:v3.28.1-build20240910",
            EngineName::Calico,
            version(3, 28),
        ),
        (
            "kube-system/cilium",
            "quay.io/cilium/cilium:v1.18.2@sha256:858f",
            EngineName::Cilium,
            version(1, 18),
        ),
        (
            "kube-system/antrea-agent",
            "antrea/antrea-agent-ubuntu:v2.5.0",
            EngineName::Antrea,
            version(2, 5),
        ),
        (
            "ovn-kubernetes/ovnkube-node",
            "ghcr.io/ovn-kubernetes/ovn-kubernetes/ovn-kube-ubuntu:master",
            EngineName::OvnKubernetes,
            None,
        ),
        (
            "openshift-ovn-kubernetes/ovnkube-node",
            "quay.io/openshift-release-dev/ocp-v4.0-art-dev@sha256:1f",
            EngineName::Openshift,
            None,
        ),
        (
            "kube-system/anetd",
            "gke.gcr.io/cilium/cilium:v1.15.6-gke.31",
            EngineName::GkeDataplaneV2,
            None,
        ),
        (
            "kube-system/kube-router",
            "docker.io/cloudnativelabs/kube-router:v2.6.1",
            EngineName::KubeRouter,
            version(2, 6),
        ),
        (
            "kube-system/kindnet",
            "docker.io/kindest/kindnetd:v20250512-df8de77b",
            EngineName::KubeNetworkPolicies,
            None,
        ),
        (
            "kube-system/kube-network-policies",
            "registry.k8s.io/networking/kube-network-policies:v1.0.0",
            EngineName::KubeNetworkPolicies,
            version(1, 0),
        ),
        (
            "kube-flannel/kube-flannel-ds",
            "ghcr.io/flannel-io/flannel:v0.27.0",
            EngineName::Flannel,
            version(0, 27),
        ),
        (
            "kube-system/azure-npm",
            "mcr.microsoft.com/containernetworking/azure-npm:v1.6.29",
            EngineName::AzureNpm,
            version(1, 6),
        ),
        ("kube-system/weave-net", "weaveworks/weave-npc:2.8.1", EngineName::Weave, version(2, 8)),
    ] {
        let by_set = of(&[daemon_set(place, image)]);
        assert_eq!((by_set.name, by_set.version), (name, expected), "{place}");
        assert_eq!(*by_set.evidence, format!("DaemonSet {place}"));
        let (_, set) = place.split_once('/').expect("a name");
        if name != EngineName::Openshift {
            assert_eq!(of(&[agent_pod(set, image)]).name, name, "the pod of {place}");
        }
    }
    // One that enforced nothing yet, and one that no node wants.
    assert_eq!(
        of(&[daemon_set("kube-system/kindnet", "kindest/kindnetd:v20230511-dc714da8")]).name,
        EngineName::Unknown
    );
    let mut idle = daemon_set("kube-system/cilium", "quay.io/cilium/cilium:v1.18.2");
    idle["status"] = json!({ "desiredNumberScheduled": 0 });
    assert_eq!(of(&[idle]).name, EngineName::Unknown);
}

#[test]
fn each_engine_shows_by_what_it_writes_and_keeps() {
    let marked = |annotation: &str| node(json!({ annotation: "x" }), json!({}), "v1.34.1");
    let openshift = node(
        json!({ "k8s.ovn.org/node-subnets": "{}" }),
        json!({ "node.openshift.io/os_id": "rhel" }),
        "v1.33.5",
    );
    let kept = |api_version: &str, kind: &str, more: Value| {
        let mut object =
            json!({ "apiVersion": api_version, "kind": kind, "metadata": { "name": "default" } });
        object.as_object_mut().expect("fields").extend(more.as_object().cloned().expect("fields"));
        object
    };
    let version = |major, minor| Some(Version(major, minor));
    for (object, name, expected) in [
        (marked("projectcalico.org/IPv4Address"), EngineName::Calico, None),
        (marked("network.cilium.io/ipv4-cilium-host"), EngineName::Cilium, None),
        (marked("io.cilium.network.ipv4-pod-cidr"), EngineName::Cilium, None),
        (marked("k8s.ovn.org/node-subnets"), EngineName::OvnKubernetes, None),
        (openshift, EngineName::Openshift, None),
        (marked("node.antrea.io/mac-address"), EngineName::Antrea, None),
        (marked("kube-router.io/peer.ips"), EngineName::KubeRouter, None),
        (node(json!({}), json!({}), "v1.33.4+k3s1"), EngineName::KubeRouter, None),
        (
            node(
                json!({ "k3s.io/node-args": "[\"server\",\"--disable-network-policy\"]" }),
                json!({}),
                "v1.33.4+k3s1",
            ),
            EngineName::Unknown,
            None,
        ),
        (kept("cilium.io/v2", "CiliumNode", json!({})), EngineName::Cilium, None),
        (
            kept(
                "operator.tigera.io/v1",
                "Installation",
                json!({ "status": { "calicoVersion": "v3.31.3" } }),
            ),
            EngineName::Calico,
            version(3, 31),
        ),
        (
            kept(
                "crd.projectcalico.org/v1",
                "ClusterInformation",
                json!({ "spec": { "calicoVersion": "v3.28.0" } }),
            ),
            EngineName::Calico,
            version(3, 28),
        ),
        (
            kept(
                "projectcalico.org/v3",
                "ClusterInformation",
                json!({ "spec": { "calicoVersion": "v3.32.1" } }),
            ),
            EngineName::Calico,
            version(3, 32),
        ),
        (
            kept(
                "crd.antrea.io/v1beta1",
                "AntreaControllerInfo",
                json!({ "version": "v2.6.0-2a3f" }),
            ),
            EngineName::Antrea,
            version(2, 6),
        ),
        (
            kept(
                "operator.openshift.io/v1",
                "Network",
                json!({ "spec": { "defaultNetwork": { "type": "OVNKubernetes" } } }),
            ),
            EngineName::Openshift,
            None,
        ),
        (
            kept("networking.k8s.aws/v1alpha1", "PolicyEndpoint", json!({})),
            EngineName::AwsVpcCni,
            None,
        ),
        (kept("cilium.io/v2", "CiliumNetworkPolicy", json!({})), EngineName::Cilium, None),
        (kept("projectcalico.org/v3", "GlobalNetworkPolicy", json!({})), EngineName::Calico, None),
        (kept("networking.k8s.io/v1", "NetworkPolicy", json!({})), EngineName::Unknown, None),
    ] {
        let engine = of(std::slice::from_ref(&object));
        assert_eq!((engine.name, engine.version), (name, expected), "{object}");
    }
    // The version of one object, and the evidence of a stronger sign.
    let engine = of(&[
        kept(
            "crd.projectcalico.org/v1",
            "ClusterInformation",
            json!({ "spec": { "calicoVersion": "v3.29.1" } }),
        ),
        daemon_set("calico-system/calico-node", "registry.example/calico/node@sha256:77"),
    ]);
    assert_eq!(
        (engine.to_string().as_str(), &*engine.evidence),
        ("Calico 3.29", "DaemonSet calico-system/calico-node")
    );
    // GKE's is that of Kubernetes.
    let engine = of(&[
        daemon_set("kube-system/anetd", "gke.gcr.io/cilium/cilium:v1.15.6-gke.31"),
        node(json!({}), json!({}), "v1.36.0-gke.1200"),
    ]);
    assert_eq!(engine.to_string(), "GKE Dataplane V2 1.36");
}

#[test]
fn what_only_carries_packets_gives_way_and_what_is_left_over_too() {
    let flannel =
        || daemon_set("kube-flannel/kube-flannel-ds", "ghcr.io/flannel-io/flannel:v0.27.0");
    let calico = || daemon_set("kube-system/calico-node", "docker.io/calico/node:v3.28.0");
    let cilium = || daemon_set("kube-system/cilium", "quay.io/cilium/cilium:v1.18.2");
    let marked =
        node(json!({ "flannel.alpha.coreos.com/backend-type": "vxlan" }), json!({}), "v1.34.1");
    let crd = json!({ "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": { "name": "p" } });
    assert_eq!(of(&[flannel(), calico()]).name, EngineName::Calico);
    assert_eq!(
        of(&[
            flannel(),
            daemon_set("kube-system/kube-router", "cloudnativelabs/kube-router:v2.6.1")
        ])
        .name,
        EngineName::KubeRouter
    );
    assert_eq!(of(&[aws_node("--enable-network-policy=false"), calico()]).name, EngineName::Calico);
    assert_eq!(of(&[cilium(), crd]).name, EngineName::Cilium);
    assert_eq!(
        of(&[cilium(), node(json!({}), json!({}), "v1.33.4+k3s1")]).name,
        EngineName::Cilium
    );
    // Others that use it leave its marks as well, and enforce policies.
    let unknown = of(std::slice::from_ref(&marked));
    assert_eq!(unknown.name, EngineName::Unknown);
    assert!(unknown.evidence.contains("flannel"), "{}", unknown.evidence);
    assert_eq!(of(&[marked, flannel()]).name, EngineName::Flannel);
    // Two that both run, or both are only served.
    let several = of(&[calico(), cilium()]);
    assert_eq!(several.name, EngineName::Unknown);
    assert!(
        several.evidence.starts_with("several engines show: Calico by"),
        "{}",
        several.evidence
    );
    let served: Vec<_> =
        ["cilium.io", "projectcalico.org"].into_iter().filter_map(of_served).collect();
    assert_eq!(detect(&served).name, EngineName::Unknown);
    assert_eq!(detect(&served[..1]).name, EngineName::Cilium);
    assert_eq!(detect(&[]), Engine::default());
}

#[test]
fn aws_enforces_where_it_is_set_up_to() {
    let auto =
        || node(json!({}), json!({ "eks.amazonaws.com/compute-type": "auto" }), "v1.34.1-eks-abc");
    for (objects, name, enforces) in [
        (vec![aws_node("--enable-network-policy=true")], EngineName::AwsVpcCni, true),
        (vec![aws_node("--enable-network-policy=false")], EngineName::AwsVpcCni, false),
        (vec![auto()], EngineName::EksAuto, false),
        (vec![auto(), config_map("false")], EngineName::EksAuto, false),
        (vec![auto(), config_map("true")], EngineName::EksAuto, true),
        (vec![auto(), aws_node("--enable-network-policy=true")], EngineName::AwsVpcCni, true),
    ] {
        let engine = of(&objects);
        assert_eq!(
            (engine.name, engine.profile().policies.is_in_force()),
            (name, enforces),
            "{objects:?}"
        );
    }
    // What may not be read is no answer: taken as enforced.
    let mut unreadable = signs(&auto());
    unreadable.push(unreadable_switch());
    let engine = detect(&unreadable);
    assert_eq!(engine.name, EngineName::EksAuto);
    assert!(engine.profile().policies.is_in_force());
}

/// Pods shop/web and shop/db and node n1, which db runs on; policies as they are written.
fn cluster(engine: &str, policies: &[Value]) -> Snapshot {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("shop", &[]), None);
    cluster.apply(namespace("openshift-host-network", &[("host", "yes")]), None);
    for (name, last) in [("web", 10), ("db", 20)] {
        let mut pod = pod("shop", name, last, &[("app", name)]);
        pod.node = Some("n1".into());
        cluster.apply(Object::Pod(pod), None);
    }
    let node = |name: &str, last: u8| {
        json!({
            "metadata": { "name": name },
            "status": { "addresses": [{ "type": "InternalIP", "address": format!("10.1.0.{last}") }] },
        })
    };
    let mut read = |api_version: &str, kind: &str, object: Value| {
        let row = kinds::named(api_version, kind).expect("a kind");
        let object = row.decode(object, api_version).expect("well-formed").expect("read");
        cluster.apply(object, None);
    };
    read("v1", "Node", node("n1", 1));
    read("v1", "Node", node("n2", 2));
    for policy in policies {
        let text = |field: &str| policy[field].as_str().expect("a type");
        read(text("apiVersion"), text("kind"), policy.clone());
    }
    if !engine.is_empty() {
        cluster.give_engine(Engine::read(engine).expect("an engine"));
    }
    cluster.snapshot()
}

#[expect(clippy::needless_pass_by_value, reason = "callers write the value where they call")]
fn policy(spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "p", "namespace": "shop" }, "spec": spec,
    })
}

fn question(snapshot: &Snapshot, from: IpAddr, to: IpAddr) -> Question {
    Question {
        source: snapshot.resolve(from, None),
        destination: snapshot.resolve(to, None),
        port: 5432,
        protocol: Protocol::Tcp,
        seen_by: SeenBy::Both,
    }
}

const WEB: u8 = 10;
const DB: u8 = 20;
const N1: u8 = 1;
const N2: u8 = 2;

/// Whether a flow passes, what is exempt included.
fn passes(engine: &str, policies: &[Value], from: u8, to: u8) -> bool {
    let snapshot = cluster(engine, policies);
    let verdict = evaluate(&snapshot, &question(&snapshot, address(from), address(to)));
    verdict.exempt.is_some() || verdict.decision().lets_pass()
}

#[test]
fn engines_differ_in_whom_a_block_matches() {
    let block = || {
        [policy(json!({
            "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Egress"],
            "egress": [{ "to": [{ "ipBlock": { "cidr": "10.0.0.0/8" } }] }],
        }))]
    };
    for (engine, expected) in [
        ("", true),
        ("calico", true),
        ("ovn-kubernetes", true),
        ("antrea", true),
        ("cilium", false),
        ("cilium@1.18", false),
        ("gke", false),
    ] {
        assert_eq!(passes(engine, &block(), WEB, DB), expected, "a pod, {engine}");
        assert_eq!(passes(engine, &block(), WEB, N2), expected, "a node, {engine}");
    }
    let snapshot = cluster("cilium", &block());
    let outside = question(&snapshot, address(WEB), [10, 200, 0, 1].into());
    assert!(evaluate(&snapshot, &outside).decision().lets_pass());
    // Said where it decided, and nowhere else.
    let inside = question(&snapshot, address(WEB), address(DB));
    let said: Vec<String> = remarks(&snapshot, &inside).iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["ipBlock matches no pod and no node of the cluster, with Cilium (by --engine)"]
    );
    assert_eq!(remarks(&snapshot, &outside), []);
    // The nearest miss is the block, and no remedy is made of it that would not help.
    let judged = diagnose(&snapshot, &case(address(WEB), address(DB), 5432));
    assert_eq!(judged.cause.class, Class::IpBlockMismatch);
    // Without an engine it is a remark.
    let snapshot = cluster("", &block());
    let said = remarks(&snapshot, &question(&snapshot, address(WEB), address(DB)));
    let [Remark::OtherEngines { engines, .. }] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(*engines, ["Cilium", "GKE Dataplane V2"]);
}

#[test]
fn engines_differ_in_a_pods_own_node() {
    let nothing = || [policy(json!({ "podSelector": {}, "policyTypes": ["Ingress", "Egress"] }))];
    for (engine, to_node) in [
        ("", true),
        ("weave", true),
        ("aws-vpc-cni", true),
        ("azure-npm", true),
        ("calico", false),
        ("cilium", false),
        ("antrea", false),
        ("ovn-kubernetes", false),
        ("kube-router", false),
    ] {
        assert!(passes(engine, &nothing(), N1, DB), "{engine}: from the node");
        assert_eq!(passes(engine, &nothing(), DB, N1), to_node, "{engine}: to the node");
        assert!(!passes(engine, &nothing(), N2, DB), "{engine}: from another node");
    }
}

#[test]
fn engines_differ_in_what_a_pod_sends_to_itself_through_a_service() {
    let nothing = || [policy(json!({ "podSelector": {}, "policyTypes": ["Ingress"] }))];
    for (engine, expected) in [("", true), ("cilium", true), ("calico", false)] {
        let snapshot = cluster(engine, &nothing());
        let direct = question(&snapshot, address(DB), address(DB));
        let through = Question { seen_by: SeenBy::Hairpin, ..direct.clone() };
        assert!(
            evaluate(&snapshot, &direct).exempt.is_some(),
            "{engine}: it does not leave the pod"
        );
        assert_eq!(evaluate(&snapshot, &through).exempt.is_some(), expected, "{engine}");
    }
    // Without an engine it is a remark.
    let snapshot = cluster("", &nothing());
    let through =
        Question { seen_by: SeenBy::Hairpin, ..question(&snapshot, address(DB), address(DB)) };
    let said: Vec<String> = remarks(&snapshot, &through).iter().map(ToString::to_string).collect();
    let expected =
        "it would be denied where what a pod sends to itself through a Service is policed";
    assert!(said.iter().any(|said| said.contains(expected)), "{said:?}");
}

#[test]
fn engines_differ_in_rules_of_a_direction_that_the_types_leave_out() {
    let undeclared = || {
        [policy(json!({
            "podSelector": { "matchLabels": { "app": "web" } }, "policyTypes": ["Ingress"],
            "ingress": [{}], "egress": [{ "to": [{ "podSelector": { "matchLabels": { "app": "cache" } } }] }],
        }))]
    };
    for (engine, expected) in [
        ("", true),
        ("calico", true),
        ("ovn-kubernetes", true),
        ("cilium", false),
        ("antrea", false),
    ] {
        assert_eq!(passes(engine, &undeclared(), WEB, DB), expected, "{engine}");
    }
}

#[test]
fn openshift_counts_nodes_that_connect_as_pods_of_a_namespace() {
    let from_hosts = || {
        [policy(json!({
            "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": [{ "namespaceSelector": { "matchLabels": { "host": "yes" } } }] }],
            "egress": [{ "to": [{ "namespaceSelector": { "matchLabels": { "host": "yes" } } }] }],
        }))]
    };
    assert!(passes("openshift", &from_hosts(), N2, DB));
    assert!(!passes("calico", &from_hosts(), N2, DB) && !passes("", &from_hosts(), N2, DB));
    // It is who connects that counts so.
    assert!(!passes("openshift", &from_hosts(), DB, N2));
}

#[test]
fn an_admin_policy_is_not_blamed_where_nobody_enforces_it() {
    let deny = || {
        [json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy",
            "metadata": { "name": "corp" },
            "spec": {
                "priority": 5, "subject": { "namespaces": {} },
                "ingress": [{ "action": "Deny", "from": [{ "namespaces": {} }] }],
            },
        })]
    };
    for (engine, expected) in [
        ("", false),
        ("calico@3.30", false),
        ("ovn-kubernetes", false),
        ("calico", false),
        ("calico@3.32", true),
        ("calico@3.28", true),
        ("cilium", true),
        ("antrea", true),
        ("gke", true),
    ] {
        assert_eq!(passes(engine, &deny(), WEB, DB), expected, "{engine}");
    }
    let said = |engine: &str| -> Vec<String> {
        let snapshot = cluster(engine, &deny());
        let question = question(&snapshot, address(WEB), address(DB));
        remarks(&snapshot, &question).iter().map(ToString::to_string).collect()
    };
    assert!(said("calico@3.32").contains(
        &"AdminNetworkPolicy corp is not in force: Calico 3.32 does not enforce it (by --engine)".to_owned()
    ));
    assert!(said("antrea").iter().any(|said| said.contains("does not enforce it by default")));
    let unknown = said("").join("\n");
    assert!(
        unknown.contains("Calico before 3.29") && unknown.contains("Calico from 3.32 on"),
        "{unknown}"
    );
}

#[test]
fn an_engine_that_enforces_nothing_lets_pass_what_policies_deny() {
    let nothing = || [policy(json!({ "podSelector": {} }))];
    for (engine, said) in
        [("flannel", "enforces none of them"), ("eks-auto", "before it is set up to")]
    {
        let snapshot = cluster(engine, &nothing());
        let judged = diagnose(&snapshot, &case(address(WEB), address(DB), 5432));
        assert_eq!(judged.cause.class, Class::NotEnforced, "{engine}");
        assert_eq!(judged.verdict.decision(), Decision::Denied);
        assert!(judged.cause.text.contains(said), "{}", judged.cause.text);
        assert!(
            judged.cause.text.contains("ingress denied by NetworkPolicy shop/p"),
            "{}",
            judged.cause.text
        );
        // What no policy denies passes without a word.
        let other = diagnose(&cluster(engine, &[]), &case(address(WEB), address(DB), 5432));
        assert_eq!(other.cause.class, Class::None);
    }
}
