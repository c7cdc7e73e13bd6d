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

pub(crate) const KNOWN: &[Known] = &[Known {
    world: "everything",
    seed: 24,
    kind: (Check::NotBlamed, When::PoliciesChanged),
    why: "the first SYN reached a new pod before its policies were in force, the same connection's later \
          ones did not: the report of the first is repeated a minute later with the time of a later one",
}];
