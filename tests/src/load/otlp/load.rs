//! Records in numbers, through the sink of real agents: one, or a thousand in one process.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use whydrop::{
    report::{AgentState, Record, Reporter},
    sink::{
        Sink as _,
        otlp::{
            Bounds, DeliveryStats, Options, Origin, Otlp, QUEUE_MAX,
            settings::{OtlpArgs, OtlpSettings},
        },
    },
};

/// The golden records, of which these are variations: as long, and with as many attributes.
const DROP: &str = include_str!("../../../../agent/tests/snapshots/records__records_as_json.snap");
const INCIDENT: &str =
    include_str!("../../../../agent/tests/snapshots/incidents__incidents_as_json.snap");

/// How many incidents an agent reports.
pub const INCIDENTS: u64 = 4;

/// Between two looks at a sink.
const LOOK: Duration = Duration::from_millis(2);

/// The settings that flags and a user's environment give.
pub fn settings(variables: &[(&str, &str)]) -> Result<OtlpSettings> {
    let variables: BTreeMap<_, _> = variables.iter().copied().collect();
    let find = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    OtlpSettings::from(&OtlpArgs::default(), &find)?.context("the variables name no endpoint")
}

/// A sink as an agent on this node has it.
pub fn sink(
    node: &str,
    settings: OtlpSettings,
    folder: Option<PathBuf>,
    bytes: Option<u64>,
) -> Result<Otlp> {
    let bounds = bytes.map(|bytes| Bounds { bytes, ..Bounds::DISK });
    let origin = Origin::new(node)?;
    Ok(Otlp::start(Options { settings: settings.into(), origin, folder, bounds })?)
}

/// The golden record of a snapshot.
fn golden(snapshot: &str) -> Record {
    let json = snapshot.splitn(3, "---\n").nth(2).unwrap_or_default();
    serde_json::from_str(json).expect("the golden record")
}

/// Makes the records of one agent.
#[derive(Debug, Clone)]
pub struct Records {
    node: String,
    drop: Record,
    incident: Record,
}

impl Records {
    /// Those of an agent on this node.
    pub fn of(node: &str) -> Self {
        Self { node: node.to_owned(), drop: golden(DROP), incident: golden(INCIDENT) }
    }

    /// A drop, whose id is its number, of one of a few incidents that all agents report.
    pub fn drop(&self, number: u64) -> Record {
        let mut record = self.drop.clone();
        if let Record::Drop(drop) = &mut record {
            drop.node.clone_from(&self.node);
            drop.id = format!("{number:016x}");
            drop.incident = incident_id(number % INCIDENTS);
        }
        record
    }

    /// An incident with so many drops of this agent.
    pub fn incident(&self, incident: u64, drops: u64) -> Record {
        let mut record = self.incident.clone();
        if let Record::Incident(of_agent) = &mut record {
            of_agent.node.clone_from(&self.node);
            of_agent.id = incident_id(incident);
            of_agent.drops.count = drops;
        }
        record
    }

    /// What an agent reports of itself.
    pub fn agent(&self, state: AgentState) -> Record {
        Reporter { node: self.node.clone() }.agent(jiff::Timestamp::now(), state)
    }
}

/// The name of an incident.
pub fn incident_id(incident: u64) -> String {
    format!("1c1de47{incident:09x}")
}

/// What `whydrop-otlp-load` says of one agent.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Said {
    /// Records handed to the sink.
    pub handed: u64,
    /// Records that its outbox has or had.
    pub kept: u64,
    /// Records that the collector has acknowledged.
    pub sent: u64,
    /// Shed because the outbox was full.
    pub full: u64,
    /// Refused.
    pub refused: u64,
    /// Nothing waits any more.
    pub done: bool,
}

impl Said {
    fn of(handed: u64, stats: &DeliveryStats) -> Self {
        let DeliveryStats { kept, sent, full, refused, queued, waiting, .. } = *stats;
        Self { handed, kept, sent, full, refused, done: queued == 0 && waiting == 0 }
    }
}

/// Hands drops to one sink, evenly, and no faster than it takes them in; `say` hears how it goes.
pub fn drive(
    sink: &Otlp,
    records: &Records,
    numbers: std::ops::Range<u64>,
    per_second: f64,
    mut say: impl FnMut(Said),
) {
    let (first, start) = (numbers.start, Instant::now());
    let mut kept = 0;
    for number in numbers {
        #[expect(clippy::cast_precision_loss, reason = "some thousand records")]
        let due = start + Duration::from_secs_f64((number - first) as f64 / per_second);
        loop {
            let stats = sink.stats();
            if stats.kept > kept {
                kept = stats.kept;
                say(Said::of(number - first, &stats));
            }
            if Instant::now() >= due && stats.queued < QUEUE_MAX / 2 {
                break;
            }
            std::thread::park_timeout(LOOK);
        }
        sink.write(&records.drop(number).into());
    }
}

/// Waits until nothing waits for the collector.
pub fn drain(
    sink: &Otlp,
    handed: u64,
    patience: Duration,
    mut say: impl FnMut(Said),
) -> Result<Said> {
    let deadline = Instant::now() + patience;
    loop {
        let said = Said::of(handed, &sink.stats());
        say(said);
        if said.done {
            return Ok(said);
        }
        ensure!(Instant::now() < deadline, "it still waits after {patience:?}: {:?}", sink.stats());
        std::thread::park_timeout(10 * LOOK);
    }
}
