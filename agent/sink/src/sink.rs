//! What a destination of records is.

use futures_util::{FutureExt as _, future::BoxFuture, future::ready};
use hyper::Uri;

use super::{outgoing::Outgoing, reading::SinkReadings};

/// Somewhere that what the agent reports goes to.
///
/// A new one is a file in this folder, its options in `command/agent.rs`, and a line in
/// [`Sinks::start`](super::Sinks::start).
pub trait Sink {
    /// Handles what concerns it, without waiting: it queues it, or counts it as lost in
    /// [`Sink::readings`]. What does not concern it, it ignores.
    fn write(&self, outgoing: &Outgoing);

    /// What waits in it, what it has lost, and other figures, at this moment.
    fn readings(&self) -> SinkReadings {
        SinkReadings::default()
    }

    /// What it reads while it is switched off: its queue and losses at 0, so that their series exist
    /// before they are needed.
    fn off() -> SinkReadings
    where
        Self: Sized,
    {
        SinkReadings::default()
    }

    /// What it must be able to reach, for people, and where that is.
    fn destination(&self) -> Option<(&'static str, &Uri)> {
        None
    }

    /// Whether it takes records. One that does not is finished before the agent's last records are
    /// written, so that these can report what it lost.
    fn takes_records(&self) -> bool {
        true
    }

    /// Takes no more, and resolves once what was taken is delivered, or once it is not worth waiting
    /// for any longer. Its readings can still be read.
    fn finish(&mut self) -> BoxFuture<'_, ()> {
        ready(()).boxed()
    }
}

/// A sink that options may switch off.
impl<S: Sink> Sink for Option<S> {
    fn write(&self, outgoing: &Outgoing) {
        if let Some(sink) = self {
            sink.write(outgoing);
        }
    }

    fn readings(&self) -> SinkReadings {
        self.as_ref().map_or_else(Self::off, Sink::readings)
    }

    fn off() -> SinkReadings {
        S::off()
    }

    fn destination(&self) -> Option<(&'static str, &Uri)> {
        self.as_ref()?.destination()
    }

    fn takes_records(&self) -> bool {
        self.as_ref().is_some_and(Sink::takes_records)
    }

    fn finish(&mut self) -> BoxFuture<'_, ()> {
        self.as_mut().map_or_else(|| ready(()).boxed(), Sink::finish)
    }
}
