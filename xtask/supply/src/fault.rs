//! What can be wrong with an archive.

use std::io;

/// Why an archive is not what it should be, in words for anyone who wants to run it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It cannot be read at all.
    #[error("this is no archive of an OCI layout: {0}")]
    Archive(#[source] io::Error),
    /// Which of the two counts is up to who reads it.
    #[error("{0} is in the archive twice")]
    Twice(String),
    /// Something that another part names is not there.
    #[error("{0} is missing from the archive")]
    Missing(String),
    /// A part is not of its form.
    #[error("{what} cannot be read: {why}")]
    Form {
        /// Which part.
        what: String,
        /// As its reader says it.
        why: String,
    },
    /// The bytes are others than those that were described.
    #[error("{what} has been changed: expected {expected}, found {found}")]
    Digest {
        /// Which part.
        what: String,
        /// The digest that another part states.
        expected: String,
        /// That of the bytes.
        found: String,
    },
    /// The same, where a size alone is wrong.
    #[error("{what}: expected {expected} bytes, found {found}")]
    Size {
        /// Which part.
        what: String,
        /// As another part states it.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// Not one image.
    #[error("expected one image, found {0}")]
    Images(usize),
    /// Something that nobody signed and that a reader may still take up.
    #[error("the archive holds {0}, which is no part of the signed image")]
    Stray(String),
    /// Something refers to another image than the one that is there.
    #[error("{what} refers to {found}, not to this image, {expected}")]
    Subject {
        /// What refers.
        what: String,
        /// This image.
        expected: String,
        /// What it is about.
        found: String,
    },
    /// Docker would load something else than containerd.
    #[error("manifest.json, which Docker reads, names another {0} than the image has")]
    Docker(&'static str),
    /// Nobody signed this part.
    #[error("there is no signature of the {0}")]
    Unsigned(&'static str),
    /// The same thing twice, of which a reader might take either.
    #[error("there are {count} of {what}, expected one")]
    Several {
        /// What there is more than one of.
        what: String,
        /// How many.
        count: usize,
    },
    /// A signature that the key did not make over these bytes.
    #[error("the signature of the {what} is not by this key, or what it signs was changed")]
    Signature {
        /// What was to be signed.
        what: &'static str,
    },
    /// Signed by a key that says itself that it is another.
    #[error(
        "the {what} was signed with another key: its hint is {found}, this key's is {expected}"
    )]
    Key {
        /// What was signed.
        what: &'static str,
        /// This key.
        expected: String,
        /// The one that the signature names.
        found: String,
    },
    /// A document lies beside the image that is not the signed one.
    #[error("the {0} beside the image is not the one that was signed")]
    Swapped(&'static str),
    /// A signed statement that is about something else.
    #[error("the signed statement about the {what} has {field} {found}, expected {expected}")]
    Statement {
        /// What it is about.
        what: &'static str,
        /// Which field.
        field: &'static str,
        /// As it should be.
        expected: String,
        /// As it is.
        found: String,
    },
    /// The SBOM is of another program.
    #[error("the SBOM is of a program with SHA-256 {stated}, the image's has {found}")]
    Program {
        /// What the SBOM says.
        stated: String,
        /// That of the program in the image.
        found: String,
    },
}

impl Fault {
    /// That a part cannot be read, and why.
    pub fn form(what: &str, why: &impl ToString) -> Self {
        Self::Form { what: what.to_owned(), why: why.to_string() }
    }
}
