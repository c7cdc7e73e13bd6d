//! What came of a change of the source.

use jiff::Timestamp;

/// What came of it when the cluster was brought up to date.
#[derive(Debug, Default)]
pub struct Update {
    /// What is to be reported.
    pub troubles: Vec<Trouble>,
    /// Policies changed, or what they select by.
    pub policies_changed: bool,
}

/// Something to report about the source itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// An object was ignored, and why.
    Skipped(String),
    /// Kinds cannot be followed.
    Failing {
        /// Which, and why.
        what: String,
        /// Since when.
        since: Timestamp,
    },
    /// All kinds are followed again.
    Recovered,
}
