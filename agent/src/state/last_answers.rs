//! Which answers flows got, and when the last, handed on from one agent to the next.
//!
//! A file, rather than the kernel's table pinned to a file system. A pinned table goes with the
//! machine's restart, has the layout of the agent that made it, and wants a second path of the host;
//! a file outlives an upgrade and a restart of the machine as well. What it costs: when an agent
//! is killed, the answers since the last writing are lost, some seconds of them; when it is ended by
//! a signal, none are. While no agent runs, neither would know more.
//!
//! Times are kept by the clock that the programs read, with the boot it began at, since the wall
//! clock may be set in between: see [`Boot::translate`].

use std::{net::IpAddr, str::FromStr as _};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use whydrop_core::flow::{Flow, Protocol};

use super::{StateDirectory, StateError};
use crate::probe::{ANSWERS_MAX, Answered, Boot, SinceBoot};

/// The file's name.
pub const NAME: &str = "last-answers.json";

/// What distinguishes it from any other file.
const FORMAT: &str = "whydrop last answers";

/// The version of the form. One that is neither this nor the one before is refused.
const VERSION: u32 = 2;

/// The form of agents before this one's: of each flow the last answer alone.
const VERSION_LAST_ONLY: u32 = 1;

/// The longest entry takes 203 bytes, of two IPv6 addresses; and some for the rest.
const BYTES_MAX: u64 = 224 * ANSWERS_MAX as u64 + 4096;

/// What every version of the file begins with.
#[derive(Deserialize)]
struct FileHead {
    format: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct Document<A> {
    format: String,
    version: u32,
    /// Whose addresses these are: a folder may come with a copy of another node's disk.
    node: String,
    boot: Began,
    answers: Vec<A>,
}

#[derive(Serialize, Deserialize)]
struct Began {
    id: String,
    began: Timestamp,
}

/// Protocol, source, destination, port; the first answer, the last but one if there was more than one,
/// and the last, in nanoseconds since the boot; how many there were.
#[derive(Serialize, Deserialize)]
struct Answer(String, IpAddr, IpAddr, u16, i64, Option<i64>, i64, u64);

/// The same of version 1: protocol, source, destination, port; the last answer. That there was one is
/// all that is known.
#[derive(Deserialize)]
struct LastAnswer(String, IpAddr, IpAddr, u16, i64);

impl From<LastAnswer> for Answer {
    fn from(LastAnswer(protocol, source, destination, port, ns): LastAnswer) -> Self {
        Self(protocol, source, destination, port, ns, None, ns, 1)
    }
}

/// Writes the answers for the node's next agent.
///
/// # Errors
/// The file cannot be written; the one before is still there.
pub fn write(
    state: &StateDirectory,
    node: &str,
    boot: &Boot,
    answers: &[(Flow, Answered)],
) -> Result<(), StateError> {
    let ns = |at: SinceBoot| i64::try_from(at.as_nanos()).ok();
    let answer = |(flow, answered): &(Flow, Answered)| {
        let Flow { source, destination, port, protocol } = *flow;
        let Answered { first, before, last, connections } = *answered;
        let (first, before, last) = (ns(first)?, before.and_then(ns), ns(last)?);
        let protocol = protocol.to_string();
        Some(Answer(protocol, source, destination, port, first, before, last, connections))
    };
    let document = Document {
        format: FORMAT.to_owned(),
        version: VERSION,
        node: node.to_owned(),
        boot: Began { id: boot.id.clone(), began: boot.began },
        answers: answers.iter().filter_map(answer).collect(),
    };
    let unusable = |error| unusable(state, AnswersError::Json(error));
    state.write(NAME, &serde_json::to_vec(&document).map_err(unusable)?)
}

/// Reads the answers of the agent before this one, as times of this boot; none where there was none.
///
/// # Errors
/// There is a file that is broken, or is not of this node or version: it is ignored, and replaced
/// by the next one.
pub fn read(
    state: &StateDirectory,
    node: &str,
    boot: &Boot,
) -> Result<Vec<(Flow, Answered)>, StateError> {
    let Some(bytes) = state.read(NAME, BYTES_MAX)? else { return Ok(Vec::new()) };
    decode(&bytes, node, boot).map_err(|error| unusable(state, error))
}

fn unusable(state: &StateDirectory, source: AnswersError) -> StateError {
    StateError::Unusable { path: state.path().join(NAME), source }
}

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswersError {
    /// It is no JSON of this form.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// It is another kind of file.
    #[error("field format: expected {FORMAT:?}, found {0:?}")]
    Format(String),
    /// Another version of the agent wrote it.
    #[error("field version: expected {VERSION}, found {0}: it is of another version of the agent")]
    Version(u32),
    /// Another node's agent wrote it.
    #[error("field node: expected {expected:?}, found {found:?}: it is another node's")]
    Node {
        /// This node.
        expected: String,
        /// That node.
        found: String,
    },
    /// It holds more than an agent keeps.
    #[error("field answers: expected at most {ANSWERS_MAX}, found {0}")]
    TooMany(usize),
    /// An answer's protocol is none that is known.
    #[error("field answers[{index}][0]: {problem}")]
    Protocol {
        /// Which answer.
        index: usize,
        /// What was expected.
        problem: String,
    },
}

fn decode(bytes: &[u8], node: &str, boot: &Boot) -> Result<Vec<(Flow, Answered)>, AnswersError> {
    let head: FileHead = serde_json::from_slice(bytes)?;
    if head.format != FORMAT {
        return Err(AnswersError::Format(head.format));
    }
    let document: Document<Answer> = match head.version {
        VERSION => serde_json::from_slice(bytes)?,
        VERSION_LAST_ONLY => {
            let Document { format, version, node, boot, answers } =
                serde_json::from_slice::<Document<LastAnswer>>(bytes)?;
            let answers = answers.into_iter().map(Answer::from).collect();
            Document { format, version, node, boot, answers }
        }
        other => return Err(AnswersError::Version(other)),
    };
    if document.node != node {
        return Err(AnswersError::Node { expected: node.to_owned(), found: document.node });
    }
    let count = document.answers.len();
    if count > ANSWERS_MAX {
        return Err(AnswersError::TooMany(count));
    }
    let then = Boot { id: document.boot.id, began: document.boot.began };
    let now = boot.age();
    let mut answers = Vec::with_capacity(count);
    for (index, answer) in document.answers.into_iter().enumerate() {
        let Answer(protocol, source, destination, port, first, before, last, connections) = answer;
        let protocol = Protocol::from_str(&protocol)
            .map_err(|error| AnswersError::Protocol { index, problem: error.to_string() })?;
        let at = |ns: i64| boot.translate(&then, SinceBoot::from_nanos(ns));
        let (first, before, last) = (at(first), before.map(at), at(last));
        // A time in the future was noted by a clock that was wrong.
        if last <= now {
            let answered = Answered { first, before, last, connections };
            answers.push((Flow { source, destination, port, protocol }, answered));
        }
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use whydrop_core::chain::chain;

    use super::*;

    fn boot(id: &str, began: &str) -> Boot {
        Boot { id: id.into(), began: began.parse().unwrap() }
    }

    fn answers() -> Vec<(Flow, Answered)> {
        let flow = |source: &str, destination: &str, protocol| Flow {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            port: 8080,
            protocol,
        };
        vec![
            (
                flow("10.1.0.10", "10.96.0.7", Protocol::Tcp),
                Answered {
                    first: SignedDuration::new(-1, 0),
                    before: Some(SignedDuration::new(2, 3)),
                    last: SignedDuration::new(4, 5),
                    connections: 6,
                },
            ),
            (
                flow("fd00::1", "fd00::2", Protocol::Udp),
                Answered::once(SignedDuration::new(-7, -8)),
            ),
        ]
    }

    fn state() -> (tempfile::TempDir, StateDirectory) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(folder.path()).unwrap();
        (folder, state)
    }

    #[test]
    fn what_was_written_is_read_in_its_own_boot_and_in_a_later_one() {
        let (_folder, state) = state();
        let first = boot("a", "2026-01-02T03:00:00Z");
        assert_eq!(read(&state, "worker-1", &first).unwrap(), []);
        write(&state, "worker-1", &first, &answers()).unwrap();
        assert_eq!(read(&state, "worker-1", &first).unwrap(), answers());
        let later = boot("b", "2026-01-02T03:01:00Z");
        let moved = |at: SinceBoot| at - SignedDuration::from_mins(1);
        let moved = answers().into_iter().map(|(flow, answered)| {
            let Answered { first, before, last, connections } = answered;
            let (first, before, last) = (moved(first), before.map(moved), moved(last));
            (flow, Answered { first, before, last, connections })
        });
        assert_eq!(read(&state, "worker-1", &later).unwrap(), moved.collect::<Vec<_>>());
    }

    /// As the agents before this one wrote it: how many answers there were is not known.
    #[test]
    fn of_an_older_file_the_last_answer_is_known_and_no_other() {
        let (folder, state) = state();
        let text = r#"{"format":"whydrop last answers","version":1,"node":"worker-1",
            "boot":{"id":"a","began":"2026-01-02T03:00:00Z"},
            "answers":[["TCP","10.1.0.10","10.96.0.7",8080,4000000005]]}"#;
        std::fs::write(folder.path().join(NAME), text).unwrap();
        let read = read(&state, "worker-1", &boot("a", "2026-01-02T03:00:00Z")).unwrap();
        assert_eq!(read, [(answers()[0].0, Answered::once(SignedDuration::new(4, 5)))]);
    }

    /// What the version before wrote is read, and what is written is the same, byte for byte: it reads
    /// that again.
    #[test]
    fn the_version_before_may_have_it_again() {
        const BEFORE: &[u8] =
            include_bytes!("../../../tests/upgrades/0.1.0-ca53cf1/last-answers.json");
        let (folder, state) = state();
        let path = folder.path().join("last-answers.json");
        std::fs::write(&path, BEFORE).unwrap();
        let then = boot("3f0c0a52-6d0e-4c57-9b54-0c1f0f6e8a11", "2026-11-30T03:00:00Z");
        let read = read(&state, "worker-1", &then).unwrap();
        assert_eq!(read, answers());
        write(&state, "worker-1", &then, &read).unwrap();
        let written = std::fs::read(&path).unwrap();
        assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(BEFORE));
    }

    #[test]
    fn an_answer_from_the_future_is_none() {
        let (_folder, state) = state();
        let now = Boot { id: "a".into(), began: Timestamp::now() - SignedDuration::from_secs(5) };
        let flow = answers()[0].0;
        let once = |seconds| Answered::once(SignedDuration::from_secs(seconds));
        let all = [(flow, once(1)), (flow, once(60))];
        write(&state, "worker-1", &now, &all).unwrap();
        assert_eq!(read(&state, "worker-1", &now).unwrap(), all[..1]);
    }

    #[test]
    fn a_file_that_says_nothing_is_named_with_what_is_wrong() {
        let (folder, state) = state();
        let now = boot("a", "2026-01-02T03:00:00Z");
        let path = folder.path().join(NAME);
        write(&state, "worker-1", &now, &answers()).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        let larger = " ".repeat(usize::try_from(BYTES_MAX).unwrap() + 1);
        for (text, node, wrong) in [
            (&good[..good.len() - 9], "worker-1", "EOF while parsing"),
            ("", "worker-1", "EOF while parsing"),
            ("\0\0\0\0", "worker-1", "expected value at line 1 column 1"),
            (
                &good.replace(FORMAT, "notes"),
                "worker-1",
                "field format: expected \"whydrop last answers\", found \"notes\"",
            ),
            (
                &good.replace("\"version\":2", "\"version\":0"),
                "worker-1",
                "field version: expected 2, found 0",
            ),
            (
                &good.replace("TCP", "tcp"),
                "worker-1",
                "field answers[0][0]: expected TCP, UDP or SCTP, found \"tcp\"",
            ),
            (&good.replace("10.1.0.10", "10.1.0"), "worker-1", "invalid IP address"),
            (&good, "worker-2", "field node: expected \"worker-2\", found \"worker-1\""),
            (&larger, "worker-1", "is larger than"),
        ] {
            std::fs::write(&path, text).unwrap();
            let said = chain(&read(&state, node, &now).unwrap_err());
            assert!(said.contains(wrong), "no {wrong:?} in {said:?}");
            assert!(said.starts_with(&path.display().to_string()), "{said}");
        }
        // The next writing replaces it.
        write(&state, "worker-1", &now, &answers()).unwrap();
        assert_eq!(read(&state, "worker-1", &now).unwrap(), answers());
    }

    #[test]
    fn the_largest_table_fits_into_the_file() {
        let (_folder, state) = state();
        let now = boot("a", "2026-01-02T03:00:00Z");
        let address = |n: u128| IpAddr::from((u128::MAX - n).to_be_bytes());
        let all: Vec<_> = (0..ANSWERS_MAX as u128)
            .map(|n| {
                let (source, destination) = (address(n), address(n + 1));
                let flow = Flow { source, destination, port: 65_535, protocol: Protocol::Sctp };
                let at = SignedDuration::from_nanos(i64::MIN);
                (flow, Answered { before: Some(at), connections: u64::MAX, ..Answered::once(at) })
            })
            .collect();
        write(&state, "worker-1", &now, &all).unwrap();
        assert_eq!(read(&state, "worker-1", &now).unwrap().len(), ANSWERS_MAX);
    }
}
