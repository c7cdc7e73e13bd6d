//! An incident: what a person reads aloud first, then everything behind it.

use maud::{Markup, html};

use super::{drops, overview::chip, paths, remedy, timeline, walk, words};
use whydrop_report::records::board::{Board, Incident, Status, Summary};
use whydrop_report::{
    SituationKind,
    incident::{AffectedPath, IncidentResolution, Sufferer},
};

/// How many nodes are named; all are counted.
const NODES_NAMED_MAX: usize = 12;

/// Who cannot reach whom, as one sentence.
pub(super) fn headline(incident: &Incident) -> String {
    let summary = incident.summary();
    let Some(path) = summary.affected.first() else {
        let class = words::class(&summary.cause.class);
        return format!("Traffic died: {class}");
    };
    let AffectedPath { source, destination, port, protocol, pods, replicas, .. } = path;
    let is_over = summary.status == Status::Resolved;
    let counted = |end: &str, is_workload: bool| match is_workload {
        true => format!("{pods} of {replicas} {end}"),
        false => end.to_owned(),
    };
    let mut line = match path.sufferer {
        Sufferer::Source => {
            let who = counted(&source.name, source.workload.is_some());
            let verb = if is_over { "could not reach" } else { "cannot reach" };
            format!("{who} {verb} {} on {port}/{protocol}", destination.name)
        }
        Sufferer::Destination => {
            let whom = counted(&destination.name, destination.workload.is_some());
            let verb = if is_over { "could not be reached by" } else { "cannot be reached by" };
            format!("{whom} {verb} {} on {port}/{protocol}", source.name)
        }
    };
    let more = summary.affected.len() - 1 + summary.affected_untold;
    if more > 0 {
        line += ", and ";
        line += &words::count(words::len(more), "more path");
    }
    line
}

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
                h2 id=(id("title")) { (headline(incident)) }
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
        whydrop_report::Direction::Egress => "Egress",
        whydrop_report::Direction::Ingress => "Ingress",
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
            (words::class(&cause.class)) "."
            @match cause.situation {
                Some(SituationKind::Dns) => " These are look-ups at the cluster's DNS.",
                Some(SituationKind::Probe) => " These are the kubelet's probes.",
                Some(SituationKind::Start) => " These are the pod's first moments, before its CNI had \
                                           programmed it.",
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
                        None => "not known",
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
            Status::Open if !summary.is_told => "Open: no agent has told it as an incident yet",
            Status::Open => "Open when the records end",
            Status::Unfollowed => "Not followed: its agent stopped or began anew, and nobody has \
                                   said since whether it goes on",
            Status::Resolved => {
                "Resolved"
                @if let Some(at) = summary.resolved { " " (words::moment(at)) }
                @match &summary.resolution {
                    Some(IncidentResolution::Passes { at }) => {
                        ": traffic passes since " (words::moment_told(at))
                    }
                    Some(IncidentResolution::Allowed) => ": policies allow it now",
                    Some(IncidentResolution::Silence) => ": nobody has tried for some time",
                    Some(IncidentResolution::Muted) => ": it is meant so, and muted",
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
            figure.told {
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
