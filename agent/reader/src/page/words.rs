//! What is said in many places of the page: times, spans, counts, names.

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};

use whydrop_report::records::board::{Count, Status};
pub(super) use whydrop_report::text::{count, short};
use whydrop_report::{Decision, ObjectRef, RuleRef, incident::Severity};

/// Day and time, to the second.
pub(super) fn moment(at: Timestamp) -> Markup {
    html! { time datetime=(at.to_string()) { (at.strftime("%F %T")) } }
}

/// The time of the day, to the second.
pub(super) fn clock(at: Timestamp) -> Markup {
    html! { time datetime=(at.to_string()) { (at.strftime("%T")) } }
}

/// A time as a record tells it; as it stands where it is none.
pub(super) fn moment_told(text: &str) -> Markup {
    if let Ok(at) = text.parse() {
        moment(at)
    } else {
        html! { (text) }
    }
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

/// The same of a number of which parts may be unknown.
pub(super) fn at_least(of: Count, what: &str) -> String {
    let known = count(of.at_least, what);
    if of.is_exact { known } else { format!("at least {known}") }
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

pub(super) const fn severity(severity: Option<Severity>) -> &'static str {
    match severity {
        Some(Severity::Critical) => "critical",
        Some(Severity::Warning) => "warning",
        Some(Severity::Info) => "info",
        None => "unrated",
    }
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

/// What a class of causes means, as a sentence goes on.
pub(super) fn class(class: &str) -> &'static str {
    match class {
        "explicit-deny" => "a Deny rule matched",
        "namespace-selector-mismatch" => "the nearest rule selects other namespaces",
        "pod-selector-mismatch" => "the nearest rule selects other pods",
        "port-mismatch" => "the nearest rule admits another port",
        "protocol-mismatch" => "the nearest rule admits another protocol",
        "ip-block-mismatch" => "the nearest rule admits other addresses",
        "ip-block-except" => "the nearest rule excepts this address",
        "named-port-unresolved" => "the nearest rule names a port that the pod does not have",
        "default-deny" => "policies isolate the pod, and no rule comes near to admitting it",
        "not-enforced" => "policies deny it, and it was answered all the same",
        "out-of-sync" => "policies allow it, and this node's filter dropped it",
        "not-policy" => "something other than a policy killed it",
        _ => "it cannot be told",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        let told = |millis| span(SignedDuration::from_millis(millis));
        assert_eq!(told(-340), "340 ms");
        assert_eq!(told(4_260), "4.2 s");
        assert_eq!(told(600_000), "10 min");
        assert_eq!(told(603_000), "10 min 3 s");
        assert_eq!(told(187_200_000), "2 d 4 h");
    }
}
