//! What happened, in order: worked until, the change, the first drop, each turn, and the end; and
//! how many flows were dropped in each minute.

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use super::words;
use whydrop_report::{
    incident::{ChangedBy, HappenedKind, IncidentResolution},
    records::board::{Board, Incident, Moment, Summary},
};

/// How many events are listed: the first ones show how it began, the last ones how it ended.
const EVENTS_MAX: usize = 60;
const LAST_EVENTS: usize = 20;

/// How many columns the histogram has at most: as many as can be distinguished on a phone.
const COLUMNS_MAX: i64 = 96;

/// How long before the first drop the histogram begins at the earliest, unless the incident is
/// longer: a change of last week would leave no room for what came of it.
const BEFORE_MAX: SignedDuration = SignedDuration::from_mins(15);

const MINUTE_SECS: i64 = 60;

/// The kinds of events, in the order in which they come within one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Success,
    Change,
    Drop,
    Turn,
    Over,
}

impl Kind {
    /// A class for the mark before it; each has a shape of its own.
    const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Change => "change",
            Self::Drop => "drop",
            Self::Turn => "turn",
            Self::Over => "over",
        }
    }
}

struct Event {
    at: Timestamp,
    kind: Kind,
    what: Markup,
    /// A mark in the histogram: its name there.
    mark: Option<&'static str>,
}

pub(super) fn section(board: &Board, incident: &Incident, number: usize) -> Markup {
    let summary = incident.summary();
    let events = events(board, incident);
    html! {
        (histogram(incident, &events, number))
        p.note { "Spans are counted from the first drop." }
        ol.timeline {
            @for (index, event) in events.iter().enumerate() {
                @if events.len() > EVENTS_MAX && index == EVENTS_MAX - LAST_EVENTS {
                    li.more {
                        (words::count(words::len(events.len() - EVENTS_MAX), "turn"))
                        " in between not listed"
                    }
                }
                @if events.len() <= EVENTS_MAX || index < EVENTS_MAX - LAST_EVENTS
                        || index >= events.len() - LAST_EVENTS {
                    (item(event, summary.first))
                }
            }
        }
    }
}

fn item(event: &Event, first: Timestamp) -> Markup {
    let apart = event.at.duration_since(first);
    html! {
        li data-kind=(event.kind.name()) {
            span.when {
                (words::moment(event.at))
                @if !apart.is_zero() {
                    span.apart {
                        (words::span(apart))
                        @if apart.is_negative() { " before" } @else { " later" }
                    }
                }
            }
            div.what { (event.what) }
        }
    }
}

fn events(board: &Board, incident: &Incident) -> Vec<Event> {
    let summary = incident.summary();
    let mut events = Vec::new();
    if let Some(at) = summary.last_success {
        let what = html! { "The last connection that was answered" };
        events.push(Event { at, kind: Kind::Success, what, mark: Some("worked until") });
    }
    for changed in &summary.changes {
        let at = changed.at.into();
        let what = html! {
            (words::object(&changed.object)) " was " strong { (changed.change) }
            @if summary.cause.changed_by == ChangedBy::OwnTimestamp { ", by its own timestamp" }
        };
        events.push(Event { at, kind: Kind::Change, what, mark: Some("change") });
    }
    let what = html! { strong { "The first packet was dropped" } };
    events.push(Event { at: summary.first, kind: Kind::Drop, what, mark: None });
    events.extend(incident.moments().iter().map(turn));
    events.extend(board.heals(incident.id()).map(|(at, what)| {
        let what = html! { "The healer " (what) };
        Event { at: *at, kind: Kind::Turn, what, mark: None }
    }));
    if let Some(IncidentResolution::Passes { at }) = &summary.resolution {
        let (at, what) = ((*at).into(), html! { strong { "Traffic passes again" } });
        events.push(Event { at, kind: Kind::Over, what, mark: Some("passes again") });
    }
    if summary.last > summary.first {
        let what = html! { "The last packet was dropped" };
        events.push(Event { at: summary.last, kind: Kind::Drop, what, mark: None });
    }
    events.sort_by_key(|event| (event.at, event.kind));
    events
}

fn turn(moment: &Moment) -> Event {
    let severity = words::severity(Some(moment.severity));
    let (kind, verb) = match moment.happened {
        HappenedKind::Opened => (Kind::Turn, "opened"),
        HappenedKind::Updated => (Kind::Turn, "updated"),
        HappenedKind::Reopened => (Kind::Turn, "reopened"),
        HappenedKind::Resolved => (Kind::Over, "resolved"),
    };
    let what = html! {
        "Node " code { (moment.node) } ": incident " strong { (verb) }
        @match (moment.happened, &moment.resolution) {
            (HappenedKind::Resolved, Some(IncidentResolution::Passes { .. })) => {
                ", traffic passes again"
            }
            (HappenedKind::Resolved, Some(why)) => { ", " (words::resolution(Some(why))) }
            (HappenedKind::Resolved, None) => {}
            _ => { ", " (severity) }
        }
    };
    let mark = (moment.happened == HappenedKind::Resolved).then_some("resolved");
    Event { at: moment.at, kind, what, mark }
}

/// The time that the histogram shows, in whole minutes.
#[derive(Clone, Copy)]
struct Window {
    first: Timestamp,
    last: Timestamp,
    columns: i64,
}

impl Window {
    fn of(summary: &Summary, events: &[Event]) -> Self {
        let length = summary.last.duration_since(summary.first);
        let before = BEFORE_MAX.max(length / 3);
        let earliest = summary.first.saturating_sub(before).unwrap_or(summary.first);
        let marks = events.iter().filter(|event| event.mark.is_some()).map(|event| event.at);
        let (mut first, mut last) = (summary.first, summary.last);
        for at in marks {
            (first, last) = (first.min(at.max(earliest)), last.max(at));
        }
        let minute = |at: Timestamp, more: i64| {
            let minute = at.as_second().div_euclid(MINUTE_SECS) + more;
            Timestamp::from_second(minute * MINUTE_SECS).unwrap_or(at)
        };
        let (first, last) = (minute(first, -1), minute(last, 2));
        let minutes = last.duration_since(first).as_mins().max(1);
        Self { first, last, columns: minutes.min(COLUMNS_MAX) }
    }

    /// Where a moment is, in per cent of the width.
    fn per_cent(self, at: Timestamp) -> Option<f64> {
        let whole = self.last.duration_since(self.first).as_secs_f64();
        let part = at.duration_since(self.first).as_secs_f64();
        let per_cent = part / whole * 100.0;
        (0.0..=100.0).contains(&per_cent).then_some(per_cent)
    }
}

/// Above this the marks' names stand, a line for each; below, the axis.
const TOP: f64 = 64.0;
const BOTTOM: f64 = 164.0;
const HEIGHT: f64 = 186.0;
/// How many marks there is room for.
const MARKS_MAX: usize = 4;
const MARK_LINE: f64 = 14.0;

/// Widths are in per cent and text is not scaled, so that it is read on any screen.
fn histogram(incident: &Incident, events: &[Event], number: usize) -> Markup {
    let summary = incident.summary();
    let window = Window::of(summary, events);
    let columns = usize::try_from(window.columns).unwrap_or(1);
    let until = window.last.saturating_sub(SignedDuration::from_secs(1)).unwrap_or(window.last);
    let counts = incident.activity().columns(window.first, until, columns);
    let most = counts.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return html! {
            p.note { "No drop record is among the lines, so how many flows were dropped when is \
                      unknown." }
        };
    }
    let minutes = window.last.duration_since(window.first).as_mins().max(1);
    let each = minutes.div_euclid(window.columns).max(1);
    let (title, desc) = (format!("i{number}-histogram"), format!("i{number}-histogram-desc"));
    let marks: Vec<(&Event, &str, f64)> = events
        .iter()
        .filter_map(|event| Some((event, event.mark?, window.per_cent(event.at)?)))
        .take(MARKS_MAX)
        .collect();
    html! {
        figure.histogram {
            svg role="img" width="100%" height=(HEIGHT) aria-labelledby=(format!("{title} {desc}")) {
                title id=(title) { "Dropped flows, over time" }
                desc id=(desc) {
                    "At most " (most) " at once, between " (window.first.strftime("%F %H:%M"))
                    " and " (window.last.strftime("%F %H:%M")) " UTC; the first packet was dropped at "
                    (summary.first.strftime("%T")) ", the last at " (summary.last.strftime("%T")) "."
                }
                text.tick x="100%" y=(TOP - 5.0) text-anchor="end" { (most) }
                line.grid x1="0" x2="100%" y1=(TOP) y2=(TOP) {}
                (bars(&counts, most))
                line.axis x1="0" x2="100%" y1=(BOTTOM) y2=(BOTTOM) {}
                @for (row, (event, name, at)) in marks.iter().enumerate() {
                    (mark(event, name, *at, row))
                }
                text.tick x="0" y=(BOTTOM + 16.0) { (window.first.strftime("%H:%M")) }
                text.tick x="100%" y=(BOTTOM + 16.0) text-anchor="end" { (window.last.strftime("%H:%M")) }
            }
            figcaption {
                "Flows that were dropped in each "
                @if each == 1 { "minute" } @else { (each) " minutes" }
                ", " (most) " at most (the line at the top)."
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a bar's height in pixels")]
fn bars(counts: &[u64], most: u64) -> Markup {
    let width = 100.0 / counts.len() as f64;
    html! {
        @for (index, count) in counts.iter().enumerate() {
            @if *count > 0 {
                @let height = ((BOTTOM - TOP) * *count as f64 / most as f64).max(2.0);
                rect.bar x=(format!("{:.3}%", width * (index as f64 + 0.08)))
                    width=(format!("{:.3}%", width * 0.84))
                    y=(format!("{:.1}", BOTTOM - height)) height=(format!("{height:.1}")) {}
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "one of four lines")]
fn mark(event: &Event, name: &str, at: f64, row: usize) -> Markup {
    let y = MARK_LINE * (row as f64 + 1.0) - 4.0;
    let x = format!("{at:.3}%");
    let is_right = at > 50.0;
    html! {
        line.mark data-kind=(event.kind.name()) x1=(x) x2=(x) y1=(y - 6.0) y2=(BOTTOM) {}
        text.mark-name x=(x) y=(y) dx=(if is_right { "-5" } else { "5" })
                text-anchor=(if is_right { "end" } else { "start" }) {
            (name) " " (event.at.strftime("%T"))
        }
    }
}
