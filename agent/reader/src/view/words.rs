//! Words and figures that fit: escaped, cut to a width, short.

use jiff::Timestamp;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use whydrop_report::records::board::{Count, Status, Summary};
pub(super) use whydrop_report::text::count;
use whydrop_report::{
    End, Evidence, EvidenceLevel, ObjectRef,
    escape::escape,
    incident::{AffectedPath, Severity, Sufferer},
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
    let (mut cut, mut taken) = (String::new(), 0);
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        // The last column is for the mark.
        if taken + wide + 1 > columns {
            break;
        }
        taken += wide;
        cut.push(c);
    }
    if columns > 0 {
        cut.push('…');
    }
    cut
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

/// The same of a time as records write it.
pub(super) fn moment_of(text: &str) -> String {
    text.parse().map_or_else(|_| text.to_owned(), moment)
}

/// The least that a full bar stands for: a lone flow is a low one.
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

/// The same of a number that may be greater.
pub(super) fn count_of(number: Count, noun: &str) -> String {
    let told = count(number.at_least, noun);
    if number.is_exact { told } else { format!("at least {told}") }
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

pub(super) const fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

pub(super) const fn status(status: Status) -> &'static str {
    match status {
        Status::Open => "open",
        Status::Unfollowed => "not followed any more: its agent has stopped or begun anew",
        Status::Resolved => "over",
    }
}

/// Who cannot reach whom, of the path that most pods suffer by.
pub(super) fn headline(summary: &Summary) -> String {
    let Some(path) = summary.affected.first() else { return summary.text.clone() };
    let more = summary.affected.len() - 1 + summary.affected_untold;
    let others =
        if more > 0 { format!(", and {}", count(more as u64, "path")) } else { String::new() };
    format!("{}{others}", path_text(path))
}

/// What happened, without what the headline says already.
pub(super) fn why(summary: &Summary) -> &str {
    match summary.text.split_once(": ") {
        Some((who, why)) if who.contains(" cannot reach ") => why,
        _ => &summary.text,
    }
}

/// `8 of 8 backend/backend-api cannot reach backend/postgres-primary:5432/TCP`.
pub(super) fn path_text(path: &AffectedPath) -> String {
    let AffectedPath { source, destination, port, protocol, pods, replicas, .. } = path;
    let of = if *replicas > 1 { format!("{pods} of {replicas} ") } else { String::new() };
    let (from, to) = match path.sufferer {
        Sufferer::Source => (format!("{of}{}", source.name), destination.name.clone()),
        Sufferer::Destination => (source.name.clone(), format!("{of}{}", destination.name)),
    };
    let to = if to.contains("::") { format!("[{to}]") } else { to };
    format!("{from} cannot reach {to}:{port}/{protocol}")
}

/// The ends of a flow: `shop/checkout-1 → payments/gateway-0:8443/TCP`.
pub(super) fn flow(source: &End, destination: &End, protocol: &str) -> String {
    let (from, to) =
        (whydrop_report::text::end(source), whydrop_report::text::destination_text(destination));
    format!("{from} → {to}/{protocol}")
}

/// `NetworkPolicy backend/default-deny`.
pub(super) fn object(object: &ObjectRef) -> String {
    let namespace = object.namespace.as_ref().map(|namespace| format!("{namespace}/"));
    format!("{} {}{}", object.kind, namespace.unwrap_or_default(), object.name)
}

/// `26 SYNs in 11m, NETFILTER_DROP`.
pub(super) fn evidence(evidence: &Evidence, protocol: &str) -> String {
    let packet = match protocol {
        "TCP" => "SYN",
        "SCTP" => "INIT",
        _ => "packet",
    };
    let packets = count(evidence.attempts, packet);
    match (evidence.level, &evidence.reason) {
        (EvidenceLevel::Answered, _) => "answered".to_owned(),
        (EvidenceLevel::Unanswered, _) => format!("{packets}, no answer"),
        (EvidenceLevel::Rejected, _) => format!("{packets}, refused"),
        (_, Some(reason)) => format!("{packets}, {reason}"),
        (_, None) => packets,
    }
}

/// How sure it is that it died, in words.
pub(super) const fn level(level: EvidenceLevel) -> &'static str {
    match level {
        EvidenceLevel::KernelDrop => "the kernel of this node dropped it",
        EvidenceLevel::Unanswered => "nothing came back: it died on the way, or on another node",
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
    fn a_span_is_told_in_one_unit() {
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        let spans = [59, 60, 3_599, 3_600, 172_799, 172_800].map(|end| span(at(0), at(end)));
        assert_eq!(spans, ["59s", "1m", "59m", "1h", "47h", "2d"]);
        assert_eq!(span(at(9), at(0)), "0s");
    }
}
