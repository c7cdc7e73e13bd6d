//! How bad an incident is and how sure that is, each by stated rules and with its reasons.

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, IntoStaticStr};

use super::{
    CutPath, Incident, Party,
    words::{pods_of, span},
};
use crate::{
    cluster::object::Probe,
    diagnosis::{Class, Situation},
    judgement::Attribution,
};

/// Drops within this time may be one connect, whose SYNs come at 0, 1, 3 and 7 s (RFC 6298).
const BURST: SignedDuration = SignedDuration::from_secs(10);

/// A denial that is this old at the first drop is probably intended: anyone who needed the traffic
/// would have been missed before.
const LONG_STANDING: SignedDuration = SignedDuration::from_hours(1);

/// Drops that begin this soon after a change began because of it: clients of a Service connect
/// within a minute.
const AT_ONCE: SignedDuration = SignedDuration::from_secs(60);

/// How late a change may be seen, and how far two clocks may be apart, before it is thought to have
/// come after the drops.
const CLOCK_SLACK: SignedDuration = SignedDuration::from_secs(5);

/// No rule makes it surer than this.
const CONFIDENCE_MAX: f64 = 0.99;

/// How bad an incident is, the mildest first.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Display,
    IntoStaticStr,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is intended, or it is nothing yet.
    #[default]
    Info,
    /// Some pods are affected, and stay affected.
    Warning,
    /// A workload has lost all of its replicas' path, or its DNS, or its probes.
    Critical,
}

impl Severity {
    /// The severity as records spell it.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// How bad an incident is and how sure its cause is, each with what it rests on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assessment {
    /// How bad.
    pub severity: Severity,
    /// What makes it so bad.
    pub severity_reasons: Vec<String>,
    /// How sure the cause is, from 0 to 1.
    pub confidence: f64,
    /// What speaks for and against it.
    pub confidence_reasons: Vec<String>,
}

/// What policies say now of an incident's flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Agreement {
    /// How many they deny.
    pub(super) denied: usize,
    /// How many they allow, or are unknown.
    pub(super) others: usize,
}

pub(super) fn assess(
    incident: &Incident,
    affected: &[CutPath],
    agreement: Agreement,
    now: Timestamp,
) -> Assessment {
    let (severity, severity_reasons) = severity(incident, affected, now);
    let (confidence, confidence_reasons) = confidence(incident, agreement);
    Assessment { severity, severity_reasons, confidence, confidence_reasons }
}

/// The first rule that holds decides; of the rules for critical all that hold are listed.
fn severity(incident: &Incident, affected: &[CutPath], now: Timestamp) -> (Severity, Vec<String>) {
    let class = incident.cause.class;
    if class == Class::CannotTell {
        return (Severity::Info, vec!["whether a policy denies it is unknown".to_owned()]);
    }
    if class == Class::NotEnforced {
        return (Severity::Warning, vec!["what policies deny gets through".to_owned()]);
    }
    if !affected.is_empty() && affected.iter().all(|path| path.is_scan) {
        let why = "its sources try many ports and never got an answer: probably a port scan";
        return (Severity::Info, vec![why.to_owned()]);
    }
    if let Some(why) = why_intended(incident, affected, now) {
        return (Severity::Info, vec![why]);
    }
    if incident.cause.situation == Some(Situation::Start) {
        let why =
            "a pod has just started and its network plugin has not let it in yet: that passes";
        return (Severity::Info, vec![why.to_owned()]);
    }
    if incident.cause.situation == Some(Situation::End) {
        let why = "a pod was ending, and its network plugin no longer let it through: that passes";
        return (Severity::Info, vec![why.to_owned()]);
    }
    let lasts = incident.last.duration_since(incident.first);
    let is_sustained = lasts >= BURST;
    // A full queue or a missing route is for others to be paged about: this agent reports what it saw.
    if class != Class::NotPolicy {
        let paths = affected.iter().filter(|path| !path.is_scan && !path.pods.is_empty());
        let lost: Vec<_> =
            paths.filter_map(|path| lost(incident, path, is_sustained)).take(REASONS_MAX).collect();
        if !lost.is_empty() {
            return (Severity::Critical, lost);
        }
    }
    if is_sustained {
        let why = format!("some pods are affected, for {} so far", span(lasts));
        return (Severity::Warning, vec![why]);
    }
    let why = format!("a burst of {} so far", span(lasts));
    (Severity::Info, vec![why])
}

/// How many reasons are given: the worst come first, and the affected are listed elsewhere.
const REASONS_MAX: usize = 4;

/// Why it is probably intended: the denial is much older than the first drop, and nothing of it ever
/// worked. That the one who connects is new is no ground against it: anyone can make a pod and dial
/// what has been denied for long. New pods that the kubelet cannot probe are another matter: nobody
/// makes pods that are never to be ready.
fn why_intended(incident: &Incident, affected: &[CutPath], now: Timestamp) -> Option<String> {
    let denied_since = denied_since(incident)?;
    let stood = incident.first.duration_since(denied_since);
    let worked = incident.last_success.is_some() || affected.iter().any(|a| a.worked.is_some());
    let is_young = |path: &CutPath| {
        path.oldest_pod.is_some_and(|made| incident.first.duration_since(made) < LONG_STANDING)
    };
    if !incident.cause.class.is_denial() || worked || stood < LONG_STANDING {
        return None;
    }
    let is_probed = matches!(incident.cause.situation, Some(Situation::Probe(_)));
    if is_probed && affected.iter().any(is_young) {
        return None;
    }
    let ago = span(now.duration_since(denied_since));
    Some(format!("denied for {ago} and never worked in that time: probably intended"))
}

/// Since when it is known to be denied.
fn denied_since(incident: &Incident) -> Option<Timestamp> {
    match &incident.changed {
        Attribution::None => None,
        Attribution::Seen(changes) => changes.first().map(|change| change.at),
        Attribution::Older { own: Some(own), .. } => Some(own.at),
        Attribution::Older { known_since, own: None } => *known_since,
    }
}

/// What a workload has lost by a path, if it is DNS, its probes, or a path of all its replicas.
fn lost(incident: &Incident, affected: &CutPath, is_sustained: bool) -> Option<String> {
    let who = pods_of(affected);
    let is_all = affected.is_whole_workload() || affected.is_down();
    let is_alone = matches!(affected.path.affected_party(), Party::Pod(..));
    match incident.cause.situation {
        Some(Situation::Dns) if is_all || is_sustained => {
            return Some(format!("{who} lost DNS: nothing that uses names works"));
        }
        // A pod that nothing owns is all there is of it.
        Some(Situation::Probe(probe)) if is_all || (is_alone && is_sustained) => {
            let then = match probe {
                Probe::Readiness => "none will be ready",
                Probe::Liveness | Probe::Startup => "all will be restarted",
            };
            return Some(format!("{who} lost their {probe} probes: {then}"));
        }
        Some(_) | None => {}
    }
    if !is_all {
        return None;
    }
    // One pod that fails for some seconds is no outage, unless it is known to have worked.
    let had_it = affected.worked.is_some()
        || incident.last_success.is_some()
        || matches!(incident.changed, Attribution::Seen(_));
    let counts = affected.replicas > 1 || is_sustained || had_it;
    let path = &affected.path;
    let what = match path.affected_party() == &path.source {
        true => {
            let (port, protocol) = (path.port, path.protocol);
            format!("{who} lost their path to {} on {port}/{protocol}", path.destination)
        }
        false => format!("{who} cannot be reached from {}", path.source),
    };
    let none_ready = match affected.is_whole_workload() {
        true => String::new(),
        false => format!(", and none of all {} is ready", affected.replicas),
    };
    counts.then(|| what + &none_ready)
}

/// The best evidence's confidence, with what speaks for it taking part of the remaining doubt, and
/// what speaks against it part of the whole.
fn confidence(incident: &Incident, agreement: Agreement) -> (f64, Vec<String>) {
    let mut reasons = incident.cause.reasons.clone();
    let mut confidence = incident.cause.confidence;
    let speaks_for = |confidence: f64, share: f64| 1.0 - (1.0 - confidence) * (1.0 - share);
    if incident.cause.class.is_denial() {
        match incident.responsible.as_slice() {
            [one] => reasons.push(format!("{} {one} alone denies it", one.kind)),
            several => reasons.push(format!("{} policies deny it together", several.len())),
        }
        let flows = agreement.denied + agreement.others;
        if flows > 0 && agreement.others == 0 {
            confidence = speaks_for(confidence, 0.2);
            reasons
                .push(format!("all of its {flows} flows are denied in the cluster as it is now"));
        } else if flows > 0 {
            confidence *= 0.9;
            let others = agreement.others;
            reasons.push(format!("policies do not deny {others} of its {flows} flows now"));
        }
    }
    if let Some(change) = incident.changed.lead() {
        let after = incident.first.duration_since(change.at);
        if after < -CLOCK_SLACK {
            confidence *= 0.8;
            reasons.push(format!("the drops began {} before the change", span(-after)));
        } else if after <= AT_ONCE {
            confidence = speaks_for(confidence, 0.5);
            let after = span(after.max(SignedDuration::ZERO));
            reasons.push(format!("the first drop came {after} after the change"));
        } else {
            reasons.push(format!("the first drop came {} after the change", span(after)));
        }
        if incident.last_success.is_some_and(|success| success <= change.at + CLOCK_SLACK) {
            confidence = speaks_for(confidence, 0.2);
            reasons.push("it worked until the change".to_owned());
        }
    }
    ((confidence.min(CONFIDENCE_MAX) * 100.0).round() / 100.0, reasons)
}
