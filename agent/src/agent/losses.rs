//! Where everything that was seen has gone: what was not told is counted, and told in numbers.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use whydrop_core::correlate::{Account, Correlator};

use crate::{
    probe::{KERNEL_DROP, Totals},
    sink::otlp::Fare,
};

/// What the collector did not get is told at most this often: the record that tells of it may fare
/// no better, and would be a loss to tell of.
const COLLECTOR_INTERVAL: SignedDuration = SignedDuration::from_mins(5);

/// Something that is counted since it was not told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    /// What, as metrics name it.
    pub(super) what: &'static str,
    /// What and why, as the record tells it.
    words: &'static str,
    /// Whether it was for the collector.
    is_collectors: bool,
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
    otlp: Fare,
) -> [Loss; 10] {
    [
        ("observations", "observations for want of room in the kernel", totals.lost.iter().sum()),
        ("program-runs", "program runs skipped by the kernel", totals.skipped),
        ("malformed", "observations that could not be read", malformed),
        ("packets", "dropped packets for want of room in the agent", account.shed),
        ("records", "records for a slow reader of the log", records_shed),
        ("incidents", "drops that no incident is told of", incidents_shed),
        ("notes", "reports that no Kubernetes Event tells of", notes_shed),
        ("otlp-full", "records for want of room before the collector", otlp.full),
        ("otlp-old", "records that waited too long for the collector", otlp.old),
        ("otlp-refused", "records that the collector refused", otlp.refused),
    ]
    .map(|(what, words, count)| {
        let is_collectors = what.starts_with("otlp-");
        Loss { what, words, is_collectors, count }
    })
}

/// Losses so far, and which of them have been told.
#[derive(Debug, Default)]
pub(super) struct Losses {
    of_no_pod: u64,
    told: BTreeMap<&'static str, u64>,
    /// When it was last told what the collector did not get.
    collectors_told: Option<Timestamp>,
}

impl Losses {
    /// Packets of drops that no pod takes part in: not lost, but not judged either.
    pub(super) fn of_no_pod(&mut self, packets: u64) {
        self.of_no_pod += packets;
    }

    /// What was lost since it was last asked.
    pub(super) fn news(&mut self, losses: &[Loss], now: Timestamp) -> BTreeMap<String, u64> {
        let mut news = BTreeMap::new();
        let told_of_collector = self.collectors_told;
        let may_tell_of_collector =
            told_of_collector.is_none_or(|told| now.duration_since(told) >= COLLECTOR_INTERVAL);
        for Loss { what, words, is_collectors, count } in losses {
            let told = self.told.entry(what).or_default();
            if count > told && (may_tell_of_collector || !is_collectors) {
                if *is_collectors {
                    self.collectors_told = Some(now);
                }
                news.insert((*words).to_owned(), count - *told);
                *told = *count;
            }
        }
        news
    }

    /// Packets that this kernel dropped and no drop tells of, by what became of them.
    pub(super) fn fates(&self, account: Account) -> Vec<(&'static str, u64)> {
        let Account { recovered, folded, shed, .. } = account;
        vec![
            ("answered", recovered),
            ("folded", folded),
            ("shed", shed),
            ("of-no-pod", self.of_no_pod),
        ]
    }

    /// Where dropped packets have gone since the start, and what the programs cost.
    pub(super) fn account(
        &self,
        totals: &Totals,
        correlator: &Correlator,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_collector_did_not_get_is_not_told_again_at_once() {
        let loss =
            |what, count| Loss { what, words: what, is_collectors: what == "otlp-old", count };
        let mut losses = Losses::default();
        let start = Timestamp::UNIX_EPOCH;
        let told = |losses: &mut Losses, counts: [u64; 2], seconds| {
            let now = start + SignedDuration::from_secs(seconds);
            let now = losses.news(&[loss("records", counts[0]), loss("otlp-old", counts[1])], now);
            now.into_iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>()
        };
        assert_eq!(told(&mut losses, [1, 4], 0), ["4 otlp-old", "1 records"]);
        assert_eq!(told(&mut losses, [3, 5], 10), ["2 records"]);
        assert!(told(&mut losses, [3, 6], 20).is_empty());
        assert_eq!(told(&mut losses, [3, 7], 300), ["3 otlp-old"]);
    }
}
