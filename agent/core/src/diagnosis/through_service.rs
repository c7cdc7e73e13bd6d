//! A flow to a Service where only the Service's address was seen: what comes of it decides, if all
//! that may come of it fares alike.

use super::{Case, Class, Diagnosis, Dialled, Fate, inquiry::Inquiry, judged, words};
use crate::{
    cluster::{
        Snapshot,
        resolve::{Endpoint, Holder},
    },
    flow::Protocol,
    service::{self, Course, Entry, Packet},
    verdict::{Decision, Question, Verdict, evaluate},
};

/// One packet that may come of it, judged where it may be denied.
type Judged = (Question, Verdict);

/// Judges what comes of a flow to a Service.
pub(super) fn diagnose(
    snapshot: &Snapshot,
    case: &Case<'_>,
    source: &Endpoint,
    course: &Course,
) -> Diagnosis {
    let dialled = match (course.entry.clone(), course.address) {
        (Entry::NodePort(_), _) | (_, None) => None,
        (_, Some(address)) => {
            Some(Dialled { service: course.service.clone(), address, port: course.port })
        }
    };
    if matches!(course.fate, service::Fate::NoPort) {
        // It goes on as it is.
        let destination = snapshot.resolve(case.flow.destination, case.at);
        let question =
            Question::new(source.clone(), destination, case.flow.port, case.flow.protocol);
        return noting(snapshot, judged(snapshot, case, question, dialled), case, course);
    }
    let packets = course.packets().iter();
    let all: Vec<Judged> =
        packets.map(|packet| decisive(snapshot, packet, case.flow.protocol)).collect();
    let is_denied = |(_, verdict): &Judged| verdict.decision() == Decision::Denied;
    let agree = all.windows(2).all(|pair| is_denied(&pair[0]) == is_denied(&pair[1]));
    let unresolved = |why: String| {
        let destination =
            Endpoint { address: Some(case.flow.destination), holder: Holder::Unknown(why.into()) };
        Question::new(source.clone(), destination, case.flow.port, case.flow.protocol)
    };
    let question = if agree && let Some((question, _)) = all.first() {
        question.clone()
    } else if all.is_empty() {
        unresolved(service::words::fate(course).unwrap_or_default())
    } else {
        let backends = |denied: bool| {
            let of = all.iter().filter(move |judged| is_denied(judged) == denied);
            of.map(|(question, _)| &question.destination)
        };
        unresolved(words::backends_differ(&course.service, backends(true), backends(false)))
    };
    noting(snapshot, judged(snapshot, case, question, dialled), case, course)
}

/// The question that decides over a packet: of one whose addresses are replaced on its way, how it
/// leaves, if that is denied already.
fn decisive(snapshot: &Snapshot, packet: &Packet, protocol: Protocol) -> Judged {
    let mut judged: Vec<Judged> = Question::of_packet(packet, protocol)
        .map(|question| {
            let verdict = evaluate(snapshot, &question);
            (question, verdict)
        })
        .collect();
    let denied = judged.iter().position(|(_, verdict)| verdict.decision() == Decision::Denied);
    judged.swap_remove(denied.unwrap_or(judged.len() - 1))
}

/// What kube-proxy does by itself is no policy's doing, unless one denies it as well.
fn noting(
    snapshot: &Snapshot,
    mut diagnosis: Diagnosis,
    case: &Case<'_>,
    course: &Course,
) -> Diagnosis {
    let is_kube_proxys =
        matches!(course.fate, service::Fate::Refused { .. } | service::Fate::NoPort);
    let class = diagnosis.cause.class;
    // What is exempt is dropped by who was seen to refuse it, before it is by a policy that was not.
    let is_exempt = diagnosis.verdict.exempt.is_some();
    let is_open = is_exempt || (!class.is_denial() && class != Class::NotEnforced);
    if is_kube_proxys && is_open && !matches!(case.fate, Fate::Answered) {
        let Diagnosis { question, verdict, cause, .. } = &mut diagnosis;
        let inquiry = Inquiry { snapshot, case, question, verdict };
        cause.class = Class::NotPolicy;
        // What policies say of it is no doubt of this.
        (cause.confidence, cause.reasons) = inquiry.confidence(Class::NotPolicy);
        cause.leave_policies_out();
        cause.text = service::words::fate(course).unwrap_or_default();
    }
    diagnosis
}
