//! What cuts a path: one diagnosis with what belongs to it, so that what is reported of an incident's
//! cause, its change and its remedy is of one subject.

use std::{cmp::Ordering, sync::Arc};

use jiff::Timestamp;

use super::{JudgedDrop, PASSING, Path};
use crate::{
    diagnosis::{
        Class, Diagnosis,
        reason::{Established, established},
    },
    flow::Flow,
    judgement::Attribution,
    policy::PolicyRef,
    remedy::Remedy,
};

/// Why a path is cut, by the drop of it that says so most certainly.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub(super) diagnosis: Diagnosis,
    pub(super) changed: Attribution,
    pub(super) remedy: Option<Arc<Remedy>>,
    pub(super) established: Option<Established>,
    /// Of which flow, and when that was last dropped.
    of: (Timestamp, Flow),
}

impl Cut {
    pub(super) fn of(judged: &JudgedDrop) -> Self {
        let JudgedDrop { drop, judgement, .. } = judged;
        Self {
            diagnosis: judgement.diagnosis.clone(),
            changed: judgement.changed.clone(),
            remedy: judgement.remedy.clone().map(Arc::new),
            established: established(&drop.evidence),
            of: (drop.evidence.last(), drop.flow),
        }
    }

    /// The path.
    pub(super) fn path(&self) -> Path {
        Path::of(&self.diagnosis.question)
    }

    /// Takes in another drop of the same path: the most certain leads, of other policies the latest, and
    /// of equals one that goes on, the same in whatever order they come.
    pub(super) fn add(&mut self, mut other: Self) {
        // What passes by itself is of a moment, and leads where there is nothing else.
        let rank =
            |cut: &Self| (!cut.diagnosis.cause.passes_by_itself(), cut.diagnosis.cause.confidence);
        let ((lasts, certainty), (other_lasts, other_certainty)) = (rank(self), rank(&other));
        let by_rank = other_lasts.cmp(&lasts).then(other_certainty.total_cmp(&certainty));
        let is_same = (self.class(), self.responsible()) == (other.class(), other.responsible());
        let (of, of_other) = (self.of, other.of);
        let is_over = of_other.0.duration_since(of.0) >= PASSING;
        let is_better = match by_rank {
            _ if !is_same || is_over => of_other >= of,
            Ordering::Equal => of_other.1 <= of.1,
            order => order.is_gt(),
        };
        if is_better {
            std::mem::swap(self, &mut other);
        }
        // A remedy that was found stays one as long as the path is denied.
        self.remedy = self.remedy.take().or(other.remedy);
        self.established = self.established.or(other.established);
    }

    fn class(&self) -> Class {
        self.diagnosis.cause.class
    }

    pub(super) fn responsible(&self) -> Vec<PolicyRef> {
        let policies = self.diagnosis.responsible();
        policies.iter().map(|policy| policy.reference.clone()).collect()
    }

    /// Whether a path that is cut by this is cut by that still, or again: by what none of the policies
    /// admits that isolate the same pods, some of which are the same. `is_known`: the path is one
    /// of these, though whose an address was the latest time is not known.
    pub(super) fn goes_on_as(&self, latest: &Diagnosis, is_known: bool) -> bool {
        let is_implicit = |class: Class| class.is_denial() && class != Class::ExplicitDeny;
        let latest_policies = latest.responsible();
        let denies_still =
            |policy: &PolicyRef| latest_policies.iter().any(|l| l.reference == *policy);
        is_implicit(self.class())
            && is_implicit(latest.cause.class)
            && self.diagnosis.denied_end() == latest.denied_end()
            && (is_known || self.path() == Path::of(&latest.question))
            && self.responsible().iter().any(denies_still)
    }
}
