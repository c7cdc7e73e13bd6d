//! Whether the process may do what the probe does, checked before the kernel refuses in its own words.

use caps::{CapSet, Capability, CapsHashSet};

use super::error::Error;

/// What the probe needs: to attach to interfaces, to look into the kernel's memory, to load programs.
const NEEDED: [Capability; 3] =
    [Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON, Capability::CAP_BPF];

/// Fails if this thread lacks a capability that the probe needs.
pub(crate) fn check() -> Result<(), Error> {
    // Where they cannot be read, the kernel decides.
    let effective = caps::read(None, CapSet::Effective);
    let missing = effective.map(|effective| missing(&effective)).unwrap_or_default();
    if missing.is_empty() { Ok(()) } else { Err(Error::Capabilities { missing }) }
}

/// The names of the capabilities that are needed and not among these.
fn missing(effective: &CapsHashSet) -> Vec<String> {
    // It stands for the others, and did before Linux 5.8 had them, but not for that of interfaces.
    let may_all = effective.contains(&Capability::CAP_SYS_ADMIN);
    NEEDED
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
            assert_eq!(missing(&effective.iter().copied().collect()), expected);
        }
    }
}
