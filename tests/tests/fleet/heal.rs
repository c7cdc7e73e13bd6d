//! Healing: what a real API server, a real Felix and real agents make of it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use whydrop_core::heal::SETTLE;
use whydrop_tests::{
    kube::wait::{Look, until},
    play::stage::Stage,
    repository,
    world::{
        ENFORCED_WAIT, World as _,
        agent::{Agent, Source},
        fleet::{Fleet, Settings},
        lab::server::Server,
    },
};

use crate::{
    DEFAULT_DENY, NEIGHBOUR, SERVER, TWO_NODES, apply, connects, record, record_while, stage_of,
    wait_for,
};

/// From an incident's first packet, or a change, to what the healer does about it.
pub(crate) const HEAL_WAIT: Duration = Duration::from_secs(40);

/// A short watch, and little that has to have worked before.
pub(crate) const WATCH: [&str; 4] = ["--watch-time", "20s", "--min-worked", "1s"];

/// For how long clients here have what they lose: some more.
const HAD: Duration = Duration::from_millis(1500);

/// A second client of the same kind, which has not tried yet.
const NEWCOMER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: pod-d, namespace: frontend, labels: {app: web}}
spec: {nodeName: worker-2, containers: [{name: c, image: example.com/c}]}
status: {phase: Running, podIP: 10.244.2.40, podIPs: [{ip: 10.244.2.40}]}
";

const OWNED: &str = "ownerReferences: [{apiVersion: apps/v1, kind: StatefulSet, name: web, \
                     uid: 0d9b7a54-6a63-4c0e-9b5a-6f1f4c1a7e01, controller: true}]";

/// How many there are of it.
const WEB: &str = "
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, namespace: frontend}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: example.com/c}]}}
status: {replicas: 1, readyReplicas: 1}
";

const EXPLICIT_DENY: &str = "
apiVersion: crd.projectcalico.org/v1
kind: NetworkPolicy
metadata: {name: default.no-metrics, namespace: backend}
spec:
  order: 10
  selector: app == 'cache'
  types: [Ingress]
  ingress:
    - {action: Deny, protocol: TCP, destination: {ports: [8080]}}
";

/// All pods on one node, and `pod-a` of a workload: its agent so knows that all of that is affected,
/// and reports it as critical at once, not only when it has gone on for some time.
fn stage() -> Stage<Fleet> {
    stage_of(Settings::default(), &manifests())
}

pub(crate) fn manifests() -> String {
    let manifests = TWO_NODES.replace("nodeName: worker-1", "nodeName: worker-2");
    let manifests = manifests.replace("10.244.1.10", "10.244.2.10");
    let owned =
        manifests.replace("labels: {app: web}}", &format!("labels: {{app: web}}, {OWNED}}}"));
    owned + WEB
}

/// The client has its server, and not by accident: as it did before anybody came in between.
pub(crate) fn works(stage: &Stage<Fleet>, to: SocketAddr) {
    works_for_long(|| assert!(connects(stage, to)));
}

/// The same of any clients: what connects goes on for as long as it must have worked, and over more than
/// one connection.
fn works_for_long(mut connect: impl FnMut()) {
    let (begin, mut connections) = (Instant::now(), 0);
    while connections < 2 || begin.elapsed() < HAD {
        connect();
        connections += 1;
    }
}

/// Both ends ask for it.
pub(crate) fn consent(fleet: &Fleet, consent: &str) {
    for namespace in ["frontend", "backend"] {
        annotate(fleet, namespace, consent);
    }
}

/// Two pods of another tenant, which nobody asked for, each with this among its metadata.
pub(crate) fn strangers(metadata: &str) -> String {
    let pod = |n: u8| {
        format!(
            "
---
apiVersion: v1
kind: Pod
metadata:
  {{name: stranger-{n}, namespace: tenant, labels: {{app: stranger}}, {metadata}
   ownerReferences: [{{apiVersion: apps/v1, kind: StatefulSet, name: stranger,
                      uid: 5c1f9a0e-7a57-4f35-8a43-0f3a7f3f7c02, controller: true}}]}}
spec: {{nodeName: worker-2, containers: [{{name: c, image: example.com/c}}]}}
status: {{phase: Running, podIP: 10.244.2.5{n}, podIPs: [{{ip: 10.244.2.5{n}}}]}}
"
        )
    };
    [TENANT, &pod(0), &pod(1)].concat()
}

const TENANT: &str = "
---
apiVersion: v1
kind: Namespace
metadata: {name: tenant}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: stranger, namespace: tenant}
spec:
  replicas: 2
  selector: {matchLabels: {app: stranger}}
  template: {metadata: {labels: {app: stranger}}, spec: {containers: [{name: c, image: example.com/c}]}}
status: {replicas: 2, readyReplicas: 2}
";

pub(crate) fn annotate(fleet: &Fleet, namespace: &str, consent: &str) {
    let consent = format!("whydrop.io/heal={consent}");
    let annotate = ["annotate", "--overwrite", "namespace", namespace, &consent];
    fleet.kubectl_run(&annotate).expect("annotated");
}

/// The first record of the healer's with this action.
fn healed(healer: &mut Agent, action: &str) -> Value {
    healed_while(healer, action, || {})
}

pub(crate) fn healed_while(healer: &mut Agent, action: &str, mut meanwhile: impl FnMut()) -> Value {
    let meanwhile = || {
        meanwhile();
        Ok(())
    };
    let is_it = |record: &Value| record["action"] == action;
    let found = healer.record_while(action, HEAL_WAIT, is_it, meanwhile);
    found.unwrap_or_else(|error| panic!("{error:#}"))
}

/// What it did. What it leaves alone for now, until more is known, is reported as well.
pub(crate) fn actions(healer: &Agent) -> Vec<&str> {
    let actions = healer.records().iter().filter_map(|heard| heard.record["action"].as_str());
    actions.filter(|action| *action != "refused").collect()
}

/// The first record in which it says that it leaves something alone for this reason.
pub(crate) fn refused(healer: &mut Agent, why: &str) -> Value {
    let is_it = |record: &Value| record["why"].as_str().is_some_and(|said| said.contains(why));
    let found = healer.record("refusal", HEAL_WAIT, is_it);
    found.unwrap_or_else(|error| panic!("{error:#}"))
}

/// The healer's policies that are in the cluster.
pub(crate) fn standing(fleet: &Fleet) -> Vec<Value> {
    let label = "app.kubernetes.io/managed-by=whydrop-heal";
    let kinds = "networkpolicies.networking.k8s.io,networkpolicies.crd.projectcalico.org";
    let found = fleet.kubectl().expect("kubectl").json([
        "get",
        kinds,
        "-A",
        "-l",
        label,
        "-o",
        "json",
        "--show-managed-fields",
    ]);
    found.expect("policies")["items"].as_array().cloned().unwrap_or_default()
}

/// The reasons of the healer's Events in a namespace, each with what it regards.
fn events(fleet: &Fleet, namespace: &str) -> Vec<(String, String)> {
    let get = ["get", "events.events.k8s.io", "-n", namespace, "-o", "json"];
    let found = fleet.kubectl().expect("kubectl").json(get).expect("Events");
    let items = found["items"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ours = items.iter().filter(|event| event["reportingController"] == "whydrop.io/heal");
    ours.map(|event| (text(&event["reason"]), text(&event["regarding"]["kind"]))).collect()
}

/// The story of the 8 replicas: proposed, then applied and kept, and at its end denied again.
#[test]
fn the_story_is_healed_from_onset_to_recovery() {
    let cluster = "tests/scenarios/restrict-backend-ingress/manifests/cluster.yaml";
    let read = |file: &str| std::fs::read_to_string(repository(file)).expect(file);
    let fleet = Fleet::start(Settings::default(), &read(cluster)).expect("a fleet");
    let database = fleet.address("backend/postgres-primary-0", 5432).expect("an address");
    let pod = fleet.pod("backend/postgres-primary-0").expect("a pod");
    let _serving = pod.enter(|| Server::echo(database)).expect("a server");
    let replicas: Vec<String> = fleet.pods_like("backend/backend-api-");
    assert_eq!(replicas.len(), 8);
    let all_connect = || {
        std::thread::scope(|scope| {
            let tries = replicas
                .iter()
                .map(|pod| scope.spawn(|| fleet.connects(pod, database).expect("a client")));
            let tries: Vec<_> = tries.collect();
            tries.into_iter().map(|each| each.join().expect("a try")).filter(|done| *done).count()
        })
    };
    let agent = fleet.agent("worker-1").expect("an agent");
    let kubeconfig = fleet.admit_healer().expect("rights");
    let flags = [&WATCH[..], &["--time-to-live", "44s"]].concat();
    let mut healer = fleet.healer("worker-1", &agent, &kubeconfig, &flags).expect("a healer");
    works_for_long(|| assert_eq!(all_connect(), 8));
    annotate(&fleet, "backend", "dry-run");
    let policy = read("tests/fleet/restrict-backend-ingress/calico.yaml");
    apply(&fleet, &policy);
    until("policy in force", ENFORCED_WAIT, || {
        Ok(if all_connect() == 0 { Look::Seen(()) } else { Look::NotYet(String::new()) })
    })
    .expect("in force");

    // It says what it would do, which the API server would take, and does nothing.
    let proposed = healed(&mut healer, "proposed");
    let manifest = proposed["manifest"].as_str().expect("a manifest").to_owned();
    assert!(manifest.contains("crd.projectcalico.org/v1"), "{manifest}");
    assert!(standing(&fleet).is_empty());
    assert!(
        events(&fleet, "backend").contains(&("WhydropHealProposed".into(), "Namespace".into()))
    );

    // With leave to, it does just that; all replicas recover by themselves.
    annotate(&fleet, "backend", "apply");
    let applied = healed(&mut healer, "applied");
    assert_eq!(applied["manifest"], manifest.as_str(), "{applied}");
    assert_eq!(applied["incident"], proposed["incident"], "{applied}");
    let [standing_now] = &standing(&fleet)[..] else { panic!("one policy") };
    let managers = standing_now["metadata"]["managedFields"].as_array().expect("managers");
    assert_eq!(managers.len(), 1, "{managers:?}");
    assert_eq!(
        (&managers[0]["manager"], &managers[0]["operation"]),
        (&json!("whydrop-heal"), &json!("Apply"))
    );
    let annotations = &standing_now["metadata"]["annotations"];
    assert_eq!(annotations["whydrop.io/incident"], applied["incident"], "{annotations}");
    assert_eq!(annotations["whydrop.io/owner"], "whydrop/whydrop-heal", "{annotations}");
    until("recovery", ENFORCED_WAIT, || {
        let connecting = all_connect();
        Ok(if connecting == 8 { Look::Seen(()) } else { Look::NotYet(connecting.to_string()) })
    })
    .expect("all replicas reach their database");
    let kept = healed(&mut healer, "kept");
    assert_eq!(kept["outcome"], "recovered", "{kept}\n{}", agent.said());
    let [kept_now] = &standing(&fleet)[..] else { panic!("one policy") };
    assert_eq!(kept_now["metadata"]["uid"], standing_now["metadata"]["uid"]);
    assert_eq!(kept_now["metadata"]["annotations"]["whydrop.io/outcome"], "kept", "{kept_now}");
    assert_eq!(kept_now["spec"], standing_now["spec"]);

    // Nobody decides: it says so beforehand, and then takes it back.
    healed(&mut healer, "expiring");
    assert_eq!(standing(&fleet).len(), 1);
    healed(&mut healer, "expired");
    assert_eq!(standing(&fleet).len(), 0);
    assert_eq!(actions(&healer), ["proposed", "applied", "kept", "expiring", "expired"]);
    let reasons: Vec<String> = events(&fleet, "backend").into_iter().map(|(r, _)| r).collect();
    for reason in ["Applied", "Kept", "Expiring", "Expired"] {
        assert!(reasons.contains(&format!("WhydropHeal{reason}")), "{reason}: {reasons:?}");
    }
    healer.stop().expect("it ends");
}

/// A second filter on the node drops the same packets: the remedy does not help, and is taken back.
#[test]
fn what_does_not_help_is_rolled_back() {
    let mut stage = stage();
    let agent = stage.world.agent("worker-2").expect("an agent");
    let kubeconfig = stage.world.admit_healer().expect("rights");
    let mut healer = stage.world.healer("worker-2", &agent, &kubeconfig, &WATCH).expect("a healer");
    works(&stage, SERVER);
    consent(&stage.world, "apply");
    let host = &stage.world.host("worker-2").expect("a node").namespace;
    host.nft(
        "table inet beneath { chain forward { type filter hook forward priority 10; \
         tcp dport 8080 ct state new drop; }; }\n",
    )
    .expect("rules");
    apply(&stage.world, DEFAULT_DENY);
    wait_for(&stage, false);
    let applied = healed_while(&mut healer, "applied", || {
        connects(&stage, SERVER);
    });
    assert_eq!(standing(&stage.world).len(), 1);
    // Another client tries, once the policy has had its time; what a client tries again is reported once
    // a minute.
    stage.world.apply(NEWCOMER).expect("a pod");
    let had_its_time = Instant::now() + SETTLE.unsigned_abs();
    let rolled_back = healed_while(&mut healer, "rolled-back", || {
        if Instant::now() < had_its_time {
            return;
        }
        let connects = stage.world.connects("frontend/pod-d", SERVER).expect("a client");
        assert!(!connects, "there is the other filter");
    });
    assert_eq!(rolled_back["incident"], applied["incident"], "{rolled_back}");
    let outcome = rolled_back["outcome"].as_str().unwrap_or_default();
    assert!(["broke", "still-dying"].contains(&outcome), "{rolled_back}");
    assert!(standing(&stage.world).is_empty(), "nothing of it is left");
    assert!(
        events(&stage.world, "backend")
            .contains(&("WhydropHealRolledBack".into(), "NetworkPolicy".into()))
    );
    let policies = ["get", "networkpolicies", "-n", "backend", "-o", "name"];
    let left = stage.world.kubectl_run(&policies).expect("policies");
    assert_eq!(left.trim(), "networkpolicy.networking.k8s.io/default-deny");

    assert_eq!(actions(&healer).iter().filter(|action| **action == "applied").count(), 1);
    healer.stop().expect("it ends");
}

/// No consent, an explicit deny, an object of the same name, and a policy that is no longer its own.
#[test]
fn what_is_not_its_own_is_left_alone() {
    let stage = stage();
    let mut agent = stage.world.agent("worker-2").expect("an agent");
    let kubeconfig = stage.world.admit_healer().expect("rights");
    let flags = [&WATCH[..], &["--time-to-live", "35s"]].concat();
    let mut healer = stage.world.healer("worker-2", &agent, &kubeconfig, &flags).expect("a healer");
    works(&stage, SERVER);
    apply(&stage.world, DEFAULT_DENY);
    wait_for(&stage, false);
    let not_asked = "namespace backend is not annotated whydrop.io/heal=dry-run or apply";
    let refusal = refused(&mut healer, not_asked);
    assert!(events(&stage.world, "backend").is_empty(), "nobody has asked for any");

    // Somebody has a policy of the very name that the remedy would get.
    let incident = refusal["incident"].as_str().expect("an incident").to_owned();
    let name = format!("allow-web-to-pod-b-8080-{}", &incident[..8]);
    let foreign = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": name, "namespace": "backend" },
        "spec": { "podSelector": { "matchLabels": { "app": "other" } } },
    });
    apply(&stage.world, &foreign.to_string());
    let get =
        ["get", "networkpolicy", &name, "-n", "backend", "-o", "json", "--show-managed-fields"];
    let before = stage.world.kubectl().expect("kubectl").json(get).expect("a policy");

    // An explicit deny, in a namespace that consents.
    apply(&stage.world, EXPLICIT_DENY);
    annotate(&stage.world, "backend", "apply");
    let is_explicit = |record: &Value| {
        record["kind"] == "incident" && record["cause"]["class"] == "explicit-deny"
    };
    record_while(&mut agent, "explicit deny", is_explicit, || {
        connects(&stage, NEIGHBOUR);
    });
    let why = "explicit deny by NetworkPolicy.projectcalico.org backend/default.no-metrics: its owner decides, \
               not a machine";
    refused(&mut healer, why);

    // That the server's side asks for it lets nobody in who has not asked.
    refused(&mut healer, "namespace frontend is not annotated whydrop.io/heal=dry-run or apply");
    assert!(standing(&stage.world).is_empty());
    annotate(&stage.world, "frontend", "apply");

    let applied = healed(&mut healer, "applied");
    assert_eq!(applied["incident"], incident.as_str(), "{applied}");
    let [ours] = &standing(&stage.world)[..] else { panic!("one policy") };
    assert_eq!(ours["metadata"]["name"], format!("{name}-2"), "{ours}");
    assert_eq!(
        stage.world.kubectl().expect("kubectl").json(get).expect("a policy"),
        before,
        "it was touched"
    );

    // Somebody changes its rules: from then on it is theirs, no matter who created it.
    let patch = r#"[{"op": "add", "path": "/spec/ingress/0/ports/-", "value": {"port": 8082}}]"#;
    let name = format!("{name}-2");
    let edit = ["patch", "networkpolicy", &name, "-n", "backend", "--type=json", "-p", patch];
    stage.world.kubectl_run(&edit).expect("patched");
    refused(&mut healer, "is not the healer's: its rules were written by");
    assert_eq!(standing(&stage.world).len(), 1, "it stands, and is theirs");
    assert!(!actions(&healer).contains(&"expired"), "{:?}", actions(&healer));
    healer.stop().expect("it ends");
}

/// Of two one acts; where it is killed the other goes on where it was, within the same bounds.
#[test]
fn of_two_healers_one_acts_and_the_other_takes_over() {
    let stage = stage();
    let mut agent = stage.world.agent("worker-2").expect("an agent");
    let kubeconfig = stage.world.admit_healer().expect("rights");
    consent(&stage.world, "apply");
    let start = |name: &str| {
        let flags = [&WATCH[..], &["--per-hour", "1", "--identity", name]].concat();
        stage.world.healer("worker-2", &agent, &kubeconfig, &flags).expect("a healer")
    };
    let holder = || {
        let owner = "jsonpath={.spec.holderIdentity}";
        let get =
            ["get", "lease", "whydrop-heal", "-n", "whydrop", "--ignore-not-found", "-o", owner];
        stage.world.kubectl_run(&get).expect("kubectl")
    };
    let mut leader = start("one");
    until("a leader", HEAL_WAIT, || {
        let holder = holder();
        Ok(if holder == "one" { Look::Seen(()) } else { Look::NotYet(holder) })
    })
    .expect("it leads");
    let mut other = start("two");
    works(&stage, SERVER);
    works(&stage, NEIGHBOUR);
    apply(&stage.world, DEFAULT_DENY);
    wait_for(&stage, false);
    healed(&mut leader, "applied");
    let before = standing(&stage.world);
    assert_eq!(before.len(), 1);
    assert_eq!(actions(&other), Vec::<&str>::new(), "it only listens");

    // Killed in the middle of its watch.
    drop(leader);
    wait_for(&stage, true);
    let kept = healed(&mut other, "kept");
    assert_eq!((holder().as_str(), &kept["healer"]), ("two", &json!("two")));
    assert_eq!(kept["outcome"], "recovered", "{kept}\n{}", agent.said());
    let after = standing(&stage.world);
    assert_eq!(after.len(), 1);
    assert_eq!(after[0]["metadata"]["uid"], before[0]["metadata"]["uid"]);

    // The hour's only healing was that of the one that died.
    let is_other = |record: &Value| {
        record["kind"] == "incident"
            && record["id"] != kept["incident"]
            && record["happened"] == "opened"
    };
    record_while(&mut agent, "another incident", is_other, || {
        connects(&stage, NEIGHBOUR);
    });
    refused(&mut other, "1 were healed within");
    assert_eq!(standing(&stage.world).len(), 1);
    assert_eq!(actions(&other), ["kept"]);
    other.stop().expect("it ends");
    assert_eq!(holder(), "", "it lets others lead at once");
    // The agent has reported its own; nothing of the healer's is among it.
    record(&mut agent, "resolution", |record| record["happened"] == "resolved");
}

/// Pods that nobody asked for dial what is denied, in namespaces that all want healing: whether the
/// denial is news or half a year old, and they are young or older than it, they are given nothing.
#[test]
fn what_never_worked_is_denied_as_before() {
    let stage = stage_of(Settings::default(), &(manifests() + &strangers("")));
    let fleet = &stage.world;
    let kubeconfig = fleet.admit_healer().expect("rights");
    let mut agent = fleet.agent("worker-2").expect("an agent");
    // Once may be an accident, or a forgery.
    assert!(connects(&stage, NEIGHBOUR));
    apply(fleet, DEFAULT_DENY);
    until("policy in force", ENFORCED_WAIT, || {
        let passes = fleet.connects("backend/pod-b", NEIGHBOUR)?;
        Ok(if passes { Look::NotYet(String::new()) } else { Look::Seen(()) })
    })
    .expect("in force");
    let dial = || {
        for stranger in ["tenant/stranger-0", "tenant/stranger-1"] {
            let connects = fleet.connects(stranger, SERVER).expect("a client");
            assert!(!connects, "{stranger} is let in");
        }
    };
    let source = |record: &Value| record["affected"][0]["source"]["namespace"].clone();
    let is_theirs = |record: &Value| record["kind"] == "incident" && source(record) == "tenant";

    let is_once =
        |record: &Value| source(record) == "frontend" && record["affected"][0]["successes"] == 1;
    record_while(&mut agent, "of one connection", is_once, || {
        assert!(!connects(&stage, NEIGHBOUR));
    });
    let is_bad = |record: &Value| is_theirs(record) && record["severity"] == "critical";
    let news = record_while(&mut agent, "what a person is paged for", is_bad, dial);
    let once = "was seen to work over 1 connection only";
    refused_in_each_mode(&stage, &agent, &kubeconfig, &news, &[once]);
    agent.stop().expect("it ends");

    let ago = |days: i64| Timestamp::now() - SignedDuration::from_hours(24 * days);
    let created = |at: Timestamp| format!("creationTimestamp: \"{}\",", at.strftime("%FT%TZ"));
    let half_a_year = ago(180);
    for (name, made) in [("young", ago(0)), ("old", ago(181))] {
        let metadata = format!("{{{} name: default-deny,", created(half_a_year));
        let deny = DEFAULT_DENY.replace("{name: default-deny,", &metadata);
        assert_ne!(deny, DEFAULT_DENY);
        let folder = tempfile::tempdir().expect("a folder");
        let all = format!("{}{}---{deny}", manifests(), strangers(&created(made)));
        std::fs::write(folder.path().join("all.yaml"), all).expect("written");
        let (host, source) =
            (fleet.network("worker-2"), Source::Manifests(folder.path().to_owned()));
        let command = Agent::command(&host.expect("a node"), "worker-2", &source);
        let mut agent = Agent::spawn(&mut command.expect("whydrop")).expect("an agent");
        let incident = record_while(&mut agent, name, is_theirs, dial);
        let since = incident["cause"]["denied_since"].as_str().expect("a time");
        let since: Timestamp = since.parse().expect("a time");
        assert_eq!(since.as_second(), half_a_year.as_second(), "{incident}");
        refused_in_each_mode(&stage, &agent, &kubeconfig, &incident, &[]);
        let theirs = agent.records().iter().filter(|heard| is_theirs(&heard.record));
        let severities: Vec<_> = theirs.map(|heard| heard.record["severity"].clone()).collect();
        assert!(severities.iter().all(|severity| severity == "info"), "{name}: {severities:?}");
        agent.stop().expect("it ends");
    }
    dial();
}

/// Whatever its namespaces let a healer do, it says why it does nothing about what never worked, and
/// about what else is to be refused.
fn refused_in_each_mode(
    stage: &Stage<Fleet>,
    agent: &Agent,
    kubeconfig: &std::path::Path,
    incident: &Value,
    more: &[&str],
) {
    for mode in ["dry-run", "apply"] {
        consent(&stage.world, mode);
        annotate(&stage.world, "tenant", mode);
        let healer = stage.world.healer("worker-2", agent, kubeconfig, &WATCH);
        let mut healer = healer.expect("a healer");
        let refusal = refused(&mut healer, "was never seen to work: a person decides");
        assert_eq!(refusal["incident"], incident["id"], "{refusal}");
        for why in more {
            refused(&mut healer, why);
        }
        assert_eq!(actions(&healer), Vec::<&str>::new(), "{mode}");
        assert!(standing(&stage.world).is_empty(), "{mode}");
        healer.stop().expect("it ends");
    }
}
