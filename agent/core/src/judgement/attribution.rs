//! Since which change a flow is denied.

use std::{net::IpAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use crate::{
    cluster::{
        Snapshot,
        history::{Change, ChangeKind, Past, Undoable},
        object::{Key, Kind, Pod, Workload},
        resolve::{Endpoint, Holder},
    },
    diagnosis::Diagnosis,
    policy::{Policy, PolicyRef},
    verdict::{Decision, Question, Verdict, evaluate},
};

/// Changes this close together are taken as one: what one `kubectl apply` sends arrives within a
/// second.
pub(super) const TOGETHER: SignedDuration = SignedDuration::from_secs(1);

/// How many times a flow is evaluated in search of a change. At some ten microseconds each this
/// stays within a few milliseconds; only changes about the flow's own ends cost one.
const EVALUATIONS_MAX: usize = 64;

/// What made a flow denied, as far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Attribution {
    /// It is not denied, or nobody asked.
    #[default]
    None,
    /// The latest changes across which it went from allowed to denied, by the same evaluator: one,
    /// or several that only together made the difference. The one that leads first; never empty.
    Seen {
        /// The changes, never none.
        changes: Vec<Change>,
        /// The policy by which the flow passed until then, if one admitted it.
        admitted_by: Option<PolicyRef>,
    },
    /// It is denied for as long as is known.
    Older {
        /// Since when changes are known; `None`: no change has ever been watched for.
        known_since: Option<Timestamp>,
        /// When the policy that leads was made or last written, by its own timestamps.
        own: Option<Change>,
    },
}

impl Attribution {
    /// The change to name, seen or by the object's own timestamp.
    pub fn lead(&self) -> Option<&Change> {
        self.changes().first()
    }

    /// The policy by which the flow passed until the changes that were seen, if one admitted it.
    pub const fn admitted_by(&self) -> Option<&PolicyRef> {
        match self {
            Self::Seen { admitted_by, .. } => admitted_by.as_ref(),
            Self::None | Self::Older { .. } => None,
        }
    }

    /// All changes to name, the one that leads first.
    pub fn changes(&self) -> &[Change] {
        match self {
            Self::None => &[],
            Self::Seen { changes, .. } => changes,
            Self::Older { own, .. } => own.as_slice(),
        }
    }
}

/// Changes that were seen, of a flow that was not denied before, or not by policies.
pub(super) const fn seen(changes: Vec<Change>) -> Attribution {
    Attribution::Seen { changes, admitted_by: None }
}

/// The latest change across which the flow went from allowed to denied. Without one in the history:
/// when the policy that leads was made or last written, by its own timestamps.
pub fn attribute(past: &Past<'_>, diagnosis: &Diagnosis) -> Attribution {
    if !diagnosis.cause.class.is_denial() {
        return Attribution::None;
    }
    match latest_flip(past, &diagnosis.question, Target::Passes) {
        Ok(Flip { mut changes, verdict, .. }) => {
            // Of changes that only together made the difference, first the one that the denial is
            // put down to.
            let lead = diagnosis.cause.policy.as_ref().map(|policy| &policy.reference);
            changes.sort_by_key(|change| lead.is_none() || change.object.policy().as_ref() != lead);
            let direction = diagnosis.cause.direction;
            let admitted = direction.and_then(|d| verdict.direction(d).allowed_by.first());
            let admitted_by = admitted.map(|rule| rule.policy.clone());
            Attribution::Seen { changes, admitted_by }
        }
        Err(known_since) => {
            let own = diagnosis.cause.policy.as_deref().and_then(own_change);
            Attribution::Older { known_since, own }
        }
    }
}

/// When a policy was last written, by its own timestamps. Whether that made the difference is not
/// known; that it did not change since is.
pub(super) fn own_change(policy: &Policy) -> Option<Change> {
    let reference = &policy.reference;
    // The API server writes whole seconds; what creates an object writes its spec as well.
    let edited = policy.written.filter(|written| Some(*written) > policy.created);
    let kind = if edited.is_some() { ChangeKind::Edited } else { ChangeKind::Created };
    Some(Change {
        object: Key {
            kind: Kind::Policy(reference.kind),
            namespace: reference.namespace.clone(),
            name: reference.name.clone(),
        },
        kind,
        difference: None,
        at: edited.or(policy.created)?,
    })
}

/// What an earlier verdict is looked for to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Some policy denied it.
    Denied,
    /// None did.
    Passes,
}

impl Target {
    fn of(verdict: &Verdict) -> Option<Self> {
        match verdict.decision() {
            Decision::Denied => Some(Self::Denied),
            Decision::NotIsolated | Decision::Allowed => Some(Self::Passes),
            Decision::Unknown => None,
        }
    }
}

/// The changes across which a flow's verdict turned.
pub(super) struct Flip {
    /// None of them can be left out; the one that leads first.
    pub(super) changes: Vec<Change>,
    /// When the first came of all that came together with them.
    pub(super) began: Timestamp,
    /// What policies said of it then.
    pub(super) verdict: Verdict,
}

/// Undoes changes, latest first, until the verdict is what is target.
///
/// # Errors
/// It never was, in what is remembered: since when that is.
pub(super) fn latest_flip(
    past: &Past<'_>,
    question: &Question,
    target: Target,
) -> Result<Flip, Option<Timestamp>> {
    let mut evaluations = EVALUATIONS_MAX;
    let mut earlier = past.snapshot.clone();
    // Just after the changes that have been undone since the verdict was last known to be another.
    let mut after = past.snapshot.clone();
    let mut suspects: Vec<&Undoable> = Vec::new();
    let mut changes = past.latest_first().peekable();
    while let Some(latest) = changes.next() {
        latest.undo(&mut earlier);
        suspects.push(latest);
        let begins = latest.change.at - TOGETHER;
        while let Some(other) = changes.next_if(|other| other.change.at >= begins) {
            other.undo(&mut earlier);
            suspects.push(other);
        }
        suspects.retain(|suspect| concerns(&suspect.change.object, question));
        if suspects.is_empty() {
            continue;
        }
        if evaluations == 0 {
            return Err(Some(latest.change.at));
        }
        evaluations -= 1;
        match Target::of(&verdict_then(&earlier, question)) {
            Some(found) if found == target => {
                return Ok(flip(&after, suspects, question, target, evaluations));
            }
            Some(_) => {
                after = earlier.clone();
                suspects.clear();
            }
            // What is unknown belongs to the changes around it.
            None => {}
        }
    }
    Err(past.complete_since())
}

/// Of changes that together turn the verdict: those that it takes. What happened to one object in
/// that time is one change, named by the latest.
fn flip(
    after: &Snapshot,
    suspects: Vec<&Undoable>,
    question: &Question,
    target: Target,
    mut evaluations: usize,
) -> Flip {
    let began = suspects.iter().map(|suspect| suspect.change.at).min().unwrap_or_default();
    let mut needed: Vec<Vec<&Undoable>> = Vec::new();
    for suspect in suspects {
        let same = |of: &&mut Vec<&Undoable>| of[0].change.object == suspect.change.object;
        match needed.iter_mut().find(same) {
            Some(of_object) => of_object.push(suspect),
            None => needed.push(vec![suspect]),
        }
    }
    let without = |undone: &[Vec<&Undoable>]| {
        let mut before = after.clone();
        undone.iter().flatten().for_each(|change| change.undo(&mut before));
        before
    };
    // The oldest first: of two that each would do, the later one took the last way through. Again
    // from the start where one was left out: it may have been what another was needed against.
    let mut candidate = needed.len();
    while candidate > 0 && needed.len() > 1 && evaluations > 0 {
        candidate -= 1;
        evaluations -= 1;
        let mut others = needed.clone();
        others.remove(candidate);
        if Target::of(&verdict_then(&without(&others), question)) == Some(target) {
            needed = others;
            candidate = needed.len();
        }
    }
    let before = without(&needed);
    let mut changes: Vec<Change> = needed.iter().map(|of| of[0].change.clone()).collect();
    changes.sort_by_key(|change| !matches!(change.object.kind, Kind::Policy(_)));
    let verdict = verdict_then(&before, question);
    Flip { changes, began, verdict }
}

/// Whether a change of this object can bear on the flow: a policy of either end's namespace or of
/// the cluster, the ends themselves, and whatever is not bound to a namespace.
pub(crate) fn concerns(object: &Key, question: &Question) -> bool {
    let mut pods = [&question.source, &question.destination].into_iter().filter_map(Endpoint::pod);
    let mut own = |namespace: &Arc<str>| pods.any(|pod| pod.namespace == *namespace);
    match object.kind {
        Kind::Template(kind) => pods.any(|pod| {
            let is_its = |w: &Workload| w.name == object.name && &*w.kind == kind.name();
            object.namespace.as_ref() == Some(&pod.namespace)
                && pod.workload.as_ref().is_some_and(is_its)
        }),
        Kind::Pod => pods.any(|pod| {
            object.namespace.as_ref() == Some(&pod.namespace) && object.name == pod.name
        }),
        Kind::Namespace => own(&object.name),
        Kind::Policy(_) => object.namespace.as_ref().is_none_or(own),
        _ => true,
    }
}

pub(super) fn verdict_then(snapshot: &Snapshot, question: &Question) -> Verdict {
    evaluate(snapshot, &question_then(snapshot, question))
}

/// The same flow in another snapshot, where its pods had other labels or addresses.
fn question_then(snapshot: &Snapshot, question: &Question) -> Question {
    Question {
        source: end_then(snapshot, &question.source),
        destination: end_then(snapshot, &question.destination),
        ..*question
    }
}

fn end_then(snapshot: &Snapshot, end: &Endpoint) -> Endpoint {
    match &end.holder {
        Holder::Pod(pod) => match snapshot.pod(&pod.namespace, &pod.name) {
            Some(then) => {
                let address = address_then(then, end);
                Endpoint { address, holder: Holder::Pod(then.clone()) }
            }
            // Gone since; its last version stands for it.
            None => end.clone(),
        },
        Holder::Node(node) => {
            let then = snapshot.node(&node.name).unwrap_or(node).clone();
            Endpoint { address: end.address, holder: Holder::Node(then) }
        }
        _ => end.clone(),
    }
}

fn address_then(pod: &Pod, end: &Endpoint) -> Option<IpAddr> {
    if end.address.is_some_and(|address| pod.addresses.contains(&address)) {
        return end.address;
    }
    let mut of_family = pod.addresses.iter().filter(|address| end.may_be_of_family(**address));
    of_family.next().copied().or(end.address)
}
