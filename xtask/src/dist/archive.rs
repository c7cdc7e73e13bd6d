//! A folder in an archive. The same files make the same bytes: no time of day and no owner gets in.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// Writes files, each with its mode, into a folder of this name.
pub(super) fn write(archive: &Path, folder: &str, files: &[(PathBuf, u32)]) -> Result<()> {
    let out = BufWriter::new(File::create(archive)?);
    let mut tar = Builder::new(GzBuilder::new().write(out, Compression::best()));
    let mut header = header(EntryType::Directory, 0o755);
    tar.append_data(&mut header, format!("{folder}/"), std::io::empty())?;
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
