//! The processors of nodes.

use std::env;

use anyhow::Result;

/// What nodes there are.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Arch {
    Amd64,
    Arm64,
}

impl Arch {
    pub(crate) fn of_this_machine() -> Result<Self> {
        match env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            other => anyhow::bail!("no image for {other}; --arch names those that there are"),
        }
    }

    /// As Go calls it, and with it images.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    /// musl, for a program that needs nothing of the file system it is started in.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
        }
    }

    /// What compiles the C in ring, which does TLS, and the Debian packages that have it. ring takes
    /// no more of a C library than the types in its headers, so that one for glibc does.
    pub(crate) fn compiler(self) -> (&'static str, &'static [&'static str]) {
        match (self, env::consts::ARCH) {
            (Self::Amd64, "x86_64") | (Self::Arm64, "aarch64") => ("cc", &["gcc", "libc6-dev"]),
            (Self::Amd64, _) => {
                ("x86_64-linux-gnu-gcc", &["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"])
            }
            (Self::Arm64, _) => {
                ("aarch64-linux-gnu-gcc", &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"])
            }
        }
    }
}
