//! What one agent hands over to the next: which answers flows got.

use std::path::Path;

use futures_util::FutureExt as _;
use tokio::{
    task::{JoinError, JoinHandle, spawn_blocking},
    time::{Duration, Instant, timeout},
};
use whydrop_core::chain::chain;

use super::Agent;
use crate::{
    probe::{self, Answers, Boot, SinceBoot, Totals},
    state::{StateDirectory, StateError, last_answers},
};

/// How long the agent's start and its end wait for the folder. A disk that is there has read or written
/// the few hundred kilobytes by then.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long a writing may be under way before that is reported: it is begun every ten seconds.
const WRITTEN_WITHIN: Duration = Duration::from_secs(30);

/// Why last answers cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub(super) enum LastSuccessError {
    /// Which boot this is cannot be read.
    #[error(transparent)]
    Boot(#[from] probe::Error),
    /// The state directory cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The thread that reads or writes has failed.
    #[error(transparent)]
    Thread(#[from] JoinError),
    /// The disk is not there, or is a network's.
    #[error("the file system has not answered within {} s", .0.as_secs())]
    Slow(Duration),
}

/// What a call comes to that may wait for a disk; the call may still be under way when this gives up.
async fn within<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, LastSuccessError> + Send + 'static,
) -> Result<T, LastSuccessError> {
    let called = timeout(PATIENCE, spawn_blocking(call)).await;
    called.map_err(|_| LastSuccessError::Slow(PATIENCE))??
}

/// The folder of the agent before this one and of the next; or why it cannot be had.
pub(super) async fn open(directory: Option<&Path>) -> (Option<StateDirectory>, Option<String>) {
    let Some(path) = directory.map(Path::to_path_buf) else { return (None, None) };
    match within(move || Ok(StateDirectory::open(&path)?)).await {
        Ok(state) => (Some(state), None),
        Err(why) => (None, Some(not_saved(&why))),
    }
}

/// Where last answers are kept, and what became of writing them.
#[derive(Debug, Default)]
pub(super) struct LastSuccess {
    /// `None`: nothing is kept.
    state: Option<StateDirectory>,
    /// The latest answer that was written.
    written: Option<SinceBoot>,
    /// The writing that is under way, on a thread that may wait for a disk.
    writing: Option<JoinHandle<Result<(), StateError>>>,
    /// When that was begun.
    begun: Option<Instant>,
    /// Why the last writing failed; reported once, not each time.
    complaint: Option<String>,
    /// Entries evicted from the kernel's table, and earlier answers evicted here.
    evicted: u64,
    forgotten: u64,
}

impl LastSuccess {
    pub(super) fn new(state: Option<StateDirectory>) -> Self {
        Self { state, ..Self::default() }
    }

    /// How many flows' last answers are no longer known because a table was full.
    pub(super) fn lost(&self) -> u64 {
        self.evicted + self.forgotten
    }

    fn count(&mut self, answers: &Answers, totals: &Totals) {
        let kept = u64::try_from(answers.in_kernel).unwrap_or(u64::MAX);
        // Counter and table are not read at one moment: what was evicted once stays so.
        self.evicted = self.evicted.max(totals.answers_kept.saturating_sub(kept));
        self.forgotten += u64::try_from(answers.forgotten).unwrap_or(0);
    }

    /// The result of the last writing; `None`: it is under way.
    fn written(&mut self) -> Option<Result<(), LastSuccessError>> {
        let Some(writing) = &mut self.writing else { return Some(Ok(())) };
        let result = writing.now_or_never()?;
        self.writing = None;
        Some(joined(result))
    }

    /// Begins to write what is new.
    fn write(&mut self, node: &str, boot: Boot, answers: Answers) {
        let newest = answers.of.iter().map(|(_, answered)| answered.last).max();
        if newest <= self.written {
            return;
        }
        let Some(state) = self.state.clone() else { return };
        let node = node.to_owned();
        let write = move || last_answers::write(&state, &node, &boot, &answers.of);
        self.writing = Some(spawn_blocking(write));
        self.begun = Some(Instant::now());
        self.written = newest;
    }

    /// Whether a writing is under way, and for too long.
    fn is_slow(&self) -> bool {
        let is_slow = |begun: Instant| begun.elapsed() > WRITTEN_WITHIN;
        self.writing.is_some() && self.begun.is_some_and(is_slow)
    }
}

impl Agent {
    /// Reads what the agent before this one knew.
    pub(super) async fn recall(&mut self) {
        let Some(state) = self.last_success.state.clone() else { return };
        let (folder, node) = (state.path().to_owned(), self.node.clone());
        let read = move || Ok(last_answers::read(&state, &node, &Boot::read()?)?);
        match within(read).await {
            Ok(answers) => {
                let folder = folder.display();
                tracing::info!(%folder, answers = answers.len(), "read last answers of the agent before this one");
                self.probe.successes.remember(answers);
            }
            Err(why) => {
                self.degraded(&format!("last-success times are unavailable: {}", chain(&why)));
            }
        }
    }

    /// Counts what was forgotten, and begins to save the rest.
    pub(super) fn keep_successes(&mut self, totals: &Totals) {
        let answers = match self.probe.successes.all() {
            Ok(answers) => answers,
            Err(error) => return self.failed(&error),
        };
        self.last_success.count(&answers, totals);
        if self.last_success.state.is_none() {
            return;
        }
        match self.last_success.written() {
            None => {
                if self.last_success.is_slow() {
                    self.complain(&LastSuccessError::Slow(WRITTEN_WITHIN));
                }
                return;
            }
            Some(Ok(())) => self.last_success.complaint = None,
            Some(Err(why)) => {
                // Once more, with what has come since.
                self.last_success.written = None;
                self.complain(&why);
            }
        }
        match Boot::read() {
            Ok(boot) => self.last_success.write(&self.node, boot, answers),
            Err(error) => self.failed(&error),
        }
    }

    fn complain(&mut self, why: &LastSuccessError) {
        let what = not_saved(why);
        if self.last_success.complaint.as_ref() != Some(&what) {
            self.degraded(&what);
            self.last_success.complaint = Some(what);
        }
    }

    /// Saves everything once more, and waits for that, for twice [`PATIENCE`] at most.
    pub(super) async fn keep_last_success(&mut self, totals: &Totals) {
        if let Some(writing) = &mut self.last_success.writing {
            // Its result does not matter: another writing follows.
            if timeout(PATIENCE, writing).await.is_err() {
                return self.degraded(&not_saved(&LastSuccessError::Slow(PATIENCE)));
            }
            self.last_success.writing = None;
        }
        self.keep_successes(totals);
        if let Some(writing) = self.last_success.writing.take() {
            let written = timeout(PATIENCE, writing).await;
            match written.map_or(Err(LastSuccessError::Slow(PATIENCE)), joined) {
                Ok(()) => tracing::info!("state saved"),
                Err(why) => self.degraded(&not_saved(&why)),
            }
        }
    }
}

/// The result of a writing that has ended.
fn joined(result: Result<Result<(), StateError>, JoinError>) -> Result<(), LastSuccessError> {
    Ok(result??)
}

/// That the state is not there for the next agent, and why.
pub(super) fn not_saved(why: &dyn std::error::Error) -> String {
    format!("state was not saved: {}", chain(why))
}
