//! An image as one file, in the two layouts that engines read: containerd the OCI layout
//! (github.com/opencontainers/image-spec, image-layout.md), Docker also its own `manifest.json`,
//! which names the same blobs.
//!
//! The same image makes the same bytes: no time of day, no owner and no order of a folder gets in.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// What an image holds, and what it says of itself.
pub(crate) struct Image {
    /// `REPOSITORY:TAG`, the name that it has once it is imported.
    pub(crate) name: String,
    /// As Go calls it: `amd64`, `arm64`.
    pub(crate) architecture: &'static str,
    /// The files in their order, a folder before what is in it.
    pub(crate) files: Vec<File>,
    /// The file that is run, and for its arguments whatever follows the image's name.
    pub(crate) entrypoint: String,
    /// `UID:GID`.
    pub(crate) user: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// The only time that the image and its files say.
    pub(crate) created: jiff::Timestamp,
}

/// A file or a folder of the image.
pub(crate) struct File {
    /// Without the leading `/`.
    pub(crate) path: String,
    pub(crate) content: Content,
}

/// What is at a path.
pub(crate) enum Content {
    Folder,
    Text(Vec<u8>),
    Program(Vec<u8>),
}

/// A part of an image, stored under its hash.
struct Blob {
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { digest: sha256(&bytes), bytes }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({
            "digest": format!("sha256:{}", self.digest),
            "mediaType": media_type,
            "size": self.bytes.len(),
        })
    }
}

// Objects have their fields in alphabetical order here: that is how they come out whichever map
// serde_json was built with.
impl Image {
    /// Writes the archive, and returns the digest by which registries would know the image.
    pub(crate) fn write(&self, out: impl Write) -> io::Result<String> {
        let tar = self.layer()?;
        let diff = sha256(&tar);
        let layer = Blob::new(gzip(&tar)?);
        let config = Blob::json(&self.config(&diff));
        let manifest = Blob::json(&json!({
            "annotations": self.labels,
            "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar+gzip")],
            "mediaType": MANIFEST,
            "schemaVersion": 2,
        }));
        let mut entry = manifest.descriptor(MANIFEST);
        let (_, tag) = self.name.rsplit_once(':').unwrap_or_default();
        entry["annotations"] = json!({
            // The name in containerd; the specification has room only for the tag.
            "io.containerd.image.name": self.name,
            "org.opencontainers.image.ref.name": tag,
        });
        entry["platform"] = json!({"architecture": self.architecture, "os": "linux"});
        let index = json!({
            "manifests": [entry],
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "schemaVersion": 2,
        });
        let docker = json!([{
            "Config": config.path(),
            "Layers": [layer.path()],
            "RepoTags": [self.name],
        }]);

        let mut archive = Builder::new(out);
        let layout = json!({"imageLayoutVersion": "1.0.0"});
        for (name, value) in
            [("oci-layout", layout), ("index.json", index), ("manifest.json", docker)]
        {
            self.append(&mut archive, name, 0o644, value.to_string().as_bytes())?;
        }
        for folder in ["blobs/", "blobs/sha256/"] {
            self.append_folder(&mut archive, folder)?;
        }
        for blob in [&manifest, &config, &layer] {
            self.append(&mut archive, &blob.path(), 0o644, &blob.bytes)?;
        }
        archive.into_inner()?.flush()?;
        Ok(format!("sha256:{}", manifest.digest))
    }

    /// The file system.
    fn layer(&self) -> io::Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        for File { path, content } in &self.files {
            match content {
                Content::Folder => self.append_folder(&mut layer, path)?,
                Content::Text(bytes) => self.append(&mut layer, path, 0o444, bytes)?,
                Content::Program(bytes) => self.append(&mut layer, path, 0o555, bytes)?,
            }
        }
        layer.into_inner()
    }

    /// What a container of the image starts with.
    fn config(&self, diff: &str) -> Value {
        let created = self.created.to_string();
        json!({
            "architecture": self.architecture,
            "config": {
                "Entrypoint": [self.entrypoint],
                "Labels": self.labels,
                "User": self.user,
                "WorkingDir": "/",
            },
            "created": created,
            "history": [{"created": created, "created_by": "cargo xtask image"}],
            "os": "linux",
            "rootfs": {"diff_ids": [format!("sha256:{diff}")], "type": "layers"},
        })
    }

    fn append(
        &self,
        archive: &mut Builder<impl Write>,
        path: &str,
        mode: u32,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mut header = self.header(EntryType::Regular, mode);
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, path, bytes)
    }

    fn append_folder(&self, archive: &mut Builder<impl Write>, path: &str) -> io::Result<()> {
        let mut header = self.header(EntryType::Directory, 0o755);
        header.set_size(0);
        archive.append_data(&mut header, path, io::empty())
    }

    /// Root's, and of the one time; `append_data` adds path and checksum.
    fn header(&self, kind: EntryType, mode: u32) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.created.as_second().try_into().unwrap_or_default());
        header
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    // Its header would hold a name and a time, and is empty by default.
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
