//! What the agent asks of the API server, by the server's own audit log, beside what `deploy/` grants it: no
//! right that it does not use, and none that it lacks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    path::Path,
    time::Duration,
};

use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use whydrop_core::kinds::{self, KindRow, Role, Scope};
use whydrop_tests::{
    kube::{
        api::Settings,
        wait::{Look, until},
    },
    repository,
    world::{
        RECORD_WAIT, World as _,
        agent::Agent,
        manifest::{self, documents, namespace},
        netns::{NAME, Node},
    },
};

const PORT: u16 = 8080;

/// How long the API server may take to serve a kind, and to write what it was asked.
const SERVED_WAIT: Duration = Duration::from_secs(30);

/// Long enough for three SYNs.
const CONNECT_WAIT: Duration = Duration::from_secs(4);

/// Where Calico's objects are stored. Users write them in another group; an agent follows the one or the other.
pub(crate) const STORED: &str = "crd.projectcalico.org";

/// Groups of Kubernetes' own kinds; those of others have such a name without being its own.
const KUBERNETES: [&str; 2] = ["networking.k8s.io", "discovery.k8s.io"];

/// A verb on a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Right {
    resource: String,
    verb: String,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)
    }
}

pub(crate) fn right(verb: &str, group: &str, resource: &str) -> Right {
    let resource = match group {
        "" => resource.to_owned(),
        group => format!("{resource}.{group}"),
    };
    Right { resource, verb: verb.to_owned() }
}

/// All that the roles of this file grant.
pub(crate) fn granted(path: &str) -> BTreeSet<Right> {
    let text = fs::read_to_string(repository(path)).expect(path);
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let is_role = |object: &Value| object["kind"] == "ClusterRole" || object["kind"] == "Role";
    let rules = objects.into_iter().filter(is_role).map(|mut role| role["rules"].take());
    let rules =
        rules.flat_map(|rules| serde_json::from_value::<Vec<PolicyRule>>(rules).expect("rules"));
    let mut granted = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.unwrap_or_default() {
            for resource in rule.resources.iter().flatten() {
                granted.extend(rule.verbs.iter().map(|verb| right(verb, &group, resource)));
            }
        }
    }
    granted
}

/// What the API server has written of the requests of one account.
pub(crate) struct Audit {
    folder: TempDir,
}

impl Audit {
    pub(crate) fn new(account: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let user = format!("system:serviceaccount:whydrop:{account}");
        // Of a watch that still goes on there is the start of the response alone.
        let policy = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "rules": [{ "level": "Metadata", "users": [user] }],
        });
        fs::write(folder.path().join("policy.json"), policy.to_string()).expect("a policy");
        Self { folder }
    }

    fn log(&self) -> std::path::PathBuf {
        self.folder.path().join("audit.log")
    }

    /// The flags of a server that writes it.
    pub(crate) fn settings(&self) -> Settings {
        let flag = |name: &str, path: &Path| format!("--audit-{name}={}", path.display());
        let policy = self.folder.path().join("policy.json");
        let flags = vec![flag("policy-file", &policy), flag("log-path", &self.log())];
        Settings { flags, ..Settings::default() }
    }

    /// What was asked for, and what of it was refused.
    pub(crate) fn read(&self) -> (BTreeSet<Right>, BTreeSet<Right>) {
        let text = fs::read_to_string(self.log()).expect("an audit log");
        let (mut asked, mut refused) = (BTreeSet::new(), BTreeSet::new());
        // The last line may be in the middle of being written.
        let lines = text.rsplit_once('\n').map_or("", |(whole, _)| whole).lines();
        for line in lines {
            let event: Value = serde_json::from_str(line).expect("JSON");
            let object = &event["objectRef"];
            // What is served, which everybody with an account may ask.
            let Some(resource) = object["resource"].as_str() else { continue };
            let resource = match object["subresource"].as_str() {
                Some(part) => format!("{resource}/{part}"),
                None => resource.to_owned(),
            };
            let group = object["apiGroup"].as_str().unwrap_or_default();
            let right = right(event["verb"].as_str().expect("a verb"), group, &resource);
            let may = event["annotations"]["authorization.k8s.io/decision"] == "allow";
            if !may || event["responseStatus"]["code"] == 403 {
                refused.insert(right.clone());
            }
            asked.insert(right);
        }
        (asked, refused)
    }
}

impl Audit {
    /// Waits until all of these were asked for; fails unless nothing else was, and none was refused but those
    /// that are known to be.
    pub(crate) fn agrees_with(&self, granted: &BTreeSet<Right>, refused_only: &[&str]) {
        let list = |rights: &BTreeSet<Right>| -> Vec<String> {
            rights.iter().map(Right::to_string).collect()
        };
        let unused = |asked: &BTreeSet<Right>| granted.difference(asked).cloned().collect();
        let waited = until("all that is granted", SERVED_WAIT, || {
            let unused: BTreeSet<Right> = unused(&self.read().0);
            Ok(if unused.is_empty() { Look::Seen(()) } else { Look::NotYet(String::new()) })
        });
        let (asked, refused) = self.read();
        // What every account may do besides, such as asking what it may, nobody uses.
        let more: BTreeSet<Right> = asked.difference(granted).cloned().collect();
        assert!(
            waited.is_ok() && list(&refused) == refused_only && list(&more) == refused_only,
            "granted and never used: {:#?}\nasked for and refused: {:#?}\nnot granted: {:#?}",
            list(&unused(&asked)),
            list(&refused),
            list(&more)
        );
    }
}

/// The kinds of other groups than the API server's own that agents may follow, as definitions of them.
fn definitions(of: impl Fn(&str) -> bool) -> Vec<Value> {
    let mut definitions: BTreeMap<(String, String), (&KindRow, Vec<&str>)> = BTreeMap::new();
    let asked_for = |row: &&KindRow| !matches!(row.role, Role::Template | Role::Caller);
    for row in kinds::all().filter(asked_for) {
        for api_version in row.api_versions {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            if !group.contains('.') || KUBERNETES.contains(&group) || !of(group) {
                continue;
            }
            let key = (group.to_owned(), row.plural.to_owned());
            definitions.entry(key).or_insert_with(|| (row, Vec::new())).1.push(version);
        }
    }
    let definition = |((group, plural), (row, versions)): (
        (String, String),
        (&KindRow, Vec<&str>),
    )| {
        let version = |(place, name): (usize, &str)| {
            let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
            json!({ "name": name, "served": true, "storage": place == 0,
                    "schema": { "openAPIV3Schema": schema } })
        };
        let versions: Vec<Value> = versions.into_iter().enumerate().map(version).collect();
        json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {
                "name": format!("{plural}.{group}"),
                // What Kubernetes wants of groups that are called like its own.
                "annotations": { "api-approved.kubernetes.io": "unapproved, for a test" },
            },
            "spec": {
                "group": group, "versions": versions,
                "scope": if row.scope == Scope::Cluster { "Cluster" } else { "Namespaced" },
                "names": { "kind": row.kind, "plural": plural, "singular": row.kind.to_lowercase() },
            },
        })
    };
    definitions.into_iter().map(definition).collect()
}

/// Has the API server serve these kinds.
pub(crate) fn define(node: &mut Node, of: impl Fn(&str) -> bool) {
    let definitions = definitions(of);
    assert!(!definitions.is_empty());
    node.apply(&documents(&definitions)).expect("definitions");
    let wait = ["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"];
    node.kubectl_run(&wait).expect("established");
}

pub(crate) fn owned_by(pod: &str, group: &str, kind: &str, name: &str) -> Value {
    let mut pod = manifest::pod(pod);
    pod["metadata"]["ownerReferences"] = json!([{ "apiVersion": group, "kind": kind, "name": name,
        "uid": format!("{kind}-{name}"), "controller": true }]);
    pod
}

/// A connect that is dropped, and reported as one from this end.
fn is_reported(agent: &mut Agent, node: &Node, from: &str, to: SocketAddr) {
    assert!(!node.connects(from, to).expect("a client"), "{from} reaches {to}");
    let name = from.rsplit('/').next().expect("a name");
    let is_its = |record: &Value| {
        record["flow"]["source"]["pod"] == name
            && record["flow"]["destination"]["port"] == to.port()
    };
    let record = agent.record("drop", RECORD_WAIT, is_its);
    record.unwrap_or_else(|error| panic!("{from}: {error:#}\n{}", agent.said()));
}

/// Objects of every kind that an agent asks for by name, or looks up.
fn populate(node: &mut Node) {
    node.apply(&documents(&["frontend", "backend"].map(namespace))).expect("namespaces");
    let deny = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "default-deny", "namespace": "backend" },
        "spec": { "podSelector": {}, "policyTypes": ["Ingress"] },
    });
    let template = json!({ "metadata": { "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "c", "image": "example.com/c" }] } });
    let owner = json!([{ "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "1-2-3",
        "controller": true }]);
    let replicas = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": "web-1", "namespace": "frontend", "ownerReferences": owner },
        "spec": { "replicas": 0, "selector": { "matchLabels": { "app": "web" } }, "template": template },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "db", "namespace": "backend" },
        "spec": { "clusterIP": "10.96.7.7", "selector": { "app": "db" }, "ports": [{ "port": PORT }] },
    });
    let mut control_plane =
        manifest::node("control-plane", "10.7.9.0/24", Ipv4Addr::new(192, 168, 77, 1).into());
    control_plane["metadata"]["labels"] = json!({ "node-role.kubernetes.io/control-plane": "" });
    node.apply(&documents(&[deny, replicas, service, control_plane])).expect("objects");
    for pod in [
        owned_by("frontend/web", "apps/v1", "ReplicaSet", "web-1"),
        owned_by("frontend/nightly", "batch/v1", "Job", "nightly-1"),
        owned_by("frontend/logger", "apps/v1", "DaemonSet", "logger"),
        owned_by("backend/db", "apps/v1", "StatefulSet", "db"),
    ] {
        node.run(&pod).expect("a pod");
    }
}

/// An API server of another node calls a pod, in vain.
fn call_from_control_plane(node: &Node, beyond: &whydrop_tests::world::namespace::Namespace) {
    let to = SocketAddr::new(node.nth(3).ip.into(), PORT);
    beyond.ip("route add 10.7.0.0/24 via 192.168.77.2\n").expect("a route");
    let connected = beyond.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let from = SocketAddrV4::new(Ipv4Addr::new(192, 168, 77, 1), 0);
        socket.bind(&SocketAddr::from(from).into())?;
        Ok(socket.connect_timeout(&to.into(), CONNECT_WAIT).is_ok())
    });
    assert!(!connected.expect("a client"), "it is reached");
}

/// The overlays are apart: what one of them adds is a right of its own account, never of the agent's, and all
/// but one add none.
#[test]
fn no_overlay_adds_to_what_the_agent_may() {
    let overlays = fs::read_dir(repository("deploy/kustomize/overlays")).expect("overlays");
    let mut with_rights = Vec::new();
    for overlay in overlays.flatten() {
        for file in fs::read_dir(overlay.path()).expect("an overlay").flatten() {
            let text = fs::read_to_string(file.path()).expect("a file");
            let objects: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
            for object in objects {
                let of_kustomize =
                    object["patches"].to_string() + &object["components"].to_string();
                assert!(!of_kustomize.contains("Role"), "{object}");
                let kind = object["kind"].as_str().expect("a kind");
                if kind.ends_with("RoleBinding") {
                    assert_eq!(object["subjects"].as_array().map(Vec::len), Some(1), "{object}");
                    assert_ne!(object["subjects"][0]["name"], "whydrop", "{object}");
                }
                if kind.contains("Role") {
                    with_rights.push(overlay.file_name().to_string_lossy().into_owned());
                }
            }
        }
    }
    with_rights.dedup();
    assert_eq!(with_rights, ["heal"]);
}

/// Where a node is one of EKS Auto Mode, a `ConfigMap` says whether policies are enforced at all.
fn asks_for_the_switch_of_eks(node: &Node, audit: &Audit) {
    const LABEL: &str = "eks.amazonaws.com/compute-type";
    let label = |how: String| node.kubectl_run(&["label", "node", "control-plane", &how]);
    label(format!("{LABEL}=auto")).expect("a label");
    let agent = node.agent(NAME).expect("it gets ready");
    until("the ConfigMap to be asked for", SERVED_WAIT, || {
        let (asked, _) = audit.read();
        let is_asked = asked.contains(&right("get", "", "configmaps"));
        Ok(if is_asked { Look::Seen(()) } else { Look::NotYet(format!("{asked:?}")) })
    })
    .expect("it is");
    agent.stop().expect("it ends");
    label(format!("{LABEL}-")).expect("no label");
}

#[test]
fn the_agents_role_grants_what_it_asks_for_and_nothing_else() {
    let granted = granted("deploy/kustomize/base/rbac.yaml");
    let audit = Audit::new("whydrop");
    let mut node = Node::with_server_of(0, audit.settings()).expect("a node");
    populate(&mut node);
    let beyond = node.uplink(&[]).expect("another node");
    // Where Calico has no store of its own.
    define(&mut node, |group| group != STORED);
    asks_for_the_switch_of_eks(&node, &audit);
    define(&mut node, |group| group == STORED);

    let mut agent = node.agent(NAME).expect("it gets ready");
    node.stand_in("backend/db", false).expect("rules");
    let db = node.address("backend/db", PORT).expect("an address");
    for from in ["frontend/web", "frontend/nightly", "frontend/logger"] {
        is_reported(&mut agent, &node, from, db);
    }
    call_from_control_plane(&node, &beyond);
    let of_control_plane = |record: &Value| record["flow"]["source"]["ip"] == "192.168.77.1";
    let called = agent.record("drop", RECORD_WAIT, of_control_plane);
    called.unwrap_or_else(|error| panic!("{error:#}\n{}", agent.said()));
    agent.stop().expect("it ends");
    // Of the same once more the Event is there, and counted on.
    let mut again = node.agent(NAME).expect("it gets ready");
    is_reported(&mut again, &node, "frontend/web", db);

    audit.agrees_with(&granted, &[]);
    again.stop().expect("it ends");
}
