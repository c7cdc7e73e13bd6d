//! What the changes around a drop say of it: what has lifted its denial since, and that a filter
//! goes on by what was lifted before.

use jiff::{SignedDuration, Timestamp};

use super::{
    attribution::{Attribution, Flip, Target, attribute, latest_flip, seen, verdict_then},
    then::{Diagnosed, JUST_BEFORE},
};
use crate::{
    cluster::{
        Snapshot,
        history::{Change, History, Past},
    },
    diagnosis::{
        Case, Class, Diagnosis, ENFORCED_WITHIN, Fate, Hindsight,
        reason::{DroppedBy, dropped_by},
    },
    verdict::Question,
};

/// How long ago a change may be that the network plugin has not caught up with: its daemon's
/// restart takes minutes; beyond that the likeness is chance.
const LAG_MAX: SignedDuration = SignedDuration::from_mins(5);

/// What the confidence is worth where a plugin would have caught up by then, as most do.
const LATE: f64 = 0.8;

/// What lifted the denial of a flow that is not denied any more; `None`: it still is, or that is not
/// known.
pub(super) fn lifted_since(
    history: &History,
    snapshot: &Snapshot,
    question: &Question,
) -> Option<Change> {
    if !verdict_then(snapshot, question).decision().lets_pass() {
        return None;
    }
    let flip = latest_flip(&history.now(snapshot), question, Target::Denied).ok()?;
    flip.changes.into_iter().next()
}

/// The diagnosis of what a filter dropped although policies let it pass: the denial that had been
/// lifted a moment before, where the drop is the tail of what that denied; else that the filter is out
/// of sync, and what lifted the denial. `None`: there was no such denial, or something else dropped it.
/// `past`: the cluster that it was diagnosed by.
pub(super) fn in_hindsight(
    (history, snapshot): (&History, &Snapshot),
    past: &Past<'_>,
    case: &Case<'_>,
    diagnosed: &Diagnosed,
    worked: Option<Timestamp>,
) -> Option<(Diagnosis, Attribution)> {
    let Fate::Dropped(evidence) = case.fate else { return None };
    let diagnosis = &diagnosed.diagnosis;
    let passes = diagnosis.verdict.decision().lets_pass();
    let unexplained = matches!(diagnosis.cause.class, Class::OutOfSync | Class::NotPolicy);
    let other_reasons =
        diagnosis.is_explained_otherwise(&past.snapshot, &diagnosed.case(case), evidence);
    if !passes || !unexplained || dropped_by(evidence) != DroppedBy::Filter || other_reasons {
        return None;
    }
    let flip = latest_flip(past, &diagnosis.question, Target::Denied).ok()?;
    let change = flip.changes.first()?;
    let dropped = evidence.judged_as_of();
    let late = dropped.duration_since(change.at);
    if late > LAG_MAX {
        return None;
    }
    // The last of what was denied, while the plugin took the change in: it began before, or has worked
    // since.
    let is_of_before = evidence.first() < change.at || worked > Some(dropped);
    if late <= ENFORCED_WITHIN && is_of_before {
        let before = diagnosed.until(history, snapshot, case, flip.began + JUST_BEFORE);
        if before.is_denial() {
            let changed = attribute(&before.past(history, snapshot), &before.diagnosis);
            return Some((with_lifted(history, snapshot, case, before, change), changed));
        }
    }
    if diagnosis.cause.passes_by_itself() {
        return None;
    }
    let case = diagnosed.case(case);
    let out_of_sync = out_of_sync(&past.snapshot, &case, diagnosis, &flip, (change, late));
    Some((out_of_sync, seen(flip.changes)))
}

/// A denial with what has lifted it.
pub(super) fn with_lifted(
    history: &History,
    snapshot: &Snapshot,
    case: &Case<'_>,
    denial: Diagnosed,
    change: &Change,
) -> Diagnosis {
    let (case, past) = (denial.case(case), denial.past(history, snapshot));
    let hindsight = Hindsight::LiftedSince(change.clone());
    denial.diagnosis.with_hindsight(&past.snapshot, &case, hindsight)
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
