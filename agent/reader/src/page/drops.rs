//! Drops and findings, a line each.

use std::cmp::Reverse;

use maud::{Markup, html};

use super::words;
use whydrop_report::{
    EvidenceLevel,
    records::board::{Board, Incident, ReportedDrop},
    text::{destination_text, end},
};

/// How many drops of an incident, and how many findings, have a row (about 1 kB each): enough to
/// look one up, and more is in the log.
const LISTED_MAX: usize = 50;

/// The drops that belong to an incident.
pub(super) fn section(incident: &Incident) -> Markup {
    let summary = incident.summary();
    let mut drops: Vec<&ReportedDrop> = incident.drops().collect();
    // Those to count first, then by when they began.
    drops.sort_by_key(|drop| {
        (Reverse(drop.record().primary), drop.seen(), drop.record().id.clone())
    });
    let listed = drops.len().min(LISTED_MAX);
    let more = summary.drops.at_least.saturating_sub(words::len(listed));
    html! {
        p {
            (words::at_least(summary.drops, "flow")) " dropped, with "
            (words::at_least(summary.packets, "packet"))
            ". Each is counted once, however many nodes report it."
        }
        @if !drops.is_empty() {
            details open[drops.len() <= 12] {
                summary { (words::count(words::len(listed), "drop")) " listed" }
                (table(&drops[..listed]))
            }
        }
        @if more > 0 {
            p.note {
                (words::count(more, "more drop"))
                @if drops.is_empty() { ", whose records are not among the lines" }
                "."
            }
        }
        (ids_without_record(incident))
    }
}

/// Ids that an incident names and whose records are not kept.
fn ids_without_record(incident: &Incident) -> Markup {
    let named = incident.nodes().values().flat_map(|state| &state.record().drops.ids);
    let mut ids: Vec<&String> = named.filter(|id| incident.drop(id).is_none()).collect();
    ids.sort();
    ids.dedup();
    ids.truncate(LISTED_MAX);
    html! {
        @if !ids.is_empty() {
            details {
                summary { "Ids without a record here" }
                ul.ids { @for id in ids { li { code { (id) } } } }
            }
        }
    }
}

/// What was answered although policies deny it.
pub(super) fn findings(board: &Board) -> Markup {
    let findings: Vec<&ReportedDrop> = board.findings().collect();
    let listed = findings.len().min(LISTED_MAX);
    html! {
        @if !findings.is_empty() {
            section.page-part aria-labelledby="findings" {
                h2 id="findings" { "Not enforced" }
                p { "These were answered although policies deny them." }
                (table(&findings[..listed]))
                @if findings.len() > listed {
                    p.note { (words::count(words::len(findings.len() - listed), "more finding")) "." }
                }
            }
        }
    }
}

fn table(drops: &[&ReportedDrop]) -> Markup {
    html! {
        table role="table" {
            thead role="rowgroup" {
                tr role="row" {
                    @for head in ["Id", "Flow", "Evidence", "Packets", "First and last", "Nodes"] {
                        th role="columnheader" scope="col" { (head) }
                    }
                }
            }
            tbody role="rowgroup" { @for drop in drops { (row(drop)) } }
        }
    }
}

fn row(drop: &ReportedDrop) -> Markup {
    let record = drop.record();
    let (first, last) = drop.seen();
    let evidence = &record.evidence;
    html! {
        tr role="row" {
            th role="rowheader" scope="row" data-label="Id" { code { (record.id) } }
            td role="cell" data-label="Flow" {
                (words::name(&end(&record.flow.source))) " to "
                (words::name(&destination_text(&record.flow.destination)))
                "/" (record.flow.protocol)
                @if let Some(service) = &record.flow.destination.service {
                    " through Service " code { (service.namespace) "/" wbr; (service.name) ":" (service.port) }
                }
            }
            td role="cell" data-label="Evidence" {
                (level(evidence.level))
                @if let Some(reason) = &evidence.reason { ", " code { (reason) } }
                @if let Some(location) = &evidence.location { " in " code { (location) } }
                @if let Some(rejection) = &evidence.rejection { ", " (rejection) }
            }
            td role="cell" data-label="Packets" { (evidence.attempts) }
            td role="cell" data-label="First and last" { (words::moment(first)) " to " (words::clock(last)) }
            td role="cell" data-label="Nodes" {
                @for (index, node) in drop.nodes().iter().enumerate() {
                    @if index > 0 { ", " }
                    code { (node) }
                }
            }
        }
    }
}

const fn level(level: EvidenceLevel) -> &'static str {
    match level {
        EvidenceLevel::KernelDrop => "dropped by the kernel",
        EvidenceLevel::Unanswered => "unanswered",
        EvidenceLevel::Rejected => "rejected",
        EvidenceLevel::Answered => "answered",
        EvidenceLevel::None => "nothing seen",
    }
}
