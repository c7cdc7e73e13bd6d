//! What the agent reports about itself.

use std::{collections::BTreeMap, error::Error, fmt::Display};

use jiff::Timestamp;
use whydrop_core::{chain::chain, cluster::object::Kind, kinds};

use super::{Agent, memory::SHORT};
use crate::{
    cluster::update::Trouble,
    probe::{PartState, Unwatched},
    report::AgentState,
};

impl Agent {
    /// What it knows and watches, and what it cannot do.
    pub(super) fn report_ready(&self) {
        let snapshot = self.cluster.snapshot();
        let objects: BTreeMap<_, _> = kinds::of_agents()
            .map(|kind| (kind.name().to_owned(), snapshot.count(kind)))
            .filter(|(_, count)| *count > 0)
            .collect();
        let interfaces = &self.probe.interfaces;
        self.report_state(AgentState::Ready {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel: kernel_release(),
            interfaces: interfaces.attached().map(|(_, name)| name.to_owned()).collect(),
            objects,
            cannot: self.cannot(),
        });
        for Unwatched { name, reason } in interfaces.failed() {
            self.degraded(&format!("interface {name} is not watched: {reason}"));
        }
    }

    /// What it cannot do, as it is set up and with what it may read: "cannot …".
    fn cannot(&self) -> Vec<String> {
        let snapshot = self.cluster.snapshot();
        let mut cannot: Vec<String> = self
            .probe
            .parts
            .iter()
            .filter_map(|part| match &part.state {
                PartState::Active => None,
                PartState::Unavailable(why) | PartState::Failed(why) => {
                    Some(format!("use {}: {why}", part.name))
                }
            })
            .collect();
        let mut unwatched = self.probe.interfaces.failed();
        if let Some(Unwatched { name, reason }) = unwatched.next() {
            let others = match unwatched.count() {
                0 => String::new(),
                others => format!(" and {others} others"),
            };
            cannot.push(format!("watch interface {name}{others}: {reason}"));
        }
        for (kind, count) in snapshot.sync().unread_counts() {
            cannot.push(format!("read {count} objects of kind {kind}, so their effect is unknown"));
        }
        for (kind, why) in snapshot.sync().unsynced() {
            let why = why.as_deref().unwrap_or("the API server has not listed them yet");
            cannot.push(format!("report completely what depends on {kind} objects: {why}"));
        }
        if snapshot.node(&self.node).is_none()
            && !snapshot.sync().unsynced().contains_key(&Kind::Node)
        {
            cannot.push(format!(
                "find a Node object named {}: see --node-name and NODE_NAME",
                self.node
            ));
        }
        cannot.extend(self.memory.is_short().then(|| SHORT.to_owned()));
        cannot.extend(self.sinks.readings().cannot);
        cannot
    }

    pub(super) fn report_troubles(&self, troubles: impl IntoIterator<Item = Trouble>) {
        for trouble in troubles {
            match trouble {
                Trouble::Skipped(what) => self.degraded(&what),
                Trouble::Failing { what, since } => self.degraded_since(&what, since),
                Trouble::Recovered => self.report_ready(),
            }
        }
    }

    /// Reports an error and its causes, as [`Agent::degraded`].
    pub(super) fn failed(&self, error: &dyn Error) {
        self.degraded(&chain(error));
    }

    /// Reports what does not work, on both streams; the agent continues.
    pub(super) fn degraded(&self, what: &dyn Display) {
        self.degraded_since(what, self.now());
    }

    fn degraded_since(&self, what: &dyn Display, since: Timestamp) {
        tracing::warn!("{what}");
        self.report_state(AgentState::Degraded { what: what.to_string(), since: since.into() });
    }

    pub(super) fn report_state(&self, state: AgentState) {
        self.write(self.reporter.agent(self.now(), state));
    }
}

fn kernel_release() -> String {
    match nix::sys::utsname::uname() {
        Ok(name) => name.release().to_string_lossy().into_owned(),
        Err(_) => "(unknown)".to_owned(),
    }
}
