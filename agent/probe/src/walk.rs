//! How much the verifier does to load each program: for tests, and for the table of kernels.

use std::{fs::File, os::fd::AsRawFd as _};

use aya::{Btf, Endianness, VerifierLogLevel, programs::ProgramError};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use whydrop_ebpf::Layout;

use super::{
    config::Config,
    error::{Error, refusal},
    kernel::{self, Kernel},
    load::{classifier, load_tracepoint, object},
    names::{FROM_POD, KFREE_SKB, SOCK_STATE, TO_POD},
};

/// What the verifier made of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    /// Which program.
    pub program: &'static str,
    /// How many instructions it walked, each as often as it came by; or what it objects to.
    pub result: Result<u64, String>,
}

/// Has the verifier walk every program as [`Programs::load`](super::Programs::load) would load it, and
/// keeps none.
///
/// # Errors
///
/// That the kernel does not describe itself, or the object is not what it should be. That the verifier
/// refuses a program is a result.
pub fn walk(config: &Config) -> Result<Vec<Walk>, Error> {
    let Kernel { layout, tracepoints, .. } = Kernel::read(&config.btf)?;
    let btf = Btf::parse(&tracepoints, Endianness::default())
        .map_err(|error| Error::Btf(error.to_string()))?;
    [FROM_POD, TO_POD, KFREE_SKB, SOCK_STATE]
        .into_iter()
        .map(|program| Ok(Walk { program, result: walk_one(&layout, &btf, program)? }))
        .collect()
}

fn walk_one(layout: &Layout, btf: &Btf, program: &str) -> Result<Result<u64, String>, Error> {
    let mut ebpf = object(layout, VerifierLogLevel::STATS)?;
    let loaded = without_descriptors(|| match program {
        KFREE_SKB => load_tracepoint(&mut ebpf, KFREE_SKB, kernel::KFREE_SKB, btf),
        SOCK_STATE => load_tracepoint(&mut ebpf, SOCK_STATE, kernel::SOCK_STATE, btf),
        other => match classifier(&mut ebpf, other) {
            Ok(program) => program.load(),
            Err(_) => Err(ProgramError::NotLoaded),
        },
    })?;
    Ok(match loaded {
        Err(ProgramError::LoadError { verifier_log, io_error })
            if io_error.raw_os_error() == Some(nix::libc::EMFILE) =>
        {
            let log = verifier_log.to_string();
            processed(&log).ok_or_else(|| format!("no statistics in its log: {log}"))
        }
        Err(error) => Err(refusal(&error)),
        Ok(()) => Err("it was loaded without a descriptor".to_owned()),
    })
}

/// Calls `load` while no descriptor is left. The verifier's log is to be had only of a program that is
/// not loaded; this one fails at the very end, when it has been verified and is to get its descriptor.
fn without_descriptors<T>(load: impl FnOnce() -> T) -> Result<T, Error> {
    const DOING: &str = "limiting descriptors";
    let io = |errno: nix::Error| Error::io(DOING)(errno.into());
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(io)?;
    let free = File::open("/dev/null").map_err(Error::io(DOING))?.as_raw_fd();
    let lowest_free = u64::try_from(free).unwrap_or(0);
    setrlimit(Resource::RLIMIT_NOFILE, lowest_free, hard).map_err(io)?;
    let result = load();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).map_err(io)?;
    Ok(result)
}

/// The number of instructions, from the last line of the log.
fn processed(log: &str) -> Option<u64> {
    let rest = log.lines().rev().find_map(|line| line.strip_prefix("processed "))?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_the_statistics() {
        let log = "verification time 5132 usec\nstack depth 320+0\nprocessed 27485 insns (limit \
                   1000000) max_states_per_insn 8 total_states 1240 peak_states 471 mark_read 25\n";
        assert_eq!(processed(log), Some(27485));
        assert_eq!(processed("invalid func unknown#165\n"), None);
    }
}
