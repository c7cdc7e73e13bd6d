//! The one sentence.

use std::{fmt::Write as _, sync::Arc};

use super::{Cause, Class, Fate, Situation, inquiry::Inquiry, reason};
use crate::{
    cluster::TableFull,
    correlate::EvidenceLevel,
    flow::Direction,
    observation::Rejection,
    policy::{Layer, Policy},
    verdict::{Decision, nearest::NearestMiss},
};

pub(super) fn sentence(inquiry: &Inquiry<'_>, cause: &Cause) -> String {
    let mut text = match cause.class {
        Class::NotEnforced => not_enforced(inquiry, cause),
        Class::OutOfSync => out_of_sync(inquiry),
        Class::NotPolicy => not_policy(inquiry),
        Class::CannotTell => {
            let why: Vec<_> = inquiry.verdict.unknowns().map(ToString::to_string).collect();
            format!("cannot tell: {}", why.join("; "))
        }
        Class::None => "no policy denies it".to_owned(),
        _ => denial(inquiry, cause),
    };
    if cause.class.is_denial() {
        if inquiry.verdict.exempt.is_some() {
            text +=
                "; the specification exempts this traffic, and this CNI polices it all the same";
        }
        text += match cause.situation {
            Some(Situation::Dns) => "; without DNS nothing that uses names will work",
            Some(Situation::Probe(super::Probe::Liveness)) => {
                "; this is the kubelet's liveness probe, so the pod will be restarted"
            }
            Some(Situation::Probe(super::Probe::Readiness)) => {
                "; this is the kubelet's readiness probe, so the pod will not be ready"
            }
            Some(Situation::Probe(super::Probe::Startup)) => {
                "; this is the kubelet's startup probe, so the pod will be restarted"
            }
            Some(Situation::Start) | None => "",
        };
    }
    if let Some((interface, age)) = inquiry.starting().filter(|_| !cause.class.is_denial()) {
        let _ = write!(
            text,
            "; the pod's interface {} was {:.1} s old: its CNI had not programmed it yet",
            interface.name,
            age.as_secs_f64().max(0.0)
        );
    }
    text
}

/// `ingress denied by NetworkPolicy backend/default-deny; nearest: …`.
fn denial(inquiry: &Inquiry<'_>, cause: &Cause) -> String {
    let denials = inquiry.verdict.denied_directions().map(|d| denied_by(inquiry, d));
    let mut parts = vec![denials.collect::<Vec<_>>().join(" and ")];
    match (&cause.nearest_miss, cause.class) {
        (Some(miss), _) => parts.push(format!("nearest: {}", nearest(miss))),
        (None, Class::DefaultDeny) => {
            parts.push("no rule comes near to admitting it".to_owned());
        }
        _ => {}
    }
    parts.join("; ")
}

fn denied_by(inquiry: &Inquiry<'_>, direction: Direction) -> String {
    let verdict = inquiry.verdict.direction(direction);
    if let Some(rule) = &verdict.denied_by {
        let kind = rule.policy.kind;
        return format!("{direction} denied by {kind} {} rule {}", rule.policy, rule.rule);
    }
    let policies = verdict.responsible();
    let end = match &verdict.layer {
        Some(Layer::Tier(name)) => format!(", at the end of tier {name}"),
        _ => String::new(),
    };
    let Some((lead, others)) = policies.split_first() else {
        return format!("{direction} denied{end}");
    };
    let kind = lead.reference.kind;
    let named = |policy: &Arc<Policy>| match policy.reference.kind {
        other if other == kind => policy.reference.to_string(),
        other => format!("{other} {}", policy.reference),
    };
    let with = match others {
        [] => String::new(),
        others => format!(" (with {})", others.iter().map(named).collect::<Vec<_>>().join(", ")),
    };
    format!("{direction} denied by {kind} {}{with}{end}", lead.reference)
}

/// `backend/allow-web rule 0 wants namespace label name=frontend, found …`.
pub(super) fn nearest(miss: &NearestMiss) -> String {
    let NearestMiss { rule, wanted, found, .. } = miss;
    format!("{} rule {} wants {wanted}, found {found}", rule.policy, rule.rule)
}

fn not_enforced(inquiry: &Inquiry<'_>, cause: &Cause) -> String {
    let direction = cause.direction.unwrap_or(Direction::Ingress);
    format!("{}, and it arrived all the same: the CNI does not enforce it", {
        denied_by(inquiry, direction)
    })
}

fn out_of_sync(inquiry: &Inquiry<'_>) -> String {
    let what = match inquiry.case.fate {
        Fate::Died(evidence) if evidence.level() == EvidenceLevel::Rejected => "rejected",
        _ => "dropped",
    };
    let allowed = [Direction::Egress, Direction::Ingress].into_iter().find_map(|direction| {
        let rule = inquiry.verdict.direction(direction).allowed_by.first()?;
        Some(format!("{} rule {} allows {direction}", rule.policy, rule.rule))
    });
    let allowed = allowed.unwrap_or_else(|| "policies allow it".to_owned());
    format!(
        "{allowed}, but this node's filter {what} it: the CNI has not caught up, or other rules \
         are in the way"
    )
}

fn not_policy(inquiry: &Inquiry<'_>) -> String {
    let Fate::Died(evidence) = inquiry.case.fate else {
        return "not policy".to_owned();
    };
    if let Some(interface) = inquiry.spoofed(evidence) {
        let owner = inquiry.snapshot.resolve(interface.addresses[0], inquiry.case.at);
        let source = inquiry.case.flow.source;
        return format!(
            "not policy: {source} is not the address of {owner}, which sent it through {}: the \
             CNI drops spoofed sources",
            interface.name
        );
    }
    let policy = match inquiry.verdict.decision() {
        Decision::NotIsolated => "no policy governs either end",
        Decision::Allowed => "policies allow it",
        Decision::Denied => "policies deny it, but did not do this",
        Decision::Unknown => "what policies say cannot be told",
    };
    let full = inquiry.table_full(evidence).map(|full| {
        let TableFull { entries, entries_max, .. } = full;
        format!("the kernel's table of connections was full ({entries} of {entries_max})")
    });
    let how = match (evidence.rejected, evidence.kernel_drop()) {
        _ if full.is_some() => full.unwrap_or_default(),
        _ if inquiry.invalid(evidence) => {
            "conntrack found it invalid, as with a wrong checksum, and network plugins drop that"
                .into()
        }
        (Some(Rejection::Reset), None) => "it was refused".to_owned(),
        (Some(Rejection::Icmp { kind, code, .. }), _) => {
            format!("it was rejected with ICMP type {kind} code {code}")
        }
        (_, Some(drops)) => {
            let plain = reason::in_words(&drops.reason.name);
            plain.unwrap_or("this kernel dropped it").to_owned()
        }
        (None, None) if evidence.delivered => {
            "it reached the destination pod, which does not answer".to_owned()
        }
        (None, None) => "it was not dropped on this node, and nobody answers".to_owned(),
    };
    format!("not policy: {how}; {policy}")
}
