//! The kernel's table of connections (conntrack): whether it is full, and packets die for it.
//!
//! A packet that finds no room in it is freed where filters free theirs, with the same reason. What
//! tells the two apart is a counter of the network namespace, read now and then.

use std::{fs, io};

use jiff::Timestamp;
use whydrop_core::cluster::TableFull;

/// One line for each CPU, below a line of names; numbers are hexadecimal
/// (`net/netfilter/nf_conntrack_standalone.c`, `ct_cpu_seq_show`).
const COUNTERS: &str = "/proc/net/stat/nf_conntrack";
const ENTRIES: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const ENTRIES_MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// What the counter of dropped packets was when it was read last.
#[derive(Debug, Default)]
pub struct Connections {
    last: Option<(Timestamp, u64)>,
    /// It was once, and is not tried again.
    is_unreadable: bool,
}

impl Connections {
    /// Reads the counter; where it has grown, since when the table was full.
    ///
    /// # Errors
    /// A file of the kernel's that has another form than is known: once. Where there is none,
    /// conntrack is not in use.
    pub fn look(&mut self, now: Timestamp) -> io::Result<Option<TableFull>> {
        if self.is_unreadable {
            return Ok(None);
        }
        let looked = self.read(now);
        self.is_unreadable = looked.is_err();
        looked
    }

    fn read(&mut self, now: Timestamp) -> io::Result<Option<TableFull>> {
        let text = match fs::read_to_string(COUNTERS) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let dropped = dropped(&text).ok_or_else(|| unknown(COUNTERS))?;
        let Some((from, before)) = self.last.replace((now, dropped)) else { return Ok(None) };
        if dropped <= before {
            return Ok(None);
        }
        let number = |path| {
            let text = fs::read_to_string(path)?;
            text.trim().parse().map_err(|_| unknown(path))
        };
        let (entries, entries_max) = (number(ENTRIES)?, number(ENTRIES_MAX)?);
        Ok(Some(TableFull { from, to: now, entries, entries_max }))
    }
}

/// Packets that were dropped for want of room, over all CPUs.
fn dropped(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    let column = lines.next()?.split_whitespace().position(|name| name == "drop")?;
    let of_cpu = |line: &str| u64::from_str_radix(line.split_whitespace().nth(column)?, 16).ok();
    lines.map(of_cpu).sum()
}

fn unknown(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} has an unknown form"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drops_of_all_cpus_are_summed() {
        let text = "entries  found invalid drop early_drop\n\
                    00000003 00000000 00000001 0000000a 00000000\n\
                    00000003 00000000 00000002 00000010 00000000\n";
        assert_eq!(dropped(text), Some(26));
        assert_eq!(dropped("entries found\n00000001 00000002\n"), None, "no such counter");
        assert_eq!(dropped("drop\nzz\n"), None);
    }
}
