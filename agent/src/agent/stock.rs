//! Taking stock: what was lost is told, and how the agent fares is read off for the metrics.

use jiff::Timestamp;
use whydrop_core::cluster::object::Kind;

use super::{
    Agent,
    losses::{Loss, Shed, losses},
    waiting::WAITING_MAX,
};
use crate::{
    cluster::live::LOOK_UPS_MAX,
    probe::{Cost, KINDS, State, Totals},
    report::AgentState,
    sink::{
        events::{self, Events},
        log,
        metrics::{Program, Queue, Readings},
        otlp::{self, Fare, Otlp},
    },
};

impl Agent {
    /// Tells what was lost since it last did, and renews the metrics' readings.
    pub(super) fn take_stock(&mut self, now: Timestamp) {
        let totals = match self.probe.observations.totals() {
            Ok(totals) => totals,
            Err(error) => return self.degraded(&error),
        };
        self.keep_past(&totals);
        let losses = losses(
            &totals,
            self.probe.observations.malformed(),
            self.correlator.account(),
            Shed {
                records: self.log.shed(),
                notes: self.events.as_ref().map_or(0, Events::shed),
                drops: self.incidents.shed(),
                answers: self.past.lost(),
                otlp: self.fare().unwrap_or_default(),
            },
        );
        let counts = self.losses.news(&losses, now);
        if !counts.is_empty() {
            self.tell(AgentState::Lost { counts });
        }
        self.metrics.set(self.readings(&totals, &losses));
    }

    fn readings(&self, totals: &Totals, losses: &[Loss]) -> Readings {
        let snapshot = self.cluster.snapshot();
        let interfaces = &self.probe.interfaces;
        Readings {
            is_ready: self.is_ready && self.source.is_synced(),
            parts: self
                .probe
                .parts
                .iter()
                .map(|part| (part.name, part.state == State::Active))
                .collect(),
            followed: self.source.followed(),
            objects: Kind::all().map(|kind| (kind.to_string(), snapshot.count(kind))).collect(),
            unread: snapshot.unread().iter().map(|(kind, count)| (kind.clone(), *count)).collect(),
            revision: snapshot.revision(),
            interfaces: vec![
                ("attached", interfaces.attached().count()),
                ("failed", interfaces.failed().count()),
            ],
            observations: KINDS.into_iter().zip(totals.observed).collect(),
            fates: self.losses.fates(self.correlator.account(), self.muted.packets()),
            losses: losses.iter().map(|loss| (loss.what, loss.count)).collect(),
            queues: self.queues(),
            otlp: self.fare(),
            // Counted only while kernel.bpf_stats_enabled is set.
            programs: totals.programs.iter().filter(|cost| cost.runs > 0).map(program).collect(),
        }
    }

    fn fare(&self) -> Option<Fare> {
        self.otlp.as_ref().map(Otlp::fare)
    }

    fn queues(&self) -> Vec<Queue> {
        let otlp = self.fare().map_or(0, |fare| fare.queued);
        let events = self.events.as_ref().map_or(0, Events::queued);
        [
            ("log", self.log.queued(), log::QUEUE_MAX),
            ("events", events, events::QUEUE_MAX),
            ("otlp", otlp, otlp::QUEUE_MAX),
            ("catching-up", self.waiting.len(), WAITING_MAX),
            ("seeking", self.seekers.len(), WAITING_MAX),
            ("look-ups", self.source.looking_up(), LOOK_UPS_MAX),
        ]
        .map(|(name, length, limit)| Queue { name, length, limit })
        .into()
    }
}

fn program(cost: &Cost) -> Program {
    #[expect(clippy::cast_precision_loss, reason = "exact for the first hundred days of running")]
    let seconds = cost.nanoseconds as f64 / 1e9;
    Program { name: cost.program, runs: cost.runs, seconds }
}
