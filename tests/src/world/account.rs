//! Where an agent says that the packets have gone which it saw being dropped.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The parts of which each packet is in exactly one.
const PARTS: [&str; 9] = [
    "lost in the kernel",
    "of attempts that were answered",
    "folded",
    "shed",
    "of no pod",
    "to closed ports",
    "muted",
    "undecided",
    "in reports",
];

/// The account that the last record of an agent has, by what became of the packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account(BTreeMap<String, u64>);

impl Account {
    /// Reads it off all records of an agent that has ended, and holds its parts against the whole.
    pub fn balanced(records: &[Value]) -> Result<Self> {
        let last = records.last().context("no record")?;
        let account = Self(serde_json::from_value(last["counts"].clone())?);
        let parts: u64 = PARTS.into_iter().map(|part| account.packets(part)).sum();
        ensure!(account.packets("observed") == parts, "its parts make {parts}: {account:#?}");
        let handed_over = account.packets("reported to the agent") + account.packets(PARTS[0]);
        ensure!(
            account.packets("observed") == handed_over,
            "not all were handed over: {account:#?}"
        );
        ensure!(account.packets("undecided") == 0, "something is left undecided: {account:#?}");
        Ok(account)
    }

    /// How many packets: `observed`, `reported to the agent`, or one of the parts.
    pub fn packets(&self, what: &str) -> u64 {
        self.0.get(&format!("dropped packets {what}")).copied().unwrap_or_default()
    }
}
