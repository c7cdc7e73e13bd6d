//! Which engine enforces: what shows it.

use serde_json::{Value, json};
use whydrop_core::cluster::profile::{
    Engine, EngineName, Version,
    detect::{detect, of_served, signs, unreadable_switch},
};

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
