//! What the docket is known to get wrong, a line for each kind, with a run that shows it.

use crate::check::{Check, When};

/// A kind of fault.
pub(crate) struct Known {
    /// The world, and those that have all that this one has.
    pub(crate) world: &'static str,
    /// A run of it that has the fault.
    pub(crate) seed: u64,
    pub(crate) kind: (Check, When),
    pub(crate) why: &'static str,
}

pub(crate) const KNOWN: &[Known] = &[
    Known {
        world: "changes",
        seed: 6,
        kind: (Check::Mixed, When::PoliciesChanged),
        why: "packets that one policy denied and that another denied after it are one report, judged as its last one",
    },
    Known {
        world: "everything",
        seed: 2,
        kind: (Check::Mixed, When::SeveralBackends),
        why: "packets that one policy denied and that another denied after it are one report, judged as its last one",
    },
    Known {
        world: "churn",
        seed: 3,
        kind: (Check::Underreported, When::AddressReused),
        why: "packets to an address that changes hands are in no report; the cause is not found yet",
    },
    Known {
        world: "everything",
        seed: 17,
        kind: (Check::OpenedLate, When::Reopened),
        why: "an incident comes back whose paths have passed; the cause is not found yet",
    },
    Known {
        world: "everything",
        seed: 15,
        kind: (Check::EndedEarly, When::Passes),
        why: "an answer ends a path that fails; the cause is not found yet",
    },
    Known {
        world: "everything",
        seed: 15,
        kind: (Check::UntrueEnd, When::Passes),
        why: "an answer ends a path that it is not of; the cause is not found yet",
    },
];
