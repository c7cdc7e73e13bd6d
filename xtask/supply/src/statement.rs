//! Statements about an image, as in-toto has them (github.com/in-toto/attestation, spec/v1).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The type of every statement.
pub const STATEMENT: &str = "https://in-toto.io/Statement/v1";
/// Of a statement that an image is signed, and nothing else.
pub const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";
/// Of a statement with an SBOM in it.
pub const SBOM: &str = "https://cyclonedx.org/bom";
/// Of a statement about how an image was made.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";

/// What is said of an image.
#[derive(Debug, Serialize, Deserialize)]
pub struct Statement {
    /// [`STATEMENT`].
    #[serde(rename = "_type")]
    pub kind: String,
    /// What is said, whose form [`Self::predicate_type`] names.
    pub predicate: Value,
    /// What is said, as an address.
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What it is said of.
    pub subject: Vec<Subject>,
}

/// What a statement is about.
#[derive(Debug, Serialize, Deserialize)]
pub struct Subject {
    /// Hashes by their algorithm.
    pub digest: BTreeMap<String, String>,
    /// `REPOSITORY:TAG`.
    pub name: String,
}

impl Statement {
    /// Says something of an image.
    pub fn new(name: &str, digest: &str, predicate_type: &str, predicate: Value) -> Self {
        let digest = BTreeMap::from([("sha256".to_owned(), digest.to_owned())]);
        Self {
            kind: STATEMENT.to_owned(),
            predicate,
            predicate_type: predicate_type.to_owned(),
            subject: vec![Subject { digest, name: name.to_owned() }],
        }
    }
}
