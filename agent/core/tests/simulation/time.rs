//! Virtual time, and what an object was at which time.

use jiff::{SignedDuration, Timestamp};

/// Milliseconds since a run began.
pub(crate) type Ms = i64;

/// How long the network plugin takes at most to enforce what the API server has.
pub(crate) const PLUGIN_LAG: Ms = 2_000;

/// How long a watch takes at most to bring an object.
pub(crate) const WATCH_LAG: Ms = 1_000;

/// When every run begins: 2026-01-02T03:04:05Z.
const START: i64 = 1_767_323_045;

pub(crate) fn at(ms: Ms) -> Timestamp {
    Timestamp::from_second(START).expect("a time") + SignedDuration::from_millis(ms)
}

/// The API server's own timestamps have whole seconds.
pub(crate) fn whole_second(ms: Ms) -> Timestamp {
    at(ms.div_euclid(1_000) * 1_000)
}

/// The same of a time.
pub(crate) fn ms(time: Timestamp) -> Ms {
    Ms::try_from(time.duration_since(at(0)).as_millis()).expect("within a run")
}

/// How late a change reaches those who follow the API server.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lag {
    /// The network plugin, or kube-proxy.
    pub(crate) plugin: Ms,
    /// The agent's watch.
    pub(crate) watch: Ms,
}

/// What one object was, from when on; `None`: it was not there.
#[derive(Clone, Debug)]
pub(crate) struct Timeline<T>(Vec<Version<T>>);

#[derive(Clone, Debug)]
struct Version<T> {
    /// Since when the API server has it so.
    at: Ms,
    /// Since when it is enforced so.
    enforced: Ms,
    is: Option<T>,
}

impl<T> Default for Timeline<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Timeline<T> {
    pub(crate) fn change(&mut self, at: Ms, plugin_lag: Ms, is: Option<T>) {
        let before = self.0.last().map_or(Ms::MIN, |last| last.enforced);
        self.0.push(Version { at, enforced: before.max(at + plugin_lag), is });
    }

    /// As the API server has it by now.
    pub(crate) fn latest(&self) -> Option<&T> {
        self.0.last()?.is.as_ref()
    }

    /// Since when it has been so.
    pub(crate) fn since(&self, is_so: impl Fn(&T) -> bool) -> Option<Ms> {
        let so = self.0.iter().rev().take_while(|version| version.is.as_ref().is_some_and(&is_so));
        so.last().map(|version| version.at)
    }

    /// Since when it is there.
    pub(crate) fn created(&self) -> Option<Ms> {
        let there = self.0.iter().rev().take_while(|version| version.is.is_some());
        there.last().map(|version| version.at)
    }

    /// As the API server had it then.
    pub(crate) fn at(&self, time: Ms) -> Option<&T> {
        self.0.iter().rfind(|version| version.at <= time)?.is.as_ref()
    }

    /// As it was enforced then.
    pub(crate) fn enforced_at(&self, time: Ms) -> Option<&T> {
        self.0.iter().rfind(|version| version.enforced <= time)?.is.as_ref()
    }

    /// When what was enforced then came to be enforced.
    pub(crate) fn enforced_since(&self, time: Ms) -> Ms {
        self.0.iter().rfind(|version| version.enforced <= time).map_or(Ms::MIN, |v| v.enforced)
    }

    /// All that it was at the API server within this time.
    pub(crate) fn during(&self, from: Ms, to: Ms) -> Vec<Option<&T>> {
        let mut all = vec![self.at(from)];
        let within = self.0.iter().filter(|version| version.at > from && version.at <= to);
        all.extend(within.map(|version| version.is.as_ref()));
        all
    }
}
