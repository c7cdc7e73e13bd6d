//! Who cannot reach whom: a picture for the first glance, a table for the rest.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::words;
use whydrop_report::{
    Direction,
    incident::{AffectedEnd, AffectedPath, PathEnd},
    records::board::{Status, Summary},
};

/// How many paths are drawn, where there is room for two columns, and where there is not.
const DRAWN_MAX: usize = 30;
const DRAWN_NARROW_MAX: usize = 8;

/// How many paths have a row in the table.
const LISTED_MAX: usize = 100;

/// Measures of the picture, in its own pixels.
const WIDTH: usize = 760;
const BOX: usize = 250;
const SLOT: usize = 46;
const GAP: usize = 14;
/// How wide a box is at least in slots, for its three lines of text.
const BOX_PADDING: usize = 12;
const NARROW_WIDTH: usize = 288;
const NARROW_BOX: usize = 62;
const NARROW_CUT: usize = 62;

/// How many letters of a name fit a box.
const NAME_MAX: usize = 27;

pub(super) fn section(summary: &Summary, number: usize) -> Markup {
    let paths = summary.affected.as_slice();
    let more = summary.affected_not_listed;
    html! {
        @if paths.is_empty() {
            p.note { "The records name no path." }
        } @else {
            figure.paths {
                (wide(summary, number))
                (narrow(summary, number))
                @if paths.len() > DRAWN_MAX {
                    figcaption.wide { (paths.len() - DRAWN_MAX) " more are in the table alone." }
                }
                @if paths.len() > DRAWN_NARROW_MAX {
                    figcaption.narrow { (paths.len() - DRAWN_NARROW_MAX) " more are in the table alone." }
                }
            }
            (table(paths))
            @if paths.len() > LISTED_MAX || more > 0 {
                p.note { (words::count(words::len(paths.len().saturating_sub(LISTED_MAX) + more), "more path"))
                         " cut off, at least, not listed." }
            }
        }
    }
}

fn table(paths: &[AffectedPath]) -> Markup {
    html! {
        table role="table" {
            thead role="rowgroup" {
                tr role="row" {
                    @for head in ["From", "To", "Port", "Pods cut off", "Worked until"] {
                        th role="columnheader" scope="col" { (head) }
                    }
                }
            }
            tbody role="rowgroup" {
                @for path in paths.iter().take(LISTED_MAX) {
                    tr role="row" {
                        th role="rowheader" scope="row" data-label="From" { (words::name(&path.source.name)) }
                        td role="cell" data-label="To" { (words::name(&path.destination.name)) }
                        td role="cell" data-label="Port" { (path.port) "/" (path.protocol) }
                        td role="cell" data-label="Pods cut off" { (pods(path)) }
                        td role="cell" data-label="Worked until" {
                            @match &path.last_success {
                                Some(at) => (words::moment((*at).into())),
                                None => "unknown",
                            }
                        }
                    }
                }
            }
        }
    }
}

fn pods(path: &AffectedPath) -> Markup {
    let unnamed = path.pods.saturating_sub(path.pod_names.len());
    html! {
        details {
            summary {
                @if path.gone {
                    (words::count(path.pods as u64, "former pod"))
                } @else {
                    (path.pods) " of " (path.replicas)
                    @if !path.knows_all { " known to these nodes" }
                }
            }
            ul {
                @for name in &path.pod_names { li { (words::name(name)) } }
                @if unnamed > 0 { li { (unnamed) " more" } }
            }
            @if !path.others.is_empty() {
                p { "At the other end:" }
                ul { @for name in &path.others { li { (words::name(name)) } } }
            }
        }
    }
}

/// One end of paths, as a box.
struct Party<'a> {
    end: &'a PathEnd,
    /// How many of its pods lost a path, where it is the affected end.
    affected: Option<String>,
    top: usize,
    slots: Vec<usize>,
}

impl Party<'_> {
    fn height(&self) -> usize {
        (self.slots.len() * SLOT).max(SLOT + BOX_PADDING)
    }
}

/// `2 of 3 pods`, `2 former pods`.
fn pods_of(path: &AffectedPath) -> String {
    let AffectedPath { pods, replicas, gone, .. } = path;
    let noun = |count: usize| if count == 1 { "pod" } else { "pods" };
    match gone {
        true => format!("{pods} former {}", noun(*pods)),
        false => format!("{pods} of {replicas} {}", noun(*replicas)),
    }
}

fn affected(path: &AffectedPath, of: AffectedEnd) -> Option<String> {
    (path.sufferer == of).then(|| format!("{} cut off", pods_of(path)))
}

/// The boxes of one side, one under the other.
fn side<'a>(
    paths: &[&'a AffectedPath],
    end: impl Fn(&'a AffectedPath) -> &'a PathEnd,
    of: AffectedEnd,
) -> Vec<Party<'a>> {
    let mut parties: Vec<Party<'a>> = Vec::new();
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, path) in paths.iter().enumerate() {
        let end = end(path);
        let place = *known.entry(&end.name).or_insert_with(|| {
            parties.push(Party { end, affected: None, top: 0, slots: Vec::new() });
            parties.len() - 1
        });
        let party = &mut parties[place];
        party.slots.push(index);
        party.affected = party.affected.take().or_else(|| affected(path, of));
    }
    let mut top = 0;
    for party in &mut parties {
        party.top = top;
        top += party.height() + GAP;
    }
    parties
}

/// How high a side is, and where on it each path ends.
fn layout(parties: &[Party<'_>], count: usize) -> (usize, Vec<usize>) {
    let mut ends = vec![0; count];
    for party in parties {
        let room = party.height() / party.slots.len();
        for (place, path) in party.slots.iter().enumerate() {
            ends[*path] = party.top + place * room + room / 2;
        }
    }
    let height = parties.last().map_or(0, |last| last.top + last.height());
    (height, ends)
}

fn denies_at_source(summary: &Summary) -> bool {
    summary.cause.direction == Some(Direction::Egress)
}

/// Sources on the left, destinations on the right; what is cut ends at a wall.
fn wide(summary: &Summary, number: usize) -> Markup {
    let mut paths: Vec<&AffectedPath> = summary.affected.iter().take(DRAWN_MAX).collect();
    // Of one source together, so that its box is beside all of its paths.
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, path) in paths.iter().enumerate() {
        first.entry(&path.source.name).or_insert(index);
    }
    paths.sort_by_key(|path| first.get(path.source.name.as_str()).copied());
    let sources = side(&paths, |path| &path.source, AffectedEnd::Source);
    let destinations = side(&paths, |path| &path.destination, AffectedEnd::Destination);
    let (left, starts) = layout(&sources, paths.len());
    let (right, ends) = layout(&destinations, paths.len());
    let height = left.max(right) + 2;
    // The shorter side is centred on the longer one.
    let (down_left, down_right) = ((height - left) / 2, (height - right) / 2);
    let at_source = denies_at_source(summary);
    let (title, desc) = (format!("i{number}-picture"), format!("i{number}-picture-desc"));
    html! {
        svg.wide role="img" viewBox=(format!("0 0 {WIDTH} {height}"))
                aria-labelledby=(format!("{title} {desc}")) {
            (described(summary, &title, &desc))
            @for (index, path) in paths.iter().enumerate() {
                (cut(path, starts[index] + down_left, ends[index] + down_right, at_source))
            }
            @for party in &sources { (party_box(party, 0, party.top + down_left)) }
            @for party in &destinations {
                (party_box(party, WIDTH - BOX, party.top + down_right))
            }
        }
    }
}

fn described(summary: &Summary, title: &str, desc: &str) -> Markup {
    html! {
        title id=(title) { "Who cannot reach whom" }
        desc id=(desc) {
            @for path in summary.affected.iter().take(DRAWN_MAX) {
                (path.source.name)
                @if summary.status == Status::Resolved { " could not reach " } @else { " cannot reach " }
                (path.destination.name) " on " (path.port) "/" (path.protocol)
                ", " (pods_of(path)) ". "
            }
        }
    }
}

/// A path from the one side to the other, with its port, and the wall where it ends.
fn cut(path: &AffectedPath, from: usize, to: usize, at_source: bool) -> Markup {
    let (left, right) = (BOX, WIDTH - BOX);
    let (bend, straight) = (left + 100, right - 30);
    let middle = usize::midpoint(bend, straight);
    let wall = if at_source { left + 20 } else { right - 20 };
    let (at, before, after) = match at_source {
        true => (
            from,
            format!("M{left} {from}H{wall}"),
            format!("M{wall} {from}H{bend}C{middle} {from} {middle} {to} {straight} {to}H{right}"),
        ),
        false => (
            to,
            format!("M{left} {from}H{bend}C{middle} {from} {middle} {to} {straight} {to}H{wall}"),
            format!("M{wall} {to}H{right}"),
        ),
    };
    let label = if at_source { left + 34 } else { left + 10 };
    html! {
        g {
            path.way d=(before) {}
            path.no-way d=(after) {}
            line.wall x1=(wall) x2=(wall) y1=(at.saturating_sub(13)) y2=(at + 13) {}
            text.port x=(label) y=(from.saturating_sub(6)) { (path.port) "/" (path.protocol) }
            text.pods x=(label) y=(from + 15) { (pods_of(path)) }
        }
    }
}

fn party_box(party: &Party<'_>, x: usize, y: usize) -> Markup {
    let (height, affected) = (party.height(), party.affected.as_deref());
    let middle = y + height / 2;
    html! {
        g.party data-affected=[affected.map(|_| "yes")] {
            title { (party.end.name) }
            rect x=(x + 1) y=(y + 1) width=(BOX - 2) height=(height - 2) rx="6" {}
            (lines(party.end, affected, x + 14, middle))
        }
    }
}

/// Namespace, name, and what it is; around the line given.
fn lines(end: &PathEnd, affected: Option<&str>, x: usize, middle: usize) -> Markup {
    let kind = match (&end.workload, &end.pod, &end.node) {
        (Some(workload), _, _) => workload.kind.as_str(),
        (_, Some(_), _) => "Pod",
        (_, _, Some(_)) => "Node",
        _ => "Address",
    };
    let name = end.namespace.as_ref().and_then(|n| end.name.strip_prefix(n.as_str()));
    let name = name.and_then(|name| name.strip_prefix('/')).unwrap_or(&end.name);
    html! {
        @if let Some(namespace) = &end.namespace {
            text.small x=(x) y=(middle - 13) { (shortened(namespace, NAME_MAX + 6)) }
        }
        text.name x=(x) y=(middle + 4) { (shortened(name, NAME_MAX)) }
        text.small x=(x) y=(middle + 20) {
            (kind)
            @if let Some(affected) = affected { " · " (affected) }
        }
    }
}

/// The same for a phone: one path under the other.
fn narrow(summary: &Summary, number: usize) -> Markup {
    let paths = &summary.affected[..summary.affected.len().min(DRAWN_NARROW_MAX)];
    let each = 2 * NARROW_BOX + NARROW_CUT + GAP;
    let height = each * paths.len() - GAP;
    let at_source = denies_at_source(summary);
    let (title, desc) = (format!("i{number}-column"), format!("i{number}-column-desc"));
    html! {
        svg.narrow role="img" viewBox=(format!("0 0 {NARROW_WIDTH} {height}"))
                aria-labelledby=(format!("{title} {desc}")) {
            (described(summary, &title, &desc))
            @for (index, path) in paths.iter().enumerate() {
                (pair(path, index * each, at_source))
            }
        }
    }
}

fn pair(path: &AffectedPath, top: usize, at_source: bool) -> Markup {
    let (upper, lower) = (top + NARROW_BOX, top + NARROW_BOX + NARROW_CUT);
    let wall = if at_source { upper + 18 } else { lower - 18 };
    let x = 40;
    let ends = [
        (&path.source, affected(path, AffectedEnd::Source), top),
        (&path.destination, affected(path, AffectedEnd::Destination), lower),
    ];
    html! {
        g {
            path.way d=(format!("M{x} {upper}V{wall}")) {}
            path.no-way d=(format!("M{x} {wall}V{lower}")) {}
            line.wall x1=(x - 13) x2=(x + 13) y1=(wall) y2=(wall) {}
            text.port x=(x + 24) y=(upper + 28) { (path.port) "/" (path.protocol) }
            text.pods x=(x + 24) y=(upper + 46) { (pods_of(path)) }
        }
        @for (end, affected, y) in &ends {
            g.party data-affected=[affected.as_ref().map(|_| "yes")] {
                rect x="1" y=(y + 1) width=(NARROW_WIDTH - 2) height=(NARROW_BOX - 2) rx="6" {}
                (lines(end, affected.as_deref(), 14, y + NARROW_BOX / 2))
            }
        }
    }
}

/// What fits, with its end kept: that is where names of one kind differ.
fn shortened(name: &str, max: usize) -> String {
    let length = name.chars().count();
    if length <= max {
        return name.to_owned();
    }
    let (head, tail) = (max / 2, max - max / 2 - 1);
    let start: String = name.chars().take(head).collect();
    let end: String = name.chars().skip(length - tail).collect();
    format!("{start}…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_keeps_its_ends() {
        assert_eq!(shortened("postgres-primary", 16), "postgres-primary");
        assert_eq!(shortened("postgres-primary-0", 9), "post…ry-0");
    }
}
