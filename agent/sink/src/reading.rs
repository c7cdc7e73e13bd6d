//! What the agent and its sinks read off themselves: metrics, queues and losses.

use jiff::SignedDuration;

/// A metric at one moment. Counters begin with the agent's start.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Its name, without the prefix that all have and the suffix that counters have.
    pub name: &'static str,
    /// What it counts or measures.
    pub help: &'static str,
    /// How it may change.
    pub kind: Kind,
    /// What it reads.
    pub values: Values,
}

/// How a metric may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// What a metric reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// One number.
    One(Number),
    /// A number for each value of a label, which are a small set; none: the metric is left out.
    Each(&'static str, Vec<(String, Number)>),
}

/// A metric's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A count.
    Count(u64),
    /// A time in seconds.
    Seconds(f64),
}

impl From<u64> for Number {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<usize> for Number {
    fn from(count: usize) -> Self {
        Self::Count(u64::try_from(count).unwrap_or(u64::MAX))
    }
}

/// 1 or 0.
impl From<bool> for Number {
    fn from(is_so: bool) -> Self {
        Self::Count(is_so.into())
    }
}

impl From<f64> for Number {
    fn from(seconds: f64) -> Self {
        Self::Seconds(seconds)
    }
}

impl Reading {
    /// A counter.
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, kind: Kind::Counter, values: Values::One(value.into()) }
    }

    /// A gauge.
    pub fn gauge(name: &'static str, help: &'static str, value: impl Into<Number>) -> Self {
        Self { name, help, kind: Kind::Gauge, values: Values::One(value.into()) }
    }

    /// A counter for each value of a label.
    pub fn counters<L: ToString, N: Into<Number>>(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (L, N)>,
    ) -> Self {
        Self { name, help, kind: Kind::Counter, values: each(label, values) }
    }

    /// A gauge for each value of a label.
    pub fn gauges<L: ToString, N: Into<Number>>(
        name: &'static str,
        help: &'static str,
        label: &'static str,
        values: impl IntoIterator<Item = (L, N)>,
    ) -> Self {
        Self { name, help, kind: Kind::Gauge, values: each(label, values) }
    }
}

fn each<L: ToString, N: Into<Number>>(
    label: &'static str,
    values: impl IntoIterator<Item = (L, N)>,
) -> Values {
    let values = values.into_iter().map(|(of, number)| (of.to_string(), number.into()));
    Values::Each(label, values.collect())
}

/// Something that waits, or is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Which queue, as metrics name it.
    pub name: &'static str,
    /// How many wait.
    pub length: usize,
    /// How many there is room for.
    pub limit: usize,
}

/// Something that was lost, or could not be reported, and is counted instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What, as metrics name it.
    pub name: &'static str,
    /// What and why, as the agent's `lost` record names it.
    pub words: &'static str,
    /// How long after such a record the next one may name it again.
    pub interval: SignedDuration,
    /// How often since the start.
    pub count: u64,
}

/// How sinks are doing, at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SinkReadings {
    /// What waits.
    pub queues: Vec<Queue>,
    /// What was lost.
    pub losses: Vec<Loss>,
    /// Metrics of their own.
    pub metrics: Vec<Reading>,
    /// What they cannot do as they are set up, and how to change that: "cannot …", for the agent's
    /// `ready` record.
    pub cannot: Vec<String>,
}
