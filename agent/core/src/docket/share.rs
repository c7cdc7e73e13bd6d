//! How many connects through a Service needed a second SYN, since one of its backends drops the first.
//!
//! The kernel's table counts the connects that were answered for what was dialled, the first try of each
//! or a later one; the drop of a backend counts those that it dropped, and which of them another backend
//! answered. So from the first report of a drop on both are known.

use std::collections::HashMap;

use jiff::Timestamp;

use crate::{
    correlate::{Drop, DropId, IDLE, OPEN_MAX},
    flow::{Flow, Worked},
    incident::Share,
};

/// What had been counted by the first report of each drop.
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<DropId, Counts>);

#[derive(Clone, Copy, Debug)]
struct Counts {
    /// Connects that were answered for what was dialled.
    answered: u64,
    dropped: u64,
    rescued: u64,
    seen: Timestamp,
}

/// The flow whose answered connects are to be counted for a drop; `None`: no other backend has answered
/// what it dropped.
pub(super) fn counted_for(drop: &Drop) -> Option<Flow> {
    drop.flow_dialled().filter(|_| drop.evidence.rescued() > 0)
}

impl Shares {
    /// The share of a drop that is reported; `answered`: which connects were answered for what was dialled.
    pub(super) fn of(&mut self, drop: &Drop, answered: Option<Worked>) -> Option<Share> {
        counted_for(drop)?;
        let evidence = &drop.evidence;
        let now = Counts {
            answered: answered.map_or(0, |worked| worked.connections),
            dropped: evidence.attempts(),
            rescued: evidence.rescued(),
            seen: evidence.last(),
        };
        let from = self.begin(drop, now, answered);
        let Some(from) = from.filter(|from| from.answered <= now.answered) else {
            return Some(Share { needed_again: now.rescued, connects: None });
        };
        let in_vain = |counts: Counts| counts.dropped.saturating_sub(counts.rescued);
        let connects = now.answered - from.answered + in_vain(now).saturating_sub(in_vain(from));
        let needed_again = now.rescued - from.rescued.min(now.rescued);
        Some(Share { needed_again, connects: Some(connects.max(needed_again)) })
    }

    /// From when on both are counted: where nothing was answered before the drop, from its beginning.
    fn begin(&mut self, drop: &Drop, now: Counts, answered: Option<Worked>) -> Option<Counts> {
        self.0.retain(|_, counts| now.seen.duration_since(counts.seen) <= IDLE);
        if let Some(from) = self.0.get_mut(&drop.id) {
            from.seen = now.seen;
            return Some(*from);
        }
        let is_whole = answered.is_some_and(|worked| worked.first >= drop.evidence.first());
        let from = match is_whole {
            true => Counts { answered: 0, dropped: 0, rescued: 0, ..now },
            false => now,
        };
        if self.0.len() >= OPEN_MAX {
            // Of those that are gone, this one has been for longest.
            let oldest = self.0.iter().min_by_key(|(id, counts)| (counts.seen, **id));
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(drop.id, from);
        is_whole.then_some(from)
    }
}
