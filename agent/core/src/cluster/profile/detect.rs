//! Which engine a cluster has, by its objects: the agents that run, what engines write on nodes and keep
//! of themselves, and whose kinds are there.

use std::{collections::BTreeMap, str::FromStr as _, sync::Arc};

use serde_json::Value;

use super::{Engine, EngineName, Version};

/// Something that shows which engine it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sign {
    /// Which.
    pub engine: EngineName,
    /// Its version, if that shows.
    pub version: Option<Version>,
    /// Whether it is set up to enforce policies, if that shows.
    pub switch: Option<Switch>,
    /// How much it says.
    pub weight: Weight,
    /// What shows it: `DaemonSet kube-system/cilium`.
    pub seen: Arc<str>,
}

/// How much a sign says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Nothing by itself: a version, or a switch, of an engine that something else shows.
    Hint,
    /// Its kinds are served, or there are objects of them: they may be left over.
    Kinds,
    /// What it writes on nodes, or keeps of itself.
    Marks,
    /// Its agent runs.
    Agent,
}

/// Whether an engine is set up to enforce policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
    /// What says so could not be read.
    Unreadable,
}

/// The `ConfigMap` by which AWS' engine is switched on.
pub const AWS_CONFIG: (&str, &str) = ("kube-system", "amazon-vpc-cni");
/// Its key.
const AWS_SWITCH: &str = "enable-network-policy-controller";
/// The flag of AWS' agent that says the same of its node.
const AWS_FLAG: &str = "--enable-network-policy=";

/// Whose objects are in a group.
const GROUPS: [(&str, EngineName); 7] = [
    ("crd.projectcalico.org", EngineName::Calico),
    ("projectcalico.org", EngineName::Calico),
    ("operator.tigera.io", EngineName::Calico),
    ("cilium.io", EngineName::Cilium),
    ("crd.antrea.io", EngineName::Antrea),
    ("k8s.ovn.org", EngineName::OvnKubernetes),
    ("networking.k8s.aws", EngineName::AwsVpcCni),
];

/// Kinds that engines keep of themselves, and nobody writes by hand.
const KEPT: [&str; 9] = [
    "CiliumNode",
    "CiliumEndpoint",
    "CiliumIdentity",
    "AntreaAgentInfo",
    "AntreaControllerInfo",
    "ClusterInformation",
    "Installation",
    "PolicyEndpoint",
    "ClusterPolicyEndpoint",
];

/// What the keys of annotations and labels begin with that engines give nodes.
const MARKS: [(&str, EngineName); 8] = [
    ("projectcalico.org/", EngineName::Calico),
    ("network.cilium.io/", EngineName::Cilium),
    ("io.cilium.network.", EngineName::Cilium),
    ("k8s.ovn.org/", EngineName::OvnKubernetes),
    ("node.antrea.io/", EngineName::Antrea),
    ("kube-router.io/", EngineName::KubeRouter),
    ("flannel.alpha.coreos.com/", EngineName::Flannel),
    ("kubernetes.azure.com/ebpf-dataplane", EngineName::Cilium),
];

/// The names of the `DaemonSets` by which engines are installed, which show an engine where images are
/// named by digests alone.
const DAEMON_SETS: [(&str, EngineName); 16] = [
    ("calico-node", EngineName::Calico),
    ("canal", EngineName::Calico),
    ("rke2-canal", EngineName::Calico),
    ("cilium", EngineName::Cilium),
    ("anetd", EngineName::GkeDataplaneV2),
    ("antrea-agent", EngineName::Antrea),
    ("ovnkube-node", EngineName::OvnKubernetes),
    ("aws-node", EngineName::AwsVpcCni),
    ("kube-router", EngineName::KubeRouter),
    ("kube-network-policies", EngineName::KubeNetworkPolicies),
    ("kube-flannel", EngineName::Flannel),
    ("kube-flannel-ds", EngineName::Flannel),
    ("kube-flannel-ds-amd64", EngineName::Flannel),
    ("azure-npm", EngineName::AzureNpm),
    ("weave-net", EngineName::Weave),
    ("weave-npc", EngineName::Weave),
];

/// kindnet enforces policies from the build of this day on, 1 August 2024 (kind 0.24).
const KINDNET_ENFORCES_SINCE: u32 = 20_240_801;

/// What an object shows of the engine.
pub fn signs(object: &Value) -> Vec<Sign> {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    match (text("apiVersion"), text("kind")) {
        ("v1", "Node") => of_node(object),
        ("v1", "Pod") => of_pod(object),
        ("apps/v1", "DaemonSet") => of_daemon_set(object),
        ("v1", "ConfigMap") => of_config_map(object).into_iter().collect(),
        ("config.openshift.io/v1" | "operator.openshift.io/v1", "Network") => {
            of_openshift(object).into_iter().collect()
        }
        ("networking.gke.io/v1alpha1" | "networking.gke.io/v1", "FQDNNetworkPolicy") => {
            vec![sign(EngineName::GkeDataplaneV2, Weight::Kinds, shown(object))]
        }
        (api_version, kind) => of_group(api_version, kind, object).into_iter().collect(),
    }
}

/// That the API server serves a group.
pub fn of_served(group: &str) -> Option<Sign> {
    let (_, engine) = GROUPS.iter().find(|(known, _)| *known == group)?;
    Some(sign(*engine, Weight::Kinds, format!("the API server serves {group}")))
}

/// That what switches AWS' engine on could not be read.
pub fn unreadable_switch() -> Sign {
    let (namespace, name) = AWS_CONFIG;
    let seen = format!("ConfigMap {namespace}/{name} could not be read");
    Sign { switch: Some(Switch::Unreadable), ..sign(EngineName::EksAuto, Weight::Hint, seen) }
}

fn sign(engine: EngineName, weight: Weight, seen: impl Into<Arc<str>>) -> Sign {
    Sign { engine, version: None, switch: None, weight, seen: seen.into() }
}

/// `DaemonSet kube-system/cilium`.
fn shown(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}

fn of_group(api_version: &str, kind: &str, object: &Value) -> Option<Sign> {
    let (group, _) = api_version.split_once('/')?;
    let (_, engine) = GROUPS.iter().find(|(known, _)| *known == group)?;
    let weight = if KEPT.contains(&kind) { Weight::Marks } else { Weight::Kinds };
    let version =
        [&object["status"]["calicoVersion"], &object["spec"]["calicoVersion"], &object["version"]];
    let version = version.iter().find_map(|value| Version::from_str(value.as_str()?).ok());
    // Written by the controller, which is on.
    let is_result = matches!(kind, "PolicyEndpoint" | "ClusterPolicyEndpoint");
    let switch = is_result.then_some(Switch::On);
    Some(Sign { version, switch, ..sign(*engine, weight, shown(object)) })
}

fn of_node(node: &Value) -> Vec<Sign> {
    let keys = |field: &str| node["metadata"][field].as_object().into_iter().flatten();
    let marks: Vec<&String> =
        keys("annotations").chain(keys("labels")).map(|(key, _)| key).collect();
    let is_openshift = marks.iter().any(|key| key.contains(".openshift.io/"));
    let mut signs = Vec::new();
    for (prefix, engine) in MARKS {
        let Some(key) = marks.iter().find(|key| key.starts_with(prefix)) else { continue };
        let engine = match engine {
            EngineName::OvnKubernetes if is_openshift => EngineName::Openshift,
            engine => engine,
        };
        signs.push(sign(engine, Weight::Marks, format!("{} with {key}", shown(node))));
    }
    if node["metadata"]["labels"]["eks.amazonaws.com/compute-type"] == "auto" {
        let seen = format!("{} with eks.amazonaws.com/compute-type: auto", shown(node));
        signs.push(sign(EngineName::EksAuto, Weight::Agent, seen));
    }
    let kubelet = node["status"]["nodeInfo"]["kubeletVersion"].as_str().unwrap_or_default();
    if kubelet.contains("-gke.") {
        let version = Version::from_str(kubelet).ok();
        let seen = sign(EngineName::GkeDataplaneV2, Weight::Hint, shown(node));
        signs.push(Sign { version, ..seen });
    }
    let arguments = node["metadata"]["annotations"]["k3s.io/node-args"].as_str();
    let is_off = arguments.is_some_and(|text| text.contains("--disable-network-policy"));
    if kubelet.contains("+k3s") && !is_off {
        // It has kube-router's controller built in, unless that is switched off.
        let seen = format!("{}, kubelet {kubelet}", shown(node));
        signs.push(sign(EngineName::KubeRouter, Weight::Kinds, seen));
    }
    signs
}

fn of_pod(pod: &Value) -> Vec<Sign> {
    if matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let mut owners = pod["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let owner = owners.find(|owner| owner["kind"] == "DaemonSet");
    let owner = owner.and_then(|owner| owner["name"].as_str());
    of_template(&pod["spec"], owner, pod)
}

fn of_daemon_set(set: &Value) -> Vec<Sign> {
    // One that no node wants is left over.
    if set["status"]["desiredNumberScheduled"] == 0 {
        return Vec::new();
    }
    of_template(&set["spec"]["template"]["spec"], set["metadata"]["name"].as_str(), set)
}

/// What the containers of an agent show, or the name of its `DaemonSet`.
fn of_template(spec: &Value, daemon_set: Option<&str>, object: &Value) -> Vec<Sign> {
    let containers: Vec<&Value> = spec["containers"].as_array().into_iter().flatten().collect();
    let images = containers.iter().filter_map(|container| container["image"].as_str());
    let mut signs: Vec<Sign> = images
        .filter_map(of_image)
        .map(|(engine, version)| Sign { version, ..sign(engine, Weight::Agent, shown(object)) })
        .collect();
    if let Some(name) = daemon_set.filter(|_| signs.is_empty()) {
        let known = DAEMON_SETS.iter().find(|(known, _)| *known == name);
        signs.extend(known.map(|(_, engine)| sign(*engine, Weight::Agent, shown(object))));
    }
    let is_openshift = object["metadata"]["namespace"] == "openshift-ovn-kubernetes";
    for sign in &mut signs {
        match sign.engine {
            EngineName::OvnKubernetes if is_openshift => sign.engine = EngineName::Openshift,
            EngineName::Cilium if daemon_set == Some("anetd") => {
                // Its version is GKE's own.
                (sign.engine, sign.version) = (EngineName::GkeDataplaneV2, None);
            }
            EngineName::AwsVpcCni => sign.switch = Some(aws_switch(&containers)),
            _ => {}
        }
    }
    signs
}

fn aws_switch(containers: &[&Value]) -> Switch {
    let mut arguments = containers.iter().flat_map(|container| {
        let texts = container["args"].as_array().into_iter().flatten();
        texts.filter_map(Value::as_str)
    });
    match arguments.find_map(|argument| argument.strip_prefix(AWS_FLAG)) {
        Some("true") => Switch::On,
        _ => Switch::Off,
    }
}

/// The engine whose agent an image holds, and its version by the tag.
fn of_image(image: &str) -> Option<(EngineName, Option<Version>)> {
    let image = image.split('@').next().unwrap_or_default();
    let (path, tag) = match image.rsplit_once(':') {
        // A colon before a slash is a registry's port.
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (image, ""),
    };
    let mut segments = path.rsplit('/');
    let (name, folder) = (segments.next()?, segments.next().unwrap_or_default());
    let engine = match name {
        "node" if folder == "calico" => EngineName::Calico,
        "calico-node" | "hardened-calico" | "mirrored-calico-node" => EngineName::Calico,
        "cilium" if path.contains("gke") => EngineName::GkeDataplaneV2,
        "cilium" | "mirrored-cilium-cilium" | "hardened-cilium" => EngineName::Cilium,
        "kube-router" => EngineName::KubeRouter,
        "kube-network-policies" => EngineName::KubeNetworkPolicies,
        "kindnetd" => {
            let built = tag.trim_start_matches('v').get(..8)?.parse::<u32>().ok()?;
            return (built >= KINDNET_ENFORCES_SINCE)
                .then_some((EngineName::KubeNetworkPolicies, None));
        }
        "aws-network-policy-agent" => return Some((EngineName::AwsVpcCni, None)),
        "amazon-k8s-cni" => EngineName::AwsVpcCni,
        "flannel"
        | "mirrored-flannel-flannel"
        | "mirrored-flannelcni-flannel"
        | "hardened-flannel" => EngineName::Flannel,
        "azure-npm" => EngineName::AzureNpm,
        "weave-npc" => EngineName::Weave,
        _ if name.starts_with("antrea-agent") => EngineName::Antrea,
        "antrea-ubuntu" | "antrea-ubi" => EngineName::Antrea,
        _ if name.starts_with("ovn-kube") => EngineName::OvnKubernetes,
        _ => return None,
    };
    let version = match engine {
        // That of Kubernetes counts.
        EngineName::GkeDataplaneV2 => None,
        _ => Version::from_str(tag).ok(),
    };
    Some((engine, version))
}

fn of_config_map(map: &Value) -> Option<Sign> {
    let metadata = &map["metadata"];
    let (namespace, name) = AWS_CONFIG;
    if metadata["namespace"] != namespace || metadata["name"] != name {
        return None;
    }
    let switch = match map["data"][AWS_SWITCH].as_str() {
        Some("true") => Switch::On,
        _ => Switch::Off,
    };
    Some(Sign { switch: Some(switch), ..sign(EngineName::EksAuto, Weight::Hint, shown(map)) })
}

fn of_openshift(network: &Value) -> Option<Sign> {
    let declared = [&network["status"]["networkType"], &network["spec"]["networkType"]];
    let by_operator = &network["spec"]["defaultNetwork"]["type"];
    let mut types = declared.into_iter().chain([by_operator]);
    types
        .any(|declared| declared == "OVNKubernetes")
        .then(|| sign(EngineName::Openshift, Weight::Marks, shown(network)))
}

/// Which engine these signs show.
///
/// One that only carries packets gives way to any that enforces policies. Of several, the one that is
/// shown best; where two are shown alike, it is not known.
pub fn detect<'a>(signs: impl IntoIterator<Item = &'a Sign>) -> Engine {
    let signs: Vec<&Sign> = signs.into_iter().collect();
    let mut shown: BTreeMap<EngineName, &Sign> = BTreeMap::new();
    for sign in signs.iter().copied().filter(|sign| sign.weight > Weight::Hint) {
        let best = shown.entry(sign.engine).or_insert(sign);
        // The first of equals, so that what else changes does not change what is said.
        if (sign.weight, &best.seen) > (best.weight, &sign.seen) {
            *best = sign;
        }
    }
    let has = |shown: &BTreeMap<_, _>, engine| shown.contains_key(&engine);
    if has(&shown, EngineName::GkeDataplaneV2) {
        shown.remove(&EngineName::Cilium);
    }
    if has(&shown, EngineName::Openshift) {
        shown.remove(&EngineName::OvnKubernetes);
    }
    let switch = |engine: EngineName| switch_of(&signs, engine);
    if has(&shown, EngineName::EksAuto) && switch(EngineName::AwsVpcCni) != Some(true) {
        shown.remove(&EngineName::AwsVpcCni);
    }
    let only_carries = |engine: EngineName| match engine {
        EngineName::Flannel => true,
        EngineName::AwsVpcCni | EngineName::EksAuto => switch(engine) != Some(true),
        // Of K3s, where another engine is there beside it.
        EngineName::KubeRouter => {
            signs.iter().all(|s| s.engine != engine || s.weight < Weight::Marks)
        }
        _ => false,
    };
    if shown.keys().any(|engine| !only_carries(*engine)) {
        shown.retain(|engine, _| !only_carries(*engine));
    } else if shown.len() > 1 {
        shown.remove(&EngineName::Flannel);
    }
    choose(&shown, &signs)
}

fn choose(shown: &BTreeMap<EngineName, &Sign>, signs: &[&Sign]) -> Engine {
    let Some(weight) = shown.values().map(|sign| sign.weight).max() else {
        return Engine::default();
    };
    let best: Vec<&Sign> = shown.values().filter(|sign| sign.weight == weight).copied().collect();
    let unknown = |evidence: String| Engine { evidence: evidence.into(), ..Engine::default() };
    match best.as_slice() {
        // What it writes on nodes, others that use it leave there as well, and they enforce policies.
        [one] if one.engine == EngineName::Flannel && one.weight < Weight::Agent => {
            unknown(format!(
                "{} is flannel's, which enforces no policies; what enforces them beside it does not show",
                one.seen
            ))
        }
        [one] => {
            let of_engine = || signs.iter().filter(|sign| sign.engine == one.engine);
            let mut versions: Vec<_> =
                of_engine().filter_map(|s| Some((s.weight, s.version?))).collect();
            versions.sort_unstable();
            Engine {
                name: one.engine,
                version: versions.last().map(|(_, version)| *version),
                is_switched_on: switch_of(signs, one.engine),
                evidence: one.seen.clone(),
            }
        }
        several => {
            let named: Vec<String> = several
                .iter()
                .map(|sign| format!("{} by {}", sign.engine.title(), sign.seen))
                .collect();
            unknown(format!("several engines show: {}", named.join(", ")))
        }
    }
}

/// Whether an engine is switched on; `None`: it could not be read. Of what nothing says, it is off.
fn switch_of(signs: &[&Sign], engine: EngineName) -> Option<bool> {
    let said: Vec<Switch> =
        signs.iter().filter(|sign| sign.engine == engine).filter_map(|sign| sign.switch).collect();
    if said.contains(&Switch::On) {
        Some(true)
    } else if said.contains(&Switch::Unreadable) {
        None
    } else if said.is_empty() && engine == EngineName::AwsVpcCni {
        // Its kinds are served in any cluster of EKS, and its agent was not seen.
        None
    } else {
        Some(false)
    }
}
