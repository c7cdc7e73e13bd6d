//! What is wrong with an object that somebody gave us, and where in it.

/// The path of a field in an object, such as `spec.ingress[0].from[1].ipBlock.cidr`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(String);

impl FieldPath {
    /// The path of a field of the object's root.
    pub fn root(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The path of a field below this one.
    #[must_use]
    pub fn field(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    /// The path of an element of this list.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The problem that this field holds something else than expected.
    pub fn expected(&self, expected: impl Into<String>, found: impl Into<String>) -> Problem {
        Problem { field: self.0.clone(), expected: expected.into(), found: found.into() }
    }
}

/// A field that cannot be accepted as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, found {found}")]
pub struct Problem {
    /// Its path from the object's root.
    pub field: String,
    /// What would have been right.
    pub expected: String,
    /// What was there.
    pub found: String,
}
