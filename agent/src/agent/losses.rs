//! What was not told, counted, and told in numbers.

use std::collections::BTreeMap;

use whydrop_core::correlate::Account;

use crate::probe::Totals;

/// Losses so far, and which of them have been told.
#[derive(Debug, Default)]
pub(super) struct Losses {
    of_no_pod: u64,
    told: BTreeMap<&'static str, u64>,
}

impl Losses {
    /// Packets of drops that no pod takes part in: not lost, but not judged either.
    pub(super) fn of_no_pod(&mut self, packets: u64) {
        self.of_no_pod += packets;
    }

    /// What was lost since it was last asked.
    pub(super) fn news(
        &mut self,
        totals: &Totals,
        account: Account,
        records_shed: u64,
    ) -> BTreeMap<String, u64> {
        let now = [
            ("observations for want of room in the kernel", totals.lost.iter().sum()),
            ("program runs skipped by the kernel", totals.skipped),
            ("dropped packets for want of room in the agent", account.shed),
            ("records for a slow reader of the log", records_shed),
        ];
        let mut news = BTreeMap::new();
        for (what, count) in now {
            let told = self.told.entry(what).or_default();
            if count > *told {
                news.insert(what.to_owned(), count - *told);
                *told = count;
            }
        }
        news
    }
}
