//! The words and figures of the view: facts made into phrases, escaped, cut to a width, short.

use jiff::Timestamp;
use unicode_truncate::UnicodeTruncateStr as _;
use unicode_width::UnicodeWidthStr as _;

pub(super) use crate::words::at_least;
use crate::words::class_meaning;
pub(super) use whydrop_report::text::{
    count, decision, exemption, newly_allowed, object, resolution,
};
use whydrop_report::{
    Changed, Evidence, EvidenceLevel, Flow,
    escape::escape,
    incident::{AffectedEnd, AffectedPath, ChangedBy, Severity},
    records::board::{Status, Summary},
    text::{destination_text, end, packet, share_text},
};

/// The levels of a sparkline. The full block would touch the line above.
const BARS: [char; 7] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇'];

/// How many columns a text takes.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// A text without anything that moves a terminal's cursor, cut to that many columns.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let text = escape(text);
    if text.width() <= columns {
        return text.into_owned();
    }
    // The last column is for the mark.
    let Some(room) = columns.checked_sub(1) else { return String::new() };
    let (cut, _) = text.unicode_truncate(room);
    format!("{cut}…")
}

/// A text and blanks up to that many columns.
pub(super) fn pad(text: &str, columns: usize) -> String {
    let mut text = fit(text, columns);
    let blanks = columns.saturating_sub(text.width());
    text.extend(std::iter::repeat_n(' ', blanks));
    text
}

/// A time span in the largest unit that says something: `45s`, `12m`, `3h`, `2d`.
pub(super) fn span(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.duration_since(from).as_secs().max(0);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `2026-01-02 02:54:05`, in UTC.
pub(super) fn moment(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// The fewest flows that a full bar shows: a lone flow is a low one.
const FULL_BAR_MIN: u64 = 4;

/// A bar for each number, by the greatest that it is compared with; a dot where there is nothing.
pub(super) fn sparkline(numbers: &[u64], most: u64) -> String {
    let most = most.max(FULL_BAR_MIN);
    let bar = |number: &u64| match *number {
        0 => '·',
        number => {
            let level = (number * BARS.len() as u64).div_ceil(most).max(1) - 1;
            BARS[usize::try_from(level).unwrap_or(0).min(BARS.len() - 1)]
        }
    };
    numbers.iter().map(bar).collect()
}

/// How bad an incident is, or that it is over, in a word.
pub(super) fn badge(summary: &Summary) -> &'static str {
    match (summary.status, summary.severity) {
        (Status::Resolved, _) => "over",
        (Status::Unfollowed, _) => "unknown",
        (Status::Open, Some(Severity::Critical)) => "CRITICAL",
        (Status::Open, Some(Severity::Warning)) => "WARNING",
        (Status::Open, Some(Severity::Info)) => "info",
        (Status::Open, None) => "new",
    }
}

pub(super) const fn status(status: Status) -> &'static str {
    match status {
        Status::Open => "open",
        Status::Unfollowed => "not followed any more: its agent has stopped or restarted",
        Status::Resolved => "over",
    }
}

/// Who cannot reach whom, of the path that affects most pods.
pub(super) fn headline(summary: &Summary) -> String {
    let Some(path) = summary.affected.first() else { return summary.text.clone() };
    let more = summary.affected.len() - 1 + summary.affected_not_listed;
    let others =
        if more > 0 { format!(", and {}", count(more as u64, "path")) } else { String::new() };
    format!("{}{others}", path_text(path))
}

/// Why it is so, a fact each, without what the headline says already.
pub(super) fn why(summary: &Summary) -> Vec<String> {
    let mut facts = vec![cause(summary)];
    let by = match summary.cause.changed_by {
        ChangedBy::OwnTimestamp => ", by its own timestamp",
        ChangedBy::Seen | ChangedBy::Unknown => "",
    };
    let changes = summary.changes.iter();
    facts
        .extend(changes.map(|changed| change(changed) + &beside_first_drop(summary, changed) + by));
    if let Some(since) = summary.cause.known_since.filter(|_| summary.changes.is_empty()) {
        facts.push(format!(
            "denied for as long as changes are known, since {}",
            moment(since.into())
        ));
    }
    facts.extend(summary.last_success.map(|at| format!("worked until {}", moment(at))));
    if !summary.services_lost.is_empty() {
        facts.push(format!("no ready endpoint is left of {}", summary.services_lost.join(", ")));
    }
    facts.extend(summary.established.clone());
    facts
}

/// What the drop that says most was dropped by; without a record of one, what the incident says.
fn cause(summary: &Summary) -> String {
    if let Some(text) = &summary.cause_text {
        return text.clone();
    }
    let class = class_meaning(&summary.cause.class);
    match (summary.cause.direction, summary.cause.responsible.as_slice()) {
        (Some(direction), [_, ..]) => {
            let policies: Vec<_> = summary.cause.responsible.iter().map(object).collect();
            format!("{direction} denied by {}: {class}", policies.join(" with "))
        }
        _ => class.to_owned(),
    }
}

/// `NetworkPolicy backend/allow-web edited: label app=web went`.
pub(super) fn change(changed: &Changed) -> String {
    let difference = changed.difference.as_ref().map(|what| format!(": {what}"));
    format!("{} {}{}", object(&changed.object), changed.change, difference.unwrap_or_default())
}

/// `, 3s before the first drop`.
fn beside_first_drop(summary: &Summary, changed: &Changed) -> String {
    let (at, first) = (changed.at.into(), summary.first);
    match at <= first {
        true => format!(", {} before the first drop", span(at, first)),
        false => format!(", {} after the first drop", span(first, at)),
    }
}

/// `8 of 8 backend/backend-api cannot reach backend/postgres-primary:5432/TCP`.
pub(super) fn path_text(path: &AffectedPath) -> String {
    let AffectedPath { source, destination, port, protocol, pods, replicas, gone, .. } = path;
    let of = match (gone, pods) {
        (true, 1) => "1 former pod of ".to_owned(),
        (true, _) => format!("{pods} former pods of "),
        (false, _) if *replicas > 1 => format!("{pods} of {replicas} "),
        (false, _) => String::new(),
    };
    let (from, to) = match path.sufferer {
        AffectedEnd::Source => (format!("{of}{}", source.name), destination.name.clone()),
        AffectedEnd::Destination => (source.name.clone(), format!("{of}{}", destination.name)),
    };
    let to = if to.contains("::") { format!("[{to}]") } else { to };
    format!("{from} cannot reach {to}:{port}/{protocol}")
}

/// The ends of a flow: `shop/checkout-1 → payments/gateway-0:8443/TCP`.
pub(super) fn flow(flow: &Flow) -> String {
    let Flow { source, destination, protocol } = flow;
    format!("{} → {}/{protocol}", end(source), destination_text(destination))
}

/// `26 SYNs in 11m, NETFILTER_DROP`.
pub(super) fn evidence(evidence: &Evidence, flow: &Flow) -> String {
    let packets = count(evidence.attempts, packet(flow));
    let seen = match (evidence.level, &evidence.reason) {
        (EvidenceLevel::Answered, _) => "answered".to_owned(),
        (EvidenceLevel::Unanswered, _) => format!("{packets}, no answer"),
        (EvidenceLevel::Rejected, _) => format!("{packets}, refused"),
        (_, Some(reason)) => format!("{packets}, {reason}"),
        (_, None) => packets,
    };
    match share_text(evidence, packet(flow)) {
        Some(share) => format!("{seen}, {share}"),
        None => seen,
    }
}

/// How sure it is that it was dropped, in words.
pub(super) const fn level(level: EvidenceLevel) -> &'static str {
    match level {
        EvidenceLevel::KernelDrop => "the kernel of this node dropped it",
        EvidenceLevel::Unanswered => {
            "nothing came back: it was lost on the way, or on another node"
        }
        EvidenceLevel::Rejected => "it was refused",
        EvidenceLevel::Answered => "it was answered, although policies deny it",
        EvidenceLevel::None => "nothing",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_is_cut_by_columns_and_marked() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdef", 4), "abc…");
        // Two columns each; half of one is none.
        assert_eq!(fit("日本語", 4), "日…");
        assert_eq!(pad("日本語", 8), "日本語  ");
        assert_eq!(fit("a\u{1b}[31m", 20), r"a\u{1b}[31m");
        assert_eq!(fit("abc", 0), "");
    }

    #[test]
    fn the_highest_bar_is_the_greatest_number() {
        assert_eq!(sparkline(&[0, 1, 4, 7], 7), "·▁▄▇");
        assert_eq!(sparkline(&[1, 1], 1), "▂▂");
        assert_eq!(sparkline(&[1, 1_000], 1_000), "▁▇");
        assert_eq!(sparkline(&[], 0), "");
    }

    #[test]
    fn a_span_has_one_unit() {
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        let spans = [59, 60, 3_599, 3_600, 172_799, 172_800].map(|end| span(at(0), at(end)));
        assert_eq!(spans, ["59s", "1m", "59m", "1h", "47h", "2d"]);
        assert_eq!(span(at(9), at(0)), "0s");
    }
}
