//! Lists: incidents, and the drops of one.

use std::{fmt::Write as _, ops::RangeInclusive};

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
};

use super::{Page, Theme, line, split};
use crate::view::{
    model::{View, Viewport, ids_of},
    words::{self, at_least, badge, count, fit, headline, pad, span, sparkline},
};
use whydrop_report::records::board::{Incident, ReportedDrop, Status};

/// From this many rows on, the selected incident is described below the list.
const ROWS_WITH_PREVIEW: u16 = 16;

/// How many of them that takes, with the rule between: what the list leaves.
const PREVIEW_ROWS: RangeInclusive<u16> = 7..=11;

/// How far back a sparkline goes.
const SPARKLINE: jiff::SignedDuration = jiff::SignedDuration::from_mins(60);

pub(super) fn incidents(frame: &mut Frame<'_>, area: Rect, view: &View, theme: Theme) -> Viewport {
    let incidents = view.incidents();
    if incidents.is_empty() {
        return nothing(frame, area, view, theme);
    }
    let has_preview = area.height >= ROWS_WITH_PREVIEW;
    let listed = u16::try_from(incidents.len() * 2).unwrap_or(u16::MAX);
    let left = area.height.saturating_sub(listed).clamp(*PREVIEW_ROWS.start(), *PREVIEW_ROWS.end());
    let below = if has_preview { left } else { 0 };
    let (list, preview) = split(area, area.height - below);
    let ids: Vec<&str> = incidents.iter().map(|incident| incident.id()).collect();
    let selected = view.position(&ids);
    let viewport = window(incidents.len(), list.height / 2, view, selected);
    let shown = incidents.iter().enumerate().skip(viewport.offset).take(viewport.fit);
    // One scale for all that are on the screen: what drops more flows has the higher bars.
    let columns = mark_columns(usize::from(area.width));
    let numbers = shown.clone().flat_map(|(_, incident)| activity(view, incident, columns));
    let most = numbers.max().unwrap_or(0);
    for (row, (index, incident)) in (list.y..).step_by(2).zip(shown) {
        let rows = Rect { y: row, height: 2.min(list.bottom().saturating_sub(row)), ..list };
        let (first, second) = split(rows, 1);
        let is_selected = index == selected;
        line(frame, first, title(incident, usize::from(area.width), is_selected, theme));
        line(frame, second, subtitle(view, incident, most, usize::from(area.width)));
    }
    if has_preview && let Some(incident) = incidents.get(selected) {
        let mut page = Page::new(usize::from(area.width), theme);
        page.line(vec![Span::styled("─".repeat(page.width), theme.quiet)]);
        brief(&mut page, incident, usize::from(preview.height));
        for (row, text) in (preview.y..preview.bottom()).zip(page.lines) {
            line(frame, Rect { y: row, height: 1, ..preview }, text);
        }
    }
    viewport
}

/// Why there is nothing to be seen.
fn nothing(frame: &mut Frame<'_>, area: Rect, view: &View, theme: Theme) -> Viewport {
    let mut page = Page::new(usize::from(area.width), theme);
    page.blank();
    let lines = view.board().lines();
    if view.board().incidents().next().is_some() {
        page.text("No incident matches. Press Esc to show all.");
    } else if lines.records > 0 {
        page.text("Nothing is dropped: the agents report no drops. Press a for the agents.");
    } else if lines.others > 0 {
        page.text(&format!(
            "No records among {}. The agents write them with --log-format json.",
            count(lines.others, "line")
        ));
    } else {
        page.text("No records have come yet.");
    }
    for (row, text) in (area.y..area.bottom()).zip(page.lines) {
        line(frame, Rect { y: row, height: 1, ..area }, text);
    }
    Viewport::default()
}

/// The part of a list that is shown: what is selected always is.
fn window(total: usize, fit: u16, view: &View, selected: usize) -> Viewport {
    let fit = usize::from(fit).max(1);
    let least = (selected + 1).saturating_sub(fit);
    let offset = view.place().offset.clamp(least, selected.max(least));
    // No empty room at the end as long as there is something before.
    let offset = offset.min(total.saturating_sub(fit));
    Viewport { total, fit, offset }
}

/// How wide badge and sparkline are.
const fn mark_columns(width: usize) -> usize {
    if width < 100 { 10 } else { 14 }
}

fn title(incident: &Incident, width: usize, is_selected: bool, theme: Theme) -> Line<'static> {
    let summary = incident.summary();
    let columns = mark_columns(width);
    let text = pad(&headline(summary), width.saturating_sub(columns + 4));
    let text_style = match (is_selected, summary.status) {
        (true, _) => theme.bar,
        (false, Status::Resolved) => theme.quiet,
        (false, _) => theme.strong,
    };
    Line::from(vec![
        Span::styled(if is_selected { "> " } else { "  " }, theme.strong),
        Span::styled(format!(" {}", pad(badge(summary), columns - 1)), theme.badge(summary)),
        Span::raw(" "),
        Span::styled(text, text_style),
    ])
}

/// How many of its flows were dropped, in the last hour or since the log begins.
fn activity(view: &View, incident: &Incident, columns: usize) -> Vec<u64> {
    let now = view.now();
    let begin = view.board().span().map_or(now, |(first, _)| first).max(now - SPARKLINE);
    incident.activity().columns(begin, now, columns)
}

fn subtitle(view: &View, incident: &Incident, most: u64, width: usize) -> Line<'static> {
    let summary = incident.summary();
    let now = view.now();
    let columns = mark_columns(width);
    let spark = sparkline(&activity(view, incident, columns), most);
    let when = match summary.resolved {
        Some(resolved) => format!("ended {} ago", span(resolved, now)),
        None => format!("for {}, last {} ago", span(summary.first, now), span(summary.last, now)),
    };
    let cause = match &summary.cause.policy {
        Some(policy) => format!("{}, {}", summary.cause.class, words::object(policy)),
        None => summary.cause.class.to_string(),
    };
    let text = format!("{when}; {}; {cause}", at_least(summary.drops, "flow"));
    let room = width.saturating_sub(columns + 3);
    Line::raw(format!("  {spark} {}", fit(&text, room)))
}

/// Why, of the selected incident, and what to do, in so many rows.
fn brief(page: &mut Page, incident: &Incident, rows: usize) {
    let summary = incident.summary();
    let (mut why, mut todo) =
        (Page::new(page.width, page.theme()), Page::new(page.width, page.theme()));
    why.text(&words::why(summary).join("; "));
    if let Some(step) = summary.plan.first().filter(|_| summary.status != Status::Resolved) {
        todo.item("do:", &step.text);
        todo.cut(2);
    }
    why.cut(rows.saturating_sub(page.lines.len() + todo.lines.len()));
    page.lines.append(&mut why.lines);
    page.lines.append(&mut todo.lines);
}

/// The drops of the incident that is looked at.
pub(super) fn drops(frame: &mut Frame<'_>, area: Rect, view: &View, theme: Theme) -> Viewport {
    let Some(incident) = view.shown_incident() else { return Viewport::default() };
    let drops = view.drops(incident.id());
    let mut title = format!(" {} of incident {}", count(drops.len() as u64, "drop"), incident.id());
    let others = incident.drops_not_kept();
    if others > 0 {
        let _ = write!(title, ", the latest; {others} more are counted and not kept");
    }
    list(frame, area, Listed { title, drops }, view, theme)
}

/// The findings.
pub(super) fn findings(frame: &mut Frame<'_>, area: Rect, view: &View, theme: Theme) -> Viewport {
    let drops = view.findings();
    let findings = count(drops.len() as u64, "finding");
    let title = format!(" {findings}: what passes although policies deny it");
    list(frame, area, Listed { title, drops }, view, theme)
}

/// Drops below a title.
struct Listed<'a> {
    title: String,
    drops: Vec<&'a ReportedDrop>,
}

fn list(
    frame: &mut Frame<'_>,
    area: Rect,
    Listed { title, drops }: Listed<'_>,
    view: &View,
    theme: Theme,
) -> Viewport {
    let (top, list) = split(area, 1);
    let width = usize::from(area.width);
    line(frame, top, Line::styled(fit(&title, width), theme.strong));
    let selected = view.position(&ids_of(&drops));
    let viewport = window(drops.len(), list.height, view, selected);
    let shown = drops.iter().enumerate().skip(viewport.offset).take(viewport.fit);
    for (row, (index, drop)) in (list.y..list.bottom()).zip(shown) {
        let is_selected = index == selected;
        let record = drop.record();
        let (_, last) = drop.seen();
        let text = format!(
            "{} {}  {}",
            last.strftime("%T"),
            pad(&words::evidence(&record.evidence, &record.flow), 22),
            words::flow(&record.flow)
        );
        let style = if is_selected { theme.bar } else { ratatui::style::Style::new() };
        let text = Line::from(vec![
            Span::styled(if is_selected { "> " } else { "  " }, theme.strong),
            Span::styled(pad(&text, width.saturating_sub(2)), style),
        ]);
        line(frame, Rect { y: row, height: 1, ..list }, text);
    }
    viewport
}
