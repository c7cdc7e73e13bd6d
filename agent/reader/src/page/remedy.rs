//! What changed, what lets the traffic pass, and what to do in order.

use maud::{Markup, html};

use super::words;
use whydrop_core::{cluster::history::ChangeKind, incident::StepKind};
use whydrop_report::{
    Changed, Remedy,
    incident::{ChangedBy, PlanStep},
    records::board::Summary,
};

/// How many changes are shown: several that only together made the difference, of several nodes.
const CHANGES_MAX: usize = 12;

pub(super) fn changes(summary: &Summary) -> Markup {
    let more = summary.changes.len().saturating_sub(CHANGES_MAX);
    html! {
        @if summary.changes.is_empty() {
            p {
                "No change is known that made the difference"
                @if let Some(since) = summary.cause.known_since {
                    ": it is denied for as long as changes are known, since "
                    (words::moment(since.into()))
                }
                "."
            }
        } @else {
            p {
                @match summary.cause.changed_by {
                    ChangedBy::Seen => "The change was seen, and the flow was judged before and \
                                        after it.",
                    ChangedBy::OwnTimestamp => "The change was not seen: this is when the object \
                                                was last written, by its own timestamp.",
                    ChangedBy::Unknown => "The records do not say how the change is known.",
                }
            }
            @for changed in summary.changes.iter().take(CHANGES_MAX) { (change(changed)) }
            @if more > 0 { p.note { (words::count(words::len(more), "more change")) } }
        }
    }
}

fn change(changed: &Changed) -> Markup {
    html! {
        figure.change {
            figcaption {
                (words::object(&changed.object)) " was " strong { (changed.change) } " "
                (words::moment(changed.at.into()))
            }
            @match &changed.difference {
                Some(difference) => {
                    div.code role="region" aria-label="The difference" tabindex="0" {
                        pre { code { (difference) } }
                    }
                },
                None => p.note {
                    "The records do not hold the object, so its lines are not shown here: "
                    @match changed.change.known() {
                        Some(ChangeKind::Created) => "before, it was not there.",
                        Some(ChangeKind::Deleted) => "after, it was not there any more.",
                        _ => "the difference is unknown.",
                    }
                },
            }
        }
    }
}

pub(super) fn section(summary: &Summary) -> Markup {
    html! {
        @match summary.remedy() {
            Some(remedy) => (added(remedy)),
            None => p { "There is no manifest to apply: " @match summary.plan.first() {
                Some(step) => { (step.text) "." }
                None => "none is recorded.",
            } },
        }
    }
}

/// The manifest, all of it new; the marks are drawn, so that what is copied can be applied.
fn added(remedy: &Remedy) -> Markup {
    html! {
        p.sentence { (remedy.summary) }
        p.checks {
            @if remedy.verified { strong { "Checked: " } "with it the flow passes, by the same evaluator. " }
            @else { strong { "Not checked" } " by the evaluator. " }
            "It " (words::newly_allowed(remedy.newly_allowed, &[]))
            @if remedy.newly_allowed > 0 { ", at least" }
            @if !remedy.newly_allowed_paths.is_empty() {
                ": " (remedy.newly_allowed_paths.join(", "))
            }
            "."
        }
        div.code role="region" aria-label="The manifest to apply" tabindex="0" {
            pre { code { @for line in remedy.manifest.lines() {
                span.line data-kind="add" { (line) "\n" }
            } } }
        }
        p.note { "Every line is added; nothing is taken away. " code { "kubectl apply -f -" } " takes it as it is." }
    }
}

pub(super) fn plan(summary: &Summary, number: usize) -> Markup {
    let is_other =
        |step: &&PlanStep| step.step == StepKind::Instead || step.step == StepKind::PutBack;
    let (others, steps): (Vec<&PlanStep>, Vec<&PlanStep>) = summary.plan.iter().partition(is_other);
    html! {
        @if steps.is_empty() { p { "No plan is recorded." } }
        @else { ol.plan { @for steps in grouped(&steps) { li { (group(steps, number)) } } } }
        @if !others.is_empty() {
            h4 { "If the first step does not suit" }
            ul.plan { @for step in others { li { (self::step(step, number)) } } }
        }
    }
}

/// Steps that are done in one go: tests of one flow after the other.
fn grouped<'a, 'b>(steps: &'a [&'b PlanStep]) -> Vec<&'a [&'b PlanStep]> {
    let is_test = |step: &PlanStep| step.step == StepKind::Test;
    steps.chunk_by(|one, next| is_test(one) && is_test(next)).collect()
}

fn group(steps: &[&PlanStep], number: usize) -> Markup {
    html! {
        @match steps {
            [] => {}
            [step] => (self::step(step, number)),
            steps => {
                p { "test these " (steps.len()) " flows" }
                ul.flows { @for step in steps { li {
                    @match &step.flow {
                        Some(flow) => {
                            (words::name(&flow.from)) " to " (words::name(&flow.to)) ", "
                            code { (flow.ip) } " port " (flow.port) "/" (flow.protocol)
                        }
                        None => (step.text),
                    }
                } } }
            }
        }
    }
}

fn step(step: &PlanStep, number: usize) -> Markup {
    html! {
        p { (step.text) }
        @if step.remedy.is_some() {
            p.aside { a href=(format!("#i{number}-remedy")) { "The manifest" } " is above." }
        }
        @if let Some(command) = &step.command {
            div.code role="region" aria-label="The command" tabindex="0" { pre { code { (command) } } }
        }
        @if let Some(more) = step.newly_allowed.filter(|more| *more > 0) {
            p.aside { "It " (words::newly_allowed(more, &[])) ", at least." }
        }
        @if !step.pods.is_empty() {
            details {
                summary {
                    (words::count(words::len(step.pods.len()), "pod"))
                    @if let Some(condition) = &step.condition { ", until " (condition) }
                }
                ul { @for pod in &step.pods { li { (words::name(pod)) } } }
            }
        }
        @if let Some(flow) = &step.flow {
            p.aside { "Address " code { (flow.ip) } ", port " (flow.port) "/" (flow.protocol) }
        }
    }
}
