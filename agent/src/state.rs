//! The folder in which an agent keeps state for the next one on this node.
//!
//! Each kind of state has a file of its own there. The folder may be lost, or be an older agent's:
//! no record may rest on it alone.

pub mod last_answers;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use last_answers::AnswersError;
use nix::libc::O_NONBLOCK;

/// Only the agent's user may read who talked to whom.
const MODE: u32 = 0o700;

/// How the name of a file begins that is written at the start, to find out whether anything can be.
const PROBE: &str = ".writable.";

/// How the name of a file ends while it is written. An agent that is killed then leaves it behind.
const UNFINISHED: &str = ".new";

/// Why state cannot be kept, or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// There is something else than a folder.
    #[error("{} is not a folder", .0.display())]
    NoFolder(PathBuf),
    /// There is something else than a file.
    #[error("{} is not a file", .0.display())]
    NoFile(PathBuf),
    /// The folder is missing and cannot be made.
    #[error("cannot make the folder {}", path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The folder or a file in it cannot be written.
    #[error("cannot write to {}", path.display())]
    Write {
        /// The folder or the file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// A file is larger than an agent writes it.
    #[error("{} is larger than {bytes_max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// How large it may be.
        bytes_max: u64,
    },
    /// A file is broken, or another agent's.
    #[error("{}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: AnswersError,
    },
}

/// A folder that the agent can write to.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    path: PathBuf,
}

impl StateDirectory {
    /// Opens a folder. One that is missing is made, for its owner alone; an existing one keeps its
    /// permissions: the person who made it decided who may read it.
    ///
    /// # Errors
    /// It cannot be made or written to.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let path = path.to_owned();
        make(&path)?;
        // Under a name of its own: whatever else is there is not opened.
        let probe = tempfile::Builder::new().prefix(PROBE).suffix(UNFINISHED).tempfile_in(&path);
        let written = probe.and_then(tempfile::NamedTempFile::close);
        match written.and_then(|()| remove_unfinished(&path)) {
            Ok(()) => Ok(Self { path }),
            Err(source) => Err(StateError::Write { path, source }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts a file there in place of the one of that name: whenever the agent or the machine ends,
    /// there is the one or the other, whole.
    ///
    /// # Errors
    /// It cannot be written; the one before is still there.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(name);
        let written = || {
            // For its owner alone, as all of `tempfile`'s.
            let mut new = tempfile::Builder::new()
                .prefix(&format!(".{name}."))
                .suffix(UNFINISHED)
                .tempfile_in(&self.path)?;
            new.write_all(bytes)?;
            new.as_file().sync_all()?;
            new.persist(&path)?;
            File::open(&self.path)?.sync_all()
        };
        written().map_err(|source| StateError::Write { path: path.clone(), source })
    }

    /// Reads a file of so many bytes at most; `None`: there is none.
    ///
    /// # Errors
    /// There is one that cannot be read, or is larger.
    pub fn read(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path.join(name);
        // Else to open a pipe that nobody writes to would take for ever.
        let opened = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(&path);
        let file = match opened.and_then(|file| Ok((file.metadata()?.is_file(), file))) {
            Ok((true, file)) => file,
            Ok((false, _)) => return Err(StateError::NoFile(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Read { path, source }),
        };
        let mut bytes = Vec::new();
        match file.take(bytes_max + 1).read_to_end(&mut bytes) {
            Ok(length) if u64::try_from(length).is_ok_and(|length| length > bytes_max) => {
                Err(StateError::TooLarge { path, bytes_max })
            }
            Ok(_) => Ok(Some(bytes)),
            Err(source) => Err(StateError::Read { path, source }),
        }
    }
}

/// Makes a folder, for its owner alone, unless it is there.
///
/// # Errors
/// There is something else, or it cannot be made.
pub fn make(path: &Path) -> Result<(), StateError> {
    let made = DirBuilder::new().recursive(true).mode(MODE).create(path);
    made.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => StateError::NoFolder(path.to_owned()),
        _ => StateError::Make { path: path.to_owned(), source },
    })
}

/// Removes what agents were writing when they were killed.
fn remove_unfinished(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_str().is_some_and(|name| name.starts_with('.') && name.ends_with(UNFINISHED)) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use whydrop_core::chain::chain;

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
        let said = |path: &Path| chain(&StateDirectory::open(path).unwrap_err());
        let name = file.path().display().to_string();
        assert_eq!(said(file.path()), format!("{name} is not a folder"));
        let below = said(&file.path().join("whydrop"));
        assert!(below.starts_with(&format!("cannot make the folder {name}/whydrop: ")), "{below}");
        // Nobody writes there, whatever the capabilities.
        let proc = said(Path::new("/proc"));
        assert!(proc.starts_with("cannot write to /proc: "), "{proc}");
    }

    #[test]
    fn a_file_is_replaced_and_read_by_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(folder.path()).unwrap();
        assert_eq!(state.read("a.json", 9).unwrap(), None);
        for text in ["one", "two"] {
            state.write("a.json", text.as_bytes()).unwrap();
            assert_eq!(state.read("a.json", 9).unwrap().unwrap(), text.as_bytes());
        }
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a.json"]);
        let permissions = fs::metadata(folder.path().join("a.json")).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe =
            |name| nix::unistd::mkfifo(&folder.path().join(name), nix::sys::stat::Mode::S_IRWXU);
        for name in ["a.json", ".writable", ".a.json.new"] {
            pipe(name).unwrap();
        }
        fs::create_dir(folder.path().join("b.json")).unwrap();
        let state = StateDirectory::open(folder.path()).unwrap();
        for name in ["a.json", "b.json"] {
            let error = state.read(name, 9).unwrap_err();
            assert!(matches!(error, StateError::NoFile(_)), "{error}");
        }
        // What is written takes its place.
        state.write("a.json", b"one").unwrap();
        assert_eq!(state.read("a.json", 9).unwrap().unwrap(), b"one");
    }

    #[test]
    fn what_a_killed_agent_was_writing_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let names = [".last-answers.json.new", ".last-answers.json.x1y2z3.new", "otlp-outbox.redb"];
        for name in names {
            fs::write(folder.path().join(name), "half").unwrap();
        }
        StateDirectory::open(folder.path()).unwrap();
        let left = names.map(|name| folder.path().join(name).exists());
        assert_eq!(left, [false, false, true]);
    }
}
