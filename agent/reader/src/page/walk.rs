//! What the policies say of a flow: direction by direction, which of them isolate the pod, which
//! rule came nearest, what it wanted and what was found.

use maud::{Markup, html};

use super::words::{self, chip};
use whydrop_report::{
    Decision, DirectionVerdict, DropRecord, LayerKind, NearestMiss,
    records::board::{Incident, ReportedDrop},
    text::{FlowQuery, end},
};

/// How many rules that came near are shown; those of other drops of one cause are mostly the same.
const MISSES_MAX: usize = 6;

/// How many policies are named of a direction.
const POLICIES_MAX: usize = 24;

pub(super) fn section(incident: &Incident) -> Markup {
    let Some(drop) = incident.drops().max_by_key(|drop| says_most(drop)) else {
        return html! {
            p.note { "No drop record of this incident is among the lines, so the walk through the \
                      policies is not known here. The policies responsible are named above." }
        };
    };
    let record = drop.record();
    let FlowQuery { from, to, port } = FlowQuery::of(&record.flow);
    html! {
        p {
            "As judged for " (words::name(&from)) " to " (words::name(&to)) " on " (port)
            " (drop " code { (words::short(&record.id)) } "), by the cluster as node "
            code { (record.node) } " knew it at revision " (record.verdict.revision) "."
            @if let Some(exempt) = record.verdict.exempt {
                " Exempt by the specification, whatever the policies say: "
                (words::exemption(exempt)) "."
            }
        }
        div.walk {
            (direction("Out of", "egress", &end(&record.flow.source), &record.verdict.egress))
            (direction("Into", "ingress", &end(&record.flow.destination), &record.verdict.ingress))
        }
        (nearest(incident))
    }
}

/// The drop whose walk is shown: one to count, with a near miss, judged last.
fn says_most(drop: &ReportedDrop) -> (bool, bool, bool, jiff::Timestamp, &str) {
    let DropRecord { primary, cause, remedy, id, .. } = drop.record();
    (*primary, cause.nearest_miss.is_some(), remedy.is_some(), drop.reported(), id)
}

fn direction(preposition: &str, name: &str, end: &str, verdict: &DirectionVerdict) -> Markup {
    let decision = words::decision(verdict.decision);
    html! {
        section {
            h4 { (preposition) " " (words::name(end)) " " span.aside { (name) } }
            p { (chip(decision, decision)) " " (layer(verdict)) }
            @if !verdict.isolating.is_empty() {
                p {
                    @match verdict.decision {
                        Decision::Denied if verdict.denied_by.is_none() => {
                            "These isolate the pod, and no rule of theirs admits the flow:"
                        }
                        _ => "These were asked:",
                    }
                }
                ul {
                    @for policy in verdict.isolating.iter().take(POLICIES_MAX) { li { (words::object(policy)) } }
                    @if verdict.isolating.len() > POLICIES_MAX {
                        li { (verdict.isolating.len() - POLICIES_MAX) " more" }
                    }
                }
            }
            @if let Some(rule) = &verdict.denied_by { p { "Denied by " (words::rule(rule)) "." } }
            @if !verdict.allowed_by.is_empty() {
                p { "Allowed by:" }
                ul { @for rule in verdict.allowed_by.iter().take(POLICIES_MAX) { li { (words::rule(rule)) } } }
            }
            @if !verdict.would_deny.is_empty() {
                p { "Staged, and deciding nothing, these would deny it if they were in force:" }
                ul { @for policy in verdict.would_deny.iter().take(POLICIES_MAX) { li { (words::object(policy)) } } }
            }
        }
    }
}

fn layer(verdict: &DirectionVerdict) -> Markup {
    html! {
        @match (verdict.layer, &verdict.tier) {
            (Some(LayerKind::Admin), _) => "by the rules of cluster administrators",
            (Some(LayerKind::NetworkPolicy), _) => "by the additive network policies",
            (Some(LayerKind::Tier), Some(tier)) => { "in the tier " code { (tier) } },
            (Some(LayerKind::Tier), None) => "in a tier",
            (Some(LayerKind::Baseline), _) => "by the baseline rules",
            (None, _) => {
                @if verdict.decision == Decision::NotIsolated { "no policy governs it" }
            }
        }
    }
}

fn nearest(incident: &Incident) -> Markup {
    let mut misses: Vec<&NearestMiss> = Vec::new();
    for miss in incident.drops().filter_map(|drop| drop.record().cause.nearest_miss.as_ref()) {
        if misses.len() < MISSES_MAX && !misses.contains(&miss) {
            misses.push(miss);
        }
    }
    html! {
        @if misses.is_empty() {
            p { "No rule comes near to admitting it." }
        } @else {
            h4 { "What came nearest" }
            @for miss in misses {
                figure.miss {
                    figcaption { (words::object(&miss.policy)) ", rule " (miss.rule) }
                    dl {
                        div { dt { "wanted" } dd { (miss.wanted) } }
                        div { dt { "found" } dd { (miss.found) } }
                    }
                }
            }
        }
    }
}
