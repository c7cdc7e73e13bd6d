//! Each silent drop is reported once, with the holders, the policies and the path of its time.

use std::collections::BTreeMap;

use whydrop_core::{
    cluster::resolve::Endpoint,
    diagnosis::{Class, Diagnosis},
    flow::{Direction, Flow},
    incident::JudgedDrop,
};

use super::{
    Check, Fault, When,
    truth::{Said, described},
};
use crate::{
    agent::Report,
    cluster::{CAST, address},
    network::{Fate, Packet, last_of},
    policies::Denial,
    run::Outcome,
    time::{Ms, PLUGIN_LAG, WATCH_LAG, ms},
};

/// How long signs of one moment may still be under way when an attempt is judged.
const GRACE: Ms = 250;

pub(super) fn faults(outcome: &Outcome) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut until: BTreeMap<Flow, Ms> = BTreeMap::new();
    for (number, (reported, report)) in outcome.reports.iter().enumerate() {
        let mut fault = |check, of: Result<&Packet, When>, what: String| {
            let when = of.map_or_else(|when| when, |packet| outcome.when(packet, *reported));
            faults.push(Fault { check, when, at: *reported, what, report: Some(number) });
        };
        match report {
            Report::Drop(judged) => {
                let before = until.insert(judged.drop.flow, ms(judged.drop.evidence.last()));
                let since = before.unwrap_or(Ms::MIN);
                of_drop(outcome, (*reported, judged), since, &mut fault);
            }
            Report::Finding(diagnosis) if !is_true_finding(outcome, diagnosis) => {
                fault(Check::FalseFinding, Err(When::Plain), diagnosis.question.to_string());
            }
            Report::Finding(_) | Report::Incident(_) => {}
        }
    }
    faults.extend(unreported(outcome));
    faults
}

impl Outcome {
    /// The packets of a flow, as it is named in a report, which this node can know of.
    fn seen(&self, flow: &Flow) -> impl Iterator<Item = &Packet> {
        let flow = *flow;
        self.network.packets.iter().filter(move |packet| {
            let attempt = &self.network.attempts[packet.attempt];
            let to = (flow.destination, flow.port);
            let is_seen = packet.is_freed_here || self.network.is_from_here(packet, &self.cluster);
            is_seen
                && address(self.client(packet).address) == flow.source
                && (packet.to == to || attempt.dialled == to)
        })
    }

    /// Those of them that failed.
    pub(super) fn failed(&self, flow: &Flow) -> impl Iterator<Item = &Packet> {
        self.seen(flow).filter(|packet| !packet.fate.has_arrived())
    }

    /// The packet that a report is of: the last that failed by then; or, where this node dropped none of
    /// it, the last that failed or whose client did not wait for the answer.
    pub(super) fn packet_of(&self, judged: &JudgedDrop) -> Option<&Packet> {
        let last = ms(judged.drop.evidence.last());
        let was_dropped = judged.drop.unreported_packets() > 0;
        let is_of = |packet: &&Packet| {
            let is_in_vain = self.network.attempts[packet.attempt].is_in_vain();
            let counts = !packet.fate.has_arrived() || (is_in_vain && !was_dropped);
            packet.at <= last && counts
        };
        self.seen(&judged.drop.flow).filter(is_of).last()
    }
}

/// What denies it by the report.
pub(super) fn named(diagnosis: &Diagnosis) -> Denial {
    let leading = diagnosis.cause.direction.map(|d| diagnosis.verdict.direction(d).responsible());
    let by = leading.iter().flatten().map(|policy| policy.reference.to_string()).collect();
    Denial { is_egress: diagnosis.cause.direction == Some(Direction::Egress), by }
}

/// Whether policies had something against a flow that was answered, when its SYN passed.
fn is_true_finding(outcome: &Outcome, diagnosis: &Diagnosis) -> bool {
    let question = &diagnosis.question;
    let is = |end: &Endpoint, last: u8| end.address == Some(address(last));
    outcome.network.packets.iter().any(|packet| {
        packet.fate == Fate::Delivered
            && is(&question.source, outcome.client(packet).address)
            && is(&question.destination, last_of(packet.to.0))
            && !outcome.said_of(packet).denials.is_empty()
    })
}

/// Whether anything of a flow was seen at a time: that a packet failed, or that a client gave up.
fn is_sign(outcome: &Outcome, flow: &Flow, time: Ms) -> bool {
    let ended = |packet: &Packet| outcome.network.attempts[packet.attempt].ended;
    let packets = outcome.network.packets.iter().filter(|packet| {
        let to = (flow.destination, flow.port);
        let attempt = &outcome.network.attempts[packet.attempt];
        let is_it = packet.to == to || attempt.dialled == to;
        is_it && address(outcome.client(packet).address) == flow.source
    });
    packets.into_iter().any(|packet| packet.at == time || ended(packet) == Some(time))
}

fn of_drop(
    outcome: &Outcome,
    (reported, judged): (Ms, &JudgedDrop),
    since: Ms,
    fault: &mut impl FnMut(Check, Result<&Packet, When>, String),
) {
    let (drop, diagnosis) = (&judged.drop, &judged.judgement.diagnosis);
    let question = &diagnosis.question;
    let (class, says) = (diagnosis.cause.class, named(diagnosis));
    let Some(packet) = outcome.packet_of(judged) else {
        let has_arrived = outcome.seen(&drop.flow).any(|p| p.at <= ms(drop.evidence.last()));
        let (check, when) = match has_arrived {
            true => (Check::Answered, When::AnsweredLater),
            false => (Check::Overreported, When::Plain),
        };
        return fault(check, Err(when), format!("{question}: nothing of it was dropped"));
    };
    let truth = described(outcome, packet);
    let last = ms(drop.evidence.last());
    if !is_sign(outcome, &drop.flow, last) {
        let what = format!("{question} {class} has signs of {last}; truly {truth}");
        let sign = outcome.network.packets.iter().find(|other| {
            other.at == last && address(outcome.client(other).address) == drop.flow.source
        });
        let is_by_proxy = sign.is_some_and(|sign| matches!(sign.fate, Fate::ByProxy { .. }));
        let when = if is_by_proxy { When::ByProxy } else { When::SeveralBackends };
        return fault(Check::WrongPath, Err(when), what);
    }
    let says_and_truth = format!("{question} {class} {:?}; truly {truth}", says.by);
    let is_untranslated = packet.to != (drop.flow.destination, drop.flow.port);
    let times = (packet.at, reported);
    let client = outcome.client(packet);
    let is_source = outcome.may_be_held(&question.source, Some(client), client.address, times);
    let is_by_proxy = matches!(packet.fate, Fate::ByProxy { .. });
    let is_destination = is_untranslated
        || is_by_proxy
        || outcome.may_be_held(
            &question.destination,
            outcome.server(packet),
            last_of(packet.to.0),
            times,
        );
    if !is_source || !is_destination {
        return fault(Check::WrongHolder, Err(When::AddressReused), says_and_truth);
    }
    let service = outcome.network.attempts[packet.attempt].service.filter(|_| client.is_local);
    let service = service.map(|service| CAST[service].name);
    let dialled = diagnosis.service.as_ref().map(|dialled| &*dialled.service.name);
    if service != dialled {
        fault(Check::WrongService, Err(When::Plain), format!("by {dialled:?}: {says_and_truth}"));
    }
    let are_ends = outcome.are_ends(packet, &question.source, &question.destination);
    if !are_ends && !is_untranslated && !is_by_proxy {
        // Just changing hands: what is said is of the other pod.
        return;
    }
    let is_unknown = question.source.pod().is_none() || question.destination.pod().is_none();
    let of_packet = |packet: &Packet| {
        let said = match is_untranslated || is_by_proxy {
            true => said_of_any(outcome, packet),
            false => outcome.said_of(packet),
        };
        let is_server_here = outcome.server(packet).is_some_and(|server| server.is_local);
        verdict(&said, (packet, is_server_here), class, &says, is_unknown)
    };
    if let Some(check) = of_packet(packet) {
        fault(check, Ok(packet), says_and_truth);
    } else if !packet.fate.has_arrived() {
        // What an earlier report has, or an answer came to, is not in this one.
        let since = since.max(ms(*drop.evidence.latest().start()) - 1);
        let others = outcome.failed(&drop.flow).filter(|p| p.at > since && p.at < packet.at);
        // Of what kube-proxy dropped it is nobody's to know which rules came first.
        let is_by_proxy = |other: &&Packet| matches!(other.fate, Fate::ByProxy { .. });
        let others = others.filter(|other| other.to == packet.to && !is_by_proxy(other));
        // Nor when a Service changed that is looked up, and not followed.
        let others = others.filter(|_| !(outcome.looks_up && is_untranslated));
        let other = others.filter(|other| of_packet(other).is_some()).last();
        if let Some(other) = other {
            let what = format!("{says_and_truth}; and {}", described(outcome, other));
            let is_denied = matches!(packet.fate, Fate::Denied(_));
            fault(Check::Mixed, Ok(if is_denied { other } else { packet }), what);
        }
    }
    if is_answered(outcome, &drop.flow, (since, last), reported) {
        let what = format!("{question} {class}; truly {truth}");
        fault(Check::Answered, Ok(packet), what);
    }
}

/// Which check fails of what is said of a packet.
fn verdict(
    said: &Said,
    (packet, is_server_here): (&Packet, bool),
    class: Class,
    says: &Denial,
    is_unknown: bool,
) -> Option<Check> {
    if said.is_in_flux {
        return None;
    }
    let is_lost_elsewhere = !packet.is_freed_here;
    let is_denied = matches!(packet.fate, Fate::Denied(_));
    let accuses = class.is_denial() || class == Class::OutOfSync;
    match packet.fate {
        // Where the client's own policies deny what would come of it as well, nobody can know whose
        // rules came first; a backend's never see it.
        Fate::ByProxy { rejected: false } if class.is_denial() && says.is_egress => {
            (!said.denials.contains(says)).then_some(Check::Blamed)
        }
        Fate::ByProxy { .. } => accuses.then_some(Check::Blamed),
        // Nobody here can know why it was lost; policies may deny it as well.
        Fate::Gone if is_lost_elsewhere => None,
        // That it arrived shows where its server is.
        Fate::Duplicate | Fate::Delivered if is_server_here => accuses.then_some(Check::Blamed),
        Fate::Gone | Fate::Refused | Fate::Duplicate | Fate::Delivered if class.is_denial() => {
            // A rule that rejects refuses in the same way.
            let is_alike = is_lost_elsewhere || packet.fate == Fate::Refused;
            let may_be = is_alike && said.denials.contains(says);
            (!may_be).then_some(Check::Blamed)
        }
        _ if class.is_denial() => (!said.denials.contains(says)).then_some(Check::WrongPolicies),
        _ if !is_denied => None,
        _ => {
            let may_not_know = match class {
                Class::CannotTell => said.passes || is_unknown,
                _ => said.passes,
            };
            (!may_not_know).then_some(Check::NotBlamed)
        }
    }
}

/// The same of a packet of which only the Service is known: what may be said of any backend.
fn said_of_any(outcome: &Outcome, packet: &Packet) -> Said {
    let mut any = outcome.said_of(packet);
    let attempt = &outcome.network.attempts[packet.attempt];
    let Some(service) = attempt.service else { return any };
    let within = (packet.at - PLUGIN_LAG, packet.at + WATCH_LAG);
    let slices = outcome.cluster.slices[&service].during(within.0, within.1);
    let Some(port) = CAST[service].port else { return any };
    for endpoint in slices.into_iter().flatten().flatten() {
        // Who is behind it as it has been for so long as a change takes.
        let holder = |time| outcome.cluster.holder(endpoint.address, time);
        let Some(server) = holder(packet.at).or_else(|| holder(within.0)) else { continue };
        let server = &outcome.cluster.pods[server];
        let said = outcome.said(outcome.client(packet), server, port, within);
        any.denials.extend(said.denials);
        any.passes |= said.passes;
        any.is_in_flux |= said.is_in_flux;
    }
    any
}

/// Whether all that a report adds was answered by then, and nothing of it was lost, or the answer came
/// before it was to be judged.
fn is_answered(outcome: &Outcome, flow: &Flow, (since, last): (Ms, Ms), reported: Ms) -> bool {
    let packets: Vec<&Packet> =
        outcome.failed(flow).filter(|p| p.at > since && p.at <= last).collect();
    let is_fine = |packet: &&Packet| {
        let answered = outcome.network.attempts[packet.attempt].answered;
        let in_time = |answered: Ms| answered <= packet.at + GRACE && answered <= reported;
        let is_later = |other: &Packet| other.attempt == packet.attempt && other.at > packet.at;
        let passed = |other: &Packet| is_later(other) && other.fate == Fate::Delivered;
        answered.is_some_and(in_time) && outcome.network.packets.iter().any(passed)
    };
    !packets.is_empty() && packets.iter().all(is_fine)
}

/// Attempts that nobody answered, of which this node saw that, and no report has them.
///
/// One that arrived was answered within the time that a report waits, whether or not its client did: of
/// it only what policies denied before is to be reported.
fn unreported(outcome: &Outcome) -> Vec<Fault> {
    let drops = || {
        outcome.reports.iter().filter_map(|(_, report)| match report {
            Report::Drop(judged) => Some(&judged.drop),
            _ => None,
        })
    };
    let mut faults = Vec::new();
    for (number, attempt) in outcome.network.attempts.iter().enumerate() {
        let packets = || outcome.network.packets.iter().filter(|p| p.attempt == number);
        let Some(first) = packets().next() else { continue };
        let is_local = outcome.cluster.pods[attempt.client].is_local;
        let has_arrived = packets().any(|packet| packet.fate.has_arrived());
        let counts = |packet: &&Packet| !has_arrived || matches!(packet.fate, Fate::Denied(_));
        let freed = packets().filter(|packet| packet.is_freed_here).filter(counts);
        let again = packets().skip(1).filter(|_| is_local).filter(counts);
        let signs: Vec<&Packet> = freed.chain(again).collect();
        let refused = [Fate::Refused, Fate::ByProxy { rejected: true }];
        let is_refused = packets().any(|packet| refused.contains(&packet.fate));
        if attempt.answered.is_some() || is_refused || signs.is_empty() {
            continue;
        }
        let source = address(outcome.client(first).address);
        let is_reported = drops().any(|drop| {
            let to = (drop.flow.destination, drop.flow.port);
            let span = ms(drop.evidence.first())..=ms(drop.evidence.last());
            let is_of_flow = to == attempt.dialled || packets().any(|packet| packet.to == to);
            drop.flow.source == source
                && is_of_flow
                && signs.iter().any(|sign| span.contains(&sign.at))
        });
        if !is_reported {
            let when = match (outcome.when(signs[0], outcome.until), attempt.service) {
                (When::ByProxy, _) => When::ByProxy,
                (_, Some(_)) => When::SeveralBackends,
                (when, None) => when,
            };
            let (check, what) = (Check::Unreported, described(outcome, signs[0]));
            faults.push(Fault { check, when, at: first.at, what, report: None });
        }
    }
    faults
}
