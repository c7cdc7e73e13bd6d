//! A flow that is being dropped: what no report of it had yet, in parts of one cause each.

use jiff::Timestamp;

use super::{Drop, Evidence, REPORT_INTERVAL, SETTLE};

/// How many cuts of one flow wait for what came before them to be known, which takes seconds: policies that
/// change more often than that are a flood, whose parts nobody reads one by one.
const CUTS_MAX: usize = 4;

/// Where what explains the packets of a flow changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    /// From when on packets are of what explains them now.
    pub at: Timestamp,
    /// From when to when packets may be of either: those alone make no part.
    pub unclear: (Timestamp, Timestamp),
    /// When the change was seen: what came before the cut is judged as of before that.
    pub seen: Timestamp,
    /// One denial takes over from another: what was reported before is not reported again for it, but in
    /// its time, unless something came after.
    pub takes_over: bool,
}

impl Cut {
    /// When all that came before it is known, and all that is unclear: attempts are judged by then.
    fn due(&self) -> Timestamp {
        self.at + SETTLE * 2
    }

    /// Whether some of it is clearly of before.
    fn is_after(&self, evidence: &Evidence) -> bool {
        *evidence.latest().start() < self.unclear.0
    }

    /// Whether none of it is clearly of afterwards.
    fn is_tail(&self, evidence: &mut Evidence) -> bool {
        *evidence.latest().end() < self.unclear.1
    }
}

/// A cut that waits, and what came after it and before the next.
#[derive(Debug)]
struct Part {
    cut: Cut,
    evidence: Option<Evidence>,
    /// What came before it was reported, or some of it: what comes after is not to wait for its time.
    is_cut: bool,
}

/// A flow that is being dropped.
#[derive(Debug)]
pub(super) struct Open {
    /// What is known of it up to the first cut.
    pub(super) drop: Drop,
    /// Something of it is in no report.
    news: bool,
    pub(super) reported_at: Option<Timestamp>,
    /// When it may be reported next.
    next: Timestamp,
    parts: Vec<Part>,
    /// When there is something to do about it.
    pub(super) due: Timestamp,
}

impl Open {
    /// One that may be reported from this time on.
    pub(super) fn new(drop: Drop, next: Timestamp) -> Self {
        Self { drop, news: true, reported_at: None, next, parts: Vec::new(), due: next }
    }

    /// Whether something of it is in no report.
    pub(super) fn has_news(&self) -> bool {
        self.news || self.parts.iter().any(|part| part.evidence.is_some())
    }

    /// When the last sign of it was seen.
    pub(super) fn last(&self) -> Timestamp {
        let parts = self.parts.iter().filter_map(|part| part.evidence.as_ref());
        parts.map(Evidence::last).fold(self.drop.evidence.last(), Timestamp::max)
    }

    /// Packets that this kernel dropped and no report had yet.
    pub(super) fn unreported_packets(&self) -> u64 {
        let parts = self.parts.iter().filter_map(|part| part.evidence.as_ref());
        self.drop.unreported_packets() + parts.map(Evidence::kernel_packets).sum::<u64>()
    }

    /// Adds what is of one attempt, or counted, and of one side of each cut.
    pub(super) fn add(&mut self, evidence: Evidence) {
        let first = *evidence.latest().start();
        match self.parts.iter_mut().rfind(|part| first >= part.cut.at) {
            Some(part) => match &mut part.evidence {
                Some(known) => known.merge(evidence),
                None => part.evidence = Some(evidence),
            },
            None => self.merge(evidence),
        }
    }

    fn merge(&mut self, evidence: Evidence) {
        self.drop.evidence.merge(evidence);
        self.news = true;
    }

    /// Cuts it, if it has what no report had yet.
    pub(super) fn cut(&mut self, cut: Cut) {
        let is_known = self.parts.iter().any(|part| part.cut == cut);
        if self.has_news() && !is_known && self.parts.len() < CUTS_MAX {
            let place = self.parts.partition_point(|part| part.cut.at <= cut.at);
            self.parts.insert(place, Part { cut, evidence: None, is_cut: false });
        }
    }

    /// Takes back the cuts that are yet to come: what explains it has changed once more.
    pub(super) fn withdraw(&mut self, now: Timestamp) {
        let from = self.parts.partition_point(|part| part.cut.at <= now);
        for evidence in self.parts.split_off(from).into_iter().filter_map(|part| part.evidence) {
            self.add(evidence);
        }
    }

    /// Takes out what came after a time, as far as it is apart.
    pub(super) fn take_since(&mut self, time: Timestamp) -> Option<Evidence> {
        let is_since = |evidence: &mut Evidence| *evidence.latest().start() >= time;
        let since = self.parts.iter_mut().filter_map(|part| part.evidence.take_if(is_since));
        since.reduce(|mut all, evidence| {
            all.merge(evidence);
            all
        })
    }

    /// What is to be reported by now: all that no report had yet, up to a cut.
    pub(super) fn report(&mut self, now: Timestamp) -> Option<Drop> {
        self.pass_cuts(now);
        let is_due = self.next <= now || self.cut_due().is_some_and(|due| due <= now);
        if !self.news || !is_due {
            return None;
        }
        let report = self.take(now);
        self.reported_at = Some(now);
        self.next = now + REPORT_INTERVAL;
        self.pass_cuts(now);
        Some(report)
    }

    /// All that no report had yet, part by part, as the last thing.
    pub(super) fn rest(mut self) -> Vec<Drop> {
        let mut rest = Vec::new();
        self.pass_cuts(Timestamp::MAX);
        while self.news {
            rest.push(self.take(Timestamp::MAX));
            self.pass_cuts(Timestamp::MAX);
        }
        rest
    }

    fn take(&mut self, now: Timestamp) -> Drop {
        let mut until = None;
        if let Some(part) = self.parts.first_mut().filter(|p| p.cut.is_after(&self.drop.evidence)) {
            part.is_cut = true;
            until = Some(part.cut.seen);
            let is_due = part.cut.due() <= now;
            let tail = part.evidence.take_if(|evidence| is_due && part.cut.is_tail(evidence));
            self.drop.evidence.merge(tail.unwrap_or_default());
        }
        let mut report = self.drop.clone();
        report.evidence.judge_before(until);
        self.news = false;
        self.drop.reported_packets = self.drop.evidence.kernel_packets();
        self.drop.evidence.was_reported();
        report
    }

    /// Goes on with what came after the cuts that are due, where nothing waits to be reported that was seen
    /// clearly before; after a cut that nothing at all was seen clearly before, at once.
    fn pass_cuts(&mut self, now: Timestamp) {
        while let Some(Part { cut, .. }) = self.parts.first()
            && match cut.is_after(&self.drop.evidence) {
                true => cut.due() <= now && !self.news,
                false => cut.at <= now,
            }
        {
            let part = self.parts.remove(0);
            if part.is_cut {
                // Another drop, but for its name: what was reported is of another cause.
                self.next = self.next.min(now);
                self.drop.evidence.was_not_reported();
            }
            if let Some(evidence) = part.evidence {
                self.merge(evidence);
            }
        }
    }

    /// When there is something to report, or to look at; `None`: not before more is seen.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let report = self.news.then_some(self.next);
        [report, self.cut_due()].into_iter().flatten().min()
    }

    /// When what came before the first cut is reported, or passed where all of it was; `None`: not for the
    /// cut.
    fn cut_due(&self) -> Option<Timestamp> {
        let part = self.parts.first()?;
        let is_last = self.parts.iter().all(|part| part.evidence.is_none());
        let may_wait = part.cut.takes_over && is_last && self.reported_at.is_some();
        (!self.news || !may_wait).then(|| part.cut.due())
    }
}
