//! Which flows an id names: that of a drop, or those of an incident.

use std::collections::BTreeMap;

use thiserror::Error;

use super::{Line, read_line, text};
use crate::{
    incident::{IncidentRecord, TestFlow},
    record::Record,
    schema::DropRecord,
    text::FlowQuery,
};

/// The shortest beginning of an id that is taken for one.
pub const ID_MIN: usize = 4;

/// How many flows of an incident are kept; its others have the same cause.
pub const FLOWS_MAX: usize = 64;

/// Why an id names no flows.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FlowSearchError {
    /// It is no id.
    #[error(
        "expected the id of a drop or an incident, {ID_MIN} or more hex digits of it, found {0:?}"
    )]
    NoId(String),
    /// No record has it.
    #[error("no drop or incident {0} in the records")]
    NotFound(String),
    /// Several ids begin like this.
    #[error("{wanted} may be any of {}", ids.join(", "))]
    Ambiguous {
        /// What was looked for.
        wanted: String,
        /// What was found, as far as it was seen.
        ids: Vec<String>,
    },
}

/// The flows of each id that begins as wanted, gathered from the lines of logs.
#[derive(Debug)]
pub struct FlowSearch {
    wanted: String,
    found: BTreeMap<String, Vec<FlowQuery>>,
}

impl FlowSearch {
    /// Looks for a drop or an incident by the beginning of its id.
    ///
    /// # Errors
    /// It is no id.
    pub fn new(id: &str) -> Result<Self, FlowSearchError> {
        let is_id = id.len() >= ID_MIN && id.chars().all(|c| c.is_ascii_hexdigit());
        if !is_id {
            return Err(FlowSearchError::NoId(id.to_owned()));
        }
        Ok(Self { wanted: id.to_ascii_lowercase(), found: BTreeMap::new() })
    }

    /// Searches a line of a log, in either form.
    pub fn search(&mut self, line: &str) {
        match read_line(line) {
            Line::Record(record) => match *record {
                Record::Drop(drop) => self.search_drop(&drop),
                Record::Incident(incident) => self.search_incident(&incident),
                Record::Heal(_) | Record::Agent(_) => {}
            },
            Line::Other => self.search_text(line),
            Line::Unreadable(_) => {}
        }
    }

    /// The flows that were found.
    ///
    /// # Errors
    /// There is no such id in the lines, or there are several.
    pub fn flows(self) -> Result<Vec<FlowQuery>, FlowSearchError> {
        match self.found.len() {
            0 => Err(FlowSearchError::NotFound(self.wanted)),
            1 => Ok(self.found.into_values().flatten().collect()),
            _ => Err(FlowSearchError::Ambiguous {
                wanted: self.wanted,
                ids: self.found.into_keys().collect(),
            }),
        }
    }

    fn search_drop(&mut self, record: &DropRecord) {
        for id in [&record.id, &record.incident] {
            if id.starts_with(&self.wanted) {
                self.add(id, FlowQuery::of(&record.flow));
            }
        }
    }

    fn search_incident(&mut self, record: &IncidentRecord) {
        if !record.id.starts_with(&self.wanted) {
            return;
        }
        for TestFlow { from, to, ip, port, protocol } in
            record.plan.iter().filter_map(|step| step.flow.as_ref())
        {
            let named = |end: &str| end.replacen("node ", "node/", 1);
            // What has no name of its own is asked about by its address.
            let to = if named(to).contains(' ') { ip.clone() } else { named(to) };
            let flow = FlowQuery { from: named(from), to, port: format!("{port}/{protocol}") };
            self.add(&record.id, flow);
        }
    }

    /// A line of text shows the first digits of its incident's id.
    fn search_text(&mut self, line: &str) {
        let Some((flow, id)) = text::fixed(text::bare(line)) else { return };
        let shown = &self.wanted[..self.wanted.len().min(id.len())];
        if id.starts_with(shown) {
            self.add(id, flow);
        }
    }

    fn add(&mut self, id: &str, flow: FlowQuery) {
        // A line of text has the beginning of an id that a record has whole.
        let known = self.found.keys().find(|known| known.starts_with(id) || id.starts_with(*known));
        let key = known.cloned().unwrap_or_else(|| id.to_owned());
        let flows = self.found.entry(key).or_default();
        if flows.len() < FLOWS_MAX && !flows.contains(&flow) {
            flows.push(flow);
        }
    }
}
