//! A cause in one sentence, for people.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{
    Cause, Class, Fate, Hindsight, KubeProxy, Situation, inquiry::Inquiry, reason, remark::Remark,
    situation::Trap,
};
use crate::{
    cluster::{
        TableFull,
        history::Change,
        known_address::Judged,
        lifetime::Ended,
        object::{Probe, Service},
        profile::EngineName,
        resolve::{Endpoint, Holder},
    },
    correlate::EvidenceLevel,
    flow::Direction,
    observation::Rejection,
    policy::{Layer, Policy, PolicyRef},
    service,
    verdict::{Decision, Exemption, Question, Verdict, nearest::NearestMiss},
};

/// How many backends a sentence names before it counts the rest.
const NAMES_SHOWN: usize = 5;

/// Everything that is to be said of a cause.
pub(super) fn sentence(inquiry: &Inquiry<'_>, cause: &Cause) -> String {
    let clauses = [
        Some(main_clause(inquiry, cause)),
        address_of_node(inquiry, cause),
        named_as_dialled(inquiry, cause),
        exemption(inquiry, cause),
        consequence(inquiry, cause),
        start(inquiry, cause),
        end(inquiry, cause),
        lifted_since(cause),
        besides_policies(cause),
    ];
    clauses.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn main_clause(inquiry: &Inquiry<'_>, cause: &Cause) -> String {
    if let Some(kube_proxy) = cause.by_kube_proxy() {
        return of_kube_proxy(inquiry, kube_proxy);
    }
    match cause.class {
        Class::NotEnforced => not_enforced(inquiry, cause),
        Class::OutOfSync => match &cause.hindsight {
            Some(Hindsight::LiftedBefore { change, by }) => {
                filter_behind(inquiry, cause, change, *by)
            }
            _ => out_of_sync(inquiry),
        },
        Class::NotPolicy => not_policy(inquiry),
        Class::CannotTell => {
            let why: Vec<_> = inquiry.verdict.unknowns().map(ToString::to_string).collect();
            format!("whether policies deny it is unknown: {}", why.join("; "))
        }
        Class::None => match (inquiry.verdict.exempt, inquiry.case.fate) {
            (Some(exemption), Fate::Asked) => exempt(inquiry, exemption),
            _ => unseen(inquiry).unwrap_or_else(|| "no policy denies it".to_owned()),
        },
        _ => denial(inquiry, cause),
    }
}

/// What kube-proxy does, and what policies would do if it did not.
fn of_kube_proxy(inquiry: &Inquiry<'_>, kube_proxy: &KubeProxy) -> String {
    let does = match kube_proxy.is_over {
        true => format!(
            "it was rejected before it was translated, as kube-proxy does while no endpoint is ready: {} \
             has one by now",
            service::words::name(&kube_proxy.course.service)
        ),
        false => service::words::fate(&kube_proxy.course).unwrap_or_default(),
    };
    let policies = match (kube_proxy.denied.first(), &kube_proxy.denied_as_dialled) {
        (Some(denied), _) => {
            let what = if kube_proxy.is_all_denied() { "it" } else { "some of it" };
            format!("; besides, policies would deny {what}: {}", denied.cause.text)
        }
        (None, Some(denied)) => format!(
            "; besides, policies deny what nothing translates, {}: {}",
            denied.question.destination.address_text(),
            denials_of(&denied.verdict, None)
        ),
        (None, None) if inquiry.verdict.decision().lets_pass() => {
            "; no policy denies it".to_owned()
        }
        (None, None) => String::new(),
    };
    does + &policies
}

/// What is so besides the denial that leads.
fn besides_policies(cause: &Cause) -> Option<String> {
    let kube_proxy = cause.kube_proxy.as_ref().filter(|_| cause.class.is_denial())?;
    let does = service::words::fate(&kube_proxy.course)?;
    Some(format!("besides, {does}"))
}

/// That a rule would admit it by the address that was dialled, which policies do not see.
fn named_as_dialled(inquiry: &Inquiry<'_>, cause: &Cause) -> Option<String> {
    let (rule, address, service) =
        inquiry.named_as_dialled().filter(|_| cause.class.is_denial())?;
    Some(format!(
        "{} rule {} names {address}, which is {}'s: policies are asked after it is translated",
        rule.policy,
        rule.rule,
        service::words::name(&service)
    ))
}

/// Why no policy has anything to do with it.
fn unseen(inquiry: &Inquiry<'_>) -> Option<String> {
    let Question { source, destination, .. } = inquiry.question;
    let known = destination.known_address().filter(|known| known.judged == Judged::Never);
    if let Some(known) = known {
        return Some(format!(
            "no policy sees it: {} is {}, and no packet to it leaves there",
            destination.address_text(),
            known.what
        ));
    }
    let is_second = |end: &Endpoint| matches!(end.holder, Holder::SecondNetwork(..));
    (is_second(source) || is_second(destination)).then(|| "no NetworkPolicy denies it".to_owned())
}

/// That the specification exempts what is denied: by whom it was seen to be policed, or that nobody
/// says so but who asks.
fn exemption(inquiry: &Inquiry<'_>, cause: &Cause) -> Option<String> {
    let is_denied_anyway = cause.class.is_denial() && inquiry.verdict.exempt.is_some();
    let text = match inquiry.case.fate {
        Fate::Dropped(_) | Fate::Answered => {
            "the specification exempts this traffic, but this CNI polices it anyway"
        }
        Fate::Asked | Fate::Policed => {
            "the specification exempts this traffic, and some network plugins police it anyway"
        }
    };
    is_denied_anyway.then(|| text.to_owned())
}

/// What passes by the specification, and what policies alone would say of it.
fn exempt(inquiry: &Inquiry<'_>, exemption: Exemption) -> String {
    let why = match exemption {
        Exemption::SamePod => "a pod always reaches itself",
        Exemption::LocalNode => "a node and its own pods always reach each other",
    };
    let Some(direction) = inquiry.verdict.leading_denial() else {
        return format!("by the specification {why}");
    };
    let nearest = inquiry.nearest_miss(direction);
    let nearest = nearest.map(|miss| format!("; nearest: {}", nearest_in_words(&miss)));
    format!(
        "by the specification {why}; some network plugins filter it anyway, and policies alone would \
         then deny it: {}{}",
        denials(inquiry, None),
        nearest.unwrap_or_default()
    )
}

/// What an address is to a node, where it is not one that people know it by.
fn address_of_node(inquiry: &Inquiry<'_>, cause: &Cause) -> Option<String> {
    let Question { source, destination, .. } = inquiry.question;
    let ends = [source, destination].into_iter().filter(|_| cause.class.is_denial());
    let unusual = ends.filter_map(Remark::on_address_of_plugin);
    let words: Vec<_> = unusual.map(|remark| remark.to_string()).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// What a denial does beyond the flow, or what the flow is.
fn consequence(inquiry: &Inquiry<'_>, cause: &Cause) -> Option<String> {
    let trap = inquiry.trap(cause.class);
    let what = match cause.situation? {
        Situation::Dns if !matches!(trap, Some(Trap::NodeDns(_))) => {
            "without DNS nothing that uses names will work"
        }
        Situation::Probe(Probe::Liveness) => {
            "this is the kubelet's liveness probe, so the pod will be restarted"
        }
        Situation::Probe(Probe::Readiness) => {
            "this is the kubelet's readiness probe, so the pod will not be ready"
        }
        Situation::Probe(Probe::Startup) => {
            "this is the kubelet's startup probe, so the pod will be restarted"
        }
        Situation::Start | Situation::End => return None,
        _ => return trap.map(|trap| trap.to_string()),
    };
    cause.class.is_denial().then(|| what.to_owned())
}

fn start(inquiry: &Inquiry<'_>, cause: &Cause) -> Option<String> {
    let is_start = cause.situation == Some(Situation::Start) && cause.kube_proxy.is_none();
    let (interface, age) = inquiry.starting().filter(|_| is_start)?;
    Some(format!(
        "the pod's interface {} was {:.1} s old: its CNI had not programmed it yet",
        interface.name,
        age.as_secs_f64().max(0.0)
    ))
}

/// `the pod h/front-x was being deleted since 06:05:04 and is gone since 06:05:34: …`.
fn end(inquiry: &Inquiry<'_>, cause: &Cause) -> Option<String> {
    let is_end = cause.situation == Some(Situation::End);
    let Ended { pod, asked, gone, finished } = inquiry.ending().filter(|_| is_end)?;
    let time = |at: Timestamp| at.strftime("%H:%M:%S").to_string();
    let over = match finished {
        Some(_) => "has finished, at",
        None => "is gone since",
    };
    let asked = asked.map(|at| format!("was being deleted since {}", time(at)));
    let gone = gone.map(|at| format!("{over} {}", time(at)));
    let what: Vec<String> = [asked, gone].into_iter().flatten().collect();
    Some(format!(
        "the pod {}/{} {}: a network plugin takes a pod's rules and routes away as it ends",
        pod.namespace,
        pod.name,
        what.join(" and ")
    ))
}

fn lifted_since(cause: &Cause) -> Option<String> {
    match cause.hindsight.as_ref()? {
        Hindsight::LiftedSince(change) => {
            Some(format!("it is no longer denied: {} was {} since", change.object, change.kind))
        }
        Hindsight::LiftedBefore { .. } => None,
    }
}

/// `ingress denied by NetworkPolicy backend/default-deny; nearest: …`.
fn denial(inquiry: &Inquiry<'_>, cause: &Cause) -> String {
    let mut parts = vec![denials(inquiry, cause.policy.as_ref())];
    match (&cause.nearest_miss, cause.class) {
        (Some(miss), _) => parts.push(format!("nearest: {}", nearest_in_words(miss))),
        (None, Class::DefaultDeny) => {
            parts.push("no rule comes near to admitting it".to_owned());
        }
        _ => {}
    }
    parts.join("; ")
}

/// What denies in each direction, the one that leads first; `policy`: the one to name first there.
fn denials(inquiry: &Inquiry<'_>, policy: Option<&Arc<Policy>>) -> String {
    denials_of(inquiry.verdict, policy)
}

fn denials_of(verdict: &Verdict, policy: Option<&Arc<Policy>>) -> String {
    let lead = verdict.leading_denial();
    let others = verdict.denied_directions().filter(|d| Some(*d) != lead);
    let denials = lead.into_iter().chain(others).map(|d| denied_by(verdict, d, policy));
    denials.collect::<Vec<_>>().join(" and ")
}

fn denied_by(verdict: &Verdict, direction: Direction, first: Option<&Arc<Policy>>) -> String {
    let verdict = verdict.direction(direction);
    if let Some(rule) = &verdict.denied_by {
        let (kind, policy) = (rule.policy.kind, &rule.policy);
        let name = verdict.rule_name(rule).map(|name| format!(" {name:?}")).unwrap_or_default();
        return format!("{direction} denied by {kind} {policy} rule {}{name}", rule.rule);
    }
    let mut policies = verdict.responsible();
    // Stable: the others stay in their order.
    policies.sort_by_key(|policy| first.is_none_or(|first| policy.reference != first.reference));
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
fn nearest_in_words(miss: &NearestMiss) -> String {
    let NearestMiss { rule, wanted, found, .. } = miss;
    format!("{} rule {} wants {wanted}, found {found}", rule.policy, rule.rule)
}

fn not_enforced(inquiry: &Inquiry<'_>, cause: &Cause) -> String {
    if matches!(inquiry.case.fate, Fate::Asked) {
        return accepted_only(inquiry);
    }
    let direction = cause.direction.unwrap_or(Direction::Ingress);
    format!("{}, but it arrived anyway: the CNI does not enforce it", {
        denied_by(inquiry.verdict, direction, cause.policy.as_ref())
    })
}

/// Policies that an engine accepts and does not enforce.
fn accepted_only(inquiry: &Inquiry<'_>) -> String {
    let engine = inquiry.snapshot.engine();
    let denials = inquiry.verdict.denied_directions().map(|d| denied_by(inquiry.verdict, d, None));
    let denials = denials.collect::<Vec<_>>().join(" and ");
    let said = match denials.as_str() {
        "" => "what they say is unknown".to_owned(),
        denials => format!("if they were enforced: {denials}"),
    };
    let way = match engine.name {
        EngineName::AwsVpcCni | EngineName::EksAuto => {
            "enforces none of them before it is set up to"
        }
        _ => "enforces none of them",
    };
    format!("{engine} accepts policies and {way} (by {}); {said}", engine.evidence)
}

fn out_of_sync(inquiry: &Inquiry<'_>) -> String {
    let verb = filter_verb(inquiry);
    let allowed = [Direction::Egress, Direction::Ingress].into_iter().find_map(|direction| {
        let rule = inquiry.verdict.direction(direction).allowed_by.first()?;
        Some(format!("{} rule {} allows {direction}", rule.policy, rule.rule))
    });
    let allowed = allowed.unwrap_or_else(|| "policies allow it".to_owned());
    format!(
        "{allowed}, but this node's filter {verb} it: the CNI has not caught up, or other rules \
         are in the way"
    )
}

/// The filter goes on by a denial that a change has lifted.
fn filter_behind(
    inquiry: &Inquiry<'_>,
    cause: &Cause,
    change: &Change,
    by: SignedDuration,
) -> String {
    let verb = filter_verb(inquiry);
    let (object, kind, secs) = (&change.object, change.kind, by.as_secs());
    let policy = cause.policy.as_ref().map(|policy| &policy.reference);
    let is_changed =
        |policy: &PolicyRef| object.name == policy.name && object.namespace == policy.namespace;
    let who = match policy {
        Some(policy) if is_changed(policy) => {
            format!("{object}, {kind} {secs} s before, would have")
        }
        Some(policy) => {
            format!("{} {policy} would have until {object} was {kind} {secs} s before", policy.kind)
        }
        None => format!("policies would have until {object} was {kind} {secs} s before"),
    };
    format!(
        "no policy denies it now, and this node's filter {verb} it as {who}: the CNI has not \
         caught up, or other rules are in the way"
    )
}

fn filter_verb(inquiry: &Inquiry<'_>) -> &'static str {
    match inquiry.case.fate {
        Fate::Dropped(evidence) if evidence.level() == EvidenceLevel::Rejected => "rejected",
        _ => "dropped",
    }
}

fn not_policy(inquiry: &Inquiry<'_>) -> String {
    let Fate::Dropped(evidence) = inquiry.case.fate else {
        return "not policy".to_owned();
    };
    if let Some(interface) = inquiry.spoofed(evidence) {
        let owner = interface.addresses.first();
        let owner = owner.map(|own| inquiry.snapshot.resolve(*own, inquiry.case.at).to_string());
        let owner = owner.unwrap_or_else(|| format!("anyone who is behind {}", interface.name));
        let source = inquiry.case.flow.source;
        return format!(
            "not policy: {source} is not the address of {owner}, which sent it through {}: the \
             CNI drops spoofed sources",
            interface.name
        );
    }
    if let Some(filter) = reason::filter_in_pod(evidence) {
        return format!("not policy: it reached the destination pod, {filter}");
    }
    let policy = match inquiry.verdict.decision() {
        Decision::NotIsolated => "no policy governs either end",
        Decision::Allowed => "policies allow it",
        Decision::Denied => "policies deny it, but did not do this",
        Decision::Unknown => "what policies say is unknown",
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

/// Why what policies say of a Service is unknown: backends that they do not treat alike.
pub(super) fn backends_differ<'a>(
    service: &Service,
    denied: impl Iterator<Item = &'a Endpoint>,
    others: impl Iterator<Item = &'a Endpoint>,
) -> String {
    let Service { namespace, name, .. } = service;
    format!(
        "policies deny some backends of Service {namespace}/{name} ({}) and not others ({})",
        listed(denied),
        listed(others)
    )
}

fn listed<'a>(ends: impl Iterator<Item = &'a Endpoint>) -> String {
    let mut names: Vec<String> = ends.map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    let more = names.len().saturating_sub(NAMES_SHOWN);
    names.truncate(NAMES_SHOWN);
    match more {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}
