//! Worlds of network namespaces, real control planes and real enforcers, what is played on them, loads,
//! and other kernels to play on.

pub mod browser;
pub mod kube;
pub mod load;
pub mod play;
pub mod vm;
pub mod world;

use std::path::{Path, PathBuf};

/// A path of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/")).join(path)
}
