//! Which answers speak for a path, and how strongly.
//!
//! The kernel's table of last answers has the addresses of the packets: a client's veth sees who answers
//! by the address that was dialled, a backend's veth by the backend's own. So of a backend on this node
//! it is certain which answers are its own; of one on another node that is known only where what was
//! dialled stands for it alone.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use jiff::Timestamp;

use super::Moment;
use crate::{
    cluster::{Snapshot, resolve::Endpoint},
    correlate::{COPIES, Drop},
    diagnosis::{Class, Diagnosis},
    flow::{Answer, Flow, Worked},
    service::{self, Dial, Fate, Refusal},
    verdict::Decision,
};

/// How unlikely it must be that a path which does not pass was never picked: an untrue end in ten
/// thousand is one in years for whoever is paged.
const BY_CHANCE: f64 = 1e-4;

/// Who may answer for what was dialled.
struct Behind {
    ends: BTreeSet<(IpAddr, u16)>,
    /// Whether a client stays with the one that it got first.
    is_sticky: bool,
}

impl Behind {
    /// What its answers are to the path to this end; `None`: to any of them.
    fn answer(&self, wanted: Option<(IpAddr, u16)>) -> Answer {
        let is_among = wanted.is_none_or(|wanted| self.ends.contains(&wanted));
        let picks = picks(self.ends.len()).filter(|_| is_among && !self.is_sticky);
        Answer::AsDialled { is_only: self.ends.len() == 1 && is_among, picks }
    }
}

/// How many backends there may be for their answers to show anything: of more, the thousands of answers
/// that it takes seldom come between two drops.
const BACKENDS_MAX: usize = 256;

/// How many connections in a row one of so many backends is left out of by less than [`BY_CHANCE`],
/// kube-proxy picking each with the same chance.
fn picks(backends: usize) -> Option<u32> {
    let others =
        u8::try_from(backends.checked_sub(1).filter(|_| backends <= BACKENDS_MAX)?).ok()?;
    let left_out = f64::from(others) / (f64::from(others) + 1.0);
    let chances = std::iter::successors(Some(left_out), |chance| Some(chance * left_out));
    (1..).zip(chances).find(|(_, chance)| *chance < BY_CHANCE).map(|(picks, _)| picks)
}

/// The answers that speak for these paths, each of which is as dialled as well where that differs: for
/// which, how strongly, and when.
pub(super) fn of(
    snapshot: &Snapshot,
    paths: &[(Flow, Option<Flow>)],
    answers: &[(Flow, Worked)],
) -> Vec<(Flow, Answer, Timestamp)> {
    let answers: HashMap<Flow, Timestamp> =
        answers.iter().map(|(flow, worked)| (*flow, worked.last)).collect();
    let mut speaking_of = Vec::new();
    for (flow, dialled) in paths {
        let is_answered = |flow: &Flow| answers.contains_key(flow);
        // Most are not: what is behind a Service is not asked for nothing.
        if !is_answered(flow) && !dialled.as_ref().is_some_and(is_answered) {
            continue;
        }
        for (asked, answer) in speaking(snapshot, flow, dialled.as_ref(), None) {
            let Some(at) = answers.get(&asked) else { continue };
            speaking_of.push((*flow, answer, *at));
        }
    }
    speaking_of
}

/// The flows whose answers speak for a path: as it was dropped, and as it was dialled where that differs.
/// `arrives`: to which backend it went, where that is known by other than its translation.
fn speaking(
    snapshot: &Snapshot,
    flow: &Flow,
    dialled: Option<&Flow>,
    arrives: Option<(IpAddr, u16)>,
) -> impl Iterator<Item = (Flow, Answer)> + use<> {
    let behind = |flow: &Flow| backends(snapshot, flow);
    let own = match dialled {
        // Translated by then.
        Some(_) => Answer::OfPath,
        // Where nobody translates it, whoever answers is the one who was dialled.
        None => behind(flow).map_or(Answer::OfPath, |behind| behind.answer(arrives)),
    };
    let dialled = dialled.map(|dialled| {
        let unknown = Answer::AsDialled { is_only: false, picks: None };
        let own = (flow.destination, flow.port);
        (*dialled, behind(dialled).map_or(unknown, |behind| behind.answer(Some(own))))
    });
    [(*flow, own)].into_iter().chain(dialled)
}

/// The flows whose answers say until when a path that was dropped worked, each with the time since when
/// its ends exist, where that is known: an answer that is older than a pod was not this pod's, as its
/// address was another's then.
///
/// Where it is not known to which backend it went, it is to whatever is behind what was dialled, and
/// all of that answers for it, if policies do not tell its backends apart.
pub(super) fn before(
    snapshot: &Snapshot,
    drop: &Drop,
    diagnosis: &Diagnosis,
) -> Vec<(Flow, Option<Timestamp>)> {
    let created = |end: &Endpoint| end.pod().and_then(|pod| pod.created);
    let question = &diagnosis.question;
    let (source, destination) = (created(&question.source), created(&question.destination));
    let are_alike = drop.dialled.is_none()
        && diagnosis.cause.class != Class::CannotTell
        && diagnosis.verdict.decision() != Decision::Unknown;
    let since = |(flow, answer)| match answer {
        Answer::OfPath | Answer::AsDialled { is_only: true, .. } => {
            Some((flow, source.max(destination)))
        }
        Answer::AsDialled { is_only: false, .. } if are_alike => Some((flow, source)),
        Answer::AsDialled { is_only: false, .. } => None,
    };
    let dialled = drop.flow_dialled();
    let arrives = question.destination.address.map(|address| (address, question.port));
    let arrives = arrives.filter(|(address, _)| *address != drop.flow.destination);
    speaking(snapshot, &drop.flow, dialled.as_ref(), arrives).filter_map(since).collect()
}

/// Whether it is known who answered a flow: its destination, or the one backend of a Service, which is
/// so now and was as the attempt may have begun.
pub(super) fn is_of_one_backend(moment: &Moment<'_>, flow: &Flow, answered: Timestamp) -> bool {
    let Some(now) = backends(&moment.snapshot, flow) else { return true };
    let then = moment.history.past(&moment.snapshot, answered - COPIES).snapshot;
    let then = backends(&then, flow).map(|then| then.ends);
    now.ends.len() == 1 && then.as_ref() == Some(&now.ends)
}

/// The backends that a flow to a Service may be sent to, as far as is known; `None`: it is to no
/// Service.
fn backends(snapshot: &Snapshot, flow: &Flow) -> Option<Behind> {
    let Flow { source, destination, port, protocol } = *flow;
    let client = snapshot.resolve(source, None);
    let dial = Dial { client: &client, port, protocol };
    let course = service::to_address(snapshot, &dial, destination, None)?;
    let packets = match &course.fate {
        Fate::Sent(packets) => packets.as_slice(),
        Fate::Untranslated(packet) => std::slice::from_ref(&**packet),
        // It goes on as it is.
        Fate::Refused { refusal: Refusal::NoPort | Refusal::FormerAddress { .. }, .. } => {
            return None;
        }
        // It was answered all the same, by whoever was behind it.
        Fate::Refused { .. } | Fate::Name(_) | Fate::Unknown(_) => &[],
    };
    let ends = packets.iter().map(|packet| &packet.arrives);
    let ends = ends.filter_map(|hop| Some((hop.destination.address?, hop.port))).collect();
    Some(Behind { ends, is_sticky: course.service.is_sticky })
}
