//! An incident: what a person reads aloud first, then everything behind it.

use maud::{Markup, html};

use super::{drops, paths, remedy, timeline, walk, words, words::chip};
use whydrop_report::{
    Direction, SituationKind,
    incident::IncidentResolution,
    records::board::{Board, Incident, Status, Summary},
};

/// How many nodes are named; all are counted.
const NODES_NAMED_MAX: usize = 12;

/// All of it.
pub(super) fn section(board: &Board, incident: &Incident, number: usize) -> Markup {
    let summary = incident.summary();
    let severity = words::severity(summary.severity);
    let id = |part: &str| format!("i{number}-{part}");
    let parts = [
        ("timeline", "In order of time", timeline::section(board, incident, number)),
        ("paths", "Who cannot reach whom", paths::section(summary, number)),
        ("walk", "What the policies say", walk::section(incident)),
        ("change", "What changed", remedy::changes(summary)),
        ("remedy", "What lets it pass", remedy::section(summary)),
        ("plan", "What to do, in order", remedy::plan(summary, number)),
        ("drops", "The drops", drops::section(incident)),
    ];
    html! {
        article.incident id=(format!("i{number}")) data-severity=(severity)
                aria-labelledby=(id("title")) {
            header {
                p.chips {
                    (chip(severity, severity))
                    (chip(if summary.status == Status::Resolved { "resolved" } else { "open" },
                          words::status(summary.status)))
                    span.id { "incident " code { (incident.id()) } }
                }
                h2 id=(id("title")) { (words::headline(summary)) }
                (because(summary))
            }
            (facts(summary))
            (certainty(summary))
            nav.contents aria-label="Parts of this incident" {
                ul { @for (part, title, _) in &parts { li { a href=(format!("#{}", id(part))) { (title) } } } }
            }
            @for (part, title, content) in &parts {
                section id=(id(part)) aria-labelledby=(id(&format!("{part}-title"))) {
                    h3 id=(id(&format!("{part}-title"))) { (title) }
                    (content)
                }
            }
        }
    }
}

/// Which policy, and why.
fn because(summary: &Summary) -> Markup {
    let cause = &summary.cause;
    let direction = cause.direction.map(|direction| match direction {
        Direction::Egress => "Egress",
        Direction::Ingress => "Ingress",
    });
    html! {
        p.because {
            @match (direction, cause.responsible.as_slice()) {
                (Some(direction), [leading, others @ ..]) => {
                    (direction) " denied by " (words::object(leading))
                    @if !others.is_empty() {
                        " with "
                        @for (index, other) in others.iter().enumerate() {
                            @if index > 0 { ", " }
                            (words::object(other))
                        }
                    }
                    ": "
                }
                _ => {}
            }
            (words::class_meaning(&cause.class)) "."
            @match cause.situation {
                Some(SituationKind::Dns) => " These are look-ups at the cluster's DNS.",
                Some(SituationKind::Probe | SituationKind::MeshProbe) => {
                    " These are the kubelet's probes."
                }
                Some(SituationKind::ApiServer) => " These are connections to the API server.",
                Some(SituationKind::ApiServerCalls) => {
                    " These are calls of the API server, for which requests wait."
                }
                Some(SituationKind::Mesh) => " These are connections of the ambient mesh.",
                Some(SituationKind::Metadata) => {
                    " These are look-ups at the cloud's metadata service."
                }
                Some(SituationKind::Scrape) => " These are scrapes that the pods ask for.",
                Some(SituationKind::NodeSource) => {
                    " Nodes replace the clients' addresses by their own."
                }
                Some(SituationKind::Hairpin) => {
                    " These are pods that reach themselves through their Service."
                }
                Some(SituationKind::Start) => {
                    " These are the pod's first moments, before its CNI had programmed it."
                }
                Some(SituationKind::End) => {
                    " These are the last packets from or to a pod that was ending."
                }
                None => {}
            }
        }
    }
}

fn facts(summary: &Summary) -> Markup {
    let lasted = summary.last.duration_since(summary.first);
    html! {
        dl.facts {
            div { dt { "State" } dd { (state(summary)) } }
            div { dt { "First drop" } dd { (words::moment(summary.first)) } }
            div { dt { "Last drop" } dd { (words::moment(summary.last)) } }
            div { dt { "From first to last" } dd { (words::span(lasted)) } }
            div {
                dt { "Worked until" }
                dd {
                    @match summary.last_success {
                        Some(at) => (words::moment(at)),
                        None => "unknown",
                    }
                }
            }
            div {
                dt { "Drops" }
                dd {
                    (words::at_least(summary.drops, "flow")) ", "
                    (words::at_least(summary.packets, "packet"))
                }
            }
            div {
                dt { "Seen by" }
                dd {
                    @for (index, node) in summary.nodes.iter().take(NODES_NAMED_MAX).enumerate() {
                        @if index > 0 { ", " }
                        code { (node.node) }
                    }
                    @if summary.nodes.len() > NODES_NAMED_MAX {
                        " and " (summary.nodes.len() - NODES_NAMED_MAX) " more nodes"
                    }
                }
            }
        }
    }
}

fn state(summary: &Summary) -> Markup {
    html! {
        @match summary.status {
            Status::Open if !summary.is_reported => "Open: no agent has reported it as an incident yet",
            Status::Open => "Open when the records end",
            Status::Unfollowed => "Not followed: its agent stopped or restarted, and whether it \
                                   goes on is unknown",
            Status::Resolved => {
                "Resolved"
                @if let Some(at) = summary.resolved { " " (words::moment(at)) }
                @match &summary.resolution {
                    Some(IncidentResolution::Passes { at }) => {
                        ": traffic passes since " (words::moment((*at).into()))
                    }
                    Some(why) => { ": " (words::resolution(Some(why))) }
                    None => {}
                }
            }
        }
        @if summary.reopened > 0 {
            ". It came back " (words::count(u64::from(summary.reopened), "time"))
        }
    }
}

/// How bad, how sure, and what both rest on.
fn certainty(summary: &Summary) -> Markup {
    let per_cent = (summary.confidence * 100.0).round().clamp(0.0, 100.0);
    html! {
        div.reasons {
            section {
                h3 { (format!("{per_cent:.0}")) " % sure of the cause" }
                (list(&summary.confidence_reasons, "The records give no reasons."))
            }
            section {
                h3 { "Why " (words::severity(summary.severity)) }
                (list(&summary.severity_reasons, "No agent has rated it yet."))
                @if !summary.services_lost.is_empty() {
                    p {
                        "Services without a ready endpoint: "
                        @for (index, service) in summary.services_lost.iter().enumerate() {
                            @if index > 0 { ", " }
                            (words::name(service))
                        }
                        "."
                    }
                }
                @if let Some(established) = &summary.established { p.sentence { (established) "." } }
            }
        }
        @if !summary.text.is_empty() {
            figure.own-words {
                blockquote { p { (summary.text) } }
                figcaption { "In the agent's own words" }
            }
        }
    }
}

fn list(reasons: &[String], none: &str) -> Markup {
    html! {
        @if reasons.is_empty() { p { (none) } }
        @else { ul { @for reason in reasons { li { (reason) } } } }
    }
}
