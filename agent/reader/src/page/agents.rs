//! The agents whose records these are, and what they could not report.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::words;
use whydrop_report::{
    AgentState,
    records::board::{Agent, AgentStatus, Board, LineCounts},
};

/// How many agents have a row, those that are not well first.
const LISTED_MAX: usize = 200;

pub(super) fn section(board: &Board) -> Markup {
    let mut agents: Vec<&Agent> = board.agents().collect();
    agents.sort_by_key(|agent| (agent.status(), agent.node()));
    html! {
        @if !agents.is_empty() {
            section.page-part aria-labelledby="agents" {
                h2 id="agents" { "Reporting agents" }
                table role="table" {
                    thead role="rowgroup" {
                        tr role="row" {
                            @for head in ["Node", "State", "Last heard", "Not reported"] {
                                th role="columnheader" scope="col" { (head) }
                            }
                        }
                    }
                    tbody role="rowgroup" { @for agent in agents.iter().take(LISTED_MAX) { (row(agent)) } }
                }
                @if agents.len() > LISTED_MAX {
                    p.note { (agents.len() - LISTED_MAX) " more agents" }
                }
            }
        }
    }
}

fn row(agent: &Agent) -> Markup {
    html! {
        tr role="row" {
            th role="rowheader" scope="row" data-label="Node" { code { (agent.node()) } }
            td role="cell" data-label="State" {
                (state(agent))
                @for degradation in agent.degradations() {
                    p { (degradation.what) ", since " (words::moment(degradation.since)) }
                }
                @if let Some(AgentState::Ready { version, kernel, cannot, .. }) = agent.ready() {
                    p.aside { "whydrop " (version) " on Linux " (kernel) }
                    @if !cannot.is_empty() {
                        details {
                            summary { "Cannot do here: " (cannot.len()) }
                            ul { @for what in cannot { li { (what) } } }
                        }
                    }
                }
            }
            td role="cell" data-label="Last heard" { (words::moment(agent.last_heard())) }
            td role="cell" data-label="Not reported" {
                @let (lost, folded) = (sums(agent.lost()), sums(agent.folded()));
                @match (lost, folded) {
                    (None, None) => "nothing lost",
                    (lost, folded) => {
                        @if let Some(lost) = lost { p { "Lost: " (lost) } }
                        @if let Some(folded) = folded { p { "Folded: " (folded) } }
                    }
                }
            }
        }
    }
}

fn state(agent: &Agent) -> Markup {
    html! {
        @match agent.status() {
            AgentStatus::Stopped => {
                "Stopped"
                @if let Some(at) = agent.stopped_at() { " " (words::moment(at)) }
                @if let Some(AgentState::Stopping { why, .. }) = agent.stopping() { ": " (why) }
            }
            AgentStatus::Degraded => "Watches, with problems:",
            AgentStatus::Unknown => "Its start is not among the records",
            AgentStatus::Ready => {
                "Watches"
                @if let Some(at) = agent.ready_since() { " since " (words::moment(at)) }
            }
        }
    }
}

/// `3 observations, 1 record`: the parts that are not 0.
fn sums(counts: &BTreeMap<String, u64>) -> Option<String> {
    let parts = counts.iter().filter(|(_, count)| **count > 0);
    let parts: Vec<String> = parts.map(|(what, count)| format!("{count} {what}")).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What has become of the lines that are not on the page.
pub(super) fn unread(lines: &LineCounts) -> Markup {
    let gone = [
        (
            lines.unreadable,
            "line that begins as a record and could not be read",
            "lines that begin as records and could not be read",
        ),
        (
            lines.incidents_evicted,
            "incident that was evicted for more recent ones",
            "incidents that were evicted for more recent ones",
        ),
        (
            lines.findings_evicted,
            "finding that was evicted for more recent ones",
            "findings that were evicted for more recent ones",
        ),
        (
            lines.agents_not_kept,
            "record of an agent beyond those kept",
            "records of agents beyond those kept",
        ),
    ];
    html! {
        @if gone.iter().any(|(count, ..)| *count > 0) {
            section.page-part aria-labelledby="unread" {
                h2 id="unread" { "What is not on this page" }
                ul {
                    @for (count, one, many) in gone {
                        @if count > 0 { li { (count) " " (if count == 1 { one } else { many }) } }
                    }
                }
                @if !lines.examples.is_empty() {
                    p { "Why the last of them could not be read:" }
                    ul.ids { @for example in &lines.examples { li { code { (example.to_string()) } } } }
                }
            }
        }
    }
}
