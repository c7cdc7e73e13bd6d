//! The line of an incident.

use std::fmt::Write as _;

use super::{count, resolution, short};
use crate::incident::{HappenedKind, IncidentRecord};

/// `TIME INCIDENT ID opened critical 97%  TEXT; 22 drops, 66 packets; do: FIRST STEP (6 steps more)`.
pub(super) fn line(record: &IncidentRecord) -> String {
    let id = short(&record.id);
    let time = record.time.seconds();
    let drops = count(record.drops.count, "drop");
    let what = match (record.happened, &record.resolution) {
        (HappenedKind::Opened, _) => "opened".to_owned(),
        (HappenedKind::Updated, _) => "updated".to_owned(),
        (HappenedKind::Reopened, _) => "reopened".to_owned(),
        (HappenedKind::Resolved, why) => {
            let why = resolution(why.as_ref());
            let was = format!("{drops} since {}", record.first.seconds());
            return format!("{time} INCIDENT {id} resolved: {why}; {was}; it was: {}", record.text);
        }
    };
    let percent = (record.confidence * 100.0).round();
    let mut line = format!(
        "{time} INCIDENT {id} {what} {} {percent}%  {}; {drops}, {}",
        record.severity,
        record.text,
        count(record.drops.packets, "packet")
    );
    if let [first, others @ ..] = record.plan.as_slice() {
        let more = count(others.len() as u64, "step");
        let _ = write!(line, "; do: {} ({more} more)", first.text);
    }
    line
}
