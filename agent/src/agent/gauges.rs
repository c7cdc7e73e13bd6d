//! How the agent is doing: what was lost is reported, and everything is read off for the metrics.

use jiff::Timestamp;
use whydrop_core::{cluster::object::Kind, docket::PENDING_MAX};

use super::{
    Agent,
    losses::{Shed, fates, losses},
};
use crate::{
    cluster::live::LOOK_UPS_MAX,
    probe::{Cost, KINDS, State, Totals},
    report::AgentState,
    sink::{Loss, Outgoing, Queue, Reading, SinkReadings},
};

impl Agent {
    /// Reports what was lost since it last did, and renews the readings.
    pub(super) fn read_gauges(&mut self, now: Timestamp) {
        let totals = match self.probe.observations.totals() {
            Ok(totals) => totals,
            Err(error) => return self.degraded(&error),
        };
        self.keep_successes(&totals);
        let sinks = self.sinks.readings();
        let malformed = self.probe.observations.malformed();
        let shed = Shed { drops: self.docket.incidents_shed(), answers: self.last_success.lost() };
        let mut losses = losses(&totals, malformed, &self.docket.account(), shed);
        losses.extend(&sinks.losses);
        let counts = self.losses.news(&losses, now);
        if !counts.is_empty() {
            self.report_state(AgentState::Lost { counts });
        }
        let readings = self.readings(&totals, &losses, sinks);
        self.write(Outgoing::Readings(readings.into()));
    }

    /// Every metric that is not counted from what goes out, in the order of the page.
    fn readings(&self, totals: &Totals, losses: &[Loss], sinks: SinkReadings) -> Vec<Reading> {
        let snapshot = self.cluster.snapshot();
        let probe = &self.probe;
        let interfaces = [
            ("attached", probe.interfaces.attached().count()),
            ("failed", probe.interfaces.failed().count()),
        ];
        let queues: Vec<Queue> = sinks.queues.into_iter().chain(self.queues()).collect();
        // Counted only while kernel.bpf_stats_enabled is set.
        let programs = || totals.programs.iter().filter(|cost| cost.runs > 0);
        let mut readings = vec![
            Reading::gauge(
                "ready",
                "Drops are judged, and the cluster is synced.",
                self.is_ready && self.source.is_synced(),
            ),
            Reading::gauges(
                "part_active",
                "A part of the probe works on this kernel.",
                "part",
                probe.parts.iter().map(|part| (part.name, part.state == State::Active)),
            ),
            Reading::gauges(
                "kind_followed",
                "1 while the watch of this kind is up to date; 0 if its objects may be stale or \
                 missing.",
                "kind",
                self.source.followed(),
            ),
            Reading::gauges(
                "objects",
                "Objects that the agent knows.",
                "kind",
                Kind::all().map(|kind| (kind, snapshot.count(kind))),
            ),
            Reading::gauges(
                "policies_unread",
                "Policies of kinds that the agent cannot read, and that may decide all the same.",
                "kind",
                snapshot.sync().unread().iter().map(|(kind, count)| (kind, *count)),
            ),
            Reading::gauge(
                "snapshot_revision",
                "Changes of the cluster so far.",
                snapshot.revision(),
            ),
            Reading::gauges(
                "interfaces",
                "Pods' interfaces, by whether they are watched.",
                "state",
                interfaces,
            ),
            Reading::counters(
                "observations",
                "Packets that the programs observed.",
                "kind",
                KINDS.into_iter().zip(totals.observed),
            ),
            Reading::counters(
                "dropped_packets",
                "Packets that this kernel dropped and that are in no drop record, by what became \
                 of them.",
                "fate",
                fates(&self.docket.account()),
            ),
            Reading::counter(
                "decided_early",
                "Drops and answers that were judged without waiting for look-ups or policies, since \
                 too many waited.",
                self.docket.decided_early(),
            ),
            Reading::counters(
                "lost",
                "Items lost because a buffer was full or time ran out.",
                "what",
                losses.iter().map(|loss| (loss.name, loss.count)),
            ),
            Reading::gauges(
                "queue_length",
                "What waits, or is under way.",
                "queue",
                queues.iter().map(|queue| (queue.name, queue.length)),
            ),
            Reading::gauges(
                "queue_limit",
                "How much may wait, or be under way.",
                "queue",
                queues.iter().map(|queue| (queue.name, queue.limit)),
            ),
        ];
        readings.extend(sinks.metrics);
        readings.extend([
            Reading::counters(
                "program_runs",
                "How often the kernel ran a program, while kernel.bpf_stats_enabled is set.",
                "program",
                programs().map(|cost| (cost.program, cost.runs)),
            ),
            Reading::counters(
                "program_run_seconds",
                "How long programs ran, while kernel.bpf_stats_enabled is set.",
                "program",
                programs().map(|cost| (cost.program, seconds(cost))),
            ),
        ]);
        readings
    }

    /// What waits in the agent itself.
    fn queues(&self) -> [Queue; 3] {
        let (looking_up, catching_up) = self.docket.pending();
        [
            ("catching-up", catching_up, PENDING_MAX),
            ("seeking", looking_up, PENDING_MAX),
            ("look-ups", self.source.looking_up(), LOOK_UPS_MAX),
        ]
        .map(|(name, length, limit)| Queue { name, length, limit })
    }
}

fn seconds(cost: &Cost) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact for the first hundred days of running")]
    let seconds = cost.nanoseconds as f64 / 1e9;
    seconds
}
