//! The records that the healer reads: of the agents' pods, or of a file or pipe.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::sync::mpsc;
use whydrop_core::incident::SILENCE;

use crate::{
    cluster::agents::{self, Following, LINES_MAX, LogLine},
    records::lines::{LINE_BYTES_MAX, Next, next},
};

/// From how long ago the agents' logs are read: of what is older, nothing goes on.
const BEFORE: SignedDuration = SignedDuration::from_secs(2 * SILENCE.as_secs());

/// Where records come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// A file, to its end; `-` is standard input.
    File(PathBuf),
    /// The agents' pods in this namespace, with this label.
    Agents {
        /// The namespace.
        namespace: String,
        /// A label selector.
        selector: String,
    },
}

/// Lines, as they come.
pub(super) enum Input {
    File(mpsc::Receiver<LogLine>),
    Agents(Following),
}

impl Input {
    pub(super) fn open(from: From, client: Client) -> anyhow::Result<Self> {
        match from {
            From::File(path) => Ok(Self::File(read_file(&path)?)),
            From::Agents { namespace, selector } => {
                let since = Timestamp::now() - BEFORE;
                Ok(Self::Agents(agents::follow(client, namespace, selector, since)))
            }
        }
    }

    /// The next line; `None` at the end of a file.
    pub(super) async fn next(&mut self) -> Option<LogLine> {
        match self {
            Self::File(lines) => lines.recv().await,
            Self::Agents(following) => following.lines.recv().await,
        }
    }

    /// Whether most agents are heard: only then does silence mean something. Of those that are not,
    /// the node is gone, and what it told last stands.
    pub(super) fn hears(&self) -> bool {
        match self {
            Self::File(_) => true,
            Self::Agents(following) => {
                let (heard, agents) = following.heard();
                2 * heard > agents
            }
        }
    }
}

/// Reads on a thread of its own, since a pipe blocks.
fn read_file(path: &Path) -> anyhow::Result<mpsc::Receiver<LogLine>> {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    let file: Box<dyn Read + Send> = match path.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).with_context(|| path.display().to_string())?),
    };
    let pod: Arc<str> = path.display().to_string().into();
    std::thread::spawn(move || {
        let (mut file, mut text) = (BufReader::new(file), String::new());
        loop {
            match next(&mut file, &mut text) {
                Ok(Next::Line) => {}
                Ok(Next::TooLong) => {
                    tracing::warn!("a line of more than {LINE_BYTES_MAX} bytes is left out");
                    continue;
                }
                Ok(Next::End) => break,
                Err(error) => {
                    tracing::warn!("{pod} cannot be read any further: {error}");
                    break;
                }
            }
            let line = LogLine { pod: Arc::clone(&pod), text: std::mem::take(&mut text) };
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    Ok(lines)
}
