//! What a command that takes a while is doing: on a terminal, and nowhere else.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often the line moves: it shows that a command waits for a slow API server and does not hang.
const TICK: Duration = Duration::from_millis(120);

/// A line on standard error that changes and goes, if that is a terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A line, or none if `quiet`.
    pub(super) fn start(quiet: bool) -> Self {
        let target =
            if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let line = ProgressBar::with_draw_target(None, target);
        line.set_style(ProgressStyle::default_spinner());
        // Where nobody sees it there is nothing to move.
        if !line.is_hidden() {
            line.enable_steady_tick(TICK);
        }
        Self(line)
    }

    /// Shows what is being done now.
    pub(super) fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
