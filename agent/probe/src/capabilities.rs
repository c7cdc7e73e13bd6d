//! Whether the process may do what the probe does, asked before the kernel refuses in its own words.

use std::fs;

use super::error::Error;

/// What this thread may do: threads may differ.
const STATUS: &str = "/proc/thread-self/status";

/// May stand for the other capabilities, and did before Linux 5.8 had them.
const SYS_ADMIN: u32 = 21;

/// What the probe needs (include/uapi/linux/capability.h): to attach to interfaces, to look into the
/// kernel's memory, to load programs.
const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];

/// Refuses to go on without the capabilities that it takes.
pub(crate) fn check() -> Result<(), Error> {
    // Where that cannot be read, the kernel has the word.
    let missing = missing(&fs::read_to_string(STATUS).unwrap_or_default());
    if missing.is_empty() { Ok(()) } else { Err(Error::Capabilities { missing }) }
}

/// The capabilities that are needed and not among those in this text.
fn missing(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    let Some(effective) = effective else { return Vec::new() };
    let has = |bit: u32| effective >> bit & 1 != 0;
    NEEDED
        .into_iter()
        // Administration of the system does not extend to interfaces.
        .filter(|(bit, _)| !has(*bit) && (*bit == NEEDED[0].0 || !has(SYS_ADMIN)))
        .map(|(_, name)| name)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let status = |bits: u64| format!("Name:\tx\nCapEff:\t{bits:016x}\nCapBnd:\t0\n");
        let all = 1 << 12 | 1 << 38 | 1 << 39;
        assert_eq!(missing(&status(all)), [""; 0]);
        assert_eq!(missing(&status(1 << 12 | 1 << 21)), [""; 0]);
        assert_eq!(missing(&status(all & !(1 << 38))), ["CAP_PERFMON"]);
        assert_eq!(missing(&status(1 << 21)), ["CAP_NET_ADMIN"]);
        assert_eq!(missing(&status(0)), ["CAP_NET_ADMIN", "CAP_PERFMON", "CAP_BPF"]);
        assert_eq!(missing("no such line"), [""; 0]);
    }
}
