//! Where what was built or fetched once is kept: outside the clone, shared by all clones.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

/// The folder of the cache: `$WHYDROP_CACHE`, else `whydrop` where the user's caches are.
pub fn folder() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("WHYDROP_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("whydrop")))
        .or_else(|| Some(set("HOME")?.join(".cache/whydrop")))
        .context("no place for what is built once: set WHYDROP_CACHE to a folder")
}

/// A name for something that is made of all these texts by a recipe, and of nothing else.
pub fn key<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = blake3::Hasher::new();
    for text in texts {
        // With its length, so that no two lists of texts run together into one.
        hasher.update(&text.len().to_le_bytes()).update(text);
    }
    hasher.finalize().to_hex()[..KEY_DIGITS].to_owned()
}

/// Sixteen hexadecimal digits are enough for more versions than will ever be.
const KEY_DIGITS: usize = 16;

/// Makes `target`, a file or a folder of the cache, unless it is there.
///
/// `make` writes to the path it is given; that becomes `target` only when all went well, and two
/// processes never make one thing at a time. Returns whether it had to be made.
pub fn provide(target: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<bool> {
    if target.exists() {
        return Ok(false);
    }
    let parent = target.parent().context("something of the cache lies in a folder")?;
    fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    let lock = parent.join(".lock");
    let lock = File::create(&lock).with_context(|| lock.display().to_string())?;
    // Held until the end of this function, or of this process.
    let _held = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    if target.exists() {
        return Ok(false);
    }
    let begun = tempfile::Builder::new().prefix(".new-").tempdir_in(parent)?;
    let new = begun.path().join("it");
    make(&new)?;
    fs::rename(&new, target).with_context(|| target.display().to_string())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn what_failed_halfway_is_not_there_and_is_made_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("some/thing");
        let failed = provide(&target, |new| {
            fs::write(new, "half")?;
            bail!("the disk is full")
        });
        assert!(failed.is_err());
        assert!(!target.exists());

        let write = |text: &'static str| move |new: &Path| Ok(fs::write(new, text)?);
        assert!(provide(&target, write("whole")).expect("made"));
        assert!(!provide(&target, write("other")).expect("kept"));
        assert_eq!(fs::read_to_string(&target).expect("text"), "whole");
        let left = fs::read_dir(target.parent().expect("parent")).expect("folder");
        let names: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names.len(), 2, "the thing and the lock: {names:?}");
    }

    #[test]
    fn lists_that_read_the_same_have_keys_of_their_own() {
        assert_ne!(key([b"ab".as_slice(), b"c"]), key([b"a".as_slice(), b"bc"]));
        assert_eq!(key([b"ab".as_slice()]), key([b"ab".as_slice()]));
    }
}
