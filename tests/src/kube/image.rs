//! Images for the pods of a lab, written as archives: no registry, no daemon, no build tool.

use std::{
    fmt::Write as _,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::debian;

/// A file of an image.
#[derive(Debug, Clone)]
pub enum Content {
    /// A program or another file of this machine, executable.
    From(PathBuf),
    /// A text.
    Text(String),
    /// A symbolic link to this.
    Link(String),
    /// An empty folder, with its permissions.
    Folder(u32),
}

/// What an image holds, and what a container of it starts with.
#[derive(Debug, Clone, Default)]
pub struct Image {
    /// `localhost/NAME:TAG`, as pods name it; they set `imagePullPolicy: Never`.
    pub name: String,
    /// The program that is run.
    pub entrypoint: Vec<String>,
    /// Its arguments, unless the pod names others.
    pub arguments: Vec<String>,
    /// Paths without the leading `/`, a folder before what is in it; the folders of a file need
    /// not be named.
    pub files: Vec<(String, Content)>,
}

impl Image {
    /// Writes it as `docker save` would, which containerd imports.
    ///
    /// The same image makes the same bytes: no time of day and no owner gets in.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let layer = self.layer()?;
        let layer_digest = digest(&layer);
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Cmd": self.arguments,
                "Env": ["PATH=/bin"],
            },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer_digest}")] },
        });
        let config = config.to_string().into_bytes();
        let config_name = format!("{}.json", digest(&config));
        let layer_name = format!("{layer_digest}.tar");
        let manifest =
            json!([{ "Config": config_name, "RepoTags": [self.name], "Layers": [layer_name] }]);
        let file = File::create(archive).with_context(|| archive.display().to_string())?;
        let mut builder = Builder::new(file);
        append(&mut builder, &config_name, 0o644, &config)?;
        append(&mut builder, &layer_name, 0o644, &layer)?;
        append(&mut builder, "manifest.json", 0o644, manifest.to_string().as_bytes())?;
        builder.into_inner()?.sync_all()?;
        Ok(())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        for (path, content) in &self.files {
            match content {
                Content::From(source) => {
                    let bytes = fs::read(source).with_context(|| source.display().to_string())?;
                    append(&mut layer, path, 0o755, &bytes)?;
                }
                Content::Text(text) => append(&mut layer, path, 0o644, text.as_bytes())?,
                Content::Link(target) => {
                    let mut header = header(EntryType::Symlink, 0o777, 0)?;
                    layer.append_link(&mut header, path, target)?;
                }
                Content::Folder(mode) => {
                    let mut header = header(EntryType::Directory, *mode, 0)?;
                    layer.append_data(&mut header, path, std::io::empty())?;
                }
            }
        }
        Ok(layer.into_inner()?)
    }
}

/// A shell and what goes with it, from Debian's static busybox: `sh`, `nc`, `wget`, `httpd` ...
///
/// Beware of `wget -T`, which crashes in Debian's: bound it with `timeout`.
pub fn busybox(name: &str) -> Result<Image> {
    /// What tests and people call in a pod. Busybox knows itself by any of its names.
    const APPLETS: &[&str] = &[
        "cat", "echo", "env", "grep", "head", "hostname", "httpd", "id", "ip", "ls", "mkdir", "nc",
        "netstat", "nslookup", "ping", "printf", "ps", "rm", "seq", "sh", "sleep", "tail", "tee",
        "test", "timeout", "touch", "true", "wget",
    ];

    let mut files = vec![
        ("bin/busybox".into(), Content::From(debian::busybox()?)),
        ("etc/passwd".into(), Content::Text("root:x:0:0:root:/root:/bin/sh\n".into())),
        ("etc/group".into(), Content::Text("root:x:0:\n".into())),
        ("tmp".into(), Content::Folder(0o1777)),
        ("root".into(), Content::Folder(0o700)),
        // For `httpd -f -p 8080 -h /www`, and for probes of it.
        ("www/healthz".into(), Content::Text("ok\n".into())),
    ];
    let link = |applet: &&str| (format!("bin/{applet}"), Content::Link("busybox".into()));
    files.extend(APPLETS.iter().map(link));
    Ok(Image { name: name.into(), arguments: vec!["/bin/sh".into()], files, ..Image::default() })
}

/// What holds a pod's namespaces: it sleeps. containerd kills it, so it need not listen.
pub(super) fn pause(name: &str) -> Result<Image> {
    Ok(Image {
        name: name.into(),
        entrypoint: ["/bin/busybox", "sleep", "infinity"].map(str::to_owned).into(),
        files: vec![("bin/busybox".into(), Content::From(debian::busybox()?))],
        ..Image::default()
    })
}

/// As Go, and so the image, calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn header(kind: EntryType, mode: u32, size: usize) -> Result<Header> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size.try_into()?);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    Ok(header)
}

fn append(
    archive: &mut Builder<impl std::io::Write>,
    path: &str,
    mode: u32,
    bytes: &[u8],
) -> Result<()> {
    let mut header = header(EntryType::Regular, mode, bytes.len())?;
    Ok(archive.append_data(&mut header, path, bytes)?)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
