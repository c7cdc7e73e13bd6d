//! Where everything that was seen has gone: what is not reported is counted, and the counts are
//! reported.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use whydrop_core::docket::Account;

use crate::{
    probe::{KERNEL_DROP, Totals},
    sink::Loss,
};

/// On a busy node the table of last answers evicts the oldest by design, all the time, and a pod that dials
/// hundreds far away at once has its own attempts give way to each other; the metrics count that at once.
const FORGOTTEN_INTERVAL: SignedDuration = SignedDuration::from_hours(1);

/// What the agent's own parts had no room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShedCounts {
    /// Drops, by the incidents.
    pub(super) drops: u64,
    /// Last answers, by the kernel's table.
    pub(super) answers: u64,
}

/// What can be lost on the way to the sinks, in the order of that way.
pub(super) fn losses(
    totals: &Totals,
    malformed: u64,
    account: &Account,
    shed: ShedCounts,
) -> Vec<Loss> {
    let at_once = SignedDuration::ZERO;
    [
        (
            "observations",
            "observations (the kernel's ring buffer was full)",
            totals.lost.iter().sum(),
            at_once,
        ),
        ("program-runs", "program runs skipped by the kernel", totals.skipped, at_once),
        (
            "attempts",
            "unanswered attempts (their sender had too many at once)",
            totals.attempts_evicted,
            FORGOTTEN_INTERVAL,
        ),
        ("malformed", "observations that could not be read", malformed, at_once),
        ("packets", "dropped packets (the agent's table was full)", account.shed, at_once),
        (
            "incidents",
            "drops without an incident (there were too many incidents)",
            shed.drops,
            at_once,
        ),
        ("last-answers", "flows whose last answer was forgotten", shed.answers, FORGOTTEN_INTERVAL),
    ]
    .map(|(name, words, count, interval)| Loss { name, words, interval, count })
    .into()
}

/// Losses so far, and which of them have been reported.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// How many of each were reported, and when last.
    reported: BTreeMap<&'static str, (u64, Timestamp)>,
}

impl Losses {
    /// What was lost since it was last reported, and may be reported again by now.
    pub(super) fn news(&mut self, losses: &[Loss], now: Timestamp) -> BTreeMap<String, u64> {
        let mut news = BTreeMap::new();
        for Loss { name, words, interval, count } in losses {
            let reported = self.reported.get(name).copied();
            let is_due = reported.is_none_or(|(_, at)| now.duration_since(at) >= *interval);
            let (before, _) = reported.unwrap_or_default();
            if *count > before && is_due {
                news.insert((*words).to_owned(), count - before);
                self.reported.insert(name, (*count, now));
            }
        }
        news
    }
}

/// Packets that this kernel dropped and that are in no drop record, by what became of them.
pub(super) fn fates(account: &Account) -> [(&'static str, u64); 6] {
    [
        ("answered", account.answered),
        ("folded", account.folded),
        ("shed", account.shed),
        ("of-no-pod", account.of_no_pod),
        ("refused", account.refused),
        ("muted", account.muted),
    ]
}

/// Where dropped packets have gone since the start, and what the programs cost.
pub(super) fn account(totals: &Totals, account: &Account) -> BTreeMap<String, u64> {
    let mut counts: BTreeMap<String, u64> = [
        ("dropped packets observed", totals.observed[KERNEL_DROP]),
        ("dropped packets reported to the agent", totals.reported[KERNEL_DROP]),
        ("dropped packets lost in the kernel", totals.lost[KERNEL_DROP]),
        ("dropped packets of attempts that were answered", account.answered),
        ("dropped packets folded", account.folded),
        ("dropped packets shed", account.shed),
        ("dropped packets of no pod", account.of_no_pod),
        ("dropped packets to closed ports", account.refused),
        ("dropped packets muted", account.muted),
        ("dropped packets undecided", account.undecided),
        ("dropped packets in reports", account.reported),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_reported_again_after_its_interval() {
        let loss = |name, count| {
            let minutes = if name == "otlp-old" { 5 } else { 0 };
            Loss { name, words: name, interval: SignedDuration::from_mins(minutes), count }
        };
        let mut losses = Losses::default();
        let start = Timestamp::UNIX_EPOCH;
        let reported = |losses: &mut Losses, counts: [u64; 2], seconds| {
            let now = start + SignedDuration::from_secs(seconds);
            let now = losses.news(&[loss("records", counts[0]), loss("otlp-old", counts[1])], now);
            now.into_iter().map(|(what, count)| format!("{count} {what}")).collect::<Vec<_>>()
        };
        assert_eq!(reported(&mut losses, [1, 4], 0), ["4 otlp-old", "1 records"]);
        assert_eq!(reported(&mut losses, [3, 5], 10), ["2 records"]);
        assert!(reported(&mut losses, [3, 6], 20).is_empty());
        assert_eq!(reported(&mut losses, [3, 7], 300), ["3 otlp-old"]);
    }
}
