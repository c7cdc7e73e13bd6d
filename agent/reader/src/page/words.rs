//! The words of the page that stand in several places: headlines, times, spans, counts, names.

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

pub(super) use crate::words::{at_least, class_meaning};
pub(super) use whydrop_report::text::{count, exemption, newly_allowed, resolution, short};
use whydrop_report::{
    Decision, ObjectRef, RuleRef,
    incident::{AffectedEnd, AffectedPath, Severity},
    records::board::{Status, Summary},
};

/// `2 of 3`; of pods that are gone by now, `2 former pods of`.
pub(super) fn pods_of(path: &AffectedPath) -> String {
    let AffectedPath { pods, replicas, gone, .. } = path;
    match (gone, pods) {
        (false, _) => format!("{pods} of {replicas}"),
        (true, 1) => "1 former pod of".to_owned(),
        (true, _) => format!("{pods} former pods of"),
    }
}

/// Who cannot reach whom, as one sentence.
pub(super) fn headline(summary: &Summary) -> String {
    let Some(path) = summary.affected.first() else {
        return format!("Traffic was dropped: {}", class_meaning(&summary.cause.class));
    };
    let AffectedPath { source, destination, port, protocol, .. } = path;
    let is_over = summary.status == Status::Resolved;
    let counted = |end: &str, is_workload: bool| match is_workload {
        true => format!("{} {end}", pods_of(path)),
        false => end.to_owned(),
    };
    let mut line = match path.sufferer {
        AffectedEnd::Source => {
            let who = counted(&source.name, source.workload.is_some());
            let verb = if is_over { "could not reach" } else { "cannot reach" };
            format!("{who} {verb} {} on {port}/{protocol}", destination.name)
        }
        AffectedEnd::Destination => {
            let whom = counted(&destination.name, destination.workload.is_some());
            let verb = if is_over { "could not be reached by" } else { "cannot be reached by" };
            format!("{whom} {verb} {} on {port}/{protocol}", source.name)
        }
    };
    let more = summary.affected.len() - 1 + summary.affected_not_listed;
    if more > 0 {
        line += ", and ";
        line += &count(len(more), "more path");
    }
    line
}

/// A word in a frame, with a mark that goes without colours.
pub(super) fn chip(kind: &str, word: &str) -> Markup {
    html! { span.chip data-kind=(kind) { (word) } }
}

/// Day and time, to the second.
pub(super) fn moment(at: Timestamp) -> Markup {
    html! { time datetime=(at.to_string()) { (at.strftime("%F %T")) } }
}

/// The time of the day, to the second.
pub(super) fn clock(at: Timestamp) -> Markup {
    html! { time datetime=(at.to_string()) { (at.strftime("%T")) } }
}

/// How long, in two units at most: `340 ms`, `4.2 s`, `10 min 3 s`, `2 d 4 h`.
pub(super) fn span(duration: SignedDuration) -> String {
    let duration = duration.abs();
    let (seconds, millis) = (duration.as_secs(), duration.as_millis());
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big} {big_unit}"),
        small => format!("{big} {big_unit} {small} {small_unit}"),
    };
    match seconds {
        0 => format!("{millis} ms"),
        1..=9 => format!("{seconds}.{} s", millis % 1000 / 100),
        10..=59 => format!("{seconds} s"),
        60..=3599 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..=86_399 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// A length for [`count`].
pub(super) fn len(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// `NetworkPolicy backend/default-deny`.
pub(super) fn object(object: &ObjectRef) -> Markup {
    html! {
        span.object {
            (object.kind) " "
            code {
                @if let Some(namespace) = &object.namespace { (namespace) "/" wbr; }
                (object.name)
            }
        }
    }
}

/// `NetworkPolicy backend/allow-web, rule 0`.
pub(super) fn rule(rule: &RuleRef) -> Markup {
    html! { (object(&rule.policy)) ", rule " (rule.rule) }
}

/// A namespaced name, which may be broken where a line ends.
pub(super) fn name(name: &str) -> Markup {
    html! {
        code {
            @match name.split_once('/') {
                Some((namespace, name)) => { (namespace) "/" wbr; (name) }
                None => (name),
            }
        }
    }
}

pub(super) fn severity(severity: Option<Severity>) -> &'static str {
    severity.map_or("unrated", Severity::name)
}

pub(super) const fn status(status: Status) -> &'static str {
    match status {
        Status::Open => "open",
        Status::Unfollowed => "not followed",
        Status::Resolved => "resolved",
    }
}

pub(super) const fn decision(decision: Decision) -> &'static str {
    match decision {
        Decision::NotIsolated => "not isolated",
        Decision::Allowed => "allowed",
        Decision::Denied => "denied",
        Decision::Unknown => "cannot tell",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        let words = |millis| span(SignedDuration::from_millis(millis));
        assert_eq!(words(-340), "340 ms");
        assert_eq!(words(4_260), "4.2 s");
        assert_eq!(words(600_000), "10 min");
        assert_eq!(words(603_000), "10 min 3 s");
        assert_eq!(words(187_200_000), "2 d 4 h");
    }
}
