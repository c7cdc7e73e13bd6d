//! What a change of the cluster newly lets pass.

use crate::{
    cluster::{Snapshot, resolve::Endpoint},
    flow::Protocol,
    verdict::{Decision, Question, Verdict, evaluate},
};

/// The cluster before and after a change that somebody thinks about.
#[derive(Clone, Copy)]
pub(super) struct WhatIf<'a> {
    pub(super) before: &'a Snapshot,
    pub(super) after: &'a Snapshot,
}

/// What a change newly lets pass.
#[derive(Debug, Default)]
pub(super) struct Gain {
    /// How many pairs of ends that are not those of the flow in question.
    pub(super) others: usize,
    /// Some of it was denied by a rule, which the change gets round.
    pub(super) overrules_a_rule: bool,
}

impl WhatIf<'_> {
    /// What it newly lets pass between these sources and destinations, on any of these ports: what
    /// policies denied before and do not deny after.
    pub(super) fn gain<'e>(
        self,
        asked: &Question,
        pairs: impl Iterator<Item = (&'e Endpoint, &'e Endpoint)>,
        ports: &[(u16, Protocol)],
    ) -> Gain {
        let mut gain = Gain::default();
        let is_denied = |verdict: &Verdict| verdict.decision() == Decision::Denied;
        for (source, destination) in pairs {
            let is_other =
                !(source.is_same(&asked.source) && destination.is_same(&asked.destination));
            let mut is_gained = false;
            for (port, protocol) in ports {
                let (source, destination) = (source.clone(), destination.clone());
                let seen_by = asked.seen_by;
                let question =
                    Question { source, destination, port: *port, protocol: *protocol, seen_by };
                let was = evaluate(self.before, &question);
                if is_denied(&was) && !is_denied(&evaluate(self.after, &question)) {
                    is_gained = true;
                    gain.overrules_a_rule |=
                        was.egress.denied_by.is_some() || was.ingress.denied_by.is_some();
                }
            }
            gain.others += usize::from(is_gained && is_other);
        }
        gain
    }
}
