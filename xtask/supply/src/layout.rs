//! An OCI layout in one archive (github.com/opencontainers/image-spec, image-layout.md), read whole,
//! with what refers to its image: manifests that have it as their `subject`.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Archive, Builder, Header};

use crate::fault::Fault;

/// How large an archive, and what is packed in it, may be: it is read into memory, and one that
/// somebody else made may unpack to anything. The agent's is a tenth of it.
pub const SIZE_MAX: u64 = 256 << 20;

/// The media type of manifests.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What the specification has for a configuration that says nothing.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const INDEX: &str = "index.json";

/// The archive.
pub struct Layout {
    /// In the archive's order.
    files: Vec<File>,
}

struct File {
    path: String,
    header: Header,
    bytes: Vec<u8>,
}

/// What refers to an image.
pub struct Referrer {
    /// What kind of thing it is.
    pub artifact_type: String,
    /// What is said of it in the index, too.
    pub annotations: BTreeMap<String, String>,
    /// Of [`Self::bytes`].
    pub media_type: String,
    /// The thing itself.
    pub bytes: Vec<u8>,
}

impl Layout {
    /// Reads an archive.
    ///
    /// # Errors
    /// That it is none, is larger than [`SIZE_MAX`], or holds a path twice: which of the two counts
    /// is up to who reads it.
    pub fn read(archive: impl Read) -> Result<Self, Fault> {
        let mut archive = Archive::new(archive.take(SIZE_MAX));
        let mut files: Vec<File> = Vec::new();
        for entry in archive.entries().map_err(Fault::Archive)? {
            let mut entry = entry.map_err(Fault::Archive)?;
            let path = entry.path().map_err(Fault::Archive)?.to_string_lossy().into_owned();
            if files.iter().any(|file| file.path == path) {
                return Err(Fault::Twice(path));
            }
            let header = entry.header().clone();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(Fault::Archive)?;
            files.push(File { path, header, bytes });
        }
        Ok(Self { files })
    }

    /// Writes the archive as it was read, with what was added at its end.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let mut archive = Builder::new(out);
        for File { path, header, bytes } in &self.files {
            let mut header = header.clone();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, path, bytes.as_slice())?;
        }
        archive.into_inner()?.flush()
    }

    /// The paths of all files, without the folders.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| file.path.as_str()).filter(|path| !path.ends_with('/'))
    }

    /// A file's bytes.
    pub fn file(&self, path: &str) -> Result<&[u8], Fault> {
        let file = self.files.iter().find(|file| file.path == path);
        Ok(&file.ok_or_else(|| Fault::Missing(path.to_owned()))?.bytes)
    }

    /// What the archive says it has.
    pub fn index(&self) -> Result<ImageIndex, Fault> {
        ImageIndex::from_reader(self.file(INDEX)?).map_err(|error| Fault::form(INDEX, &error))
    }

    /// The bytes that a descriptor describes, held against its digest and size.
    pub fn blob(&self, descriptor: &Descriptor) -> Result<&[u8], Fault> {
        let path = path(descriptor);
        let bytes = self.file(&path)?;
        let found = format!("sha256:{}", sha256(bytes));
        let expected = descriptor.digest().to_string();
        if found != expected {
            return Err(Fault::Digest { what: path, expected, found });
        }
        if descriptor.size() != bytes.len() as u64 {
            let (expected, found) = (descriptor.size(), bytes.len() as u64);
            return Err(Fault::Size { what: path, expected, found });
        }
        Ok(bytes)
    }

    /// The manifest that a descriptor describes.
    pub fn manifest(&self, descriptor: &Descriptor) -> Result<ImageManifest, Fault> {
        let bytes = self.blob(descriptor)?;
        ImageManifest::from_reader(bytes).map_err(|error| Fault::form(&path(descriptor), &error))
    }

    /// The one image: the manifest that refers to nothing.
    pub fn image(&self) -> Result<(Descriptor, ImageManifest), Fault> {
        let mut images = Vec::new();
        for descriptor in self.index()?.manifests() {
            let manifest = self.manifest(descriptor)?;
            if manifest.subject().is_none() {
                images.push((descriptor.clone(), manifest));
            }
        }
        let count = images.len();
        images.pop().filter(|_| count == 1).ok_or(Fault::Images(count))
    }

    /// What refers to something, in the index's order.
    pub fn referrers(&self) -> Result<Vec<(Descriptor, ImageManifest)>, Fault> {
        let mut referrers = Vec::new();
        for descriptor in self.index()?.manifests() {
            let manifest = self.manifest(descriptor)?;
            if manifest.subject().is_some() {
                referrers.push((descriptor.clone(), manifest));
            }
        }
        Ok(referrers)
    }

    /// Adds what refers to the image, as the distribution specification wants it of a registry: a
    /// manifest with a subject, listed with its type and annotations.
    ///
    /// # Errors
    /// That there is not one image.
    pub fn refer(&mut self, referrer: Referrer) -> Result<(), Fault> {
        let (image, _) = self.image()?;
        let config = self.add(b"{}".to_vec(), EMPTY)?;
        let layer = self.add(referrer.bytes, &referrer.media_type)?;
        // Fields in alphabetical order, however serde_json keeps them: the same input makes the same
        // bytes.
        let manifest = json!({
            "annotations": referrer.annotations,
            "artifactType": referrer.artifact_type,
            "config": config,
            "layers": [layer],
            "mediaType": MANIFEST,
            "schemaVersion": 2,
            "subject": {
                "digest": image.digest().to_string(),
                "mediaType": MANIFEST,
                "size": image.size(),
            },
        });
        let manifest = self.add(manifest.to_string().into_bytes(), MANIFEST)?;
        let entry = json!({
            "annotations": referrer.annotations,
            "artifactType": referrer.artifact_type,
            "digest": manifest["digest"],
            "mediaType": MANIFEST,
            "size": manifest["size"],
        });
        let mut index: Value = parse(INDEX, self.file(INDEX)?)?;
        if let Some(manifests) = index["manifests"].as_array_mut() {
            manifests.push(entry);
        }
        self.replace(INDEX, index.to_string().into_bytes())
    }

    /// Adds a blob where it is not there yet, and returns its descriptor.
    fn add(&mut self, bytes: Vec<u8>, media_type: &str) -> Result<Value, Fault> {
        let digest = sha256(&bytes);
        let descriptor = json!({
            "digest": format!("sha256:{digest}"),
            "mediaType": media_type,
            "size": bytes.len(),
        });
        let path = format!("blobs/sha256/{digest}");
        if self.file(&path).is_err() {
            // Of the same owner and time as the rest.
            let like = self.files.iter().find(|file| file.path == INDEX);
            let header = like.ok_or_else(|| Fault::Missing(INDEX.to_owned()))?.header.clone();
            self.files.push(File { path, header, bytes });
        }
        Ok(descriptor)
    }

    /// Puts other bytes in a file's place.
    pub fn replace(&mut self, path: &str, bytes: Vec<u8>) -> Result<(), Fault> {
        let file = self.files.iter_mut().find(|file| file.path == path);
        file.ok_or_else(|| Fault::Missing(path.to_owned()))?.bytes = bytes;
        Ok(())
    }
}

/// Where the bytes of a descriptor are.
pub fn path(descriptor: &Descriptor) -> String {
    let digest = descriptor.digest();
    format!("blobs/{}/{}", digest.algorithm(), digest.digest())
}

/// Reads JSON of a part of the archive.
pub fn parse<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Fault> {
    serde_json::from_slice(bytes).map_err(|error| Fault::form(what, &error))
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
