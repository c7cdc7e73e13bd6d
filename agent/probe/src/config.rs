//! How the probe is set up.

use std::{fmt, path::PathBuf};

use super::kernel;

/// How to attach to interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// tcx from Linux 6.6 on, clsact before.
    #[default]
    Auto,
    /// tcx.
    Tcx,
    /// A clsact queueing discipline, and filters.
    Clsact,
}

impl fmt::Display for Attach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// How the probe is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the kernel describes its types.
    pub btf: PathBuf,
    /// How to attach to interfaces.
    pub attach: Attach,
}

impl Default for Config {
    fn default() -> Self {
        Self { btf: PathBuf::from(kernel::BTF), attach: Attach::default() }
    }
}
