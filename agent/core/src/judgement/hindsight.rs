//! Packets die under the policies of their moment: what a filter dropped may be denied no more when
//! it is judged, and what died of something else may be denied by then.

use jiff::{SignedDuration, Timestamp};

use super::attribution::{Attribution, Flip, Sought, attribute, latest_flip};
use crate::{
    cluster::{
        Snapshot,
        history::{Change, History},
    },
    correlate::{Evidence, EvidenceLevel},
    diagnosis::{Case, Class, Diagnosis, ENFORCED_WITHIN, Fate, Situation, diagnose, reason::Died},
    policy::Policy,
};

/// How long ago a change may be that the network plugin has not caught up with: its daemon's
/// restart takes minutes; beyond that the likeness is chance.
const LAG_MAX: SignedDuration = SignedDuration::from_mins(5);

/// What the confidence is worth where a plugin would have caught up by then, as most do.
const LATE: f64 = 0.8;

/// How much later than it happened a change may be seen: a packet that died less than this before
/// the change was seen may have died after it.
const SEEN_WITHIN: SignedDuration = SignedDuration::from_secs(1);

/// The diagnosis of a drop that policies deny no more: the denial, and what changed so that it was
/// one, if it stood when the packets died or the last of them did while it was taken away; else that
/// the filter is out of sync, and what took the denial away. `None`: there was no such denial, or
/// something else killed the flow.
pub(super) fn in_hindsight(
    history: &History,
    snapshot: &Snapshot,
    case: &Case<'_>,
    diagnosis: &Diagnosis,
    worked: Option<Timestamp>,
) -> Option<(Diagnosis, Attribution)> {
    let Fate::Died(evidence) = case.fate else { return None };
    let passes = diagnosis.verdict.decision().lets_pass();
    let unexplained = matches!(diagnosis.cause.class, Class::OutOfSync | Class::NotPolicy);
    let other_reasons = diagnosis.is_explained_by_kernel(snapshot, case, evidence);
    if !passes || !unexplained || !Died::of(evidence).is_filter() || other_reasons {
        return None;
    }
    let flip = latest_flip(history, snapshot, &diagnosis.question, Sought::Denied).ok()?;
    let change = flip.changes.first()?;
    let late = evidence.last().duration_since(change.at);
    if late > LAG_MAX {
        return None;
    }
    // The last of what was denied, while the plugin took the change in: it has worked since.
    let is_tail = late <= ENFORCED_WITHIN && worked > Some(evidence.last());
    if late < -SEEN_WITHIN || is_tail {
        let told = denied_then(&flip, case, change);
        let changed = attribute(history, &flip.before, &told);
        return Some((told, changed));
    }
    if diagnosis.cause.situation == Some(Situation::Start) {
        return None;
    }
    let told = out_of_sync(&flip, evidence, diagnosis, change, late);
    Some((told, Attribution::Seen(flip.changes)))
}

/// The diagnosis as it was when the packets died, where policies deny the flow only since then: it
/// worked after they died, and what denies it came later than they did.
pub(super) fn before_denial(
    history: &History,
    snapshot: &Snapshot,
    case: &Case<'_>,
    diagnosis: Diagnosis,
    worked: Option<Timestamp>,
) -> Diagnosis {
    let Fate::Died(evidence) = case.fate else { return diagnosis };
    let died = evidence.last();
    if !diagnosis.cause.class.is_denial() || worked.is_none_or(|worked| worked <= died) {
        return diagnosis;
    }
    match latest_flip(history, snapshot, &diagnosis.question, Sought::Passes) {
        Ok(flip) if flip.changes.iter().any(|change| change.at > died) => {
            diagnose(&flip.before, case)
        }
        _ => diagnosis,
    }
}

/// The denial stood when the packets died.
fn denied_then(flip: &Flip, case: &Case<'_>, change: &Change) -> Diagnosis {
    let mut told = diagnose(&flip.before, case);
    let since =
        format!("; it is denied no more: {} was {} since", change.object, change.kind.name());
    told.cause.text += &since;
    told
}

/// The denial had gone when the packets died.
fn out_of_sync(
    flip: &Flip,
    evidence: &Evidence,
    diagnosis: &Diagnosis,
    change: &Change,
    late: SignedDuration,
) -> Diagnosis {
    let mut told = diagnosis.clone();
    let direction = flip.verdict.denied_directions().next();
    let policy = direction.and_then(|d| flip.verdict.direction(d).responsible().into_iter().next());
    let verb = match evidence.level() {
        EvidenceLevel::Rejected => "rejected",
        _ => "dropped",
    };
    let secs = late.as_secs().max(0);
    let is_lead = |p: &Policy| {
        change.object.name == p.reference.name && change.object.namespace == p.reference.namespace
    };
    let (kind, object) = (change.kind.name(), &change.object);
    let who = match &policy {
        Some(policy) if is_lead(policy) => format!("{object}, {kind} {secs} s before, would have"),
        Some(policy) => {
            let (name, of) = (&policy.reference, policy.reference.kind);
            format!("{of} {name} would have until {object} was {kind} {secs} s before")
        }
        None => format!("policies would have until {object} was {kind} {secs} s before"),
    };
    let cause = &mut told.cause;
    cause.class = Class::OutOfSync;
    cause.direction = direction;
    cause.policy = policy;
    cause.text = format!(
        "no policy denies it now, and this node's filter {verb} it as {who}: the CNI has not \
         caught up, or other rules are in the way"
    );
    if late > ENFORCED_WITHIN {
        cause.confidence = (cause.confidence * LATE * 100.0).round() / 100.0;
    }
    cause.reasons.push(format!("before the latest change, {secs} s earlier, it was denied"));
    told
}
