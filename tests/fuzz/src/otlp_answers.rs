//! A collector's answers: only one that says so acknowledges.

use serde_json::Value;
use whydrop::sink::otlp::{ExportOutcome, outcome_of};

use crate::{choices::Choices, text};

/// What an answer says it is in.
const KINDS: [&[u8]; 7] = [
    b"application/x-protobuf",
    b"application/json",
    b"text/html",
    b"Application/JSON; charset=utf-8",
    b" application/x-protobuf ;x",
    b"application/jsonx",
    b"",
];

const STATUSES: [u16; 12] = [200, 202, 204, 206, 301, 400, 401, 429, 500, 502, 503, 504];

/// More than a collector's words are quoted, escaped.
const WORDS_BYTES_MAX: usize = 4 * 1024;

/// Answers of any status, type and body.
pub(crate) fn run(data: &[u8]) {
    let mut choices = Choices::new(data);
    let status = match choices.byte() % 4 {
        0 => u16::from_be_bytes(choices.bytes()),
        1 => *choices.one(&STATUSES),
        _ => 200,
    };
    let any = choices.some(40);
    let kind = match choices.byte() % 4 {
        0 => None,
        1 => Some(any),
        _ => Some(*choices.one(&KINDS)),
    };
    let after = choices.some(40);
    let after = (choices.byte().is_multiple_of(2)).then_some(after);
    let body = choices.rest();
    let Some(outcome) = outcome_of(status, kind, after, body) else { return };
    let is_success = (200..300).contains(&status);
    let acknowledged = if is_success { acknowledged(kind, body) } else { None };
    match (&outcome, acknowledged) {
        (ExportOutcome::Accepted { rejected, message }, Some(said)) => {
            assert_eq!(*rejected, said, "{kind:?} {body:02x?}");
            text::assert_harmless(message);
            assert!(message.len() <= WORDS_BYTES_MAX, "{message}");
        }
        (ExportOutcome::Retry { after: waits, why }, None) => {
            text::assert_harmless(why);
            assert!(why.len() <= WORDS_BYTES_MAX, "{why}");
            let may_wait = after.is_some() && matches!(status, 429 | 502 | 503 | 504);
            assert!(waits.is_none() || may_wait, "{status}: {outcome:?}");
            assert!(is_success || matches!(status, 429 | 502 | 503 | 504), "{status}");
        }
        (ExportOutcome::Refused { why }, None) => {
            text::assert_harmless(why);
            assert!(why.len() <= WORDS_BYTES_MAX, "{why}");
            assert!(!is_success && !matches!(status, 429 | 502 | 503 | 504), "{status}");
        }
        (outcome, acknowledged) => {
            panic!("{status} {kind:?} {body:02x?}: {outcome:?}, expected {acknowledged:?}")
        }
    }
}

/// How many records a body rejects, if it is the protocol's answer.
fn acknowledged(kind: Option<&[u8]>, body: &[u8]) -> Option<u64> {
    let kind = match kind {
        None => "application/x-protobuf".to_owned(),
        // A header's value is text (`HeaderValue::to_str`): visible ASCII, blanks and tabs.
        Some(kind) if kind.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) => {
            let kind = String::from_utf8_lossy(kind);
            kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
        }
        Some(_) => return None,
    };
    match kind.as_str() {
        "application/x-protobuf" => {
            let partial = message(body, 1)?;
            let mut rejected = 0;
            for part in partial {
                rejected = part.varint(1, rejected)?;
            }
            Some(u64::try_from(rejected.cast_signed()).unwrap_or(0))
        }
        "application/json" if body.is_empty() => Some(0),
        "application/json" => {
            let Ok(Value::Object(answer)) = serde_json::from_slice(body) else { return None };
            let rejected = answer.get("partialSuccess").and_then(|p| p.get("rejectedLogRecords"));
            let rejected = match rejected {
                Some(Value::String(digits)) => digits.parse().unwrap_or(0),
                Some(other) => other.as_i64().unwrap_or(0),
                None => 0,
            };
            Some(u64::try_from(rejected).unwrap_or(0))
        }
        _ => None,
    }
}

/// A message's fields, as the wire has them (<https://protobuf.dev/programming-guides/encoding/>).
struct Fields<'a>(Vec<(u64, Field<'a>)>);

enum Field<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    Other,
}

/// The messages within a field of a message; `None`: it is none.
fn message(body: &[u8], number: u64) -> Option<Vec<Fields<'_>>> {
    let mut messages = Vec::new();
    for (field, value) in fields(body)?.0 {
        match (field == number, value) {
            (false, _) => {}
            (true, Field::Bytes(bytes)) => {
                let inner = fields(bytes)?;
                inner.text(2)?;
                inner.varint(1, 0)?;
                messages.push(inner);
            }
            (true, _) => return None,
        }
    }
    Some(messages)
}

impl Fields<'_> {
    /// The last value of a number's field, or this one where there is none; `None`: it is of another type.
    fn varint(&self, number: u64, otherwise: u64) -> Option<u64> {
        let mut last = otherwise;
        for (_, value) in self.0.iter().filter(|(field, _)| *field == number) {
            let Field::Varint(value) = value else { return None };
            last = *value;
        }
        Some(last)
    }

    /// `None`: a field of text holds something else.
    fn text(&self, number: u64) -> Option<()> {
        for (_, value) in self.0.iter().filter(|(field, _)| *field == number) {
            let Field::Bytes(bytes) = value else { return None };
            std::str::from_utf8(bytes).ok()?;
        }
        Some(())
    }
}

fn fields(mut bytes: &[u8]) -> Option<Fields<'_>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = u32::try_from(varint(&mut bytes)?).ok()?;
        let number = u64::from(key >> 3);
        (number > 0).then_some(())?;
        let value = value(&mut bytes, key & 7, number, 0)?;
        fields.push((number, value));
    }
    Some(Fields(fields))
}

fn value<'a>(bytes: &mut &'a [u8], kind: u32, number: u64, depth: usize) -> Option<Field<'a>> {
    /// How deep prost follows groups, which nobody uses.
    const GROUPS_MAX: usize = 100;
    Some(match kind {
        0 => Field::Varint(varint(bytes)?),
        1 => take(bytes, 8).map(|_| Field::Other)?,
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            Field::Bytes(take(bytes, length)?)
        }
        3 if depth < GROUPS_MAX => loop {
            let key = u32::try_from(varint(bytes)?).ok()?;
            let inner = u64::from(key >> 3);
            (inner > 0).then_some(())?;
            if key & 7 == 4 {
                (inner == number).then_some(())?;
                break Field::Other;
            }
            value(bytes, key & 7, inner, depth + 1)?;
        },
        5 => take(bytes, 4).map(|_| Field::Other)?,
        _ => return None,
    })
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        // The tenth holds the highest bit alone.
        (shift < 63 || *byte <= 1).then_some(())?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
