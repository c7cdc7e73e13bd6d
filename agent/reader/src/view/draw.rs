//! Draws the view. It reads the state and changes nothing.

mod agents;
mod drop;
mod help;
mod incident;
mod lists;
mod page;

use std::fmt::Write as _;

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Modifier, Style},
    text::{Line, Span},
};

use super::{
    model::{Screen, Source, View, Viewport},
    words::{self, count, fit},
};
use page::Page;
use whydrop_report::{
    incident::Severity,
    records::board::{Agent, AgentStatus, Incident, Status, Summary},
};

/// Below this many rows only what is looked at is drawn, without a second line of heading.
const ROWS_SMALL: u16 = 12;

/// Less of a word than this says nothing.
const HEADING_COLUMNS_MIN: usize = 6;

/// How things look. Nothing is shown by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    has_colours: bool,
    alert: Style,
    strong: Style,
    quiet: Style,
    bar: Style,
}

impl Theme {
    /// With colours, or by bold, dim and reversed text alone.
    pub fn new(has_colours: bool) -> Self {
        let strong = Style::new().add_modifier(Modifier::BOLD);
        Self {
            has_colours,
            alert: if has_colours { strong.fg(Color::Red) } else { strong },
            strong,
            quiet: Style::new().add_modifier(Modifier::DIM),
            bar: Style::new().add_modifier(Modifier::REVERSED),
        }
    }

    /// Without colours where `NO_COLOR` is set to anything (<https://no-color.org>).
    pub fn of_environment() -> Self {
        let asked = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::new(!asked)
    }

    /// Colours in pairs, where they are loud: they read alike on dark and on light.
    fn badge(self, summary: &Summary) -> Style {
        let pair = |text, ground| match self.has_colours {
            true => Style::new().fg(text).bg(ground).add_modifier(Modifier::BOLD),
            false => Style::new().add_modifier(Modifier::BOLD),
        };
        match (summary.status, summary.severity) {
            (Status::Open, Some(Severity::Critical)) => pair(Color::White, Color::Red),
            (Status::Open, Some(Severity::Warning)) => pair(Color::Black, Color::Yellow),
            (Status::Open, _) => pair(Color::White, Color::Blue),
            (Status::Unfollowed, _) => self.strong,
            (Status::Resolved, _) => self.quiet,
        }
    }
}

/// Draws what is looked at, and says how much of it fitted.
pub fn draw(frame: &mut Frame<'_>, view: &View, theme: Theme) -> Viewport {
    let area = frame.area();
    let width = usize::from(area.width);
    let (top, rest) = split(area, 1);
    line(frame, top, heading(view, width).style(theme.bar));
    let (mut body, footer) = split(rest, rest.height.saturating_sub(1));
    if area.height >= ROWS_SMALL {
        for text in [trouble(view, width, theme), filters(view, width, theme)].into_iter().flatten()
        {
            let (row, rest) = split(body, 1);
            line(frame, row, text);
            body = rest;
        }
    }
    let viewport = match view.screen() {
        Screen::Incidents => lists::incidents(frame, body, view, theme),
        Screen::Drops { .. } if view.shown_incident().is_some() => {
            lists::drops(frame, body, view, theme)
        }
        Screen::Findings => lists::findings(frame, body, view, theme),
        _ => scroll(frame, body, view, page(view, width, theme)),
    };
    line(frame, footer, footing(view, width, theme));
    viewport
}

/// What is text and no list.
fn page(view: &View, width: usize, theme: Theme) -> Page {
    match view.screen() {
        Screen::Incident { .. } => match view.shown_incident() {
            Some(incident) => incident::page(view, incident, width, theme),
            None => gone(width, theme),
        },
        Screen::Remedy { .. } => match view.remedy() {
            Some(remedy) => {
                let mut page = Page::new(width, theme);
                page.verbatim(&remedy.manifest);
                page
            }
            None => gone(width, theme),
        },
        Screen::Drop { drop, .. } => match view.shown_incident().and_then(|i| i.drop(drop)) {
            Some(drop) => drop::page(view, drop, width, theme),
            None => gone(width, theme),
        },
        Screen::Finding { id } => {
            match view.board.findings().find(|finding| finding.record().id == *id) {
                Some(finding) => drop::page(view, finding, width, theme),
                None => gone(width, theme),
            }
        }
        Screen::Drops { .. } => gone(width, theme),
        Screen::Agents => agents::page(view, width, theme),
        _ => help::page(width, theme),
    }
}

/// What was looked at was evicted for others, or has no remedy any more.
fn gone(width: usize, theme: Theme) -> Page {
    let mut page = Page::new(width, theme);
    page.text("No longer available. Press Esc to go back.");
    page
}

fn scroll(frame: &mut Frame<'_>, area: Rect, view: &View, page: Page) -> Viewport {
    let (total, fit) = (page.lines.len(), usize::from(area.height));
    let offset = view.place().offset.min(total.saturating_sub(fit));
    for (row, text) in (area.y..area.bottom()).zip(page.lines.into_iter().skip(offset)) {
        line(frame, Rect { y: row, height: 1, ..area }, text);
    }
    Viewport { total, fit, offset }
}

/// The first so many rows, and the others.
fn split(area: Rect, rows: u16) -> (Rect, Rect) {
    let rows = rows.min(area.height);
    let first = Rect { height: rows, ..area };
    (first, Rect { y: area.y + rows, height: area.height - rows, ..area })
}

fn line(frame: &mut Frame<'_>, area: Rect, line: Line<'_>) {
    if area.height > 0 {
        frame.render_widget(line, area);
    }
}

/// The state of things: what is open, on how many nodes, and whether more is coming.
fn heading(view: &View, width: usize) -> Line<'static> {
    let summaries = || view.board.incidents().map(Incident::summary);
    let open = summaries().filter(|summary| summary.status != Status::Resolved).count();
    let critical = summaries()
        .filter(|s| s.status == Status::Open && s.severity == Some(Severity::Critical))
        .count();
    let over = summaries().count() - open;
    let mut left = format!(" whydrop  {open} open");
    if critical > 0 {
        let _ = write!(left, " ({critical} critical)");
    }
    if over > 0 {
        let _ = write!(left, ", {over} over");
    }
    let _ = write!(left, "  {}", count(view.board.agents().count() as u64, "node"));
    let right = match (view.held(), &view.source) {
        (Some(held), _) => format!("PAUSED, {held} held "),
        (None, Source::Open) => "following ".to_owned(),
        (None, Source::Ended) => match view.board.span() {
            Some((_, last)) => format!("log ended {} ", words::moment(last)),
            None => "log ended ".to_owned(),
        },
        (None, Source::Failed(_)) => "log broke off ".to_owned(),
    };
    // Where both do not fit, what is coming says less.
    let room = width.saturating_sub(words::width(&left) + 2);
    let right = match words::width(&right) <= room {
        true => right,
        false if room < HEADING_COLUMNS_MIN => String::new(),
        false => fit(right.trim_end(), room),
    };
    let blanks = width.saturating_sub(words::width(&left) + words::width(&right));
    Line::raw(format!("{}{}{right}", fit(&left, width), " ".repeat(blanks)))
}

/// What keeps the view from showing everything.
fn trouble(view: &View, width: usize, theme: Theme) -> Option<Line<'static>> {
    let mut troubles = Vec::new();
    if let Source::Failed(why) = &view.source {
        troubles.push(format!("cannot read any further: {why}"));
    }
    let lines = view.board.lines();
    if lines.unreadable > 0 {
        troubles.push(format!("{} unreadable", count(lines.unreadable, "line")));
    }
    let agents = |status| view.board.agents().filter(move |agent| agent.status() == status);
    for (status, word) in [(AgentStatus::Stopped, "stopped"), (AgentStatus::Degraded, "degraded")] {
        let mut nodes = agents(status).map(Agent::node);
        match (nodes.next(), nodes.count()) {
            (Some(node), 0) => troubles.push(format!("{node} {word}")),
            (Some(node), more) => troubles.push(format!("{node} and {more} more {word}")),
            (None, _) => {}
        }
    }
    let lost: u64 = view.board.agents().flat_map(|agent| agent.lost().values()).sum();
    if lost > 0 {
        troubles.push(format!("{lost} lost"));
    }
    if lines.incidents_evicted > 0 {
        troubles.push(format!("{} not kept", count(lines.incidents_evicted, "incident")));
    }
    let text = fit(&format!(" ! {} (press a for details)", troubles.join(", ")), width);
    (!troubles.is_empty()).then(|| Line::styled(text, theme.alert))
}

fn filters(view: &View, width: usize, theme: Theme) -> Option<Line<'static>> {
    let words = view.filter.words();
    let is_list = matches!(view.screen(), Screen::Incidents);
    (is_list && !words.is_empty()).then(|| {
        let (shown, all) = (view.incidents().len(), view.board.incidents().count());
        let text = format!(" only {}: {shown} of {all}; Esc shows all", words.join(", "));
        Line::styled(fit(&text, width), theme.strong)
    })
}

/// The search that is typed, what there is to say, or the keys that matter here.
fn footing(view: &View, width: usize, theme: Theme) -> Line<'static> {
    if view.search.is_some() {
        let typed = fit(&view.filter.text, width.saturating_sub(30).max(10));
        return Line::from(vec![
            Span::styled(" /", theme.strong),
            Span::raw(typed),
            Span::styled("▏", theme.strong),
            Span::styled("  Enter: keep  Esc: as before", theme.quiet),
        ]);
    }
    if let Some(notice) = &view.notice {
        return Line::styled(format!(" {}", fit(notice, width.saturating_sub(1))), theme.strong);
    }
    let keys: &[(&str, &str)] = match view.screen() {
        Screen::Incidents => &[
            ("?", "help"),
            ("Enter", "open"),
            ("r", "remedy"),
            ("y", "copy"),
            ("/", "search"),
            ("s", "severity"),
            ("n", "namespace"),
            ("Space", "pause"),
            ("a", "agents"),
            ("q", "quit"),
        ],
        Screen::Incident { .. } => &[
            ("?", "help"),
            ("Esc", "back"),
            ("↑↓", "scroll"),
            ("y", "copy remedy"),
            ("r", "remedy alone"),
            ("Enter", "drops"),
            ("q", "quit"),
        ],
        Screen::Remedy { .. } => &[
            ("?", "help"),
            ("Esc", "back"),
            ("y", "copy; or select with the mouse"),
            ("q", "quit"),
        ],
        Screen::Drops { .. } | Screen::Findings => {
            &[("?", "help"), ("Esc", "back"), ("Enter", "evidence and walk"), ("q", "quit")]
        }
        _ => &[("?", "help"), ("Esc", "back"), ("↑↓", "scroll"), ("q", "quit")],
    };
    let (mut spans, mut taken) = (vec![Span::raw(" ")], 1);
    for (key, what) in keys {
        let columns = words::width(key) + words::width(what) + 3;
        if taken + columns > width {
            break;
        }
        taken += columns;
        spans.push(Span::styled((*key).to_owned(), theme.strong));
        spans.push(Span::raw(format!(" {what}  ")));
    }
    Line::from(spans)
}
