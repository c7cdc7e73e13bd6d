//! What whydrop costs: the same load with it, without it, and with another tool that reports drops,
//! in turn, so that whatever else the machine does falls on all of them alike.

pub mod cpu;
pub mod load;
pub mod watcher;

use anyhow::{Context as _, Result};

use crate::world::netns::Node;
use cpu::{Meter, settle};
use load::Load;
use watcher::{Kind, Watcher};

/// What one run of a load came to.
#[derive(Clone, Debug)]
pub struct Run {
    /// CPU time of everybody who took part, in seconds: who sends, who receives, the kernel for
    /// them, and who watches.
    pub cpu_seconds: f64,
    /// The part of it that is the watcher's own process.
    pub watcher_seconds: f64,
    /// Packets that the filter's own counter has.
    pub filtered: u64,
    /// What the watcher says of itself in the end.
    pub watched: watcher::Account,
}

/// Runs a load once, on a node of its own, under a watcher.
///
/// # Errors
/// Where the lab, the load or the watcher fails.
pub fn run(load: Load, watcher: Kind) -> Result<Run> {
    let mut node = Node::new(2)?;
    load::prepare(&node)?;
    let watcher = Watcher::start(watcher, &mut node)?;
    let meter = Meter::start(watcher.pids())?;
    let own = Meter::of(watcher.pids())?;
    load.play(&node)?;
    // What the load has set going is part of what it costs.
    settle(watcher.pids())?;
    let (cpu_seconds, watcher_seconds) = (meter.stop()?, own.stop()?);
    let filtered = node.counted(load::RULE).context("the filter's counter")?;
    Ok(Run { cpu_seconds, watcher_seconds, filtered, watched: watcher.stop()? })
}

/// The middle of some figures, and how far they spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The one in the middle.
    pub median: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of some figures; `None` of none.
    pub fn of(mut figures: Vec<f64>) -> Option<Self> {
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        Some(Self { min, median: figures[figures.len() / 2], max })
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2}-{:.2})", self.median, self.min, self.max)
    }
}
