//! From the core's values to those of records.

use whydrop_core::{
    cluster::{
        history::Change,
        object::Kind,
        resolve::{Endpoint, Holder},
    },
    diagnosis::{self, Diagnosis, Dialled},
    policy::{self, Policy},
    remedy::{self, gain::GainedPath, mark::Mark},
    service::{Entry, EntryKind, RefusalKind},
    verdict,
};

use crate::{
    schema::{
        Cause, Changed, DirectionVerdict, End, Flow, KubeProxy, NearestMiss, ObjectRef, Remedy,
        RuleRef, Service, Verdict, Workload,
    },
    yaml,
};

/// The flow of a diagnosis.
pub fn flow_of(diagnosis: &Diagnosis) -> Flow {
    let question = &diagnosis.question;
    let mut destination = end_of(&question.destination);
    destination.port = Some(question.port);
    destination.service = diagnosis.service.as_ref().map(|dialled| {
        let Dialled { service, entry, address, port } = dialled;
        Service {
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
            ip: address.to_string(),
            port: *port,
            by: (*entry != Entry::Cluster).then(|| EntryKind::from(entry).into()),
            node: match entry {
                Entry::NodePort(node) => node.as_deref().map(str::to_owned),
                _ => None,
            },
        }
    });
    let by_name = match &question.destination.holder {
        Holder::Hidden(hidden) => hidden.service_name().map(|name| (&hidden.namespace, name)),
        // What no address was dialled of.
        Holder::Service(service) if destination.service.is_none() => {
            Some((&service.namespace, &*service.name))
        }
        _ => None,
    };
    if let Some((namespace, name)) = by_name {
        destination.service = Some(Service {
            namespace: namespace.to_string(),
            name: name.to_owned(),
            ip: String::new(),
            port: question.port,
            by: None,
            node: None,
        });
    }
    Flow { protocol: question.protocol.into(), source: end_of(&question.source), destination }
}

/// An end of a flow, by who holds its address.
pub(crate) fn end_of(endpoint: &Endpoint) -> End {
    let mut end = End {
        ip: endpoint.address.map(|address| address.to_string()).unwrap_or_default(),
        ..End::default()
    };
    match &endpoint.holder {
        Holder::Pod(pod) => {
            end.namespace = Some(pod.namespace.to_string());
            end.pod = (!pod.is_template).then(|| pod.name.to_string());
            end.node = pod.node.as_deref().map(str::to_owned);
            end.workload = pod.workload.as_ref().map(|workload| Workload {
                kind: workload.kind.to_string(),
                name: workload.name.to_string(),
            });
        }
        Holder::Node(node) => end.node = Some(node.name.to_string()),
        Holder::Hidden(hidden) => {
            end.namespace = Some(hidden.namespace.to_string());
            end.pod = (!hidden.is_service).then(|| hidden.name.to_string());
        }
        // The pod's name would stand for its address on the default network.
        Holder::SecondNetwork(..) | Holder::Service(_) | Holder::Outside | Holder::Unknown(_) => {}
    }
    end
}

/// A verdict.
pub fn verdict_of(verdict: &verdict::Verdict) -> Verdict {
    Verdict {
        revision: verdict.revision,
        exempt: verdict.exempt,
        egress: direction_verdict(&verdict.egress),
        ingress: direction_verdict(&verdict.ingress),
    }
}

fn direction_verdict(verdict: &verdict::DirectionVerdict) -> DirectionVerdict {
    DirectionVerdict {
        decision: verdict.decision,
        layer: verdict.layer.as_ref().map(policy::Layer::kind),
        tier: match &verdict.layer {
            Some(policy::Layer::Tier(name)) => Some(name.to_string()),
            _ => None,
        },
        isolating: verdict.isolating.iter().map(|policy| policy_ref(&policy.reference)).collect(),
        allowed_by: verdict.allowed_by.iter().map(rule_ref).collect(),
        denied_by: verdict.denied_by.as_ref().map(rule_ref),
        would_deny: verdict.would_deny.iter().map(|policy| policy_ref(&policy.reference)).collect(),
    }
}

pub(crate) fn policy_ref(reference: &policy::PolicyRef) -> ObjectRef {
    ObjectRef {
        kind: reference.kind.name().to_owned(),
        namespace: reference.namespace.as_deref().map(str::to_owned),
        name: reference.name.to_string(),
        uid: None,
    }
}

fn policy_in_full(policy: &Policy) -> ObjectRef {
    let uid = policy.uid.as_deref().map(str::to_owned);
    ObjectRef { uid, ..policy_ref(&policy.reference) }
}

fn rule_ref(rule: &policy::RuleRef) -> RuleRef {
    RuleRef { policy: policy_ref(&rule.policy), rule: rule.rule }
}

/// A cause, and the change that made it so.
pub fn cause_of(cause: &diagnosis::Cause, changed: Option<&Change>) -> Cause {
    Cause {
        class: cause.class.into(),
        direction: cause.direction,
        situation: cause.situation.map(diagnosis::Situation::kind),
        policy: cause.policy.as_deref().map(policy_in_full),
        nearest_miss: cause.nearest_miss.as_ref().map(|miss| NearestMiss {
            policy: policy_ref(&miss.rule.policy),
            rule: miss.rule.rule,
            wanted: miss.wanted.clone(),
            found: miss.found.clone(),
        }),
        kube_proxy: cause.kube_proxy.as_deref().map(kube_proxy_of),
        changed: changed.map(changed_of),
        denied_since: None,
        confidence: cause.confidence,
        reasons: cause.reasons.clone(),
        text: cause.text.clone(),
    }
}

fn kube_proxy_of(kube_proxy: &diagnosis::KubeProxy) -> KubeProxy {
    let service = &kube_proxy.course.service;
    let mut would_deny: Vec<ObjectRef> = Vec::new();
    for policy in kube_proxy.denied.iter().flat_map(Diagnosis::responsible) {
        let policy = policy_ref(&policy.reference);
        if !would_deny.contains(&policy) {
            would_deny.push(policy);
        }
    }
    KubeProxy {
        service: ObjectRef {
            kind: Kind::Service.name().to_owned(),
            namespace: Some(service.namespace.to_string()),
            name: service.name.to_string(),
            uid: None,
        },
        refusal: RefusalKind::from(kube_proxy.refusal()).into(),
        by: EntryKind::from(&kube_proxy.course.entry).into(),
        would_deny,
        over: kube_proxy.is_over,
    }
}

/// A change.
pub(crate) fn changed_of(change: &Change) -> Changed {
    Changed {
        object: ObjectRef {
            kind: change.object.kind.name().to_owned(),
            namespace: change.object.namespace.as_deref().map(str::to_owned),
            name: change.object.name.to_string(),
            uid: None,
        },
        change: change.kind.into(),
        difference: change.difference.as_deref().map(str::to_owned),
        at: change.at.into(),
    }
}

/// A remedy; what it creates says where it comes from.
pub fn remedy_of(remedy: &remedy::Remedy, mark: &Mark) -> Remedy {
    Remedy {
        summary: remedy.summary.clone(),
        manifest: yaml::documents(&remedy.marked(mark)),
        verified: remedy.verified,
        newly_allowed: remedy.newly_allowed,
        newly_allowed_paths: paths_of(&remedy.newly_allowed_paths),
    }
}

/// Between whom something newly passes.
pub fn paths_of(paths: &[GainedPath]) -> Vec<String> {
    paths.iter().map(ToString::to_string).collect()
}
