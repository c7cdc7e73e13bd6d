//! The programs of a guest with another processor than this machine's: Debian's for that one.

use std::path::PathBuf;

use anyhow::Result;

use super::{
    arch::Arch,
    archive::{Archive, Signer, Suite, folder},
};
use crate::kube::cache;

/// Where they come from: the newest stable release.
const SUITE: Suite =
    Suite { address: "http://deb.debian.org/debian", name: "trixie", signer: Signer::Debian };
/// The packages of the programs that the worlds call, and of the shell.
const PACKAGES: &[&str] = &[
    "busybox-static",
    "coreutils",
    "curl",
    "ipset",
    "iproute2",
    "iptables",
    "nftables",
    "util-linux",
];

/// Their files and those of all that they depend on, fetched unless they are in the cache.
pub fn unpacked() -> Result<PathBuf> {
    let key = cache::key(PACKAGES.iter().map(|name| name.as_bytes()));
    let folder = folder()?.join("userland").join(format!("{}-arm64-{key}", SUITE.name));
    cache::provide(&folder, |new| {
        Archive::update(SUITE, Arch::Arm64)?.unpack_whole(PACKAGES, new)
    })?;
    Ok(folder)
}

/// The shell among them.
pub(super) fn busybox() -> Result<PathBuf> {
    Ok(unpacked()?.join("usr/bin/busybox"))
}
