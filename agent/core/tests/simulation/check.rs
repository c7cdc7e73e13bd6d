//! What must hold of every run, against what truly happened in it.

mod counts;
mod drops;
mod incidents;
mod truth;

pub(crate) use truth::described;

use crate::{run::Outcome, time::Ms};

/// What was held against the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Check {
    /// A silent drop is in no report.
    Unreported,
    /// More packets are reported of a flow than were dropped, or a drop of a flow that had none.
    Overreported,
    /// Fewer packets are reported of a flow than were dropped of attempts that nobody answered.
    Underreported,
    /// What is reported was answered, and no packet of it was lost.
    Answered,
    /// A report names somebody at an end who did not hold the address then.
    WrongHolder,
    /// Of a flow through a Service another one is named, or none; or one where none was dialled.
    WrongService,
    /// A report counts what was seen of another path.
    WrongPath,
    /// A policy is named, and others denied it then.
    WrongPolicies,
    /// A policy is named, or the network plugin, and it was neither.
    Blamed,
    /// Policies denied it, and none is named.
    NotBlamed,
    /// One report counts packets that policies denied in different ways.
    Mixed,
    /// A flow that policies let pass is found not to be stopped by them.
    FalseFinding,
    /// A drop is reported, and its incident is not.
    NotOpened,
    /// An incident is reported to begin, or to be back, when none of its paths has failed lately.
    OpenedLate,
    /// An incident is over while one of its paths fails.
    EndedEarly,
    /// It is said to be over for a reason that does not hold.
    UntrueEnd,
    /// None of its paths fails any more, and it is still open.
    EndedLate,
    /// An incident shows a pod as cut off that is not.
    ShowsPassing,
    /// The parts of a sum do not add up.
    Counts,
}

impl Check {
    /// Whether what fails it is in the wrong incident.
    pub(crate) const fn is_of_cause(self) -> bool {
        !matches!(self, Self::Mixed | Self::WrongService)
    }
}

/// What was special about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum When {
    /// Nothing.
    Plain,
    /// kube-proxy dropped it.
    ByProxy,
    /// Nobody held the address.
    NobodyThere,
    /// Nobody listened on the port.
    Refused,
    /// It was answered in the end.
    AnsweredLater,
    /// One attempt went to several backends.
    SeveralBackends,
    /// An address of it was another pod's before or after.
    AddressReused,
    /// Policies, or what they select by, said something else before or after.
    PoliciesChanged,
    /// Nothing was dropped on this node.
    DroppedElsewhere,
    /// The end that was reported: its traffic passes.
    Passes,
    /// … policies allow it.
    Allowed,
    /// … nobody tries any more.
    Silence,
    /// The pods of a path have gone.
    PodsGone,
    /// An incident that was over is back.
    Reopened,
}

/// A check that a run failed.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) check: Check,
    pub(crate) when: When,
    pub(crate) at: Ms,
    pub(crate) what: String,
    /// Of which report it is, by its number.
    pub(crate) report: Option<usize>,
}

impl Fault {
    pub(crate) const fn kind(&self) -> (Check, When) {
        (self.check, self.when)
    }
}

/// Every check that a run fails, in the order of time.
pub(crate) fn faults(outcome: &Outcome) -> Vec<Fault> {
    let mut faults = drops::faults(outcome);
    faults.extend(counts::faults(outcome));
    faults.extend(incidents::faults(outcome, &faults));
    faults.sort_by_key(|fault| (fault.at, fault.kind()));
    faults
}
