//! Where what is made or fetched once is kept: outside the clone, as `tests/src/kube/cache.rs` has it.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result};

/// The folder: `$WHYDROP_CACHE`, else `whydrop` where the user's caches are.
pub(crate) fn folder() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("WHYDROP_CACHE")
        .or_else(|| Some(set("XDG_CACHE_HOME")?.join("whydrop")))
        .or_else(|| Some(env::home_dir()?.join(".cache/whydrop")))
        .context("there is no folder for what is built once: set WHYDROP_CACHE to one")
}
