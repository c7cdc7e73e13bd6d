//! One drop, or finding: what was seen, and how the policies were walked.

use std::fmt::Write as _;

use super::{Page, Theme};
use crate::view::{
    model::View,
    words::{self, moment, span},
};
use whydrop_report::{
    Direction, DirectionVerdict, DropRecord, End, LayerKind, ObjectRef, RuleRef,
    records::board::ReportedDrop, text::fix_command,
};

pub(super) fn page(view: &View, drop: &ReportedDrop, width: usize, theme: Theme) -> Page {
    let mut page = Page::new(width, theme);
    let record = drop.record();
    let (source, destination) = (&record.flow.source, &record.flow.destination);
    page.heading(&words::flow(&record.flow));
    page.text(&record.cause.text);
    evidence(&mut page, view, drop);
    walk(&mut page, record);
    why(&mut page, record);
    page.heading("The ends");
    end(&mut page, "from", source);
    end(&mut page, "to", destination);
    page.heading("Remedy");
    match &record.remedy {
        Some(remedy) => {
            page.text(&remedy.summary);
            page.text(&fix_command(&record.flow));
            page.blank();
            page.verbatim(&remedy.manifest);
        }
        None => page.text("None that can be proved."),
    }
    page
}

fn evidence(page: &mut Page, view: &View, drop: &ReportedDrop) {
    let record = drop.record();
    let evidence = &record.evidence;
    let (first, last) = drop.seen();
    page.heading("What was seen");
    page.field("seen", words::level(evidence.level));
    page.field("packets", &words::evidence(evidence, &record.flow));
    let optional = [
        ("reason", &evidence.reason),
        ("kernel at", &evidence.location),
        ("interface", &evidence.interface),
        ("refused by", &evidence.rejection),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            page.field(name, value);
        }
    }
    page.field("first", &moment(first));
    page.field("last", &format!("{}, {} ago", moment(last), span(last, view.now())));
    let success = drop.last_success().map_or("none is known".to_owned(), moment);
    page.field("last answer", &success);
    let nodes: Vec<&str> = drop.nodes().iter().map(String::as_str).collect();
    page.field("reported by", &nodes.join(", "));
    if !record.primary {
        let node = record.flow.destination.node.as_deref().unwrap_or("the destination");
        page.text(&format!("The agent of {node} sees more of it, and has not reported it."));
    }
    page.field("id", &record.id);
}

/// Direction by direction.
fn walk(page: &mut Page, record: &DropRecord) {
    let verdict = &record.verdict;
    page.heading("How the policies were walked");
    if let Some(exempt) = verdict.exempt {
        page.text(&format!("Exempt whatever they say: {}.", words::exemption(exempt)));
    }
    direction(page, "Egress, at the source", &verdict.egress);
    nearest_miss(page, record, Direction::Egress);
    direction(page, "Ingress, at the destination", &verdict.ingress);
    nearest_miss(page, record, Direction::Ingress);
    page.text(&format!("By revision {} of what the agent knew.", verdict.revision));
}

fn direction(page: &mut Page, name: &str, verdict: &DirectionVerdict) {
    let decision = words::decision(verdict.decision);
    let layer = match (verdict.layer, &verdict.tier) {
        (_, Some(tier)) => format!(", in tier {tier}"),
        (Some(LayerKind::Admin), None) => ", by admin policies".to_owned(),
        (Some(LayerKind::Baseline), None) => ", by the baseline".to_owned(),
        (Some(LayerKind::NetworkPolicy | LayerKind::Tier) | None, None) => String::new(),
    };
    page.item("-", &format!("{name}: {decision}{layer}"));
    let list =
        |policies: &[ObjectRef]| policies.iter().map(words::object).collect::<Vec<_>>().join(", ");
    let rule = |rule: &RuleRef| format!("{}, rule {}", words::object(&rule.policy), rule.rule);
    if !verdict.isolating.is_empty() {
        page.field("  isolated by", &list(&verdict.isolating));
    }
    for allowed in &verdict.allowed_by {
        page.field("  allowed by", &rule(allowed));
    }
    if let Some(denied) = &verdict.denied_by {
        page.field("  denied by", &rule(denied));
    }
    if !verdict.would_deny.is_empty() {
        page.field(
            "  would deny",
            &format!("{} (staged: decides nothing)", list(&verdict.would_deny)),
        );
    }
}

/// The rule that would almost admit the flow, where this direction denies it.
fn nearest_miss(page: &mut Page, record: &DropRecord, direction: Direction) {
    let miss = record.cause.nearest_miss.as_ref();
    if let Some(miss) = miss.filter(|_| record.cause.direction == Some(direction)) {
        let policy = words::object(&miss.policy);
        page.field("  nearest", &format!("{policy}, rule {}", miss.rule));
        page.field("  wants", &miss.wanted);
        page.field("  found", &miss.found);
    }
}

fn why(page: &mut Page, record: &DropRecord) {
    let cause = &record.cause;
    page.heading(&format!("Why this, and how sure: {:.0}%", cause.confidence * 100.0));
    page.field("class", &cause.class.to_string());
    for reason in &cause.reasons {
        page.item("-", reason);
    }
    if let Some(changed) = &cause.changed {
        let (object, at) = (words::object(&changed.object), moment(changed.at.into()));
        page.field("changed", &format!("{object} {} {at}", changed.change));
        if let Some(difference) = &changed.difference {
            page.field("", difference);
        }
    }
}

fn end(page: &mut Page, name: &str, end: &End) {
    let mut text = whydrop_report::text::end(end);
    if let Some(workload) = &end.workload {
        let _ = write!(text, ", of {} {}", workload.kind, workload.name);
    }
    let _ = write!(text, ", {}", end.ip);
    if let Some(node) = end.node.as_ref().filter(|_| end.pod.is_some()) {
        let _ = write!(text, ", on {node}");
    }
    if let Some(service) = &end.service {
        let (namespace, name) = (&service.namespace, &service.name);
        let (ip, port) = (&service.ip, service.port);
        let _ = write!(text, ", dialled as Service {namespace}/{name}, {ip}:{port}");
    }
    page.field(name, &text);
}
