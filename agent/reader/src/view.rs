//! `whydrop view`: the agents' records, looked at in a terminal.
//!
//! ```text
//! file, pipe ─▶ input (a thread: lines ─▶ records) ─▶ bounded queue
//!                                                        │
//! keys ─▶ keys ─▶ View::key ─▶ View ◀─ View::add ◀───────┘    model: the one state
//!                               │
//!                               └─▶ draw ─▶ terminal           reads it, changes nothing
//! ```

mod draw;
mod filter;
mod input;
mod keys;
mod model;
mod plain;
mod process;
mod terminal;
mod words;

pub use draw::{Theme, draw};
pub use filter::{Filter, Shown};
pub use input::{BATCH_LINES_MAX, Input, News, QUEUE_BATCHES_MAX};
pub use model::{Effect, HELD_LINES_MAX, Screen, View, Viewport};
pub use plain::summary;
pub use terminal::{TerminalError, run};
