//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Between two looks: short beside what is waited for, long beside what a look costs.
const PAUSE: Duration = Duration::from_millis(50);

/// What a look found.
#[derive(Debug)]
pub enum Look<T> {
    /// It is so.
    Seen(T),
    /// It is not so yet; what is instead goes into the error if it stays that way.
    NotYet(String),
}

/// Looks until it is so.
///
/// # Errors
///
/// The error of a look, which ends the waiting; or that the time is over, with what was seen last.
pub fn until<T>(
    what: &str,
    patience: Duration,
    mut look: impl FnMut() -> Result<Look<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        match look()? {
            Look::Seen(it) => return Ok(it),
            Look::NotYet(instead) if Instant::now() >= deadline => {
                bail!("no {what} within {patience:?}; last seen: {instead}")
            }
            Look::NotYet(_) => std::thread::park_timeout(PAUSE),
        }
    }
}
