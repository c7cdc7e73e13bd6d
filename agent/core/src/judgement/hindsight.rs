//! Packets are dropped under the policies of their moment: what a filter dropped may no longer be
//! denied when it is judged, and what was dropped by something else may be denied by then.

use jiff::{SignedDuration, Timestamp};

use super::attribution::{Attribution, Flip, Target, attribute, latest_flip, seen};
use crate::{
    cluster::{
        Snapshot,
        history::{Change, History},
    },
    diagnosis::{
        Case, Class, Diagnosis, ENFORCED_WITHIN, Fate, Hindsight, Situation, diagnose,
        reason::{DroppedBy, dropped_by},
    },
};

/// How long ago a change may be that the network plugin has not caught up with: its daemon's
/// restart takes minutes; beyond that the likeness is chance.
const LAG_MAX: SignedDuration = SignedDuration::from_mins(5);

/// What the confidence is worth where a plugin would have caught up by then, as most do.
const LATE: f64 = 0.8;

/// How much later than it happened a change may be seen: a packet that was dropped less than this
/// before the change was seen may have been dropped after it.
const SEEN_WITHIN: SignedDuration = SignedDuration::from_secs(1);

/// The diagnosis of a drop that policies no longer deny: the denial, and what changed so that it was
/// one, if it was in force when the packets were dropped or the last of them were while it was lifted;
/// else that the filter is out of sync, and what lifted the denial. `None`: there was no such denial,
/// or something else dropped the flow.
pub(super) fn in_hindsight(
    history: &History,
    snapshot: &Snapshot,
    case: &Case<'_>,
    diagnosis: &Diagnosis,
    worked: Option<Timestamp>,
) -> Option<(Diagnosis, Attribution)> {
    let Fate::Dropped(evidence) = case.fate else { return None };
    let passes = diagnosis.verdict.decision().lets_pass();
    let unexplained = matches!(diagnosis.cause.class, Class::OutOfSync | Class::NotPolicy);
    let other_reasons = diagnosis.is_explained_otherwise(snapshot, case, evidence);
    if !passes || !unexplained || dropped_by(evidence) != DroppedBy::Filter || other_reasons {
        return None;
    }
    let flip = latest_flip(history, snapshot, &diagnosis.question, Target::Denied).ok()?;
    let change = flip.changes.first()?;
    let late = evidence.last().duration_since(change.at);
    if late > LAG_MAX {
        return None;
    }
    // The last of what was denied, while the plugin took the change in: it has worked since.
    let is_tail = late <= ENFORCED_WITHIN && worked > Some(evidence.last());
    if late < -SEEN_WITHIN || is_tail {
        let denial = denied_then(&flip, case, change);
        let changed = attribute(history, &flip.before, &denial);
        return Some((denial, changed));
    }
    if diagnosis.cause.situation == Some(Situation::Start) {
        return None;
    }
    let out_of_sync = out_of_sync(snapshot, case, diagnosis, &flip, (change, late));
    Some((out_of_sync, seen(flip.changes)))
}

/// The diagnosis as it was when the packets were dropped, where policies deny the flow only since
/// then: it worked after they were dropped, and what denies it came later.
pub(super) fn before_denial(
    history: &History,
    snapshot: &Snapshot,
    case: &Case<'_>,
    diagnosis: Diagnosis,
    worked: Option<Timestamp>,
) -> Diagnosis {
    let Fate::Dropped(evidence) = case.fate else { return diagnosis };
    let dropped = evidence.last();
    if !diagnosis.cause.class.is_denial() || worked.is_none_or(|worked| worked <= dropped) {
        return diagnosis;
    }
    match latest_flip(history, snapshot, &diagnosis.question, Target::Passes) {
        Ok(flip) if flip.changes.iter().any(|change| change.at > dropped) => {
            diagnose(&flip.before, case)
        }
        _ => diagnosis,
    }
}

/// The denial was in force when the packets were dropped.
fn denied_then(flip: &Flip, case: &Case<'_>, change: &Change) -> Diagnosis {
    let diagnosis = diagnose(&flip.before, case);
    if !diagnosis.cause.class.is_denial() {
        return diagnosis;
    }
    diagnosis.with_hindsight(&flip.before, case, Hindsight::LiftedSince(change.clone()))
}

/// The denial had been lifted when the packets were dropped, so long before.
fn out_of_sync(
    snapshot: &Snapshot,
    case: &Case<'_>,
    diagnosis: &Diagnosis,
    flip: &Flip,
    lifted: (&Change, SignedDuration),
) -> Diagnosis {
    let (change, by) = (lifted.0.clone(), lifted.1.max(SignedDuration::ZERO));
    let mut diagnosis = diagnosis.clone();
    let direction = flip.verdict.leading_denial();
    let cause = &mut diagnosis.cause;
    cause.class = Class::OutOfSync;
    cause.direction = direction;
    cause.policy =
        direction.and_then(|d| flip.verdict.direction(d).responsible().into_iter().next());
    if by > ENFORCED_WITHIN {
        cause.confidence = (cause.confidence * LATE * 100.0).round() / 100.0;
    }
    let secs = by.as_secs();
    cause.reasons.push(format!("before the latest change, {secs} s earlier, it was denied"));
    diagnosis.with_hindsight(snapshot, case, Hindsight::LiftedBefore { change, by })
}
