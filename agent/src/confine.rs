//! What the agent's process gives up once it has what it needs: from then on a fault in what reads packets,
//! objects and answers is worth less to anyone who finds one.
//!
//! All of it is of a thread, and passed on to those that it makes: it has to be done before there are others.

mod files;

use std::{fmt, path::PathBuf};

use anyhow::Context as _;
use nix::sys::prctl;

use self::files::{Enforced, Files};
use crate::{
    cluster::connect::Reach,
    probe::{self, Kept},
};

/// What an agent needs of the file system.
#[derive(Clone, Debug)]
pub struct Needs {
    /// How it knows the cluster; `None`: by manifests.
    pub reach: Option<Reach>,
    /// Files that its settings name, to be read.
    pub read: Vec<PathBuf>,
    /// The folder that it writes.
    pub state: Option<PathBuf>,
    /// Where it listens.
    pub port: Option<u16>,
}

/// What the process may still do. Displayed, it is a line for the person who reads the agent's messages.
#[derive(Debug)]
pub struct Confined {
    capabilities: Kept,
    files: Enforced,
}

/// Gives up what an agent that has loaded its programs does not need.
///
/// # Errors
/// The kernel refuses, which it does to nobody; or the process has other threads already. That a kernel has
/// no Landlock is no error.
pub fn confine(needs: &Needs) -> anyhow::Result<Confined> {
    // A program that it runs gets no privileges by that: neither a file's, nor root's.
    prctl::set_no_new_privs().context("cannot give up new privileges")?;
    let capabilities = probe::give_up()?;
    let files = Files::of(needs).enforce().context("cannot give up files")?;
    Ok(Confined { capabilities, files })
}

impl fmt::Display for Confined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Kept { names, is_bounded } = &self.capabilities;
        write!(f, "kept of all privileges: {}", names.join(", "))?;
        f.write_str(match is_bounded {
            true => "; none of the others can be had again; ",
            false => "; no program that it runs can have others again; ",
        })?;
        self.files.fmt(f)
    }
}
