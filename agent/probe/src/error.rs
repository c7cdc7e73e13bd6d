//! What can keep the probe from starting or running, in words for the person who started it.

use std::{fs, io, path::PathBuf};

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
    /// Another agent watches this network namespace.
    #[error("another whydrop agent already watches this network namespace; stop it first")]
    Claimed,
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
    /// The verifier refuses a program without which there is no probe.
    #[error("the verifier of this kernel ({release}) refuses {program}: {objection}")]
    Refused {
        /// Which program.
        program: &'static str,
        /// The running kernel's release.
        release: String,
        /// What it objects to, in its own words or plainer ones.
        objection: String,
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
pub(crate) fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    errno(error) == Some(libc::EPERM)
}

/// Whether an error may be over soon: no descriptor is free, or no memory.
pub(crate) fn is_for_now(error: &(impl std::error::Error + 'static)) -> bool {
    matches!(errno(error), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
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

/// What the verifier prints after what it objects to.
const STATISTICS: [&str; 3] = ["processed ", "verification time ", "stack depth "];

/// How the verifier's line ends where it has no helper for us that reads the kernel's memory: with the
/// number of `bpf_probe_read_kernel` or `bpf_probe_read` (include/uapi/linux/bpf.h), which aya puts in the
/// place of the other where that one is refused.
const READS_MEMORY: [&str; 2] = ["#113", "#4"];

/// Where the kernel says how far it is locked down; seen only where securityfs is mounted.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
/// What it says there where programs may not read its memory (`security/lockdown`).
const CONFIDENTIAL: &str = "[confidentiality]";

/// The error and its causes; of the verifier's thousands of lines, the one that says what it objects to.
pub(crate) fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return chain(error) };
    let log = verifier_log.to_string();
    let Some(objection) = objection(&log) else {
        return format!("the kernel refuses it: {io_error}");
    };
    let is_confidential =
        fs::read_to_string(LOCKDOWN).is_ok_and(|state| state.contains(CONFIDENTIAL));
    in_words(objection, io_error, is_confidential)
}

/// An objection of the verifier's, with what it means where that is another's doing.
fn in_words(objection: &str, io_error: &io::Error, is_confidential: bool) -> String {
    if !READS_MEMORY.iter().any(|helper| objection.ends_with(helper)) {
        return format!("the verifier refuses it: {objection} ({io_error})");
    }
    let plain = if is_confidential {
        "this kernel is locked down for confidentiality: no program may read its memory"
    } else {
        "no program may read this kernel's memory, as where it is locked down for confidentiality"
    };
    format!("{plain}: {objection}")
}

/// The last line of the verifier's log that is none of its statistics.
fn objection(log: &str) -> Option<&str> {
    let is_statistic = |line: &&str| STATISTICS.iter().any(|start| line.starts_with(start));
    log.lines()
        .rev()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .find(|line| !is_statistic(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends of logs, as kernels from 5.10 to 7.3 print them.
    #[test]
    fn the_objection_is_found_before_the_statistics() {
        for (log, expected) in [
            (
                "1132: (79) r1 = *(u64 *)(r10 -72)\ninvalid read from stack off -72+0 size 8\n\
                 processed 27485 insns (limit 1000000) max_states_per_insn 8 total_states 1240 \
                 peak_states 471 mark_read 25\n\n",
                Some("invalid read from stack off -72+0 size 8"),
            ),
            (
                "1014: (85) call unknown#165\ninvalid func unknown#165\n\
                 verification time 5132 usec\nstack depth 320+0+80+48+0+72\n\
                 processed 981 insns (limit 1000000) max_states_per_insn 4 total_states 60 \
                 peak_states 60 mark_read 14\n",
                Some("invalid func unknown#165"),
            ),
            (
                "85: (85) call bpf_probe_read#4\nprogram of this type cannot use helper \
                 bpf_probe_read#4\nprocessed 33 insns (limit 1000000)\n",
                Some("program of this type cannot use helper bpf_probe_read#4"),
            ),
            ("processed 1 insns (limit 1000000)\n", None),
            ("", None),
        ] {
            assert_eq!(objection(log), expected, "{log}");
        }
    }

    /// The second as Linux 6.12 says it that is locked down for confidentiality.
    #[test]
    fn a_kernel_that_is_locked_down_is_said_to_be() {
        let invalid = io::Error::from_raw_os_error(libc::EINVAL);
        let said = |objection, is_confidential| in_words(objection, &invalid, is_confidential);
        let other = "invalid func unknown#174";
        assert_eq!(
            said(other, true),
            format!("the verifier refuses it: {other} (Invalid argument (os error 22))")
        );
        let memory = "program of this type cannot use helper bpf_probe_read#4";
        assert!(said(memory, true).starts_with("this kernel is locked down for confidentiality: "));
        assert!(said(memory, false).contains("as where it is locked down for confidentiality"));
    }
}
