//! Which paths of an incident have recovered, while others may go on.

use std::{cmp::Reverse, collections::BTreeMap};

use jiff::Timestamp;

use super::{
    PATHS_REPORTED_MAX, Path, Resolution,
    affected_flow::{AffectedFlow, Standing},
};

/// The paths of which no flow goes on, and some flow passes or is allowed.
pub(super) fn recovered<'a>(
    flows: impl Iterator<Item = &'a AffectedFlow>,
    now: Timestamp,
) -> Vec<(Path, Resolution)> {
    // `None`: it goes on.
    let mut paths: BTreeMap<Path, Option<BTreeMap<Timestamp, Resolution>>> = BTreeMap::new();
    for affected in flows {
        let known =
            paths.entry(Path::of(&affected.question)).or_insert_with(|| Some(BTreeMap::new()));
        match affected.standing(now) {
            Standing::GoesOn => *known = None,
            Standing::Passes(at) => {
                known.as_mut().map(|ends| ends.insert(at, Resolution::Passes { at }));
            }
            Standing::Allowed => {
                known.as_mut().map(|ends| ends.insert(Timestamp::MIN, Resolution::Allowed));
            }
            Standing::Gone | Standing::Silent | Standing::Muted => {}
        }
    }
    let last = |(path, ends): (Path, Option<BTreeMap<Timestamp, Resolution>>)| {
        let (at, resolution) = ends?.pop_last()?;
        Some((at, path, resolution))
    };
    let mut recovered: Vec<_> = paths.into_iter().filter_map(last).collect();
    recovered.sort_by_key(|(at, ..)| Reverse(*at));
    recovered.truncate(PATHS_REPORTED_MAX);
    recovered.into_iter().map(|(_, path, resolution)| (path, resolution)).collect()
}
