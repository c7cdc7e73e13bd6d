//! What changed, what lets the traffic pass, and what to do in order.

use maud::{Markup, html};

use super::words;
use whydrop_report::records::board::Summary;
use whydrop_report::{
    Changed, Remedy,
    incident::{ChangedBy, PlanStep},
};

/// How many changes are told: several that only together made the difference, of several nodes.
const CHANGES_MAX: usize = 12;

/// Steps that stand in for the first, if that does not suit.
const ALTERNATIVES: [&str; 2] = ["instead", "put-back"];

pub(super) fn changes(summary: &Summary) -> Markup {
    let untold = summary.changes.len().saturating_sub(CHANGES_MAX);
    html! {
        @if summary.changes.is_empty() {
            p {
                "No change is known that made the difference"
                @if let Some(since) = &summary.cause.known_since {
                    ": it is denied for as long as changes are known, since "
                    (words::moment_told(since))
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
                    ChangedBy::Unknown => "How the change is known, the records do not tell.",
                }
            }
            @for changed in summary.changes.iter().take(CHANGES_MAX) { (change(changed)) }
            @if untold > 0 { p.note { (words::count(words::len(untold), "more change")) } }
        }
    }
}

fn change(changed: &Changed) -> Markup {
    html! {
        figure.change {
            figcaption {
                (words::object(&changed.object)) " was " strong { (changed.change) } " "
                (words::moment_told(&changed.at))
            }
            @match &changed.difference {
                Some(difference) => {
                    div.code role="region" aria-label="The difference" tabindex="0" {
                        pre { code { @for part in parts(difference) { (line(part)) } } }
                    }
                },
                None => p.note {
                    "The records do not hold the object, so its lines are not shown here: "
                    @match changed.change.as_str() {
                        "created" => "before, it was not there.",
                        "deleted" => "after, it was not there any more.",
                        _ => "what differs is not told.",
                    }
                },
            }
        }
    }
}

/// The differences, as the agent told them in one sentence: each begins where one ends that came
/// or went.
fn parts(difference: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = difference;
    while let Some(end) =
        [" went, ", " came, "].iter().filter_map(|end| Some(rest.find(end)? + end.len())).min()
    {
        parts.push(rest[..end].trim_end_matches(", "));
        rest = &rest[end..];
    }
    parts.push(rest);
    parts
}

/// A line of a difference; the mark before it is for the eye, the words say the same.
fn line(part: &str) -> Markup {
    let kind = match part {
        gone if gone.ends_with(" went") => "del",
        new if new.ends_with(" came") || new.ends_with(" now") => "add",
        _ => "same",
    };
    html! { span.line data-kind=(kind) { (part) "\n" } }
}

pub(super) fn section(summary: &Summary) -> Markup {
    html! {
        @match summary.remedy() {
            Some(remedy) => (added(remedy)),
            None => p { "There is no manifest to apply: " @match summary.plan.first() {
                Some(step) => { (step.text) "." }
                None => "the records tell of none.",
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
            @match remedy.newly_allowed {
                0 => "It newly allows nothing else.",
                more => {
                    "It also newly allows " (words::count(words::len(more), "other pair"))
                    " of ends, at least."
                }
            }
        }
        div.code role="region" aria-label="The manifest to apply" tabindex="0" {
            pre { code { @for line in remedy.manifest.lines() {
                span.line data-kind="add" { (line) "\n" }
            } } }
        }
        p.note { "Every line is added; nothing is taken away. " code { "kubectl apply -f -" } " takes it as it stands." }
    }
}

pub(super) fn plan(summary: &Summary, number: usize) -> Markup {
    let is_other = |step: &&PlanStep| ALTERNATIVES.contains(&step.step.as_str());
    let (others, steps): (Vec<&PlanStep>, Vec<&PlanStep>) = summary.plan.iter().partition(is_other);
    html! {
        @if steps.is_empty() { p { "The records tell of no plan." } }
        @else { ol.plan { @for steps in grouped(&steps) { li { (group(steps, number)) } } } }
        @if !others.is_empty() {
            h4 { "If the first step does not suit" }
            ul.plan { @for step in others { li { (self::step(step, number)) } } }
        }
    }
}

/// Steps that are done in one go: tests of one flow after the other.
fn grouped<'a, 'b>(steps: &'a [&'b PlanStep]) -> Vec<&'a [&'b PlanStep]> {
    let is_test = |step: &PlanStep| step.step == "test";
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
            p.aside { "Newly allows " (words::count(words::len(more), "other pair")) " of ends, at least." }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_falls_into_its_parts() {
        let told = "label name=web went, ingress rule 0 (from anyone, port 80/TCP) came, \
                    asked in another order";
        assert_eq!(
            parts(told),
            [
                "label name=web went",
                "ingress rule 0 (from anyone, port 80/TCP) came",
                "asked in another order"
            ]
        );
        assert_eq!(parts("governs ingress now"), ["governs ingress now"]);
    }
}
