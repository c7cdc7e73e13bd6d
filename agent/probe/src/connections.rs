//! The kernel's table of connections (conntrack): whether it is full, so that packets are dropped, or
//! finds packets invalid, which network plugins drop.
//!
//! Both are freed where filters free theirs, with the same reason. Counters of the network namespace,
//! read now and then, distinguish them.

use std::{fs, io};

use jiff::Timestamp;
use whydrop_core::cluster::{Invalid, TableFull};

use super::error::{Error, is_for_now};

/// One line for each CPU, below a line of names; numbers are hexadecimal
/// (`net/netfilter/nf_conntrack_standalone.c`, `ct_cpu_seq_show`).
const COUNTERS: &str = "/proc/net/stat/nf_conntrack";
const ENTRIES: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const ENTRIES_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// What the counters were when they were read last.
#[derive(Debug, Default)]
pub struct Connections {
    last: Option<(Timestamp, Counted)>,
    /// It was once, and is not tried again.
    is_unreadable: bool,
}

/// Packets so far, over all CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    /// Dropped because the table was full.
    dropped: u64,
    /// Found invalid.
    invalid: u64,
}

/// What has happened since the counters were read before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConntrackNews {
    /// The table was full.
    pub full: Option<TableFull>,
    /// Packets were invalid.
    pub invalid: Option<Invalid>,
}

impl Connections {
    /// Reads the counters.
    ///
    /// # Errors
    /// A file of the kernel's has an unknown form: once. Where there is none, conntrack is not in
    /// use.
    pub fn look(&mut self, now: Timestamp) -> Result<ConntrackNews, Error> {
        if self.is_unreadable {
            return Ok(ConntrackNews::default());
        }
        let looked = self.read(now);
        // Out of descriptors or memory, the next look reads them.
        if looked.as_ref().is_err_and(is_for_now) {
            return Ok(ConntrackNews::default());
        }
        self.is_unreadable = looked.is_err();
        looked.map_err(Error::io("reading the counters of conntrack"))
    }

    fn read(&mut self, now: Timestamp) -> io::Result<ConntrackNews> {
        let text = match fs::read_to_string(COUNTERS) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(ConntrackNews::default());
            }
            Err(error) => return Err(error),
        };
        let counted = counted(&text).ok_or_else(|| unknown(COUNTERS))?;
        let Some((from, before)) = self.last.replace((now, counted)) else {
            return Ok(ConntrackNews::default());
        };
        let invalid = counted.invalid.saturating_sub(before.invalid);
        let mut happened = ConntrackNews {
            full: None,
            invalid: (invalid > 0).then_some(Invalid { from, to: now, packets: invalid }),
        };
        if counted.dropped > before.dropped {
            let number = |path| {
                let text = fs::read_to_string(path)?;
                text.trim().parse().map_err(|_| unknown(path))
            };
            let (entries, entries_max) = (number(ENTRIES)?, number(ENTRIES_MAX)?);
            happened.full = Some(TableFull { from, to: now, entries, entries_max });
        }
        Ok(happened)
    }
}

/// The counters of all CPUs, summed.
fn counted(text: &str) -> Option<Counted> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split_whitespace().collect();
    let sum = |name: &str| -> Option<u64> {
        let column = names.iter().position(|other| *other == name)?;
        let of_cpu =
            |line: &str| u64::from_str_radix(line.split_whitespace().nth(column)?, 16).ok();
        lines.clone().map(of_cpu).sum()
    };
    Some(Counted { dropped: sum("drop")?, invalid: sum("invalid")? })
}

fn unknown(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} has an unknown form"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_all_cpus_are_summed() {
        let text = "entries  found invalid drop early_drop\n\
                    00000003 00000000 00000001 0000000a 00000000\n\
                    00000003 00000000 00000002 00000010 00000000\n";
        assert_eq!(counted(text), Some(Counted { dropped: 26, invalid: 3 }));
        assert_eq!(counted("entries invalid\n00000001 00000002\n"), None, "no such counter");
        assert_eq!(counted("drop invalid\nzz 1\n"), None);
    }
}
