//! Whether the process may do what the probe does, checked before the kernel refuses in its own words; and
//! what of it is given up once the programs are loaded.

use std::{fs, io};

use aya::util::KernelVersion;
use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};

use super::error::Error;

/// What the probe needs: to attach to interfaces, to look into the kernel's memory, to load programs.
const NEEDED: [Capability; 3] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON, Capability::CAP_BPF];

/// What of it is needed once the programs are loaded: to attach to interfaces that come, and to ask which
/// programs are there.
const NEEDED_LATER: [Capability; 1] = [Capability::CAP_NET_ADMIN];

/// From here on every call of `bpf(2)` but those that load and that make maps is open to who has the
/// descriptor. Before, `kernel.unprivileged_bpf_disabled` keeps all of them from who lacks `CAP_BPF`
/// (`__sys_bpf` in `kernel/bpf/syscall.c`): reading the programs' maps and attaching them, too.
const BPF_IS_OF_WHO_LOADS_SINCE: KernelVersion = KernelVersion::new(6, 0, 0);

/// The threads of this process.
const THREADS: &str = "/proc/self/task";

/// Fails if this thread lacks a capability that the probe needs.
pub(crate) fn check() -> Result<(), Error> {
    check_for(&NEEDED)
}

/// Fails if this thread lacks a capability that the probe needs once the programs are loaded.
pub(crate) fn check_later() -> Result<(), Error> {
    check_for(&NEEDED_LATER)
}

fn check_for(needed: &[Capability]) -> Result<(), Error> {
    // Where they cannot be read, the kernel decides.
    let effective = caps::read(None, CapSet::Effective);
    let missing = effective.map(|effective| missing(needed, &effective)).unwrap_or_default();
    if missing.is_empty() { Ok(()) } else { Err(Error::Capabilities { missing }) }
}

/// The capabilities that a process has kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Their names.
    pub names: Vec<String>,
    /// Whether the bounding set has no others: to give these up takes `CAP_SETPCAP`. Without it they are
    /// what the container was given; a process that gets no new privileges gets none of them back.
    pub is_bounded: bool,
}

/// Gives up every capability that is not needed once the programs are loaded, in every set. To be called
/// before the process has other threads: each has capabilities of its own, and starts with those of the
/// thread that makes it.
///
/// # Errors
/// The kernel refuses, or there is a thread that has more than what was kept.
pub fn give_up() -> Result<Kept, Error> {
    const DOING: &str = "giving up capabilities";

    let kept = || -> Result<Kept, CapsError> {
        let has = caps::read(None, CapSet::Permitted)?;
        let kept = later(KernelVersion::current().ok(), &has);
        let mut is_bounded = true;
        for capability in caps::read(None, CapSet::Bounding)?.difference(&kept) {
            // Refused without `CAP_SETPCAP`.
            is_bounded &= caps::drop(None, CapSet::Bounding, *capability).is_ok();
        }
        // What is in effect has to be permitted.
        caps::clear(None, CapSet::Ambient)?;
        caps::clear(None, CapSet::Inheritable)?;
        caps::set(None, CapSet::Effective, &kept)?;
        caps::set(None, CapSet::Permitted, &kept)?;
        has_no_thread_with_more(&kept)?;
        let mut names: Vec<String> = kept.iter().map(ToString::to_string).collect();
        names.sort();
        Ok(Kept { names, is_bounded })
    };
    kept().map_err(|error| Error::io(DOING)(io::Error::other(error)))
}

/// What is kept of these.
fn later(kernel: Option<KernelVersion>, has: &CapsHashSet) -> CapsHashSet {
    let mut later = CapsHashSet::from(NEEDED_LATER);
    if kernel.is_none_or(|kernel| kernel < BPF_IS_OF_WHO_LOADS_SINCE) {
        let has_it = has.contains(&Capability::CAP_BPF);
        // It stands for the other.
        later.insert(if has_it { Capability::CAP_BPF } else { Capability::CAP_SYS_ADMIN });
    }
    later.intersection(has).copied().collect()
}

/// Fails if there is a thread that may do more than these.
fn has_no_thread_with_more(kept: &CapsHashSet) -> Result<(), CapsError> {
    let unread = |error: io::Error| CapsError::from(format!("cannot read {THREADS}: {error}"));
    for thread in fs::read_dir(THREADS).map_err(unread)? {
        let name = thread.map_err(unread)?.file_name();
        let number = name.to_str().and_then(|name| name.parse().ok());
        let permitted = caps::read(number, CapSet::Permitted)?;
        if !permitted.is_subset(kept) {
            return Err(format!("thread {} keeps {permitted:?}", name.display()).into());
        }
    }
    Ok(())
}

/// The names of the capabilities that are needed and not among these.
fn missing(needed: &[Capability], effective: &CapsHashSet) -> Vec<String> {
    // It stands for the others, and did before Linux 5.8 had them, but not for that of interfaces.
    let may_all = effective.contains(&Capability::CAP_SYS_ADMIN);
    needed
        .iter()
        .filter(|needed| !effective.contains(needed))
        .filter(|needed| !may_all || **needed == Capability::CAP_NET_ADMIN)
        .map(ToString::to_string)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        use Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
        for (effective, expected) in [
            (&[CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF][..], &[][..]),
            (&[CAP_NET_ADMIN, CAP_SYS_ADMIN], &[]),
            (&[CAP_NET_ADMIN, CAP_BPF], &["CAP_PERFMON"]),
            (&[CAP_SYS_ADMIN], &["CAP_NET_ADMIN"]),
            (&[], &["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]),
        ] {
            assert_eq!(missing(&NEEDED, &effective.iter().copied().collect()), expected);
        }
    }

    #[test]
    fn old_kernels_ask_for_more_when_the_programs_are_loaded() {
        use Capability::{CAP_BPF, CAP_CHOWN, CAP_NET_ADMIN, CAP_PERFMON, CAP_SYS_ADMIN};
        let (old, new) = (KernelVersion::new(5, 15, 9), KernelVersion::new(6, 0, 0));
        for (kernel, has, expected) in [
            (
                Some(new),
                &[CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF, CAP_CHOWN][..],
                &[CAP_NET_ADMIN][..],
            ),
            (Some(new), &[CAP_NET_ADMIN, CAP_SYS_ADMIN], &[CAP_NET_ADMIN]),
            (Some(old), &[CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF], &[CAP_NET_ADMIN, CAP_BPF]),
            (Some(old), &[CAP_NET_ADMIN, CAP_BPF, CAP_SYS_ADMIN], &[CAP_NET_ADMIN, CAP_BPF]),
            (Some(old), &[CAP_NET_ADMIN, CAP_SYS_ADMIN], &[CAP_NET_ADMIN, CAP_SYS_ADMIN]),
            (None, &[CAP_NET_ADMIN, CAP_BPF], &[CAP_NET_ADMIN, CAP_BPF]),
        ] {
            let has = has.iter().copied().collect();
            assert_eq!(later(kernel, &has), expected.iter().copied().collect(), "{kernel:?}");
        }
    }

    #[test]
    fn what_is_given_up_is_gone_and_a_thread_that_has_more_is_found() {
        // Of a thread that ends; this process has others, which keep theirs.
        let (gave_up, left) = std::thread::spawn(|| {
            let gave_up = give_up();
            let sets = [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient];
            (gave_up, sets.map(|set| caps::read(None, set).unwrap()))
        })
        .join()
        .unwrap();
        let others = caps::read(None, CapSet::Permitted).unwrap();
        let expected = later(KernelVersion::current().ok(), &others);
        let none = CapsHashSet::new();
        assert_eq!(left, [expected.clone(), expected.clone(), none.clone(), none]);
        assert_eq!(gave_up.is_err(), !others.is_subset(&expected), "{gave_up:?}");
    }
}
