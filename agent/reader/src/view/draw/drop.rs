//! One drop, or finding: what was seen, and how the policies were walked.

use std::fmt::Write as _;

use super::{Page, Theme};
use crate::view::{
    model::View,
    words::{self, moment, moment_of, span},
};
use whydrop_report::records::board::ToldDrop;
use whydrop_report::{
    Decision, Direction, DirectionVerdict, DropRecord, End, Exemption, LayerKind, ObjectRef,
    RuleRef, text::fix_command,
};

pub(super) fn page(view: &View, drop: &ToldDrop, width: usize, theme: Theme) -> Page {
    let mut page = Page::new(width, theme);
    let record = drop.record();
    let (source, destination) = (&record.flow.source, &record.flow.destination);
    page.heading(&words::flow(source, destination, &record.flow.protocol));
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

fn evidence(page: &mut Page, view: &View, drop: &ToldDrop) {
    let record = drop.record();
    let evidence = &record.evidence;
    let (first, last) = drop.seen();
    page.heading("What was seen");
    page.field("seen", words::level(evidence.level));
    page.field("packets", &words::evidence(evidence, &record.flow.protocol));
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
    page.field("told by", &nodes.join(", "));
    if !record.primary {
        let node = record.flow.destination.node.as_deref().unwrap_or("the destination");
        page.text(&format!("The agent of {node} sees more of it, and has not told."));
    }
    page.field("id", &record.id);
}

/// Direction by direction.
fn walk(page: &mut Page, record: &DropRecord) {
    let verdict = &record.verdict;
    page.heading("How the policies were walked");
    match verdict.exempt {
        Some(Exemption::SamePod) => page.text("Exempt whatever they say: a pod reaches itself."),
        Some(Exemption::LocalNode) => {
            page.text("Exempt whatever they say: a node and its own pods reach each other.");
        }
        None => {}
    }
    direction(page, "Egress, at the source", &verdict.egress, record, Direction::Egress);
    direction(page, "Ingress, at the destination", &verdict.ingress, record, Direction::Ingress);
    page.text(&format!("By revision {} of what the agent knew.", verdict.revision));
}

fn direction(
    page: &mut Page,
    name: &str,
    verdict: &DirectionVerdict,
    record: &DropRecord,
    direction: Direction,
) {
    let decision = match verdict.decision {
        Decision::NotIsolated => "no policy governs it",
        Decision::Allowed => "allowed",
        Decision::Denied => "DENIED",
        Decision::Unknown => "cannot tell",
    };
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
    page.field("class", &cause.class);
    for reason in &cause.reasons {
        page.item("-", reason);
    }
    if let Some(changed) = &cause.changed {
        let object = words::object(&changed.object);
        page.field("changed", &format!("{object} {} {}", changed.change, moment_of(&changed.at)));
        if let Some(difference) = &changed.difference {
            page.field("", difference);
        }
    }
}

fn end(page: &mut Page, name: &str, end: &End) {
    let mut told = whydrop_report::text::end(end);
    if let Some(workload) = &end.workload {
        let _ = write!(told, ", of {} {}", workload.kind, workload.name);
    }
    let _ = write!(told, ", {}", end.ip);
    if let Some(node) = end.node.as_ref().filter(|_| end.pod.is_some()) {
        let _ = write!(told, ", on {node}");
    }
    if let Some(service) = &end.service {
        let (namespace, name) = (&service.namespace, &service.name);
        let (ip, port) = (&service.ip, service.port);
        let _ = write!(told, ", dialled as Service {namespace}/{name}, {ip}:{port}");
    }
    page.field(name, &told);
}
