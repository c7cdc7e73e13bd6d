//! A process that ends with its console, and cannot be stopped.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Sets `stop` once the process is asked to end.
pub(in crate::view) fn stop_on_signals(stop: &Arc<AtomicBool>) -> io::Result<()> {
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(())
}

/// Nothing to do: the system ends a process whose console is closed.
pub(in crate::view) fn end_with_terminal() {}

/// Nothing to do: there are no jobs to stop.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub(in crate::view) fn suspend() -> io::Result<()> {
    Ok(())
}
