//! Puts SBOM, provenance and signatures beside an image.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use oci_spec::image::{Descriptor, ImageManifest};
use serde_json::{Value, json};

use crate::{
    layout::{Layout, Referrer},
    sbom,
    sign::{BUNDLE, PAYLOAD, Private},
    statement::{PROVENANCE, SBOM, SIGNED, Statement},
};

/// By which an index names an image for containerd.
pub const NAME: &str = "io.containerd.image.name";
/// The same, where there is room only for the tag.
pub const TAG: &str = "org.opencontainers.image.ref.name";
/// By which an image names the commit that it was made from.
const REVISION: &str = "org.opencontainers.image.revision";
/// By which what refers to an image with a statement names its kind: as BuildKit does, and as cosign
/// does of bundles.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// The same of a bundle.
pub const BUNDLED_TYPE: &str = "dev.sigstore.bundle.predicateType";
const BUNDLED_CONTENT: &str = "dev.sigstore.bundle.content";

/// What an image is called.
pub fn name(image: &Descriptor) -> &str {
    let annotations = image.annotations().as_ref();
    annotations.and_then(|all| all.get(NAME)).map_or("", String::as_str)
}

/// The commit that an image was made from, where nothing else went into it.
pub fn revision(image: &ImageManifest) -> Option<&str> {
    image.annotations().as_ref()?.get(REVISION).map(String::as_str)
}

/// Adds an SBOM and a provenance to the one image, and with a key its signature and theirs.
///
/// # Errors
/// That there is not one image, or that something refers to it already.
pub fn attach(
    layout: &mut Layout,
    sbom: &[u8],
    provenance: Value,
    key: Option<&Private>,
) -> Result<()> {
    ensure!(layout.referrers()?.is_empty(), "something is attached to this image already");
    let (image, _) = layout.image()?;
    let (name, digest) = (name(&image).to_owned(), image.digest().digest().to_owned());
    let statement = |predicate_type: &str, predicate: Value| {
        let statement = Statement::new(&name, &digest, predicate_type, predicate);
        serde_json::to_vec(&statement)
    };
    let made = statement(PROVENANCE, provenance)?;

    layout.refer(Referrer {
        artifact_type: sbom::MEDIA_TYPE.to_owned(),
        annotations: BTreeMap::new(),
        media_type: sbom::MEDIA_TYPE.to_owned(),
        bytes: sbom.to_owned(),
    })?;
    layout.refer(Referrer {
        artifact_type: PAYLOAD.to_owned(),
        annotations: annotations([(PREDICATE_TYPE, PROVENANCE)]),
        media_type: PAYLOAD.to_owned(),
        bytes: made.clone(),
    })?;
    let Some(key) = key else { return Ok(()) };
    let signed = [
        (SIGNED, statement(SIGNED, json!({}))?),
        (SBOM, statement(SBOM, serde_json::from_slice(sbom)?)?),
        (PROVENANCE, made),
    ];
    for (predicate_type, statement) in signed {
        layout.refer(Referrer {
            artifact_type: BUNDLE.to_owned(),
            annotations: annotations([
                (BUNDLED_CONTENT, "dsse-envelope"),
                (BUNDLED_TYPE, predicate_type),
            ]),
            media_type: BUNDLE.to_owned(),
            bytes: key.bundle(&statement)?,
        })?;
    }
    Ok(())
}

fn annotations<const N: usize>(all: [(&str, &str); N]) -> BTreeMap<String, String> {
    all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
