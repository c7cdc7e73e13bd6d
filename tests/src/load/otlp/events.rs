//! Events as a collector writes them: a request of the protocol's JSON form a line.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use whydrop::{
    report::Record,
    sink::otlp::{RECORD, SEQUENCE, UID},
};

/// A log record, with the attributes of its resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// By the names of its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// Those of its resource.
    pub resource: BTreeMap<String, String>,
    /// All of it, but for its resource.
    pub json: Value,
    /// Its scope.
    pub scope: Value,
}

impl Event {
    /// An attribute, or nothing.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// What no other event has, and its copies have as well.
    pub fn uid(&self) -> &str {
        self.get(UID)
    }

    /// Its number among the events of its agent.
    pub fn sequence(&self) -> Result<u64> {
        self.get(SEQUENCE).parse().context(SEQUENCE)
    }

    /// The record that it was made of.
    pub fn record(&self) -> Result<Record> {
        serde_json::from_str(self.get(RECORD)).context(RECORD)
    }
}

/// Reads lines; the last may be cut off.
pub fn read(text: &str) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let request: Value = match serde_json::from_str(line) {
            Ok(request) => request,
            Err(_) if number + 1 == lines.len() => break,
            // A writer that was killed leaves half a line, which the next goes on in.
            Err(_) if line.matches("{\"resourceLogs\"").count() > 1 => {
                let start = line.rfind("{\"resourceLogs\"").context("a line")?;
                serde_json::from_str(&line[start..])?
            }
            Err(error) => return Err(error).context(format!("line {}", number + 1)),
        };
        take(&request, &mut events)?;
    }
    Ok(events)
}

/// Reads one request.
pub fn take(request: &Value, events: &mut Vec<Event>) -> Result<()> {
    for resource in list(&request["resourceLogs"]) {
        let of_resource = attributes(&resource["resource"]["attributes"])?;
        for scope in list(&resource["scopeLogs"]) {
            for json in list(&scope["logRecords"]) {
                events.push(Event {
                    name: json["eventName"].as_str().unwrap_or_default().to_owned(),
                    attributes: attributes(&json["attributes"])?,
                    resource: of_resource.clone(),
                    json: json.clone(),
                    scope: scope["scope"].clone(),
                });
            }
        }
    }
    Ok(())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn attributes(value: &Value) -> Result<BTreeMap<String, String>> {
    let mut attributes = BTreeMap::new();
    for attribute in list(value) {
        let key = attribute["key"].as_str().context("an attribute has a key")?;
        let value = attribute["value"].as_object().and_then(|value| value.values().next());
        let text = match value {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        ensure!(attributes.insert(key.to_owned(), text).is_none(), "{key} is there twice");
    }
    Ok(attributes)
}

/// Events without their copies: the first of each.
pub fn distinct(events: &[Event]) -> Vec<&Event> {
    let mut seen = BTreeSet::new();
    events.iter().filter(|event| seen.insert(event.uid())).collect()
}
