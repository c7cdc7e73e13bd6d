//! The command that a line of the agent's log proposes to a person.

use anyhow::{Context, Result};
use serde::Deserialize as _;
use serde_json::Value;
use whydrop::report::{Record, text};

/// The words of the command after the program's name.
pub fn of_line(line: &str) -> Result<Vec<String>> {
    let (_, hint) =
        line.split_once("fix: whydrop ").with_context(|| format!("no fix in {line}"))?;
    let (hint, _) = hint.split_once("  [").unwrap_or((hint, ""));
    Ok(hint.split_whitespace().map(str::to_owned).collect())
}

/// The same, of the line of a record.
pub fn of_record(record: &Value) -> Result<Vec<String>> {
    of_line(&line(record)?)
}

/// The line of a record.
pub fn line(record: &Value) -> Result<String> {
    Ok(text::line(&Record::deserialize(record)?))
}
