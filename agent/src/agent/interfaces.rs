//! What becomes of the node's interfaces, and what is reported of it.

use super::Agent;
use crate::probe::{Change, KnownAddresses, LOOKED_AT};

impl Agent {
    /// Looks whether everything is still attached, and tries again where it could not be.
    pub(super) fn look_at_interfaces(&mut self) {
        let were_all = self.probe.interfaces.failed().next().is_none();
        let changes = self.probe.interfaces.look();
        if changes.is_empty() {
            return;
        }
        self.interfaces_changed(changes);
        let are_all = self.probe.interfaces.failed().next().is_none();
        if self.is_ready && are_all && !were_all {
            self.report_ready();
        }
    }

    /// Says to the programs who sends what, as far as it is known by now.
    pub(super) fn take_senders(&mut self) {
        let snapshot = self.cluster.snapshot();
        let mut known = KnownAddresses::default();
        for (index, _) in self.probe.interfaces.attached() {
            if let Some(interface) = snapshot.node_facts().interface(index) {
                known.add(index, snapshot.addresses_behind(interface));
            }
        }
        if let Err(error) = self.probe.senders.set(&self.probe.interfaces, &known) {
            self.failed(&error);
        }
    }

    pub(super) fn interfaces_changed(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Attached { name, .. } => tracing::info!(name, "attached"),
                Change::Detached { index, name } => {
                    tracing::info!(name, "detached");
                    self.cluster.set_interface(index, None);
                }
                Change::Uplink { index, name } => {
                    self.degraded(&format!(
                        "interface {name} is not watched any more: by a route, a gateway is behind it, \
                         as behind an uplink"
                    ));
                    self.cluster.set_interface(index, None);
                }
                Change::Failed { name, reason, .. } => {
                    self.degraded(&format!("interface {name} is not watched: {reason}"));
                }
                Change::Restored { name, was_behind } => {
                    let how = match was_behind {
                        true => "another program was before ours",
                        false => "our programs had been taken away",
                    };
                    self.degraded(&format!(
                        "of interface {name} not every packet was seen, for at most {} s: {how}; they \
                         are in place again",
                        LOOKED_AT.as_secs()
                    ));
                }
                Change::Behind { name } => self.degraded(&format!(
                    "of interface {name} not every packet is seen: another program keeps being put \
                     before ours"
                )),
                Change::Routes => {}
            }
        }
        self.take_topology();
    }
}
