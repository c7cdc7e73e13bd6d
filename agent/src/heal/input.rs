//! The records that the healer reads: of the agents' pods, or of a file or pipe.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use kube::Client;
use tokio::sync::mpsc;
use whydrop_core::incident::SILENCE;

use crate::{
    cluster::agent_logs::{Following, LINES_MAX, LogLine, follow},
    records::lines::{LINE_BYTES_MAX, Next, next},
};

/// From how long ago the agents' logs are read: anything older is over.
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

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    /// The file cannot be opened.
    #[error("{path}")]
    NotOpened {
        /// Its path.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// Where records come from, as far as that takes no cluster.
pub(super) enum Opened {
    File(mpsc::Receiver<LogLine>),
    Agents { namespace: String, selector: String },
}

impl From {
    pub(super) fn open(self) -> Result<Opened, InputError> {
        Ok(match self {
            Self::File(path) => Opened::File(read_file(&path)?),
            Self::Agents { namespace, selector } => Opened::Agents { namespace, selector },
        })
    }
}

/// Lines, as they come.
pub(super) enum Input {
    File(mpsc::Receiver<LogLine>),
    Agents(Following),
}

impl Input {
    pub(super) fn start(opened: Opened, client: Client) -> Self {
        match opened {
            Opened::File(lines) => Self::File(lines),
            Opened::Agents { namespace, selector } => {
                let since = Timestamp::now() - BEFORE;
                Self::Agents(follow(client, namespace, selector, since))
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

    /// Whether there is a stream to most agents: only then does silence mean something. Of the others
    /// the node is gone, and what it reported last is still taken as true.
    pub(super) fn is_connected(&self) -> bool {
        match self {
            Self::File(_) => true,
            Self::Agents(following) => {
                let (connected, agents) = following.connected();
                2 * connected > agents
            }
        }
    }
}

/// Reads on a thread of its own, since a pipe blocks.
fn read_file(path: &Path) -> Result<mpsc::Receiver<LogLine>, InputError> {
    let (sender, lines) = mpsc::channel(LINES_MAX);
    let file: Box<dyn Read + Send> = match path.as_os_str() == "-" {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(path).map_err(|source| {
            let path = path.display().to_string();
            InputError::NotOpened { path, source }
        })?),
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
