//! Since which change a flow is denied.

use crate::{
    cluster::{
        Snapshot,
        history::{Change, ChangeKind, History},
        object::{Key, Kind},
    },
    policy::evaluate::{Decision, Question, evaluate},
};

use super::Diagnosis;

/// The latest change across which the flow went from allowed to denied, judged before and after it
/// by the same evaluator. Without one in the history: the creation of the policy that leads, by its
/// own timestamp.
pub fn attribute(history: &History, snapshot: &Snapshot, diagnosis: &Diagnosis) -> Option<Change> {
    if !diagnosis.cause.class.is_denial() {
        return None;
    }
    let question = &diagnosis.question;
    let mut after = judge(snapshot, question);
    for (change, before) in history.latest_first() {
        let before = judge(before, question);
        let passed = matches!(before, Decision::Allowed | Decision::NotIsolated);
        if passed && after == Decision::Denied {
            return Some(change.clone());
        }
        after = before;
    }
    let policy = diagnosis.cause.policy.as_deref()?;
    let reference = &policy.reference;
    Some(Change {
        object: Key {
            kind: Kind::Policy(reference.kind),
            namespace: reference.namespace.clone(),
            name: reference.name.clone(),
        },
        kind: ChangeKind::Created,
        at: policy.created?,
    })
}

/// The same flow in another snapshot, where its pods may have had other labels.
fn judge(snapshot: &Snapshot, question: &Question) -> Decision {
    let question = Question {
        source: snapshot.resolve(question.source.address, None),
        destination: snapshot.resolve(question.destination.address, None),
        ..*question
    };
    evaluate(snapshot, &question).decision()
}
