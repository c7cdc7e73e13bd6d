//! The file of flows that `check` is given.

use std::{fs, io, path::Path};

use anyhow::{Context as _, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use strsim::jaro_winkler;
use whydrop_core::{answer::Effective, flow::Protocol};

use super::super::ends::{Between, NumberOrName, WrittenPort};
use crate::cluster::manifests;

/// The fields of a flow.
const FIELDS: [&str; 5] = ["from", "to", "port", "protocol", "expect"];

/// From which likeness on, of at most 1, a field is taken for another that is misspelt.
const LIKE: f64 = 0.7;

/// What a flow is expected to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expect {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
    /// Of the packets that may come of it some pass.
    Some,
}

impl Expect {
    const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::Some];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Some => "some",
        }
    }

    /// Whether it is so. What only some packets get through of is as good as denied: one connection in
    /// two hangs.
    pub(super) const fn is_met(self, effective: Effective) -> bool {
        match self {
            Self::Allow => matches!(effective, Effective::Allow),
            Self::Deny => matches!(effective, Effective::Deny | Effective::Some),
            Self::Some => matches!(effective, Effective::Some),
        }
    }
}

/// A flow as it is written, as far as it can be read.
#[derive(Debug)]
pub(super) struct WrittenFlow {
    /// Where it is written: `flows.yaml, flow 1 (line 2)`.
    pub(super) place: String,
    /// What is written in its fields.
    pub(super) written: Map<String, Value>,
    /// What it says, or what is wrong with it.
    pub(super) read: anyhow::Result<Expectation>,
}

/// A flow with its expected verdict.
#[derive(Clone, Debug)]
pub(super) struct Expectation {
    /// The flow.
    pub(super) flow: Between,
    /// What it is expected to come to.
    pub(super) expect: Expect,
}

impl WrittenFlow {
    /// `frontend/pod-a -> backend/pod-b:8080/TCP`, as it is written, and of which protocol it turned out
    /// to be.
    pub(super) fn shown(&self, protocol: Option<Protocol>) -> String {
        let shown = |name: &str| match self.written.get(name) {
            Some(Value::String(text)) => text.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        };
        let before = |mark: &str, text: String| match text.is_empty() {
            true => text,
            false => format!("{mark}{text}"),
        };
        let (from, to) = (shown("from"), shown("to"));
        let protocol = protocol.map_or_else(|| shown("protocol"), |protocol| protocol.to_string());
        let port = shown("port");
        let port = port.split('/').next().unwrap_or_default().to_owned();
        format!("{from} -> {to}{}{}", before(":", port), before("/", protocol))
    }
}

/// Reads the flows of a file, or of standard input (`-`). What is wrong with one of them is that one's.
///
/// # Errors
/// A file that cannot be read, or is no list.
pub(super) fn read(path: &Path, namespace: Option<&str>) -> anyhow::Result<Vec<WrittenFlow>> {
    let name = path.display();
    let text = match path.as_os_str() == "-" {
        true => io::read_to_string(io::stdin()),
        false => fs::read_to_string(path),
    };
    let text = text.with_context(|| name.to_string())?;
    let value = manifests::yaml(&text, 1).map_err(|error| anyhow!("{name}: {error}"))?;
    let Value::Array(items) = value else {
        bail!("{name}: expected a list of flows, found {}", shown(&value));
    };
    let lines = lines_of(&text, items.len());
    let flows = items.into_iter().enumerate().map(|(index, item)| {
        let line = lines.get(index).map(|line| format!(" (line {line})")).unwrap_or_default();
        let place = format!("{name}, flow {}{line}", index + 1);
        let read = expectation(&item, namespace);
        let written = match item {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        WrittenFlow { place, written, read }
    });
    Ok(flows.collect())
}

/// The lines in which the items of a list begin; none where they are not written one below the other.
fn lines_of(text: &str, count: usize) -> Vec<usize> {
    let indented = |line: &str| {
        let item = line.trim_start_matches(' ');
        (item == "-" || item.starts_with("- ")).then_some(line.len() - item.len())
    };
    let items = text.lines().enumerate().filter_map(|(n, line)| Some((n + 1, indented(line)?)));
    let items: Vec<(usize, usize)> = items.collect();
    let outermost = items.iter().map(|(_, indent)| *indent).min();
    let lines: Vec<usize> =
        items.iter().filter(|(_, indent)| Some(*indent) == outermost).map(|(n, _)| *n).collect();
    if lines.len() == count { lines } else { Vec::new() }
}

fn expectation(item: &Value, namespace: Option<&str>) -> anyhow::Result<Expectation> {
    let Value::Object(fields) = item else {
        bail!("expected the fields {}, found {}", FIELDS.join(", "), shown(item));
    };
    let unknown = fields.keys().find(|name| !FIELDS.contains(&name.as_str()));
    if let Some(name) = unknown {
        let like = FIELDS.iter().filter(|field| jaro_winkler(field, name) >= LIKE);
        let like = like.max_by(|a, b| jaro_winkler(a, name).total_cmp(&jaro_winkler(b, name)));
        match like {
            Some(like) => bail!("{name}: no such field; is it {like}?"),
            None => bail!("{name}: no such field; there are {}", FIELDS.join(", ")),
        }
    }
    let text = |name: &str, expected: &str| match fields.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        other => Err(wrong(name, expected, other)),
    };
    let (from, to) = (text("from", "an end of a flow")?, text("to", "an end of a flow")?);
    let protocol: Option<Protocol> = match fields.get("protocol") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => {
            Some(text.parse().map_err(|error| anyhow!("protocol: {error}"))?)
        }
        other => return Err(wrong("protocol", "TCP, UDP or SCTP", other)),
    };
    let port = match fields.get("port") {
        None | Some(Value::Null) => None,
        Some(Value::Number(number)) => {
            let number = number.as_u64().and_then(|number| u16::try_from(number).ok());
            let number = number.filter(|number| *number > 0);
            let expected = || wrong("port", "1 to 65535, or a name", fields.get("port"));
            Some(WrittenPort { port: NumberOrName::Number(number.ok_or_else(expected)?), protocol })
        }
        Some(Value::String(text)) => {
            let port: WrittenPort = text.parse().context("port")?;
            let agree = protocol.is_none() || port.protocol.is_none() || protocol == port.protocol;
            ensure!(agree, "port: it names another protocol than the field protocol");
            Some(WrittenPort { protocol: port.protocol.or(protocol), ..port })
        }
        other => return Err(wrong("port", "a number or a name", other)),
    };
    let expect = match fields.get("expect") {
        Some(Value::String(text)) => Expect::ALL.into_iter().find(|expect| expect.name() == *text),
        _ => None,
    };
    let expect =
        expect.ok_or_else(|| wrong("expect", "allow, deny or some", fields.get("expect")))?;
    let mut flow = Between::read(["from", "to"], [from, to], port, namespace)?;
    if let Some(port) = &mut flow.port {
        port.protocol = port.protocol.or(protocol);
    }
    Ok(Expectation { flow, expect })
}

fn wrong(field: &str, expected: &str, found: Option<&Value>) -> anyhow::Error {
    anyhow!("{field}: expected {expected}, found {}", found.map_or("nothing".into(), shown))
}

/// A value for an error message.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "fields".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_that_are_written_below_each_other_have_lines() {
        assert_eq!(lines_of("# flows\n- {a: 1}\n\n- a: 2\n  b:\n  - 3\n", 2), [2, 4]);
        assert_eq!(lines_of("  -\n    a: 1\n  - a: 2\n", 2), [1, 3]);
        assert_eq!(lines_of("[{\"a\": 1},\n {\"a\": 2}]", 2), Vec::<usize>::new());
    }
}
