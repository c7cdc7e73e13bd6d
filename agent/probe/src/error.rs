//! What can keep the probe from starting or running, in words for the person who started it.

use std::{io, path::PathBuf};

use aya::programs::{ProgramError, tc::TcError};
use nix::libc;

use whydrop_core::chain::chain;

/// Why the probe cannot start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel does not describe its types.
    #[error(
        "this kernel has no type information at {path}: it needs CONFIG_DEBUG_INFO_BTF, which \
         distributions have set since 2020"
    )]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
        /// What reading it gave.
        source: io::Error,
    },
    /// The kernel's description is unlike what is known of kernels.
    #[error("cannot use this kernel's type information: {0}")]
    Btf(String),
    /// The process lacks capabilities that the probe needs.
    #[error(
        "watching the kernel needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; this process lacks {}", missing.join(", ")
    )]
    Capabilities {
        /// Those it lacks.
        missing: Vec<String>,
    },
    /// The kernel refuses for lack of privilege.
    #[error(
        "{doing} needs more privilege than this process has: CAP_BPF, CAP_PERFMON and \
         CAP_NET_ADMIN outside of any user namespace, and no security module that forbids it"
    )]
    Privilege {
        /// What was attempted.
        doing: &'static str,
        /// What the kernel answered.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The kernel refuses for another reason.
    #[error("{doing} failed")]
    Kernel {
        /// What was attempted.
        doing: &'static str,
        /// What the kernel answered.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Programs and agent are not of one build.
    #[error(
        "the embedded eBPF programs speak version {found} of their protocol, this agent version \
         {expected}: build both again"
    )]
    Abi {
        /// What the programs have.
        found: u32,
        /// What the agent has.
        expected: u32,
    },
    /// Reading from or writing to the kernel failed.
    #[error("{doing} failed")]
    Io {
        /// What was attempted.
        doing: &'static str,
        /// What came of it.
        source: io::Error,
    },
}

impl Error {
    /// Distinguishes a lack of privilege from other refusals, wherever in the chain of causes it is said.
    pub(crate) fn kernel(
        doing: &'static str,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        if is_denied(&source) {
            Self::Privilege { doing, source: Box::new(source) }
        } else {
            Self::Kernel { doing, source: Box::new(source) }
        }
    }

    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            if is_denied(&source) {
                Self::Privilege { doing, source: Box::new(source) }
            } else {
                Self::Io { doing, source }
            }
        }
    }
}

/// Whether an error is, or comes from, EPERM. Not EACCES: that is the verifier refusing a program.
fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    errno(error) == Some(libc::EPERM)
}

/// The system's error at the bottom of a chain of them.
pub(crate) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    let mut found = None;
    while let Some(error) = next {
        // A transparent variant stands in for its cause, which is then not in the chain.
        let io = match error.downcast_ref::<TcError>() {
            Some(TcError::IoError(io)) => Some(io),
            _ => error.downcast_ref::<io::Error>(),
        };
        found = io.and_then(io::Error::raw_os_error).or(found);
        next = error.source();
    }
    found
}

/// The error and its causes; of the verifier's thousands of lines, the one that says what it objects to.
pub(crate) fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    let log = verifier_log.to_string();
    let objection =
        log.lines().rev().find(|line| !line.trim().is_empty() && !line.starts_with("processed "));
    match objection {
        Some(objection) => format!("the verifier refuses it: {objection} ({io_error})"),
        None => format!("the kernel refuses it: {io_error}"),
    }
}
