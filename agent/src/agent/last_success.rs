//! What one agent hands on to the next: which answers flows got.

use futures_util::FutureExt as _;
use tokio::task::{JoinHandle, spawn_blocking};

use super::Agent;
use crate::{
    probe::{Answers, Boot, SinceBoot, Totals},
    state::{StateDirectory, last_answers},
};

/// Where the past is kept, and what has become of it.
#[derive(Debug, Default)]
pub(super) struct LastSuccess {
    /// Nowhere, where there is none.
    state: Option<StateDirectory>,
    /// The latest answer that was written.
    written: Option<SinceBoot>,
    /// The writing that is under way, on a thread that may wait for a disk.
    writing: Option<JoinHandle<anyhow::Result<()>>>,
    /// Why the last one failed; told once, not each time.
    complaint: Option<String>,
    /// Entries that have given way in the kernel's table, and answers of before that have here.
    evicted: u64,
    forgotten: u64,
}

impl LastSuccess {
    pub(super) fn new(state: Option<StateDirectory>) -> Self {
        Self { state, ..Self::default() }
    }

    /// How many flows' last answers are not known any more for want of room.
    pub(super) fn lost(&self) -> u64 {
        self.evicted + self.forgotten
    }

    fn count(&mut self, answers: &Answers, totals: &Totals) {
        let kept = u64::try_from(answers.in_kernel).unwrap_or(u64::MAX);
        // Counter and table are not read at one moment: what has given way once stays so.
        self.evicted = self.evicted.max(totals.answers_kept.saturating_sub(kept));
        self.forgotten += u64::try_from(answers.forgotten).unwrap_or(0);
    }

    /// What came of the last writing; `None`: it goes on.
    fn written(&mut self) -> Option<anyhow::Result<()>> {
        let Some(writing) = &mut self.writing else { return Some(Ok(())) };
        let result = writing.now_or_never()?;
        self.writing = None;
        Some(result.map_err(anyhow::Error::from).flatten())
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
        self.written = newest;
    }
}

impl Agent {
    /// Takes up what the agent before this one knew.
    pub(super) fn recall(&mut self) {
        let Some(state) = &self.last_success.state else { return };
        let read = Boot::read()
            .map_err(anyhow::Error::from)
            .and_then(|boot| last_answers::read(state, &self.node, &boot));
        match read {
            Ok(answers) => {
                let folder = state.path().display();
                tracing::info!(%folder, answers = answers.len(), "recalled");
                self.probe.successes.remember(answers);
            }
            Err(why) => self.degraded(&format!("when flows last worked is not known: {why:#}")),
        }
    }

    /// Counts what is forgotten, and writes down what is known.
    pub(super) fn keep_successes(&mut self, totals: &Totals) {
        let answers = match self.probe.successes.all() {
            Ok(answers) => answers,
            Err(error) => return self.degraded(&error),
        };
        self.last_success.count(&answers, totals);
        if self.last_success.state.is_none() {
            return;
        }
        match self.last_success.written() {
            None => return,
            Some(Ok(())) => self.last_success.complaint = None,
            Some(Err(why)) => {
                // Once more, with what has come since.
                self.last_success.written = None;
                let what = format!("what is known ends with this agent: {why:#}");
                if self.last_success.complaint.as_ref() != Some(&what) {
                    self.degraded(&what);
                    self.last_success.complaint = Some(what);
                }
            }
        }
        match Boot::read() {
            Ok(boot) => self.last_success.write(&self.node, boot, answers),
            Err(error) => self.degraded(&error),
        }
    }

    /// Writes down the last of it, and waits for that.
    pub(super) async fn keep_last_success(&mut self, totals: &Totals) {
        if let Some(writing) = self.last_success.writing.take() {
            // What came of it matters no more: another one follows.
            let _ = writing.await;
        }
        self.keep_successes(totals);
        if let Some(writing) = self.last_success.writing.take() {
            match writing.await.map_err(anyhow::Error::from).flatten() {
                Ok(()) => tracing::info!("what is known is kept"),
                Err(why) => self.degraded(&format!("what is known ends with this agent: {why:#}")),
            }
        }
    }
}
