//! Holds an archive against a key: that it is one image, whole, with the SBOM and the provenance that
//! who has the key signed, and nothing beside them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
};

use flate2::read::GzDecoder;
use oci_spec::image::{Descriptor, ImageManifest};
use serde_json::Value;

use crate::{
    attach::{BUNDLED_TYPE, NAME, TAG, name},
    fault::Fault,
    layout::{Layout, SIZE_MAX, parse, path, sha256},
    sbom,
    sign::{BUNDLE, PAYLOAD, Public},
    statement::{PROVENANCE, SBOM, SIGNED, STATEMENT, Statement},
};

/// What an archive of ours has beside blobs.
const FILES: [&str; 3] = ["index.json", "manifest.json", "oci-layout"];
/// What Docker reads.
const DOCKER: &str = "manifest.json";
/// Where the program is in the image.
const PROGRAM: &str = "whydrop";

/// The image's own signature, and those of what lies beside it, as faults name them.
const IMAGE: &str = "image";
const BOM: &str = "SBOM";
const MADE: &str = "provenance";

/// Verifies all, in the order in which one rests on the other, and returns what was found to hold, a
/// line each.
///
/// # Errors
/// The first thing that is wrong.
pub fn verify(archive: &[u8], key: &Public) -> Result<Vec<String>, Fault> {
    let layout = Layout::read(archive)?;
    let (image, manifest) = layout.image()?;
    let mut held = vec![format!("image: {}, {}", name(&image), image.digest())];

    let files = files(&layout, &manifest)?;
    docker(&layout, &image, &manifest)?;
    let referrers = Referrers::read(&layout, &image)?;
    let blobs = nothing_else(&layout, &image, &manifest)?;
    held.push(format!(
        "whole: {blobs} blobs have the digests and sizes that are stated of them, Docker's and \
         containerd's index name the same image, and nothing else is in the archive"
    ));

    let about = About { key, image: &image };
    about.signed(IMAGE, referrers.bundle(IMAGE, SIGNED)?, SIGNED)?;
    let hint = key.hint().map_err(|error| Fault::form("the key", &error))?;
    held.push(format!("signature: of this image under this name, by the key {hint}"));

    held.push(bom(&about, &referrers, &files)?);
    held.push(provenance(&about, &referrers)?);
    Ok(held)
}

/// The signed SBOM is the one beside the image, and of the program in it.
fn bom(
    about: &About<'_>,
    referrers: &Referrers,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<String, Fault> {
    let statement = about.signed(BOM, referrers.bundle(BOM, SBOM)?, SBOM)?;
    let beside: Value = parse(BOM, referrers.one(BOM, sbom::MEDIA_TYPE)?)?;
    if beside != statement.predicate {
        return Err(Fault::Swapped(BOM));
    }
    let program = files.get(PROGRAM).ok_or_else(|| Fault::Missing(PROGRAM.to_owned()))?;
    let stated = beside.pointer("/metadata/component/hashes/0/content").and_then(Value::as_str);
    let (stated, found) = (stated.unwrap_or("none").to_owned(), sha256(program));
    if stated != found {
        return Err(Fault::Program { stated, found });
    }
    let count = beside["components"].as_array().map_or(0, Vec::len);
    Ok(format!(
        "SBOM: signed by the same key, {count} components of the program in the image, whose SHA-256 \
         is {found}"
    ))
}

/// The signed provenance is the one beside the image.
fn provenance(about: &About<'_>, referrers: &Referrers) -> Result<String, Fault> {
    let bundle = referrers.bundle(MADE, PROVENANCE)?;
    let statement = about.signed(MADE, bundle, PROVENANCE)?;
    let beside: Statement = parse(MADE, referrers.one(MADE, PAYLOAD)?)?;
    let signed = serde_json::to_value(&statement).map_err(|error| Fault::form(MADE, &error))?;
    let beside = serde_json::to_value(&beside).map_err(|error| Fault::form(MADE, &error))?;
    if beside != signed {
        return Err(Fault::Swapped(MADE));
    }
    let source = &statement.predicate["buildDefinition"]["resolvedDependencies"][0];
    let said = source["uri"].as_str().unwrap_or("an unknown source");
    let changed = source["annotations"]["changed"].as_str();
    let changed = changed.map(|words| format!(" ({words})")).unwrap_or_default();
    Ok(format!("provenance: signed by the same key, made from {said}{changed}"))
}

/// What signatures are held against.
struct About<'a> {
    key: &'a Public,
    image: &'a Descriptor,
}

impl About<'_> {
    /// The statement in a bundle, which must be about this image under its name.
    fn signed(
        &self,
        what: &'static str,
        bundle: &[u8],
        predicate_type: &str,
    ) -> Result<Statement, Fault> {
        let payload = self.key.open(what, bundle)?;
        let statement: Statement = parse(&format!("the statement about the {what}"), &payload)?;
        let subject = statement.subject.first();
        let digest = subject.and_then(|subject| subject.digest.get("sha256"));
        let fields = [
            ("_type", STATEMENT, statement.kind.as_str()),
            ("predicateType", predicate_type, statement.predicate_type.as_str()),
            ("digest", self.image.digest().digest(), digest.map_or("", String::as_str)),
            ("name", name(self.image), subject.map_or("", |subject| subject.name.as_str())),
        ];
        for (field, expected, found) in fields {
            if expected != found {
                let (expected, found) = (expected.to_owned(), found.to_owned());
                return Err(Fault::Statement { what, field, expected, found });
            }
        }
        match statement.subject.len() {
            1 => Ok(statement),
            count => Err(Fault::Several { what: format!("subjects of the {what}"), count }),
        }
    }
}

/// What refers to the image.
struct Referrers(Vec<Attached>);

struct Attached {
    artifact_type: String,
    /// What a bundle says that it holds; what is in it is held against that.
    bundled: String,
    bytes: Vec<u8>,
}

impl Referrers {
    fn read(layout: &Layout, image: &Descriptor) -> Result<Self, Fault> {
        let mut all = Vec::new();
        for (descriptor, manifest) in layout.referrers()? {
            let artifact_type = manifest.artifact_type().as_ref().map(ToString::to_string);
            let artifact_type = artifact_type.unwrap_or_default();
            let subject = manifest.subject().as_ref().map(|subject| subject.digest().to_string());
            let (expected, found) = (image.digest().to_string(), subject.unwrap_or_default());
            if expected != found {
                let what = format!("{artifact_type} ({})", path(&descriptor));
                return Err(Fault::Subject { what, expected, found });
            }
            layout.blob(manifest.config())?;
            let [layer] = manifest.layers().as_slice() else {
                let count = manifest.layers().len();
                return Err(Fault::Several { what: format!("layers of {artifact_type}"), count });
            };
            let annotations = manifest.annotations().as_ref();
            let bundled = annotations.and_then(|all| all.get(BUNDLED_TYPE).cloned());
            let bytes = layout.blob(layer)?.to_owned();
            all.push(Attached { artifact_type, bundled: bundled.unwrap_or_default(), bytes });
        }
        let known = [BUNDLE, PAYLOAD, sbom::MEDIA_TYPE];
        match all.iter().find(|one| !known.contains(&one.artifact_type.as_str())) {
            Some(other) => Err(Fault::Stray(other.artifact_type.clone())),
            None => Ok(Self(all)),
        }
    }

    /// The one bundle of a kind.
    fn bundle(&self, what: &'static str, predicate_type: &str) -> Result<&[u8], Fault> {
        let is_it = |one: &&Attached| one.artifact_type == BUNDLE && one.bundled == predicate_type;
        self.only(what, is_it)?.ok_or(Fault::Unsigned(what))
    }

    /// The one document of a type.
    fn one(&self, what: &'static str, artifact_type: &str) -> Result<&[u8], Fault> {
        let one = self.only(what, |one| one.artifact_type == artifact_type)?;
        one.ok_or_else(|| Fault::Missing(format!("the {what}")))
    }

    fn only(&self, what: &str, is_it: impl Fn(&&Attached) -> bool) -> Result<Option<&[u8]>, Fault> {
        let found: Vec<_> = self.0.iter().filter(is_it).collect();
        match found.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(&one.bytes)),
            more => {
                let what = format!("documents or signatures of the {what}");
                Err(Fault::Several { what, count: more.len() })
            }
        }
    }
}

/// The files of the image, whose layers are what its configuration says.
fn files(layout: &Layout, manifest: &ImageManifest) -> Result<BTreeMap<String, Vec<u8>>, Fault> {
    let config: Value = parse("the configuration", layout.blob(manifest.config())?)?;
    let stated = config["rootfs"]["diff_ids"].as_array().cloned().unwrap_or_default();
    let mut files = BTreeMap::new();
    let mut found = Vec::new();
    for layer in manifest.layers() {
        let mut tar = Vec::new();
        let packed = layout.blob(layer)?;
        let mut unpacked = GzDecoder::new(packed).take(SIZE_MAX);
        unpacked.read_to_end(&mut tar).map_err(|error| Fault::form(&path(layer), &error))?;
        found.push(Value::from(format!("sha256:{}", sha256(&tar))));
        let unpacked = Layout::read(tar.as_slice())?;
        for path in unpacked.paths() {
            files.insert(path.to_owned(), unpacked.file(path)?.to_owned());
        }
    }
    if stated != found {
        let what = "what the layers unpack to".to_owned();
        let text = |digests: Vec<Value>| Value::from(digests).to_string();
        return Err(Fault::Digest { what, expected: text(stated), found: text(found) });
    }
    Ok(files)
}

/// Docker loads the same: it goes by an index of its own.
fn docker(layout: &Layout, image: &Descriptor, manifest: &ImageManifest) -> Result<(), Fault> {
    let docker: Value = parse(DOCKER, layout.file(DOCKER)?)?;
    let layers: Vec<Value> = manifest.layers().iter().map(|layer| path(layer).into()).collect();
    let expected = [
        ("Config", Value::from(path(manifest.config()))),
        ("Layers", Value::from(layers)),
        ("RepoTags", Value::from(vec![name(image)])),
    ];
    if docker.as_array().is_none_or(|images| images.len() != 1) {
        return Err(Fault::Docker("number of images"));
    }
    let other = expected.into_iter().find(|(field, expected)| docker[0][field] != *expected);
    other.map_or(Ok(()), |(field, _)| Err(Fault::Docker(field)))
}

/// There is nothing that a reader might take up and that no digest leads to. Returns how many blobs
/// there are.
fn nothing_else(
    layout: &Layout,
    image: &Descriptor,
    manifest: &ImageManifest,
) -> Result<usize, Fault> {
    let mut known: BTreeSet<String> = FILES.map(str::to_owned).into();
    let mut add = |descriptor: &Descriptor, manifest: &ImageManifest| {
        known.extend([path(descriptor), path(manifest.config())]);
        known.extend(manifest.layers().iter().map(path));
    };
    add(image, manifest);
    let tag =
        image.annotations().as_ref().and_then(|all| all.get(TAG).cloned()).unwrap_or_default();
    if name(image).rsplit_once(':').is_none_or(|(_, named)| named != tag) {
        return Err(Fault::Stray(format!("the tag {tag}")));
    }
    for (descriptor, manifest) in layout.referrers()? {
        add(&descriptor, &manifest);
        // containerd would import it under that name.
        let annotations = descriptor.annotations().as_ref();
        if annotations.is_some_and(|all| [NAME, TAG].iter().any(|name| all.contains_key(*name))) {
            return Err(Fault::Stray(format!("a name for {}", path(&descriptor))));
        }
    }
    match layout.paths().find(|path| !known.contains(*path)) {
        Some(stray) => Err(Fault::Stray(stray.to_owned())),
        None => Ok(known.len() - FILES.len()),
    }
}
