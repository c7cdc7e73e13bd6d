//! The folder in which an agent keeps what the next one on this node goes on from.
//!
//! Whoever keeps something in it has a name of its own there. The folder may be lost, or be an older
//! agent's: nothing that is told may rest on it alone.

pub mod last_answers;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

/// Nobody but the agent's user reads who talked to whom.
const MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Written at the start, to see whether anything can be.
const PROBE: &str = ".writable";

/// A folder that the agent can write to.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    path: PathBuf,
}

impl StateDirectory {
    /// Takes a folder, which is made where it is missing, for its owner alone. One that is there
    /// stays as it is: whoever made it said who may read it.
    ///
    /// # Errors
    /// Where it cannot be made or written to.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let made = DirBuilder::new().recursive(true).mode(MODE).create(path);
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("{shown} is not a folder")
            }
            made => made.with_context(|| format!("cannot make the folder {shown}"))?,
        }
        let probe = path.join(PROBE);
        let written = fs::write(&probe, []).and_then(|()| fs::remove_file(&probe));
        written.with_context(|| format!("cannot write to {shown}"))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a file there in place of the one of that name: whenever the agent or the machine ends,
    /// there is the one or the other, whole.
    ///
    /// # Errors
    /// Where it cannot be written; the one before is still there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let (path, new) = (self.path.join(name), self.path.join(format!(".{name}.new")));
        let written = || {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(true).mode(FILE_MODE);
            let mut file = options.open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        written().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads a file of so many bytes at most; `None`: there is none.
    ///
    /// # Errors
    /// Where there is one that cannot be read, or is larger.
    pub fn read(&self, name: &str, bytes_max: u64) -> anyhow::Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        let shown = path.display();
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.with_context(|| format!("cannot read {shown}"))?,
        };
        let mut bytes = Vec::new();
        let read = file.take(bytes_max + 1).read_to_end(&mut bytes);
        let length = read.with_context(|| format!("cannot read {shown}"))?;
        if u64::try_from(length).is_ok_and(|length| length > bytes_max) {
            bail!("{shown} is larger than {bytes_max} bytes");
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_missing_folder_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("var/whydrop");
        let state = StateDirectory::open(&path).unwrap();
        assert_eq!(fs::metadata(state.path()).unwrap().permissions().mode() & 0o777, 0o700);
        // Another agent, later.
        StateDirectory::open(&path).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let said = |path: &Path| format!("{:#}", StateDirectory::open(path).unwrap_err());
        let name = file.path().display().to_string();
        assert_eq!(said(file.path()), format!("{name} is not a folder"));
        let below = said(&file.path().join("whydrop"));
        assert!(below.starts_with(&format!("cannot make the folder {name}/whydrop: ")), "{below}");
        // Nobody writes there, whatever the capabilities.
        let proc = said(Path::new("/proc"));
        assert!(proc.starts_with("cannot write to /proc: "), "{proc}");
    }
}
