//! What the healer proposes for a cluster, and its records: golden, read back strictly, and valid by
//! their own schema.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use whydrop::{
    cluster::manifests::Manifests,
    records::{self, Line},
    report::{HealReporter, Record, heal::HealAction, text},
};
use whydrop_core::{
    cluster::Snapshot,
    flow::{Flow, Protocol, Worked},
    heal::{
        Between, CaseId, FlowPast, POLICIES_MAX, Past, Proposal, Refusal, Standing, Unclear,
        Wanted, WatchOutcome, propose,
    },
    incident::IncidentId,
    verdict::{Decision, Question, evaluate},
};

const INCIDENT: IncidentId = IncidentId(0x5e88_4898_da28_0471);

/// Two web pods and a database, which no pod may reach.
const CLUSTER: &str = "
{apiVersion: v1, kind: Node, metadata: {name: worker-1},
 status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: front}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-0, namespace: front, labels: {app: web}},
 spec: {nodeName: worker-1, containers: []}, status: {podIP: 10.1.0.10}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-1, namespace: front, labels: {app: web}},
 spec: {nodeName: worker-1, containers: []}, status: {podIP: 10.1.0.11}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}},
 spec: {nodeName: worker-1, containers: []}, status: {podIP: 10.1.0.20}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: deny, namespace: shop},
 spec: {podSelector: {}, policyTypes: [Ingress]}}
";

fn snapshot(more: &str) -> Snapshot {
    let mut manifests = Manifests::default();
    manifests.read_text("cluster.yaml", &format!("{CLUSTER}---\n{more}"));
    assert!(manifests.errors.is_empty(), "{:?}", manifests.errors);
    manifests.cluster().snapshot()
}

fn flow(source: u8, port: u16) -> Flow {
    let (source, destination) = ([10, 1, 0, source].into(), [10, 1, 0, 20].into());
    Flow { source, destination, port, protocol: Protocol::Tcp }
}

fn case() -> CaseId {
    let between = Between { client: Some("front".into()), server: Some("shop".into()) };
    CaseId { incident: INCIDENT, between }
}

/// That it worked for an hour until it was denied, in the words of the agent of this node.
fn past(node: &str) -> Past {
    let at = |minutes| Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
    let worked = Some(Worked { first: at(0), last: at(60), connections: 9 });
    Past::of(node.into(), FlowPast { worked, denied_since: Some(at(60)) })
}

fn wanted(flows: &[Flow]) -> Wanted {
    let flows = flows.iter().map(|flow| (*flow, past("worker-1"))).collect();
    Wanted { case: case(), flows, min_worked: SignedDuration::from_mins(5) }
}

fn proposed(more: &str, flows: &[Flow]) -> Result<Proposal, Refusal> {
    propose(&snapshot(more), &wanted(flows))
}

/// Why nothing is proposed.
fn refused(more: &str, flows: &[Flow]) -> String {
    proposed(more, flows).expect_err("a refusal").to_string()
}

#[test]
fn one_policy_for_all_replicas_by_a_name_of_its_own() {
    let flows = [flow(10, 5432), flow(11, 5432)];
    let proposal = proposed("", &flows).expect("a proposal");
    let names: Vec<_> = proposal.policies.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["shop/allow-web-0-to-db-5432-5e884898"]);
    assert_eq!((proposal.proved, proposal.namespaces().len()), (2, 1));
    // Whoever is let in has to ask for it as well.
    assert_eq!(proposal.consenting(), BTreeSet::from(["front".into(), "shop".into()]));
    // By the evaluator of all else: with it, they pass.
    let mut with = snapshot("");
    for manifest in &proposal.manifests {
        with = with.with_policy(manifest.lower().expect("a policy"));
    }
    for Flow { source, destination, port, protocol } in flows {
        let (source, destination) = (with.resolve(source, None), with.resolve(destination, None));
        let question = Question::new(source, destination, port, protocol);
        assert_eq!(evaluate(&with, &question).decision(), Decision::Allowed);
    }
    // Two ports are two paths, up to a bound.
    let two = proposed("", &[flow(10, 5432), flow(10, 9187)]).expect("a proposal");
    assert_eq!(two.manifests.len(), 2);
    let many: Vec<Flow> =
        (0..=POLICIES_MAX).map(|n| flow(10, 1000 + u16::try_from(n).expect("few"))).collect();
    assert_eq!(proposed("", &many).err(), Some(Refusal::TooManyPolicies(POLICIES_MAX)));
}

#[test]
fn what_is_not_denied_by_a_namespaces_own_omission_is_left_alone() {
    let one = [flow(10, 5432)];
    let calico = |kind: &str, meta: &str, spec: &str| {
        format!(
            "{{apiVersion: crd.projectcalico.org/v1, kind: {kind}, metadata: {{{meta}}}, \
             spec: {{selector: all(), types: [Ingress], {spec}}}}}"
        )
    };
    // An explicit deny, of a namespace's own policy: for one flow of two is enough.
    let deny = "order: 1, ingress: [{action: Deny, protocol: TCP, destination: {ports: [22]}}]";
    let deny = calico("NetworkPolicy", "name: default.no, namespace: shop", deny);
    assert_eq!(
        refused(&deny, &[one[0], flow(10, 22)]),
        "explicit deny by NetworkPolicy.projectcalico.org shop/default.no: its owner decides, not a \
         machine"
    );
    // A policy of the whole cluster, as the one that leads or beside others.
    let global = calico("GlobalNetworkPolicy", "name: default.all", "order: 5");
    assert!(refused(&global, &one).contains("GlobalNetworkPolicy default.all is cluster-wide"));
    // A tier of somebody's own.
    let tier = "{apiVersion: crd.projectcalico.org/v1, kind: Tier, metadata: {name: security}, \
                spec: {order: 1}}";
    let own = calico("NetworkPolicy", "name: security.x, namespace: shop", "tier: security");
    assert!(refused(&format!("{tier}\n---\n{own}"), &one).contains("is of the tier security"));
    // An admin's.
    let admin = "{apiVersion: policy.networking.k8s.io/v1alpha1, kind: AdminNetworkPolicy, \
                 metadata: {name: a}, spec: {priority: 1, subject: {namespaces: {}}, \
                 ingress: [{action: Deny, from: [{namespaces: {}}]}]}}";
    assert!(refused(admin, &one).starts_with("explicit deny by AdminNetworkPolicy a"));
    // Nothing denies it, or it is unknown.
    let allow = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
                 metadata: {name: allow, namespace: shop}, spec: {podSelector: {}, ingress: [{}]}}";
    assert_eq!(proposed(allow, &one).err(), Some(Refusal::NotDenied));
    assert!(refused("", &[flow(99, 5432)]).starts_with("10.1.0.99 is outside the cluster"));
    let cilium = "{apiVersion: cilium.io/v2, kind: CiliumNetworkPolicy, \
                  metadata: {name: c, namespace: shop}, \
                  spec: {endpointSelector: {}, ingress: [{fromEntities: [all]}]}}";
    assert!(refused(cilium, &one).starts_with("the cluster as it is now does not show enough"));
}

#[test]
fn only_the_word_of_who_has_seen_it_counts() {
    let flow = flow(10, 5432);
    let other = || Wanted { flows: [(flow, past("worker-2"))].into(), ..wanted(&[]) };
    let refusal = propose(&snapshot(""), &other()).err();
    assert_eq!(refusal, Some(Refusal::NeverWorked(flow)), "an agent of a third node");
    let mut both = other();
    both.flows.entry(flow).and_modify(|past| {
        past.add("worker-1".into(), FlowPast { worked: None, denied_since: None });
    });
    let refusal = propose(&snapshot(""), &both).err();
    assert_eq!(refusal, Some(Refusal::NeverWorked(flow)), "in spite of the one who has");
    let min_worked = SignedDuration::from_mins(61);
    let refusal = propose(&snapshot(""), &Wanted { min_worked, ..wanted(&[flow]) }).err();
    assert!(matches!(refusal, Some(Refusal::WorkedTooShort { .. })), "{refusal:?}");
    // The addresses are another namespace's by now.
    let between = Between { client: Some("tenant".into()), ..case().between };
    let moved = Wanted { case: CaseId { between, ..case() }, ..wanted(&[flow]) };
    let refusal = propose(&snapshot(""), &moved).err();
    assert_eq!(refusal, Some(Refusal::Unclear(Unclear::OtherEnds(flow))));
}

/// Everything that a healer reports.
fn story() -> Vec<Record> {
    let at = |minutes: i64| -> Timestamp {
        let start: Timestamp = "2026-01-02T03:04:05Z".parse().expect("a time");
        start + SignedDuration::from_mins(minutes)
    };
    let reporter = HealReporter { healer: "whydrop-heal-7c9f-x2x4k".to_owned() };
    let proposal = proposed("", &[flow(10, 5432), flow(11, 5432)]).expect("a proposal");
    let expires = at(24 * 60);
    let standing = Standing {
        case: case(),
        policies: proposal.policies.clone(),
        applied: at(1),
        expires,
        is_kept: false,
    };
    let watched = |minutes, action, outcome: &WatchOutcome| {
        reporter.watched(at(minutes), &standing, action, outcome)
    };
    let standing_at = |minutes, action, why: &str| {
        reporter.standing(at(minutes), &standing, action, why.to_owned())
    };
    let no_consent = Refusal::NoConsent("shop".into());
    let records = [
        reporter.refused(at(0), INCIDENT, &[], &no_consent),
        reporter.proposed(at(0), INCIDENT, &proposal, expires),
        reporter.applied(at(1), INCIDENT, &proposal, expires),
        watched(3, HealAction::Kept, &WatchOutcome::Recovered(at(2))),
        watched(3, HealAction::RolledBack, &WatchOutcome::StillDying(at(2))),
        standing_at(23 * 60, HealAction::Expiring, "decide until then"),
        standing_at(24 * 60, HealAction::Expired, "nobody has decided"),
    ];
    records.into_iter().map(Record::from).collect()
}

#[test]
fn healing_as_json() {
    insta::assert_snapshot!(serde_json::to_string_pretty(&story()[2]).expect("JSON"));
}

#[test]
fn healing_as_text() {
    let lines: Vec<_> = story().iter().map(text::line).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn healing_is_read_back_as_it_was_written_and_valid_by_its_schema() {
    let schema = serde_json::to_value(schemars::schema_for!(Record)).expect("JSON");
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    for record in story() {
        let written = serde_json::to_value(&record).expect("JSON");
        let errors: Vec<_> = validator.iter_errors(&written).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}\n{written:#}");
        assert_eq!(records::read_line(&written.to_string()), Line::Record(Box::new(record)));
        let mut more = written.clone();
        more["sure"] = true.into();
        assert!(serde_json::from_value::<Record>(more).is_err());
    }
}
