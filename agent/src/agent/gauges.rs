//! How the agent is doing: reports what was lost, and takes the readings for the metrics.

use jiff::Timestamp;
use whydrop_core::{docket::PENDING_MAX, kinds};

use super::{
    Agent,
    losses::{ShedCounts, fates, losses},
};
use crate::{
    cluster::live::LOOK_UPS_MAX,
    probe::{Cost, KINDS, PartState, Totals},
    report::AgentState,
    sink::{Loss, Outgoing, Queue, Reading, SinkReadings},
};

impl Agent {
    /// Reports what was lost since the last time, and renews the readings.
    pub(super) fn read_gauges(&mut self, now: Timestamp) {
        let totals = match self.probe.observations.totals() {
            Ok(totals) => totals,
            Err(error) => return self.failed(&error),
        };
        self.keep_successes(&totals);
        let sinks = self.sinks.readings();
        let malformed = self.probe.observations.malformed();
        let shed =
            ShedCounts { drops: self.docket.incidents_shed(), answers: self.last_success.lost() };
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
        let queues: Vec<Queue> = sinks.queues.into_iter().chain(self.queues()).collect();
        let mut readings = self.state_readings();
        readings.extend(self.cluster_readings());
        readings.extend(self.packet_readings(totals));
        readings.extend(room_readings(losses, &queues));
        readings.extend(sinks.metrics);
        readings.extend(program_readings(totals));
        readings
    }

    fn state_readings(&self) -> Vec<Reading> {
        let parts = self.probe.parts.iter();
        vec![
            Reading::gauge(
                "ready",
                "1 while drops are judged and the cluster's objects are synced.",
                self.is_ready && self.source.is_synced(),
            ),
            Reading::gauges(
                "part_active",
                "1 if this part of the probe works on this kernel.",
                "part",
                parts.map(|part| (part.name, part.state == PartState::Active)),
            ),
        ]
    }

    fn cluster_readings(&self) -> Vec<Reading> {
        let snapshot = self.cluster.snapshot();
        vec![
            Reading::gauges(
                "kind_followed",
                "1 while the watch of this kind is up to date; 0 if its objects may be stale or \
                 missing.",
                "kind",
                self.source.followed(),
            ),
            Reading::gauges(
                "objects",
                "Objects that the agent knows, by kind.",
                "kind",
                kinds::of_agents().map(|kind| (kind.name(), snapshot.count(kind))),
            ),
            Reading::gauges(
                "policies_unread",
                "Policies of kinds that the agent cannot read, although they may decide.",
                "kind",
                snapshot.sync().unread_counts(),
            ),
            Reading::gauge(
                "snapshot_revision",
                "Changes of the cluster's objects so far.",
                snapshot.revision(),
            ),
        ]
    }

    fn packet_readings(&self, totals: &Totals) -> [Reading; 4] {
        let interfaces = &self.probe.interfaces;
        let interfaces =
            [("attached", interfaces.attached().count()), ("failed", interfaces.failed().count())];
        [
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
                "Dropped packets that are in no drop record, by reason.",
                "fate",
                fates(&self.docket.account()),
            ),
            Reading::counter(
                "decided_early",
                "Drops and answers that were judged without waiting for look-ups or policies, \
                 because too many waited.",
                self.docket.decided_early(),
            ),
        ]
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

/// What was lost, and what waits.
fn room_readings(losses: &[Loss], queues: &[Queue]) -> [Reading; 3] {
    [
        Reading::counters(
            "lost",
            "Items lost because a buffer was full or time ran out.",
            "what",
            losses.iter().map(|loss| (loss.name, loss.count)),
        ),
        Reading::gauges(
            "queue_length",
            "Items that wait or are under way, by queue.",
            "queue",
            queues.iter().map(|queue| (queue.name, queue.length)),
        ),
        Reading::gauges(
            "queue_limit",
            "Most items that may wait or be under way, by queue.",
            "queue",
            queues.iter().map(|queue| (queue.name, queue.limit)),
        ),
    ]
}

/// What the programs cost, which the kernel counts only while `kernel.bpf_stats_enabled` is set.
fn program_readings(totals: &Totals) -> [Reading; 2] {
    let programs = || totals.programs.iter().filter(|cost| cost.runs > 0);
    [
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
    ]
}

fn seconds(cost: &Cost) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact for the first hundred days of running")]
    let seconds = cost.nanoseconds as f64 / 1e9;
    seconds
}
