//! Where everything that was seen has gone: what was not told is counted, and told in numbers.

use std::collections::BTreeMap;

use whydrop_core::correlate::{Account, Correlator};

use crate::probe::{KERNEL_DROP, Totals};

/// Something that is counted since it was not told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    /// What, as metrics name it.
    pub(super) what: &'static str,
    /// What and why, as the record tells it.
    words: &'static str,
    /// How often since the start.
    pub(super) count: u64,
}

/// Everything that can be lost, in the order of its way.
pub(super) fn losses(
    totals: &Totals,
    malformed: u64,
    account: Account,
    records_shed: u64,
    notes_shed: u64,
    incidents_shed: u64,
) -> [Loss; 7] {
    [
        ("observations", "observations for want of room in the kernel", totals.lost.iter().sum()),
        ("program-runs", "program runs skipped by the kernel", totals.skipped),
        ("malformed", "observations that could not be read", malformed),
        ("packets", "dropped packets for want of room in the agent", account.shed),
        ("records", "records for a slow reader of the log", records_shed),
        ("incidents", "drops that no incident is told of", incidents_shed),
        ("notes", "reports that no Kubernetes Event tells of", notes_shed),
    ]
    .map(|(what, words, count)| Loss { what, words, count })
}

/// Losses so far, and which of them have been told.
#[derive(Debug, Default)]
pub(super) struct Losses {
    of_no_pod: u64,
    refused: u64,
    told: BTreeMap<&'static str, u64>,
}

impl Losses {
    /// Packets of drops that no pod takes part in: not lost, but not judged either.
    pub(super) fn of_no_pod(&mut self, packets: u64) {
        self.of_no_pod += packets;
    }

    /// Packets to a closed port, which its kernel refused: who connects is told.
    pub(super) fn refused(&mut self, packets: u64) {
        self.refused += packets;
    }

    /// What was lost since it was last asked.
    pub(super) fn news(&mut self, losses: &[Loss]) -> BTreeMap<String, u64> {
        let mut news = BTreeMap::new();
        for Loss { what, words, count } in losses {
            let told = self.told.entry(what).or_default();
            if count > told {
                news.insert((*words).to_owned(), count - *told);
                *told = *count;
            }
        }
        news
    }

    /// Packets that this kernel dropped and no drop tells of, by what became of them.
    pub(super) fn fates(&self, account: Account, muted: u64) -> Vec<(&'static str, u64)> {
        let Account { recovered, folded, shed, .. } = account;
        vec![
            ("answered", recovered),
            ("folded", folded),
            ("shed", shed),
            ("of-no-pod", self.of_no_pod),
            ("refused", self.refused),
            ("muted", muted),
        ]
    }

    /// Where dropped packets have gone since the start, and what the programs cost.
    pub(super) fn account(
        &self,
        totals: &Totals,
        correlator: &Correlator,
        muted: u64,
    ) -> BTreeMap<String, u64> {
        let Account { recovered, folded, shed, .. } = correlator.account();
        let mut counts: BTreeMap<String, u64> = [
            ("dropped packets observed", totals.observed[KERNEL_DROP]),
            ("dropped packets told to the agent", totals.told[KERNEL_DROP]),
            ("dropped packets lost in the kernel", totals.lost[KERNEL_DROP]),
            ("dropped packets of attempts that were answered", recovered),
            ("dropped packets folded", folded),
            ("dropped packets shed", shed),
            ("dropped packets of no pod", self.of_no_pod),
            ("dropped packets to closed ports", self.refused),
            ("dropped packets muted", muted),
            ("dropped packets undecided", correlator.undecided()),
        ]
        .map(|(what, count)| (what.to_owned(), count))
        .into();
        // Counted only while kernel.bpf_stats_enabled is set.
        for cost in totals.programs.iter().filter(|cost| cost.runs > 0) {
            counts.insert(format!("runs of {}", cost.program), cost.runs);
            counts.insert(format!("ns in {}", cost.program), cost.nanoseconds);
        }
        counts
    }
}
