//! The folder where a cluster keeps its state.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// What the folders are called first, so that what a killed run left is known as ours.
const PREFIX: &str = "whydrop-lab-";

/// A folder; removed when dropped unless somebody named it.
#[derive(Debug)]
pub(super) struct State {
    folder: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl State {
    /// The folder that was named, or one that goes with its cluster.
    pub(super) fn new(named: Option<&Path>) -> Result<Self> {
        if let Some(folder) = named {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            return Ok(Self { folder: folder.to_owned(), _temporary: None });
        }
        sweep();
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let temporary = tempfile::Builder::new().prefix(&prefix).tempdir()?;
        Ok(Self { folder: temporary.path().to_owned(), _temporary: Some(temporary) })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Removes the folders of runs whose process is gone: one that was killed could not clean up.
fn sweep() {
    let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let rest = name.strip_prefix(PREFIX).unwrap_or_default();
        let process = rest.split('-').next().and_then(|word| word.parse::<u32>().ok());
        if let Some(process) = process
            && !Path::new("/proc").join(process.to_string()).exists()
        {
            // Best effort: two runs may sweep at once.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
