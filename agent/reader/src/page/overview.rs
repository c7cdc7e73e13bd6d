//! What comes before the incidents: what the page is about, and all of them at a glance.

use maud::{Markup, html};

use super::{
    INCIDENTS_IN_FULL_MAX,
    words::{self, chip, headline},
};
use whydrop_report::records::board::{Board, Incident, Status};

/// What the browser's tab says.
pub(super) fn title(incidents: &[&Incident]) -> String {
    match incidents {
        [incident] => headline(incident.summary()),
        incidents => words::count(words::len(incidents.len()), "incident"),
    }
}

/// The page's own heading.
pub(super) fn masthead(board: &Board, incidents: &[&Incident]) -> Markup {
    let open = incidents.iter().filter(|i| i.summary().status == Status::Open).count();
    let nodes = board.agents().count();
    html! {
        header.masthead {
            h1 { "Incident report" }
            p {
                strong { (words::count(words::len(incidents.len()), "incident")) }
                @if incidents.len() > 1 { ", " (open) " open" }
                ", reported by "
                @if nodes == 1 {
                    "the agent of node "
                    @for agent in board.agents() { code { (agent.node()) } }
                } @else { "the agents of " (nodes) " nodes" }
                @if let Some((first, last)) = board.span() {
                    ", " (words::moment(first)) " to "
                    @if first.strftime("%F").to_string() == last.strftime("%F").to_string() {
                        (words::clock(last))
                    } @else { (words::moment(last)) }
                    " UTC"
                }
                "."
            }
        }
    }
}

/// All incidents, a line each.
pub(super) fn table(incidents: &[&Incident]) -> Markup {
    html! {
        nav.overview aria-labelledby="overview" {
            h2 id="overview" { "All incidents" }
            table role="table" {
                thead role="rowgroup" {
                    tr role="row" {
                        @for head in ["Severity", "State", "What", "Since", "Drops"] {
                            th role="columnheader" scope="col" { (head) }
                        }
                    }
                }
                tbody role="rowgroup" {
                    @for (incident, number) in incidents.iter().zip(1..) {
                        (row(incident, number))
                    }
                }
            }
        }
    }
}

fn row(incident: &Incident, number: usize) -> Markup {
    let summary = incident.summary();
    let severity = words::severity(summary.severity);
    let status = words::status(summary.status);
    html! {
        tr role="row" {
            td role="cell" data-label="Severity" { (chip(severity, severity)) }
            td role="cell" data-label="State" { (status) }
            th role="rowheader" scope="row" data-label="What" {
                @if number <= INCIDENTS_IN_FULL_MAX {
                    a href=(format!("#i{number}")) { (headline(summary)) }
                } @else {
                    (headline(summary)) " " code { (words::short(incident.id())) }
                }
            }
            td role="cell" data-label="Since" { (words::moment(summary.first)) }
            td role="cell" data-label="Drops" {
                @if !summary.drops.is_exact { "≥ " }
                (summary.drops.at_least)
            }
        }
    }
}
