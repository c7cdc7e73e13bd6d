//! What was muted, counted until it is reported.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::MutedBy;

/// How often what was muted is reported: seldom enough to be no noise, often enough for somebody who
/// looks into today's log to see that there is something.
pub const INTERVAL: SignedDuration = SignedDuration::from_hours(1);

/// How many things that mute are kept apart (about 300 bytes each): a cluster has some dozen expected
/// denials. Others are counted under [`OTHERS`].
const APART_MAX: usize = 128;

/// The name for those beyond [`APART_MAX`].
pub const OTHERS: &str = "other";

/// What was muted by one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MutedCount {
    /// The reason that it gives; empty where it gives none.
    pub reason: Arc<str>,
    /// Drops and findings that would have been reported: a flow that goes on counts once a minute.
    pub reports: u64,
    /// Packets that this kernel dropped.
    pub packets: u64,
    /// The latest of the flows, in words.
    pub example: String,
}

/// What was muted, by what muted it.
#[derive(Debug, Default)]
pub struct Muted {
    since: Option<Timestamp>,
    tallies: BTreeMap<MutedBy, MutedCount>,
    packets: u64,
}

impl Muted {
    /// Counts what was not reported.
    pub fn add(&mut self, now: Timestamp, by: (MutedBy, Arc<str>), packets: u64, example: String) {
        self.packets += packets;
        self.add_folded(now, by, packets, example);
    }

    /// The same of many flows of one source, whose packets were counted when they were folded.
    pub fn add_folded(
        &mut self,
        now: Timestamp,
        (by, reason): (MutedBy, Arc<str>),
        packets: u64,
        example: String,
    ) {
        self.since.get_or_insert(now);
        let is_known = self.tallies.contains_key(&by) || self.tallies.len() < APART_MAX;
        let by = if is_known { by } else { MutedBy::Rule(OTHERS.into()) };
        let tally = self.tallies.entry(by).or_default();
        tally.reason = reason;
        tally.reports += 1;
        tally.packets += packets;
        tally.example = example;
    }

    /// What there is to report by now, and since when it was counted: once in [`INTERVAL`].
    pub fn due(&mut self, now: Timestamp) -> Option<(Timestamp, BTreeMap<MutedBy, MutedCount>)> {
        let since = self.since.filter(|since| now.duration_since(*since) >= INTERVAL);
        since.and_then(|_| self.take())
    }

    /// What has not been reported yet.
    pub fn take(&mut self) -> Option<(Timestamp, BTreeMap<MutedBy, MutedCount>)> {
        let since = self.since.take()?;
        Some((since, std::mem::take(&mut self.tallies)))
    }

    /// Packets that this kernel dropped and that are only in the record of what was muted, since the
    /// start, but for those that were folded.
    pub fn packets(&self) -> u64 {
        self.packets
    }
}
