//! A run for a person: what happened, what became of it and what was reported, in the order of time;
//! and how a plan is cut down to what a fault takes.

use whydrop_core::incident::Happened;

use crate::{
    agent::Report,
    check::{Fault, described, faults},
    plan::Plan,
    run::{Outcome, play},
    time::Ms,
};

/// The plan without all that its fault does not take: halves first, then ever smaller parts.
pub(crate) fn smallest(plan: &Plan, fault: &Fault) -> Plan {
    let mut smallest = plan.clone();
    let still_fails = |plan: &Plan| faults(&play(plan)).iter().any(|f| f.kind() == fault.kind());
    let mut size = smallest.events.len().div_ceil(2);
    while size > 0 {
        let mut from = 0;
        while from < smallest.events.len() {
            let mut fewer = smallest.clone();
            let to = (from + size).min(fewer.events.len());
            fewer.events.drain(from..to);
            match still_fails(&fewer) {
                true => smallest = fewer,
                false => from += size,
            }
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    smallest
}

/// What happens in a run, a line each.
pub(crate) fn story(plan: &Plan) -> String {
    let outcome = play(plan);
    let mut lines: Vec<(Ms, String)> = Vec::new();
    lines.extend(plan.events.iter().map(|(at, event)| (*at, format!("  {event}"))));
    let packets = outcome.network.packets.iter();
    lines.extend(packets.map(|packet| (packet.at, format!("    {}", described(&outcome, packet)))));
    let attempts = outcome.network.attempts.iter();
    let answered = attempts.filter_map(|attempt| Some((attempt.answered?, attempt.begun)));
    lines.extend(answered.map(|(at, begun)| (at, format!("    answered is that of {begun}"))));
    lines.extend(outcome.reports.iter().map(|(at, report)| (*at, format!("> {}", line(report)))));
    let found = faults(&outcome).into_iter();
    lines.extend(found.map(|f| (f.at, format!("! {:?} {:?}: {}", f.check, f.when, f.what))));
    lines.sort_by_key(|(at, _)| *at);
    let head = header(plan, &outcome);
    let lines: Vec<String> = lines.iter().map(|(at, line)| format!("{at:>8} {line}")).collect();
    format!("{head}\n{}", lines.join("\n"))
}

fn header(plan: &Plan, outcome: &Outcome) -> String {
    let Plan { seed, looks_up, keeps_local, .. } = plan;
    let pods = outcome.cluster.pods.len();
    format!("seed {seed}, {pods} pods, looks up: {looks_up}, Services keep local: {keeps_local}")
}

fn line(report: &Report) -> String {
    match report {
        Report::Drop(judged) => {
            let (drop, diagnosis) = (&judged.drop, &judged.judgement.diagnosis);
            let by: Vec<_> =
                diagnosis.responsible().iter().map(|p| p.reference.to_string()).collect();
            format!(
                "drop {} {} {} [{}], {} packets, worked {:?}, incident {:016x}",
                diagnosis.question,
                drop.flow,
                diagnosis.cause.class,
                by.join(", "),
                drop.unreported_packets(),
                judged.worked.map(|worked| crate::time::ms(worked.last)),
                judged.incident.0
            )
        }
        Report::Finding(diagnosis) => format!("finding {}", diagnosis.question),
        Report::Incident(change) => {
            let ended = match change.happened {
                Happened::Resolved(resolution) => format!("{resolution:?}"),
                other => format!("{other:?}"),
            };
            format!("incident {} {ended}", change.incident.id)
        }
    }
}
