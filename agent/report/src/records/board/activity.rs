//! How many flows were dropped, minute by minute.

use std::collections::{BTreeMap, btree_map::Entry};

use jiff::Timestamp;

/// How far back activity is kept: a day, in minutes.
pub const ACTIVITY_MINUTES_MAX: i64 = 24 * 60;

const MINUTE_SECS: i64 = 60;

/// How many flows were dropped in each minute. An agent reports a flow that goes on once a minute, so
/// nothing finer is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// By minutes since 1970; none is 0.
    flows: BTreeMap<i64, u64>,
}

impl Activity {
    /// The minutes in which flows were dropped, as their beginnings, and how many flows.
    pub fn minutes(&self) -> impl Iterator<Item = (Timestamp, u64)> + '_ {
        self.flows.iter().filter_map(|(minute, flows)| {
            Some((Timestamp::from_second(minute * MINUTE_SECS).ok()?, *flows))
        })
    }

    /// The time from `first` to `last` in that many columns: the most flows of any minute in each.
    pub fn columns(&self, first: Timestamp, last: Timestamp, columns: usize) -> Vec<u64> {
        let (first, last) = (minute_of(first), minute_of(last));
        let minutes = last.saturating_sub(first).max(0) + 1;
        let count = i64::try_from(columns).unwrap_or(i64::MAX);
        let edge = |column: i64| {
            first
                + i64::try_from(i128::from(column) * i128::from(minutes) / i128::from(count))
                    .unwrap_or(0)
        };
        (0..count)
            .map(|column| {
                // Where there are more columns than minutes, a minute fills several.
                let (from, to) = (edge(column), edge(column + 1).max(edge(column) + 1));
                self.flows.range(from..to).map(|(_, flows)| *flows).max().unwrap_or(0)
            })
            .collect()
    }

    pub(super) fn add(&mut self, minute: i64) {
        if minute < self.horizon() {
            return;
        }
        *self.flows.entry(minute).or_default() += 1;
        let horizon = self.horizon();
        while let Some(oldest) = self.flows.first_entry().filter(|oldest| *oldest.key() < horizon) {
            oldest.remove();
        }
    }

    pub(super) fn remove(&mut self, minute: i64) {
        if let Entry::Occupied(mut flows) = self.flows.entry(minute) {
            *flows.get_mut() -= 1;
            if *flows.get() == 0 {
                flows.remove();
            }
        }
    }

    /// The first minute that is kept.
    fn horizon(&self) -> i64 {
        self.flows.last_key_value().map_or(i64::MIN, |(last, _)| last - ACTIVITY_MINUTES_MAX + 1)
    }
}

pub(super) fn minute_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(MINUTE_SECS)
}
