//! What is wrong with manifests, what it makes a difference to, and what is passed over.

use std::{fmt, io};

use whydrop_core::problem::Problem;

use crate::documents::{Fault, Place};

/// Where an object comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file, or `standard input`.
    pub file: String,
    /// 1-based number of the document in it.
    pub document: usize,
    /// 1-based number of the item in the document, if that is a list.
    pub item: Option<usize>,
    /// 1-based line where the document or item starts.
    pub line: usize,
    /// The object, as far as it says: `NetworkPolicy backend/allow-web`.
    pub object: String,
}

impl Origin {
    pub(super) fn of(file: &str, place: Place) -> Self {
        let Place { document, item, line } = place;
        Self { file: file.to_owned(), document, item, line, object: String::new() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, document, item, line, object } = self;
        write!(f, "{file}, document {document}")?;
        if let Some(item) = item {
            write!(f, ", item {item}")?;
        }
        write!(f, " (line {line})")?;
        if object.is_empty() { Ok(()) } else { write!(f, ", {object}") }
    }
}

/// What an object that cannot be read can make a difference to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touches {
    /// Any question.
    Everything,
    /// Questions about what is in this namespace, and about addresses.
    Namespace(String),
    /// None.
    Nothing,
}

/// Why manifests cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// A file or folder that cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A folder without a manifest in it.
    #[error("{path}: no manifests in this folder: expected files ending in .yaml, .yml or .json")]
    Empty {
        /// Which.
        path: String,
    },
    /// A document that is not YAML or JSON.
    #[error("{origin}: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What the parser says.
        message: String,
    },
    /// A field that cannot be taken.
    #[error("{origin}: {problem}")]
    Field {
        /// Where.
        origin: Origin,
        /// What is wrong.
        problem: Problem,
        /// What it can make a difference to.
        touches: Touches,
    },
}

impl ManifestError {
    /// What it can make a difference to.
    pub fn touches(&self) -> &Touches {
        match self {
            Self::Field { touches, .. } => touches,
            Self::Read { .. } | Self::Empty { .. } | Self::Syntax { .. } => &Touches::Everything,
        }
    }
}

/// Something to be known about manifests, which refuses nothing.
#[derive(Debug)]
pub enum Remark {
    /// An object that takes no part cannot be read.
    PassedOver(ManifestError),
    /// A file that makes manifests once it is filled in.
    Template {
        /// Which.
        file: String,
    },
    /// A file in a folder that holds something else than objects.
    NoObject {
        /// Which.
        file: String,
    },
    /// A file that says how others are to be changed, which is not done.
    Kustomization {
        /// Which.
        file: String,
    },
    /// A key is in a map twice, of which the last one counts.
    Repeated {
        /// Where.
        origin: Origin,
        /// Which.
        key: String,
        /// 1-based line where it is again.
        again: usize,
    },
}

impl PartialEq for Remark {
    /// One of a kind is enough for a file.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Template { file: a }, Self::Template { file: b })
            | (Self::NoObject { file: a }, Self::NoObject { file: b })
            | (Self::Kustomization { file: a }, Self::Kustomization { file: b }) => a == b,
            _ => false,
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PassedOver(error) => write!(f, "passed over: {error}"),
            Self::Template { file } => write!(
                f,
                "passed over: {file}: a template with {{{{ in it; `helm template` prints the manifests \
                 that it makes"
            ),
            Self::NoObject { file } => {
                write!(f, "passed over: {file}: no apiVersion and kind: not an object of the API")
            }
            Self::Kustomization { file } => write!(
                f,
                "passed over: {file}: what it changes is not done to the manifests; `kubectl \
                 kustomize` prints them as they are applied"
            ),
            Self::Repeated { origin, key, again } => {
                write!(f, "{origin}: {key} is there again in line {again}: the last one counts")
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yaml(error) => error.fmt(f),
            Self::Json(message) => write!(f, "not JSON: {message}"),
            Self::Read(error) => error.fmt(f),
        }
    }
}
