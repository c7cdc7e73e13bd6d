//! A difference in full.

use std::fmt;

use serde_json::Value;

use super::{Expectation, Outcome, Probe};
use crate::play::differential::generate::services::Served;

/// What a difference is about: who dialled what, what was expected, what came, and the cluster.
pub(super) struct Account<'a> {
    pub(super) served: &'a Served,
    pub(super) probe: Probe,
    pub(super) expected: &'a Expectation,
    pub(super) outcomes: &'a [Outcome],
    pub(super) records: &'a [Value],
}

impl fmt::Display for Account<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { served, probe: Probe { client, frontend }, expected, outcomes, records } = self;
        let address = served.address_of(*client);
        writeln!(f, "{} ({address}) -> {frontend}", served.name_of(*client))?;
        writeln!(f, "came: {outcomes:?}\nexpected: {expected:#?}")?;
        let service = &served.services[frontend.service];
        writeln!(f, "{}", service.manifest)?;
        for slice in &service.slices {
            writeln!(f, "{slice}")?;
        }
        f.write_str(&cluster(served, records))
    }
}

/// The cluster, and what the agents said.
pub(super) fn cluster(served: &Served, records: &[Value]) -> String {
    let objects = served.objects();
    let lines: Vec<String> = objects.iter().chain(records).map(Value::to_string).collect();
    lines.join("\n")
}
