//! Records read back, from the lines of agents' logs: of one node or of many, as they come.

pub mod board;
pub mod flow_search;
pub mod lines;
pub mod text;

use serde::Deserialize;
use thiserror::Error;

use crate::{record::Record, schema::SCHEMA};

/// What a line of a log turns out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// A record.
    Record(Box<Record>),
    /// Anything else that a stream of logs holds: an agent's message, a line of text, nothing.
    Other,
    /// It begins as a record, and cannot be read as one.
    Unreadable(Unreadable),
}

/// Why a line that begins as a record is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unreadable {
    /// The rest of it is missing.
    #[error("the line ends within the record")]
    CutOff,
    /// Something follows the record.
    #[error("expected the record to be the whole line")]
    NotAlone,
    /// It is longer than a record can be.
    #[error("the line is longer than {} bytes", lines::LINE_BYTES_MAX)]
    TooLong,
    /// Another version of whydrop wrote it.
    #[error("schema: expected {SCHEMA}, found {0}")]
    Schema(String),
    /// There is no such kind of record.
    #[error("kind: expected drop, finding, incident, heal or agent, found {0}")]
    Kind(String),
    /// A field is missing, is not known, or holds something else than it may.
    #[error("{path}: {expected}")]
    Field {
        /// Where it is.
        path: String,
        /// What was expected and what was found.
        expected: String,
    },
}

/// How a record begins as agents write it. Of these the kind is known without reading the line
/// twice, which counts for 100,000 of them.
const BEGINNING: &str = r#"{"schema":"whydrop/v1","kind":""#;

/// What distinguishes the kinds of records. Reading this first is quicker than trying one after the
/// other, and gives an error that names the field.
#[derive(Deserialize)]
struct RecordKind {
    schema: String,
    kind: String,
}

/// Reads a line as `whydrop agent --log-format json` writes it, or as `kubectl logs` passes it on
/// with `--prefix` or `--timestamps`. The whole line is the record: one within a text is none.
pub fn read_line(line: &str) -> Line {
    let json = text::bare(line);
    if !json.starts_with('{') {
        return Line::Other;
    }
    if let Some((kind, _)) = json.strip_prefix(BEGINNING).and_then(|rest| rest.split_once('"')) {
        return parse(kind, json);
    }
    let Ok(begun) = serde_json::from_str::<RecordKind>(json) else {
        // What begins as a record is one that was cut off; other programs write JSON as well.
        let is_cut = json.starts_with(r#"{"schema":"whydrop/"#);
        return if is_cut { Line::Unreadable(Unreadable::CutOff) } else { Line::Other };
    };
    if begun.schema != SCHEMA {
        let is_ours = begun.schema.starts_with("whydrop/");
        let why = Unreadable::Schema(begun.schema);
        return if is_ours { Line::Unreadable(why) } else { Line::Other };
    }
    parse(&begun.kind, json)
}

fn parse(kind: &str, json: &str) -> Line {
    let record = match kind {
        "drop" | "finding" => fields(json).map(Record::Drop),
        "incident" => fields(json).map(Record::Incident),
        "agent" => fields(json).map(Record::Agent),
        "heal" => fields(json).map(Record::Heal),
        other => Err(Unreadable::Kind(other.to_owned())),
    };
    match record {
        Ok(record) => Line::Record(Box::new(record)),
        Err(why) => Line::Unreadable(why),
    }
}

fn fields<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Unreadable> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let fields = serde_path_to_error::deserialize(&mut reader);
    let fields = fields.map_err(|error| match error.inner().is_eof() {
        true => Unreadable::CutOff,
        false => Unreadable::Field {
            path: error.path().to_string(),
            expected: error.inner().to_string(),
        },
    })?;
    reader.end().map_err(|_| Unreadable::NotAlone)?;
    Ok(fields)
}

/// A line that is too long to be read.
pub const fn too_long() -> Line {
    Line::Unreadable(Unreadable::TooLong)
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: &str = concat!(
        r#"{"schema":"whydrop/v1","kind":"agent","time":"2026-01-02T03:04:05Z","node":"worker-1","#,
        r#""state":"degraded","what":"a watch ended","since":"2026-01-02T03:04:00Z"}"#
    );

    #[test]
    fn a_record_is_found_behind_what_kubectl_puts_before_it() {
        let plain = read_line(READY);
        assert!(matches!(&plain, Line::Record(record) if matches!(**record, Record::Agent(_))));
        let prefixed = format!("[pod/whydrop-x/whydrop] 2026-01-02T03:04:05.1Z {READY}\n");
        assert_eq!(read_line(&prefixed), plain);
    }

    #[test]
    fn a_record_within_a_text_is_none() {
        for before in ["2026-01-02T03:04:05Z AGENT node/a degraded since x: ", "x ", "\"", "[", " "]
        {
            assert_eq!(read_line(&format!("{before}{READY}")), Line::Other, "{before}");
        }
        for after in [" x", READY, "}"] {
            let line = read_line(&format!("{READY}{after}"));
            assert!(matches!(line, Line::Unreadable(_)), "{after}: {line:?}");
        }
    }

    #[test]
    fn what_is_no_record_differs_from_one_that_is_broken() {
        for other in ["", "2026-01-02T03:04:05Z AGENT node/a ready", r#"{"level":"INFO"}"#] {
            assert_eq!(read_line(other), Line::Other, "{other}");
        }
        let why = |line: &str| match read_line(line) {
            Line::Unreadable(why) => why.to_string(),
            line => panic!("expected an unreadable line, found {line:?}"),
        };
        assert_eq!(why(&READY[..60]), "the line ends within the record");
        assert_eq!(
            why(&READY.replace("whydrop/v1", "whydrop/v2")),
            "schema: expected whydrop/v1, found whydrop/v2"
        );
        assert_eq!(
            why(&READY.replace(r#""kind":"agent""#, r#""kind":"rumour""#)),
            "kind: expected drop, finding, incident, heal or agent, found rumour"
        );
        let missing = why(&READY.replace(r#""kind":"agent""#, r#""kind":"drop""#));
        assert!(missing.contains("state"), "{missing}");
    }
}
