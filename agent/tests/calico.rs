//! Calico's kinds from manifest to diagnosis: what the conformance cases do not hold.

use whydrop::{
    cluster::manifests::Manifests,
    report::{remedy_of, verdict_of},
};
use whydrop_core::{
    cluster::Cluster,
    diagnosis::{Case, Class, Fate},
    flow::{Flow, Protocol},
    judgement::{Judgement, judge},
    remedy::mark::Mark,
    verdict::Decision,
};

/// A web pod and a database on node worker-1, and a Service in front of the database.
const CLUSTER: &str = "
{apiVersion: v1, kind: Node, metadata: {name: worker-1},
 status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: front, labels: {team: red}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: front, labels: {role: ci}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: front, labels: {app: web}},
 spec: {nodeName: worker-1, serviceAccountName: web, containers: []}, status: {podIP: 10.1.0.10}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}},
 spec: {nodeName: worker-1, containers: [{name: db, ports: [{name: sql, containerPort: 5432}]}]},
 status: {podIP: 10.1.0.20}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop},
 spec: {clusterIP: 10.96.0.7, selector: {app: db}, ports: [{port: 80, targetPort: 5432}]}}
";

const WEB: &str = "10.1.0.10";
const DB: &str = "10.1.0.20";
const NODE: &str = "10.0.0.1";

/// A policy of Calico's in namespace shop, or of the cluster.
fn policy(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "\n---\n{{apiVersion: projectcalico.org/v3, kind: {kind}, \
         metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}\n"
    )
}

fn cluster(policies: &str) -> Cluster {
    let mut manifests = Manifests::default();
    manifests.read_text("cluster.yaml", &format!("{CLUSTER}{policies}"));
    assert!(manifests.errors.is_empty(), "{:?}", manifests.errors);
    manifests.cluster()
}

fn asked(cluster: &Cluster, source: &str, destination: &str, port: u16) -> Judgement {
    let flow = Flow {
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        port,
        protocol: Protocol::Tcp,
    };
    let case = Case { flow, dialled: None, at: None, fate: Fate::Asked };
    judge(&cluster.snapshot(), cluster.history(), &case)
}

fn web_to_db(policies: &str) -> Judgement {
    asked(&cluster(policies), WEB, DB, 5432)
}

#[test]
fn an_end_of_tier_names_the_policies_and_what_the_nearest_rule_wants() {
    let rule = "{action: Allow, protocol: TCP, source: {selector: app == 'api', \
        namespaceSelector: team == 'red'}, destination: {ports: [5432]}}";
    let judgement = web_to_db(&policy(
        "NetworkPolicy",
        "restrict",
        &format!("{{selector: app == 'db', ingress: [{rule}]}}"),
    ));
    let cause = &judgement.diagnosis.cause;
    assert_eq!(cause.class, Class::PodSelectorMismatch, "{}", cause.text);
    assert_eq!(
        cause.text,
        "ingress denied by NetworkPolicy.projectcalico.org shop/restrict, at the end of tier default; \
         nearest: shop/restrict rule 0 wants pod label app == 'api', found pod front/web: app=web"
    );
    let verdict = serde_json::to_value(verdict_of(&judgement.diagnosis.verdict)).expect("JSON");
    let ingress = &verdict["ingress"];
    assert_eq!((&ingress["layer"], &ingress["tier"]), (&"tier".into(), &"default".into()));
    assert_eq!(ingress["isolating"][0]["kind"], "CalicoNetworkPolicy");
}

#[test]
fn the_remedy_is_of_the_kind_and_tier_of_the_policy_responsible() {
    let tier = "\n---\n{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: security}, \
        spec: {order: 100}}\n";
    let judgement = web_to_db(
        &(tier.to_owned()
            + &policy(
                "GlobalNetworkPolicy",
                "security.lock",
                "{tier: security, selector: app == 'db' || app == 'cache', types: [Ingress]}",
            )),
    );
    assert_eq!(judgement.diagnosis.cause.class, Class::DefaultDeny);
    let remedy = remedy_of(&judgement.remedy.expect("a remedy"), &Mark::default());
    assert!(remedy.verified);
    assert_eq!(
        remedy.manifest,
        "apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  namespace: shop
  name: security.allow-web-to-db-5432
  labels:
    app.kubernetes.io/managed-by: whydrop
spec:
  tier: security
  selector: app == 'db' && (app == 'db' || app == 'cache')
  types:
  - Ingress
  ingress:
  - action: Allow
    protocol: TCP
    source:
      selector: app == 'web'
      namespaceSelector: projectcalico.org/name == 'front'
    destination:
      ports:
      - 5432
"
    );
}

#[test]
fn a_remedy_is_stored_as_the_policy_responsible_is() {
    let lock = "\n---\n{apiVersion: crd.projectcalico.org/v1, kind: NetworkPolicy, metadata: {name: \
        default.lock, namespace: shop}, spec: {serviceAccountSelector: all(), types: [Ingress]}}\n";
    let remedy = remedy_of(&web_to_db(lock).remedy.expect("a remedy"), &Mark::default());
    assert!(remedy.manifest.starts_with("apiVersion: crd.projectcalico.org/v1\n"), "{remedy:?}");
    assert!(remedy.manifest.contains("name: default.allow-web-to-db-5432"), "{remedy:?}");
}

#[test]
fn an_explicit_deny_is_named_and_has_no_remedy() {
    let deny = "{types: [Ingress], ingress: [{action: Log}, {action: Deny, source: \
        {serviceAccounts: {selector: role == 'ci'}}}]}";
    let judgement = web_to_db(&policy("GlobalNetworkPolicy", "no-ci", deny));
    let cause = &judgement.diagnosis.cause;
    assert_eq!(cause.class, Class::ExplicitDeny);
    assert_eq!(cause.text, "ingress denied by GlobalNetworkPolicy no-ci rule 1");
    assert!(judgement.remedy.is_none());
}

#[test]
fn a_remedy_does_not_get_round_a_denial_of_a_higher_order() {
    // A policy of Kubernetes would let other pods with these labels pass before the denial.
    let kubernetes = "\n---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: \
        {name: lock, namespace: shop}, spec: {podSelector: {}}}\n\
        ---\n{apiVersion: v1, kind: Pod, metadata: {name: db-2, namespace: shop, labels: {app: db}}, \
        spec: {nodeName: worker-1, containers: []}, status: {podIP: 10.1.0.21}}\n\
        ---\n{apiVersion: v1, kind: Pod, metadata: {name: db-3, namespace: shop, labels: {app: db, \
        kept: apart}}, spec: {nodeName: worker-1, containers: []}, status: {podIP: 10.1.0.22}}\n";
    let deny = policy(
        "NetworkPolicy",
        "deny",
        "{order: 2000, selector: kept == 'apart', types: [Ingress], ingress: [{action: Deny}]}",
    );
    let cluster = cluster(&(kubernetes.to_owned() + &deny));
    let judgement = asked(&cluster, WEB, DB, 5432);
    let remedy = remedy_of(&judgement.remedy.expect("a remedy"), &Mark::default());
    assert!(remedy.manifest.contains("projectcalico.org"), "{}", remedy.manifest);
    let denied = asked(&cluster, WEB, "10.1.0.22", 5432);
    assert_eq!(denied.diagnosis.cause.class, Class::ExplicitDeny);
}

#[test]
fn a_staged_policy_is_told_and_decides_nothing() {
    for (kind, spec) in [
        ("StagedNetworkPolicy", "{selector: all(), types: [Ingress]}"),
        ("StagedGlobalNetworkPolicy", "{types: [Ingress], ingress: [{action: Deny}]}"),
        ("StagedKubernetesNetworkPolicy", "{podSelector: {}}"),
    ] {
        let judgement = web_to_db(&policy(kind, "soon", spec));
        let ingress = &judgement.diagnosis.verdict.ingress;
        assert_eq!(ingress.decision, Decision::NotIsolated, "{kind}");
        assert!(ingress.isolating.is_empty());
        let kinds: Vec<_> = ingress.would_deny.iter().map(|p| p.reference.kind.name()).collect();
        assert_eq!(kinds, [kind]);
    }
    let allowing = policy("StagedNetworkPolicy", "soon", "{ingress: [{action: Allow}]}");
    assert!(web_to_db(&allowing).diagnosis.verdict.ingress.would_deny.is_empty());
}

#[test]
fn what_a_syn_cannot_decide_is_named() {
    let allow = |rule: &str| format!("{{types: [Ingress], ingress: [{{action: Allow, {rule}}}]}}");
    for (rule, why) in [
        ("http: {methods: [GET]}", "an HTTP match"),
        ("protocol: TCP, source: {ports: [1024]}", "source ports"),
        ("source: {services: {name: gone}}", "Service shop/gone"),
    ] {
        let judgement = web_to_db(&policy("NetworkPolicy", "p", &allow(rule)));
        let cause = &judgement.diagnosis.cause;
        assert_eq!(cause.class, Class::CannotTell, "{rule}");
        assert!(cause.text.contains(why), "{rule}: {}", cause.text);
    }
    // What comes after allows it in any case.
    let both =
        "{types: [Ingress], ingress: [{action: Allow, http: {methods: [GET]}}, {action: Allow}]}";
    let judgement = web_to_db(&policy("NetworkPolicy", "p", both));
    assert_eq!(judgement.diagnosis.verdict.ingress.decision, Decision::Allowed);
    // A rule about ICMP is decided: it is not about this.
    let judgement =
        web_to_db(&policy("NetworkPolicy", "p", &allow("protocol: ICMP, icmp: {type: 8}")));
    assert_eq!(judgement.diagnosis.cause.class, Class::DefaultDeny);
}

#[test]
fn a_service_stands_for_its_endpoints_on_its_port() {
    let egress = "\n---\n{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: out, \
        namespace: front}, spec: {types: [Egress], egress: [{action: Allow, destination: {services: \
        {name: db, namespace: shop}}}]}}\n";
    let cluster = cluster(egress);
    let decision = |port| asked(&cluster, WEB, DB, port).diagnosis.verdict.egress.decision;
    assert_eq!((decision(5432), decision(80)), (Decision::Allowed, Decision::Denied));
}

#[test]
fn a_tier_without_an_object_leaves_it_open() {
    let judgement = web_to_db(&policy("NetworkPolicy", "gone.p", "{tier: gone, types: [Ingress]}"));
    let cause = &judgement.diagnosis.cause;
    assert_eq!(cause.class, Class::CannotTell);
    assert!(cause.text.contains("Tier gone is not among the objects"), "{}", cause.text);
}

#[test]
fn calico_polices_what_a_pod_sends_to_its_own_node() {
    let kubernetes = "\n---\n{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: \
        lock, namespace: shop}, spec: {podSelector: {}, policyTypes: [Ingress, Egress]}}\n";
    let pool = "---\n{apiVersion: crd.projectcalico.org/v1, kind: IPPool, metadata: {name: a},\n \
                spec: {cidr: 10.1.0.0/16}}\n";
    let exempt = |policies: &str, source, destination| {
        let verdict = asked(&cluster(policies), source, destination, 443).diagnosis.verdict;
        assert_eq!(verdict.decision(), Decision::Denied);
        verdict.exempt.is_some()
    };
    assert!(exempt(kubernetes, DB, NODE) && exempt(kubernetes, NODE, DB));
    let with_calico = kubernetes.to_owned() + pool;
    assert!(!exempt(&with_calico, DB, NODE) && exempt(&with_calico, NODE, DB));
}

#[test]
fn a_tier_that_comes_to_deny_is_what_changed() {
    let tier = |end: &str| {
        let mut manifests = Manifests::default();
        manifests.read_text(
            "tier.yaml",
            &format!(
                "{{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {{name: t}}, \
                 spec: {{order: 1, defaultAction: {end}}}}}"
            ),
        );
        manifests.objects.remove(0)
    };
    let mut cluster = cluster(&policy("NetworkPolicy", "t.p", "{tier: t, types: [Ingress]}"));
    cluster.apply(tier("Pass"), None);
    let passed = asked(&cluster, WEB, DB, 5432).diagnosis.verdict.ingress;
    assert_eq!((passed.decision, passed.passed.len()), (Decision::NotIsolated, 1));
    cluster.apply(tier("Deny"), Some("2026-01-02T03:04:05Z".parse().expect("a time")));
    let changed = asked(&cluster, WEB, DB, 5432).changed;
    let changed = changed.lead().expect("a change");
    assert_eq!((changed.object.to_string(), changed.kind.name()), ("Tier t".to_owned(), "edited"));
}

#[test]
fn a_remedy_is_in_the_group_that_users_may_write() {
    let lock = "\n---\n{apiVersion: crd.projectcalico.org/v1, kind: NetworkPolicy, metadata: {name: \
        default.lock, namespace: shop}, spec: {selector: all(), types: [Ingress]}}\n";
    for (served, api_version, name) in [
        (&["crd.projectcalico.org", "projectcalico.org"][..], "projectcalico.org/v3", "allow-web"),
        (&["projectcalico.org"], "projectcalico.org/v3", "allow-web"),
        (&["crd.projectcalico.org"], "crd.projectcalico.org/v1", "default.allow-web"),
    ] {
        let mut cluster = cluster(lock);
        cluster.set_served(served.iter().copied());
        let remedy =
            remedy_of(&asked(&cluster, WEB, DB, 5432).remedy.expect("a remedy"), &Mark::default());
        let manifest = &remedy.manifest;
        assert!(manifest.starts_with(&format!("apiVersion: {api_version}\n")), "{manifest}");
        assert!(manifest.contains(&format!("name: {name}-to-db-5432")), "{manifest}");
    }
}

#[test]
fn a_policy_has_the_name_that_its_user_gave_it() {
    let stored = |annotations: &str| {
        format!(
            "\n---\n{{apiVersion: crd.projectcalico.org/v1, kind: NetworkPolicy, metadata: {{name: \
             default.lock, namespace: shop{annotations}}}, spec: {{selector: all(), types: \
             [Ingress]}}}}\n"
        )
    };
    let said = ", annotations: {projectcalico.org/metadata: '{\"name\":\"lock\"}'}";
    for (annotations, name, stored_as) in [
        (said, "lock", Some("default.lock")),
        ("", "default.lock", None),
        (", annotations: {projectcalico.org/metadata: '{}'}", "default.lock", None),
        (", annotations: {projectcalico.org/metadata: none}", "default.lock", None),
    ] {
        let judgement = web_to_db(&stored(annotations));
        let policy = &judgement.diagnosis.verdict.ingress.isolating[0];
        assert_eq!(&*policy.reference.name, name);
        assert_eq!(policy.stored_as.as_deref(), stored_as);
        let text = &judgement.diagnosis.cause.text;
        let named =
            format!("ingress denied by NetworkPolicy.projectcalico.org shop/{name}, at the");
        assert!(text.starts_with(&named), "{text}");
    }
}

#[test]
fn what_is_not_selected_is_taken_out_by_labels_and_not_by_a_set_that_holds_the_address() {
    let set = "\n---\n{apiVersion: projectcalico.org/v3, kind: GlobalNetworkSet, metadata: {name: bad, \
        labels: {mood: bad}}, spec: {nets: [10.1.0.10/32]}}\n";
    let rule = |source: &str| {
        let spec = format!("{{types: [Ingress], ingress: [{{action: Allow, source: {source}}}]}}");
        set.to_owned() + &policy("GlobalNetworkPolicy", "p", &spec)
    };
    for (source, allowed) in [
        ("{selector: app == 'web'}", true),
        ("{selector: app == 'web', notSelector: mood == 'bad'}", true),
        ("{selector: app == 'web', notSelector: app == 'web'}", false),
        ("{selector: \"app == 'web' || has(x)\", notSelector: \"has(y) || mood == 'bad'\"}", true),
        ("{namespaceSelector: team == 'red', notSelector: mood == 'bad'}", true),
        // By itself it takes out the addresses of the set, a pod that has one too.
        ("{notSelector: mood == 'bad'}", false),
        // A set is selected as well, and filtered by its own labels.
        ("{selector: has(mood)}", true),
        ("{selector: has(mood), notSelector: mood == 'bad'}", false),
    ] {
        let verdict = web_to_db(&rule(source)).diagnosis.verdict;
        assert_eq!(verdict.decision().lets_pass(), allowed, "{source}");
    }
}
