//! Who gives way where a table is full: whoever has the most of it.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

/// Whose a thing is: the namespace of the clients it is about; `None`: of no pods.
pub(super) type Owner = Option<Arc<str>>;

/// Which of a full table's entries, each with its owner and its last time, give way for one of the
/// newcomer's: the oldest of the owner that has the most, as many as it has more than the next one and
/// at most so many, so that a flood does not make each of its entries cost a look at all of them. None:
/// nobody has more than the newcomer would.
pub(super) fn give_way<'t, K>(
    entries: impl Iterator<Item = (K, &'t Owner, Timestamp)> + Clone,
    newcomer: &'t Owner,
    at_most: usize,
) -> Vec<K> {
    let mut counts: BTreeMap<&Owner, usize> = BTreeMap::from([(newcomer, 1)]);
    for (_, owner, _) in entries.clone() {
        *counts.entry(owner).or_default() += 1;
    }
    // Of two that have as much, the newcomer would have it by this entry.
    let mut shares: Vec<(usize, bool, &Owner)> =
        counts.into_iter().map(|(owner, count)| (count, owner == newcomer, owner)).collect();
    shares.sort();
    let Some((most, _, owner)) = shares.pop() else { return Vec::new() };
    let next = shares.pop().map_or(0, |(count, ..)| count);
    let mut own: Vec<(Timestamp, K)> =
        entries.filter(|(_, of, _)| *of == owner).map(|(key, _, last)| (last, key)).collect();
    own.sort_by_key(|(last, _)| *last);
    let many = (most - next).clamp(1, at_most.max(1));
    own.into_iter().take(many).map(|(_, key)| key).collect()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn whoever_has_the_most_gives_way() {
        let at = |second| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second);
        let of = |entries: &[(&str, i64)], newcomer: &str, at_most| {
            let owner = |name: &str| Some(Arc::<str>::from(name));
            let entries: Vec<_> =
                entries.iter().map(|(name, second)| (owner(name), at(*second))).collect();
            let entries = entries.iter().enumerate();
            let entries = entries.map(|(n, (owner, second))| (n, owner, *second));
            give_way(entries, &owner(newcomer), at_most)
        };
        let table = [("victim", 1), ("flood", 5), ("flood", 3), ("flood", 4)];
        assert_eq!(of(&table, "victim", 1), [2], "the oldest of the flood");
        assert_eq!(of(&table, "flood", 1), [2], "its own");
        assert_eq!(of(&table, "third", 1), [2]);
        assert_eq!(of(&table, "third", 9), [2, 3], "no more than it has more than others");
        assert_eq!(of(&[("a", 1), ("b", 2)], "a", 9), [0]);
        assert_eq!(
            of(&[("a", 1), ("b", 2)], "c", 9),
            Vec::<usize>::new(),
            "nobody has more than it would"
        );
    }
}
