//! Signatures in the form of Sigstore's bundles (github.com/sigstore/protobuf-specs), with a key of
//! one's own: a DSSE envelope (github.com/secure-systems-lab/dsse) around an in-toto statement, as
//! cosign 3 writes it.

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use p256::{
    ecdsa::{
        Signature, SigningKey, VerifyingKey,
        signature::{Signer as _, Verifier as _},
    },
    pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePublicKey as _},
};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::fault::Fault;

/// The media type of a bundle, and the type of what refers to an image with one.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// The type of what an envelope holds.
pub const PAYLOAD: &str = "application/vnd.in-toto+json";

/// What a signature is made with.
pub struct Private(SigningKey);

/// What a signature is checked with.
pub struct Public(VerifyingKey);

impl Private {
    /// Reads an ECDSA key on P-256.
    ///
    /// # Errors
    /// That it is in another form or of another kind.
    pub fn from_pem(pem: &str) -> Result<Self> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(anyhow::Error::msg).context(
            "expected a private key for ECDSA on P-256 as PKCS#8 in PEM, not encrypted, such as \
             `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256` makes",
        )
    }

    /// The key that checks what this one signs.
    pub fn public(&self) -> Public {
        Public(*self.0.verifying_key())
    }

    /// Signs a statement. The same statement makes the same bytes: the signature takes no chance
    /// (RFC 6979).
    ///
    /// # Errors
    /// That the key cannot be encoded.
    pub fn bundle(&self, statement: &[u8]) -> Result<Vec<u8>> {
        let signature: Signature = self.0.sign(&encoded(PAYLOAD, statement));
        let bundle = json!({
            "dsseEnvelope": {
                "payload": STANDARD.encode(statement),
                "payloadType": PAYLOAD,
                "signatures": [{"sig": STANDARD.encode(signature.to_der().as_bytes())}],
            },
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": self.public().hint()?}},
        });
        Ok(bundle.to_string().into_bytes())
    }
}

impl Public {
    /// Reads the public half.
    ///
    /// # Errors
    /// That it is in another form or of another kind.
    pub fn from_pem(pem: &str) -> Result<Self> {
        VerifyingKey::from_public_key_pem(pem).map(Self).map_err(anyhow::Error::msg).context(
            "expected a public key for ECDSA on P-256 in PEM, such as `openssl pkey -in KEY -pubout` \
             prints",
        )
    }

    /// By which bundles name a key: the hash of it.
    ///
    /// # Errors
    /// That the key cannot be encoded.
    pub fn hint(&self) -> Result<String> {
        let der =
            self.0.to_public_key_der().map_err(anyhow::Error::msg).context("encode the key")?;
        Ok(STANDARD.encode(Sha256::digest(der.as_bytes())))
    }

    /// The statement in a bundle, if this key signed it.
    ///
    /// # Errors
    /// What is wrong with the bundle, its key or its signature.
    pub fn open(&self, what: &'static str, bundle: &[u8]) -> Result<Vec<u8>, Fault> {
        let form = |why: &dyn ToString| {
            Fault::form(&format!("the signature of the {what}"), &why.to_string())
        };
        let bundle: Bundle = serde_json::from_slice(bundle).map_err(|error| form(&error))?;
        let expected = self.hint().map_err(|error| form(&error))?;
        let found = bundle.verification_material.public_key.hint;
        if found != expected {
            return Err(Fault::Key { what, expected, found });
        }
        let envelope = bundle.dsse_envelope;
        let [signature] = envelope.signatures.as_slice() else {
            let count = envelope.signatures.len();
            return Err(Fault::Several { what: format!("signatures of the {what}"), count });
        };
        let decode = |text: &str| STANDARD.decode(text).map_err(|error| form(&error));
        let payload = decode(&envelope.payload)?;
        let signature =
            Signature::from_der(&decode(&signature.sig)?).map_err(|error| form(&error))?;
        let signed = encoded(&envelope.payload_type, &payload);
        self.0.verify(&signed, &signature).map_err(|_| Fault::Signature { what })?;
        if envelope.payload_type != PAYLOAD {
            let (expected, found) = (PAYLOAD.to_owned(), envelope.payload_type);
            return Err(Fault::Statement { what, field: "the type", expected, found });
        }
        Ok(payload)
    }
}

/// What is signed of a payload: DSSE's pre-authentication encoding, so that its type is signed too.
fn encoded(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    dsse_envelope: Envelope,
    verification_material: Material,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(Deserialize)]
struct Signed {
    sig: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    public_key: Hint,
}

#[derive(Deserialize)]
struct Hint {
    hint: String,
}
