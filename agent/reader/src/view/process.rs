//! What the view asks of the process that it runs in, which differs between platforms.

#[cfg(not(unix))]
mod other;
#[cfg(unix)]
mod unix;

#[cfg(not(unix))]
pub(super) use other::{end_with_terminal, stop_on_signals, suspend};
#[cfg(unix)]
pub(super) use unix::{end_with_terminal, stop_on_signals, suspend};
