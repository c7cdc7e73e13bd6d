//! Which flows an id names: that of a drop, or those of an incident.

use std::collections::BTreeMap;

use crate::records::{Line, read, text};
use crate::{
    DropRecord, Record,
    incident::{IncidentRecord, TestFlow},
    text::asked,
};

/// The shortest beginning of an id that is taken for one.
pub const ID_MIN: usize = 4;

/// How many flows of an incident are kept apart; its others suffer by the same cause.
pub const FLOWS_MAX: usize = 64;

/// A flow in the words of `--from`, `--to` and `--port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who connects.
    pub from: String,
    /// Who is connected to.
    pub to: String,
    /// `8080/TCP`.
    pub port: String,
}

/// The flows of each id that begins as wanted, gathered from the lines of logs.
#[derive(Debug)]
pub struct Named {
    wanted: String,
    found: BTreeMap<String, Vec<Asked>>,
}

impl Named {
    /// Looks for a drop or an incident by the beginning of its id.
    ///
    /// # Errors
    /// What was expected of an id.
    pub fn new(id: &str) -> Result<Self, String> {
        let is_id = id.len() >= ID_MIN && id.chars().all(|c| c.is_ascii_hexdigit());
        let expected =
            format!("expected the id of a drop or an incident, {ID_MIN} or more hex digits of it");
        let wanted = id.to_ascii_lowercase();
        is_id
            .then_some(Self { wanted, found: BTreeMap::new() })
            .ok_or(format!("{expected}, found {id:?}"))
    }

    /// Takes a line of a log, in either form.
    pub fn take(&mut self, line: &str) {
        match read(line) {
            Line::Record(record) => match *record {
                Record::Drop(drop) => self.take_drop(&drop),
                Record::Incident(incident) => self.take_incident(&incident),
                Record::Heal(_) | Record::Agent(_) => {}
            },
            Line::Other => self.take_text(line),
            Line::Unreadable { .. } => {}
        }
    }

    /// What was found: the id, as far as it was seen, and its flows.
    ///
    /// # Errors
    /// None, or several, as far as they were seen.
    pub fn flows(self) -> Result<Vec<Asked>, String> {
        let ids: Vec<&str> = self.found.keys().map(String::as_str).collect();
        match ids.as_slice() {
            [] => Err(format!("no drop or incident {} in the records", self.wanted)),
            [_] => Ok(self.found.into_values().flatten().collect()),
            several => Err(format!("{} may be any of {}", self.wanted, several.join(", "))),
        }
    }

    fn take_drop(&mut self, record: &DropRecord) {
        let (from, to, port) = asked(&record.flow);
        for id in [&record.id, &record.incident] {
            if id.starts_with(&self.wanted) {
                let asked = Asked { from: from.clone(), to: to.clone(), port: port.clone() };
                self.add(id, asked);
            }
        }
    }

    fn take_incident(&mut self, record: &IncidentRecord) {
        if !record.id.starts_with(&self.wanted) {
            return;
        }
        for TestFlow { from, to, ip, port, protocol } in
            record.plan.iter().filter_map(|step| step.flow.as_ref())
        {
            let named = |end: &str| end.replacen("node ", "node/", 1);
            // What has no name of its own is asked about by its address.
            let to = if named(to).contains(' ') { ip.clone() } else { named(to) };
            self.add(
                &record.id,
                Asked { from: named(from), to, port: format!("{port}/{protocol}") },
            );
        }
    }

    /// A line of text shows the first digits of its incident's id.
    fn take_text(&mut self, line: &str) {
        let Some((asked, id)) = text::fixed(text::bare(line)) else { return };
        let shown = &self.wanted[..self.wanted.len().min(id.len())];
        if id.starts_with(shown) {
            self.add(id, asked);
        }
    }

    fn add(&mut self, id: &str, asked: Asked) {
        // A line of text has the beginning of an id that a record has whole.
        let known = self.found.keys().find(|known| known.starts_with(id) || id.starts_with(*known));
        let key = known.cloned().unwrap_or_else(|| id.to_owned());
        let flows = self.found.entry(key).or_default();
        if flows.len() < FLOWS_MAX && !flows.contains(&asked) {
            flows.push(asked);
        }
    }
}
