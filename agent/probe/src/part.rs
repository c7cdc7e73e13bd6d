//! The parts of the probe, and whether each works on this kernel.

/// A part of the probe, and whether it works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Which part.
    pub name: &'static str,
    /// Whether it works.
    pub state: PartState,
}

/// Whether a part of the probe works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartState {
    /// It works.
    Active,
    /// This kernel has no such thing, and why that is.
    Unavailable(String),
    /// It ought to work and does not, and why.
    Failed(String),
}
