//! Which flows an id names: that of a drop, or those of an incident.

use std::collections::BTreeMap;

use thiserror::Error;
use whydrop_core::diagnosis::Class;

use super::{Line, read_line, text};
use crate::{
    incident::{IncidentRecord, TestFlow},
    record::Record,
    schema::{DropRecord, Remedy},
    text::FlowQuery,
    time::Time,
    word::Word,
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
    found: BTreeMap<String, OfId>,
}

/// What was found under one id.
#[derive(Debug, Default)]
struct OfId {
    flows: Vec<FlowQuery>,
    /// By the id of the drop or the incident that a record is of, what its latest one says helps.
    remedies: BTreeMap<String, Recorded>,
    /// Whether those are of an incident's plan, which stands for all of its drops.
    is_planned: bool,
    /// What dropped it, by the latest record that says that policies did not.
    not_policy: Option<(Time, String)>,
}

/// What a record said helps, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// When.
    pub at: Time,
    /// What.
    pub remedies: Vec<Remedy>,
}

/// What an id names.
#[derive(Debug)]
pub struct Found {
    /// Its flows.
    pub flows: Vec<FlowQuery>,
    /// What the latest records of it said helps; nothing of lines of text, which do not say it.
    pub recorded: Vec<Recorded>,
    /// What dropped it, where that was not policy.
    pub not_policy: Option<String>,
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
        self.named().map(|found| found.flows)
    }

    /// The flows that were found, and what helps by the records of them.
    ///
    /// # Errors
    /// There is no such id in the lines, or there are several.
    pub fn named(mut self) -> Result<Found, FlowSearchError> {
        match self.found.len() {
            0 => Err(FlowSearchError::NotFound(self.wanted)),
            1 => {
                let OfId { flows, remedies, not_policy, .. } =
                    self.found.pop_first().map(|(_, of_id)| of_id).unwrap_or_default();
                let helps = |recorded: &Recorded| !recorded.remedies.is_empty();
                let mut recorded: Vec<_> = remedies.into_values().filter(helps).collect();
                recorded.dedup_by(|a, b| a.remedies == b.remedies);
                let not_policy = not_policy.map(|(_, text)| text);
                Ok(Found { flows, recorded, not_policy })
            }
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
                let of_id = self.of_id(id);
                of_id.blame(record.time, &record.cause.class, &record.cause.text);
                if !of_id.is_planned {
                    let remedies = record.remedy.iter().cloned().collect();
                    of_id.record(&record.id, Recorded { at: record.time, remedies });
                }
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
        let remedies: Vec<Remedy> =
            record.plan.iter().filter_map(|step| step.remedy.clone()).collect();
        if let Some(of_id) = self.known(&record.id) {
            of_id.blame(record.time, &record.cause.class, &record.text);
        }
        if let Some(of_id) = self.known(&record.id)
            && !remedies.is_empty()
        {
            if !of_id.is_planned {
                of_id.remedies.clear();
                of_id.is_planned = true;
            }
            of_id.record(&record.id, Recorded { at: record.time, remedies });
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
        let flows = &mut self.of_id(id).flows;
        if flows.len() < FLOWS_MAX && !flows.contains(&flow) {
            flows.push(flow);
        }
    }

    fn of_id(&mut self, id: &str) -> &mut OfId {
        let key = self.key(id).unwrap_or_else(|| id.to_owned());
        self.found.entry(key).or_default()
    }

    fn known(&mut self, id: &str) -> Option<&mut OfId> {
        let key = self.key(id)?;
        self.found.get_mut(&key)
    }

    /// A line of text has the beginning of an id that a record has whole.
    fn key(&self, id: &str) -> Option<String> {
        let is_it = |known: &&String| known.starts_with(id) || id.starts_with(known.as_str());
        self.found.keys().find(is_it).cloned()
    }
}

impl OfId {
    /// Keeps what the latest record says that it was dropped by, where that is no policy.
    fn blame(&mut self, at: Time, class: &Word<Class>, text: &str) {
        if *class == Word::Known(Class::NotPolicy)
            && self.not_policy.as_ref().is_none_or(|(known, _)| *known <= at)
        {
            self.not_policy = Some((at, text.to_owned()));
        }
    }

    /// Keeps what the latest record says.
    fn record(&mut self, id: &str, recorded: Recorded) {
        let is_room = self.remedies.len() < FLOWS_MAX || self.remedies.contains_key(id);
        let is_later = self.remedies.get(id).is_none_or(|known| known.at <= recorded.at);
        if is_room && is_later {
            self.remedies.insert(id.to_owned(), recorded);
        }
    }
}
