//! A difference in full.

use std::fmt;

use serde_json::Value;

use super::{Expectation, Outcome, Probe};
use crate::play::differential::generate::services::Served;

/// What a difference is about: who dialled what, what was expected, and what came.
pub(super) struct Account<'a> {
    pub(super) served: &'a Served,
    pub(super) probe: Probe,
    pub(super) expected: &'a Expectation,
    pub(super) outcomes: &'a [Outcome],
}

impl fmt::Display for Account<'_> {
    /// One line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, probe: Probe { client, frontend }, expected, outcomes } = self;
        let address = served.address_of(*client);
        write!(f, "{} ({address}) -> {frontend}, ", served.name_of(*client))?;
        let came: std::collections::BTreeSet<_> = outcomes.iter().collect();
        write!(f, "came {came:?}, may {:?}, must {:?}", expected.may, expected.must)
    }
}

impl Account<'_> {
    /// All of it, with the Service.
    pub(super) fn in_full(&self) -> String {
        let Self { served, probe, expected, outcomes } = self;
        let service = &served.services[probe.frontend.service];
        let mut lines = vec![format!("came: {outcomes:?}"), format!("expected: {expected:#?}")];
        lines.push(service.manifest.to_string());
        lines.extend(service.slices.iter().map(Value::to_string));
        lines.join("\n")
    }
}

/// The cluster, and what the agents said.
pub(super) fn cluster(served: &Served, records: &[Vec<Value>]) -> String {
    let objects = served.objects();
    let lines: Vec<String> =
        objects.iter().chain(records.iter().flatten()).map(Value::to_string).collect();
    lines.join("\n")
}
