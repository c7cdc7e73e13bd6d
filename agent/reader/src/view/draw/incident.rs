//! One incident: who is affected and why, what to do, when it was, how sure it is.

use super::{Page, Theme};
use crate::view::{
    model::View,
    words::{self, badge, count, headline, moment, span, sparkline},
};
use whydrop_report::{
    incident::{HappenedKind, PlanStep},
    records::board::{Count, Incident, Status, Summary},
};

/// How many pods are named before the others are a number.
const NAMES_MAX: usize = 8;

/// How many steps of one kind are.
const STEPS_MAX: usize = 3;

pub(super) fn page(view: &View, incident: &Incident, width: usize, theme: Theme) -> Page {
    let mut page = Page::new(width, theme);
    let summary = incident.summary();
    page.heading(&format!("{}  incident {}", badge(summary), incident.id()));
    page.styled(&headline(summary), theme.strong);
    for fact in words::why(summary) {
        page.item("-", &fact);
    }
    what_to_do(&mut page, summary);
    if let Some(remedy) = summary.remedy() {
        page.heading("Remedy (y copies it, r shows it alone)");
        page.text(&format!(
            "Verified. It {}.",
            words::newly_allowed(remedy.newly_allowed, &remedy.newly_allowed_paths)
        ));
        page.blank();
        page.verbatim(&remedy.manifest);
    }
    when(&mut page, view, incident);
    who(&mut page, summary);
    how_sure(&mut page, summary);
    who_reports(&mut page, view, incident);
    page
}

fn what_to_do(page: &mut Page, summary: &Summary) {
    match summary.status {
        Status::Resolved => page.heading("What was to be done"),
        _ => page.heading("What to do"),
    }
    if summary.plan.is_empty() {
        page.text("Nothing that can be proved to help.");
    }
    let (mut number, mut of_kind) = (0, 0);
    for (index, step) in summary.plan.iter().enumerate() {
        let is_first = index == 0 || summary.plan[index - 1].step != step.step;
        of_kind = if is_first { 0 } else { of_kind + 1 };
        if of_kind == STEPS_MAX {
            let same = summary.plan[index..].iter().take_while(|s| s.step == step.step).count();
            page.item(" ", &format!("and {same} more like this"));
        }
        if of_kind >= STEPS_MAX {
            continue;
        }
        number += 1;
        page.item(&format!("{number}."), &step_text(step));
    }
}

fn step_text(step: &PlanStep) -> String {
    let command = step.command.as_ref().map(|command| format!(": {command}"));
    format!("{}{}", step.text, command.unwrap_or_default())
}

fn when(page: &mut Page, view: &View, incident: &Incident) {
    let (summary, now) = (incident.summary(), view.now());
    page.heading("When (UTC)");
    let columns = page.width.saturating_sub(4).min(60);
    let flows = incident.activity().columns(summary.first, now, columns);
    let most = flows.iter().copied().max().unwrap_or(0);
    page.text(&sparkline(&flows, most));
    page.text(&format!(
        "flows dropped in each minute, up to {most}, from {} to {}",
        summary.first.strftime("%H:%M"),
        now.strftime("%H:%M")
    ));
    // Everything that has a time, in its order.
    let mut events: Vec<(String, String)> = Vec::new();
    for changed in &summary.changes {
        events.push((moment(changed.at.into()), words::change(changed)));
    }
    if let Some(success) = summary.last_success {
        events
            .push((moment(success), "last answer before the first packet was dropped".to_owned()));
    }
    events.push((moment(summary.first), "first packet dropped".to_owned()));
    let ago = span(summary.last, now);
    events.push((moment(summary.last), format!("last packet dropped, {ago} ago")));
    for turn in incident.moments() {
        let severity = turn.severity;
        let what = match (turn.happened, &turn.resolution) {
            (HappenedKind::Opened, _) => format!("opened, {severity}"),
            (HappenedKind::Updated, _) => format!("first {severity}"),
            (HappenedKind::Reopened, _) => format!("back, {severity}"),
            (HappenedKind::Resolved, why) => format!("over: {}", words::resolution(why.as_ref())),
        };
        events.push((moment(turn.at), format!("{what} (reported by {})", turn.node)));
    }
    for (at, what) in view.board().heals(incident.id()) {
        events.push((moment(*at), format!("healer: {what}")));
    }
    events.sort();
    for (at, what) in events {
        page.item(&at, &what);
    }
}

fn who(page: &mut Page, summary: &Summary) {
    page.heading("Who");
    for path in &summary.affected {
        page.item("-", &words::path_text(path));
        let names = |names: &[String], all: usize| {
            let more = all.saturating_sub(names.len().min(NAMES_MAX));
            let named = names.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>().join(", ");
            if more > 0 { format!("{named} and {more} more") } else { named }
        };
        page.field("  pods", &names(&path.pod_names, path.pods));
        page.field("  other end", &names(&path.others, path.others.len()));
        if !path.knows_all {
            page.field("  of", "as many as these agents know of; there may be more");
        }
    }
    if summary.affected_not_listed > 0 {
        page.item("-", &format!("and {}", count(summary.affected_not_listed as u64, "path")));
    }
    for service in &summary.services_lost {
        page.item("-", &format!("Service {service} has no ready endpoint any more"));
    }
    page.field("flows", &number(summary.drops));
    page.field("packets", &number(summary.packets));
}

fn number(count: Count) -> String {
    let least = if count.is_exact { "" } else { "at least " };
    format!("{least}{}", count.at_least)
}

fn how_sure(page: &mut Page, summary: &Summary) {
    page.heading(&format!("Why this, and how sure: {:.0}%", summary.confidence * 100.0));
    page.field("class", &summary.cause.class.to_string());
    for policy in &summary.cause.responsible {
        page.field("policy", &words::object(policy));
    }
    for reason in &summary.confidence_reasons {
        page.item("-", reason);
    }
    if !summary.severity_reasons.is_empty() {
        page.heading("Why this bad");
    }
    for reason in &summary.severity_reasons {
        page.item("-", reason);
    }
}

fn who_reports(page: &mut Page, view: &View, incident: &Incident) {
    page.heading("Reported by");
    for node in &incident.summary().nodes {
        let ago = span(node.reported, view.now());
        let status = node.status.map_or("reports drops only", words::status);
        let severity = node.severity.map(|severity| format!(", {severity}"));
        page.item(
            "-",
            &format!("{}: {status}{}, {ago} ago", node.node, severity.unwrap_or_default()),
        );
    }
    let kept = incident.drops().count() as u64;
    page.text(&format!("Enter shows {}.", count(kept, "drop")));
}
