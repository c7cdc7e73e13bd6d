//! How much the verifier does to load each program: for tests, and for the table of kernels.

use std::{fs::File, os::fd::AsRawFd as _, time::Duration};

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
    /// What that took, or what it objects to.
    pub result: Result<Walked, String>,
}

/// What the verifier did for a program that it found nothing to object to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Walked {
    /// How many instructions it walked, each as often as it came by.
    pub instructions: u64,
    /// How long it took.
    pub time: Duration,
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

fn walk_one(layout: &Layout, btf: &Btf, program: &str) -> Result<Result<Walked, String>, Error> {
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
            walked(&log).ok_or_else(|| format!("no statistics in its log: {log}"))
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

/// What the statistics at the end of the log say.
fn walked(log: &str) -> Option<Walked> {
    let number = |before: &str| -> Option<u64> {
        let rest = log.lines().rev().find_map(|line| line.strip_prefix(before))?;
        rest.split(' ').next()?.parse().ok()
    };
    let time = Duration::from_micros(number("verification time ")?);
    Some(Walked { instructions: number("processed ")?, time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_the_statistics() {
        let log = "verification time 5132 usec\nstack depth 320+0\nprocessed 27485 insns (limit \
                   1000000) max_states_per_insn 8 total_states 1240 peak_states 471 mark_read 25\n";
        let time = Duration::from_micros(5132);
        assert_eq!(walked(log), Some(Walked { instructions: 27485, time }));
        assert_eq!(walked("invalid func unknown#165\n"), None);
    }
}
