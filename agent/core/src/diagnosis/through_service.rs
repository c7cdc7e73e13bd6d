//! A flow to a Service where only the Service's address was seen: what comes of it decides, if all
//! that may come of it fares alike.

use std::sync::Arc;

use super::{
    Case, Diagnosis, Fate, explained,
    kube_proxy::{KubeProxy, dialled, is_of_reject},
    reason::{DroppedBy, dropped_by},
    words,
};
use crate::{
    cluster::{
        Snapshot,
        profile::Denied,
        resolve::{Endpoint, Holder},
    },
    correlate::Evidence,
    flow::Protocol,
    service::{self, Course, Entry, Packet, Refusal},
    verdict::{Decision, Question, Verdict, evaluate},
};

/// One packet that may come of it, judged where it may be denied.
type Judged = (Question, Verdict);

/// Judges what comes of a flow to a Service.
pub(super) fn diagnose(snapshot: &Snapshot, case: &Case<'_>, course: &Course) -> Diagnosis {
    let (question, verdict) = decisive(snapshot, case, course);
    let translated = explained(snapshot, case, (question, verdict), dialled(course));
    let kube_proxy = match (course.refusal(), case.fate) {
        (_, Fate::Answered) => None,
        (Some(_), _) => KubeProxy::of(snapshot, course),
        (None, Fate::Dropped(evidence)) if was_rejected(snapshot, course, evidence) => {
            Some(KubeProxy::that_is_over(snapshot, course))
        }
        (None, _) => None,
    };
    let Some(kube_proxy) = kube_proxy.map(Arc::new) else { return translated };
    if let Fate::Dropped(evidence) = case.fate
        && is_explained(snapshot, case, &translated, evidence, kube_proxy.refusal())
    {
        return translated;
    }
    let is_denied = translated.cause.class.is_denial() && translated.verdict.exempt.is_none();
    match is_denied && kube_proxy.is_policys_first(snapshot, case.fate) {
        true => translated.besides(snapshot, case, kube_proxy),
        false => Diagnosis::of_kube_proxy(snapshot, case, kube_proxy, translated.verdict),
    }
}

/// The question that decides over what comes of it, if all fares alike; otherwise one of which it is
/// said why that is unknown. What was dialled is nobody's address: no policy is asked about it.
fn decisive(snapshot: &Snapshot, case: &Case<'_>, course: &Course) -> Judged {
    let packets = course.packets().iter();
    let all: Vec<Judged> =
        packets.map(|packet| decisive_of(snapshot, packet, case.flow.protocol)).collect();
    let unresolved = |why: &str| {
        let holder = Holder::Unknown(why.into());
        let destination = Endpoint { address: Some(case.flow.destination), holder };
        Question::new(course.client.clone(), destination, case.flow.port, case.flow.protocol)
    };
    let Some(first) = all.first() else {
        let question = unresolved(&service::words::fate(course).unwrap_or_default());
        let verdict = evaluate(snapshot, &question);
        return (question, verdict);
    };
    let decision = |(_, verdict): &Judged| verdict.decision();
    let is_denied = |judged: &Judged| decision(judged) == Decision::Denied;
    if all.iter().all(|judged| is_denied(judged) == is_denied(first)) {
        // Of those that pass or are unknown, what is unknown is so of all.
        let unknown = all.iter().find(|judged| decision(judged) == Decision::Unknown);
        return unknown.unwrap_or(first).clone();
    }
    let backends = |denied: bool| {
        let of = all.iter().filter(move |judged| is_denied(judged) == denied);
        of.map(|(question, _)| &question.destination)
    };
    let why = words::backends_differ(&course.service, backends(true), backends(false));
    let verdicts: Vec<&Verdict> = all.iter().map(|(_, verdict)| verdict).collect();
    (unresolved(&why), first.1.where_others_differ(&verdicts, &why))
}

/// The question that decides over a packet: of one whose addresses are replaced on its way, how it
/// leaves, if that is denied already.
fn decisive_of(snapshot: &Snapshot, packet: &Packet, protocol: Protocol) -> Judged {
    let mut judged: Vec<Judged> = Question::of_packet(packet, protocol)
        .map(|question| {
            let verdict = evaluate(snapshot, &question);
            (question, verdict)
        })
        .collect();
    let denied = judged.iter().position(|(_, verdict)| verdict.decision() == Decision::Denied);
    judged.swap_remove(denied.unwrap_or(judged.len() - 1))
}

/// Whether kube-proxy rejected what it would send on by now: a filter of this node did before anybody
/// translated it, and policies deny in silence. Another node's port is not translated here.
fn was_rejected(snapshot: &Snapshot, course: &Course, evidence: &Evidence) -> bool {
    let is_translated_here = match course.entry {
        Entry::NodePort(_) => course.address.is_some_and(|a| snapshot.node_facts().is_local(a)),
        _ => true,
    };
    matches!(course.fate, service::Fate::Sent(_))
        && is_translated_here
        && is_of_reject(evidence)
        && dropped_by(evidence) == DroppedBy::Filter
        && !evidence.delivered
        && snapshot.profile().denied == Denied::Dropped
}

/// Whether what was seen of the packets has another reason than that kube-proxy refuses them.
fn is_explained(
    snapshot: &Snapshot,
    case: &Case<'_>,
    diagnosis: &Diagnosis,
    evidence: &Evidence,
    refusal: &Refusal,
) -> bool {
    // What nothing translates may be dropped by anybody on its way to nowhere.
    let is_refused = !matches!(refusal, Refusal::NoPort | Refusal::FormerAddress { .. });
    diagnosis.is_explained_otherwise(snapshot, case, evidence)
        || (is_refused && (evidence.delivered || dropped_by(evidence) == DroppedBy::Other))
}
