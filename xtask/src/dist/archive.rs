//! A folder in an archive. The same files make the same bytes: no time of day and no owner gets in.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// Writes files, each with its mode, into a folder of this name.
pub(super) fn write(out: impl Write, folder: &str, files: &[(PathBuf, u32)]) -> Result<()> {
    let mut tar = Builder::new(GzBuilder::new().write(out, Compression::best()));
    let mut header = header(EntryType::Directory, 0o755);
    tar.append_data(&mut header, format!("{folder}/"), io::empty())?;
    for (path, mode) in files {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let name = path.file_name().context("a file has a name")?.to_string_lossy();
        let mut header = self::header(EntryType::Regular, *mode);
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, format!("{folder}/{name}"), bytes.as_slice())?;
    }
    Ok(tar.into_inner()?.finish()?.flush()?)
}

fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;
    use tar::Archive;

    use super::*;

    #[test]
    fn the_same_files_make_the_same_archive() {
        let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let make = || {
            let mut bytes = Vec::new();
            write(&mut bytes, "some", &[(manifest.clone(), 0o755)]).expect("an archive");
            bytes
        };
        let bytes = make();
        assert_eq!(bytes, make());
        let mut archive = Archive::new(GzDecoder::new(bytes.as_slice()));
        let entries = archive.entries().expect("entries").map(|entry| {
            let entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            (path, entry.header().mode().expect("a mode"), entry.header().mtime().expect("a time"))
        });
        let found: Vec<_> = entries.collect();
        let expected = [("some/", 0o755, 0), ("some/Cargo.toml", 0o755, 0)];
        assert_eq!(found, expected.map(|(path, mode, time)| (path.to_owned(), mode, time)));
    }
}
