//! The same of Services, over a real kube-proxy: each client dials each of their addresses, and what
//! comes of it is held against what whydrop answers.
//!
//! A connection goes to one of several endpoints, and kube-proxy says which by chance: so there are
//! outcomes that may be, and of these some that must be seen once one dials often enough.

mod account;
mod dial;
mod expect;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::generate::services::{By, Client, Frontend, Served};
use account::Account;
pub use dial::{Outcome, Speaking, dial_all, speak};
pub use expect::{Denial, Expectation, expectations};

/// A connection that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Who dials.
    pub client: Client,
    /// What.
    pub frontend: Frontend,
}

/// What was counted over a case without a difference.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Pairs of a client and what it dials.
    pub probes: usize,
    /// Connections.
    pub dials: usize,
    /// Connections that an endpoint answered.
    pub answered: usize,
    /// Those that nobody answered.
    pub dropped: usize,
    /// Those that were rejected.
    pub rejected: usize,
    /// Those to an address that nobody has.
    pub unreachable: usize,
    /// Drops by policies, each reported.
    pub reported: usize,
    /// Answers of `whydrop check`.
    pub checked: usize,
}

impl Tally {
    /// Adds the outcomes of a probe.
    fn add(&mut self, outcomes: &[Outcome]) {
        self.probes += 1;
        self.dials += outcomes.len();
        for outcome in outcomes {
            match outcome {
                Outcome::Answered(_) => self.answered += 1,
                Outcome::Silent => self.dropped += 1,
                Outcome::Rejected => self.rejected += 1,
                Outcome::Unreachable => self.unreachable += 1,
                Outcome::Failed(_) => {}
            }
        }
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.probes += other.probes;
        self.dials += other.dials;
        self.answered += other.answered;
        self.dropped += other.dropped;
        self.rejected += other.rejected;
        self.unreachable += other.unreachable;
        self.reported += other.reported;
        self.checked += other.checked;
    }
}

impl Served {
    /// Every client with everything that it can dial.
    pub fn probes(&self) -> Vec<Probe> {
        let frontends = self.frontends();
        let clients = self.clients().into_iter();
        clients
            .flat_map(|client| {
                let reached = frontends.iter().filter(move |own| own.is_reached_by(client));
                reached.map(move |frontend| Probe { client, frontend: *frontend })
            })
            .collect()
    }

    /// The probes as `whydrop check` reads them.
    pub fn flows(&self) -> Value {
        let flow = |probe: &Probe| {
            let Frontend { service, by, to, is_udp } = probe.frontend;
            let to_text = match by {
                By::Headless => {
                    let service = &self.services[service];
                    format!("{}/svc/{}", service.namespace(), service.name())
                }
                _ => to.ip().to_string(),
            };
            let protocol = if is_udp { "UDP" } else { "TCP" };
            json!({
                "from": self.name_of(probe.client), "to": to_text, "port": to.port(),
                "protocol": protocol, "expect": "allow",
            })
        };
        self.probes().iter().map(flow).collect()
    }
}

/// Holds what kube-proxy and an enforcer did, and what whydrop reported of it, against what it answers.
///
/// `expected` and `outcomes` have those of each of [`Served::probes`]; `records` everything that the
/// agent of each node printed to its end.
///
/// # Errors
///
/// The first difference, with all that it takes to see it again.
pub fn compare(
    served: &Served,
    expected: &[Expectation],
    outcomes: &[Vec<Outcome>],
    records: &[Vec<Value>],
) -> Result<Tally> {
    let probes = served.probes();
    let is_complete = probes.len() == expected.len() && probes.len() == outcomes.len();
    ensure!(is_complete, "{} probes, {} outcomes", probes.len(), outcomes.len());
    let seed = served.case.seed;
    let reports = Reports::of(records, expected);
    let mut tally = Tally::default();
    let mut differences = Vec::new();
    for ((probe, expected), outcomes) in probes.iter().zip(expected).zip(outcomes) {
        if let Err(difference) = agree(expected, outcomes, &reports) {
            differences.push((Account { served, probe: *probe, expected, outcomes }, difference));
        }
        tally.add(outcomes);
    }
    if let Some((first, difference)) = differences.first() {
        let all =
            differences.iter().map(|(account, difference)| format!("{account}: {difference}"));
        let all = all.collect::<Vec<_>>().join("\n");
        let cluster = account::cluster(served, records);
        bail!("seed {seed}: {difference}\n{all}\n{}\n{cluster}", first.in_full());
    }
    if let Some((record, difference)) = reports.difference() {
        bail!("seed {seed}: {difference}\n{record}\n{}", account::cluster(served, records));
    }
    tally.reported = reports.by_denial.len();
    Ok(tally)
}

/// Holds the lines of `whydrop check -o json`, asked for [`Served::flows`], against the same answers.
///
/// # Errors
///
/// The first difference.
pub fn compare_answers(
    served: &Served,
    expected: &[Expectation],
    lines: &[Value],
) -> Result<usize> {
    let probes = served.probes();
    ensure!(probes.len() == lines.len(), "{} answers to {} flows", lines.len(), probes.len());
    for ((probe, expected), line) in probes.iter().zip(expected).zip(lines) {
        let is_same = match expected.is_error {
            true => line["error"].is_string(),
            false => {
                line["effective"] == expected.effective.to_string()
                    && line["cause"]["class"] == expected.class.to_string()
            }
        };
        if !is_same {
            let account = Account { served, probe: *probe, expected, outcomes: &[] };
            let (seed, difference) = (served.case.seed, Difference::Check);
            bail!("seed {seed}: {difference}\n{account}\n{line}\n{}", account.in_full());
        }
    }
    Ok(lines.len())
}

/// What agents said of drops.
struct Reports<'a> {
    /// Records that blame a policy, as somebody is expected to deny that packet, and of which node.
    by_denial: BTreeMap<&'a Denial, Vec<(usize, &'a Value)>>,
    /// Those of which nobody is.
    invented: Vec<&'a Value>,
}

impl<'a> Reports<'a> {
    fn of(records: &'a [Vec<Value>], expected: &'a [Expectation]) -> Self {
        let all: BTreeSet<&Denial> = expected.iter().flat_map(|own| &own.denials).collect();
        let mut reports = Self { by_denial: BTreeMap::new(), invented: Vec::new() };
        let is_blame = |record: &&Value| {
            let kind = &record["kind"];
            (*kind == "drop" || *kind == "finding") && record["cause"]["policy"].is_object()
        };
        for (node, records) in records.iter().enumerate() {
            for record in records.iter().filter(is_blame) {
                match all.iter().find(|denial| denial.is_of(record)) {
                    Some(denial) => {
                        reports.by_denial.entry(denial).or_default().push((node, record));
                    }
                    None => reports.invented.push(record),
                }
            }
        }
        reports
    }

    fn has(&self, denial: &Denial) -> bool {
        self.by_denial.contains_key(denial)
    }

    /// A record that is wrong in itself, whoever dialled.
    fn difference(&self) -> Option<(&'a Value, Difference)> {
        if let Some(record) = self.invented.first() {
            return Some((record, Difference::Invented));
        }
        self.by_denial.values().find_map(|records| {
            // Where one connection is translated on one node and another on the other, each drops one.
            // What a node did not see dropped it names by what was dialled: so it does where the second
            // SYN of a connection is sent to another endpoint than the first. Ways that a client has to
            // one endpoint are drops of their own.
            let seen = records.iter().filter(|(_, own)| own["evidence"]["level"] == "kernel-drop");
            let mut of_ways: BTreeMap<(usize, String), BTreeSet<&str>> = BTreeMap::new();
            for (node, own) in seen {
                let dialled = own["flow"]["destination"]["service"].to_string();
                of_ways.entry((*node, dialled)).or_default().extend(own["id"].as_str());
            }
            let ids = of_ways.values().map(BTreeSet::len).max()?;
            let twice = (ids > 1).then_some(Difference::Repeated(ids))?;
            Some((records.first()?.1, twice))
        })
    }
}

/// Whether all agree on one probe; the error is the difference in words.
fn agree(
    expected: &Expectation,
    outcomes: &[Outcome],
    reports: &Reports<'_>,
) -> Result<(), Difference> {
    let Expectation { may, must, is_sticky, reported, .. } = expected;
    if expected.is_undecided {
        return Err(Difference::Undecided);
    }
    if let Some(other) = outcomes.iter().find(|outcome| !may.contains(outcome)) {
        return Err(Difference::Outcome(*other));
    }
    if let Some(unseen) = must.iter().find(|outcome| !outcomes.contains(outcome)) {
        return Err(Difference::Unseen(*unseen));
    }
    // Connections of the first moment are made side by side, before any of them is remembered.
    let later: BTreeSet<&Outcome> = outcomes.iter().skip(dial::FIRST_DIALS).collect();
    if *is_sticky && later.len() > 1 {
        return Err(Difference::Wandering);
    }
    let is_reported = reported.is_empty() || reported.iter().any(|denial| reports.has(denial));
    match outcomes.contains(&Outcome::Silent) && !is_reported {
        true => Err(Difference::Unreported),
        false => Ok(()),
    }
}

/// How kube-proxy, an enforcer, the objects and whydrop can disagree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    /// The answer is that it is unknown, which no object of a case makes so.
    Undecided,
    /// An outcome that the answer has not.
    Outcome(Outcome),
    /// An outcome of the answer that never came.
    Unseen(Outcome),
    /// A client whose Service keeps it at one endpoint came to several.
    Wandering,
    /// A policy denies some of it, and no agent blames it for that.
    Unreported,
    /// A policy is blamed, and none denies such a packet.
    Invented,
    /// Reported under so many names.
    Repeated(usize),
    /// `whydrop check` answers otherwise than the rooms that it is made of.
    Check,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecided => f.write_str("whydrop leaves it open"),
            Self::Outcome(outcome) => write!(f, "{outcome:?} is not of the answer"),
            Self::Unseen(outcome) => write!(f, "{outcome:?} is of the answer, and never came"),
            Self::Wandering => f.write_str("a client did not stay with its endpoint"),
            Self::Unreported => f.write_str("a policy dropped it, and was not reported for it"),
            Self::Invented => f.write_str("a policy was blamed that denies no such packet"),
            Self::Repeated(names) => write!(f, "one drop was reported under {names} names"),
            Self::Check => f.write_str("whydrop check answers otherwise"),
        }
    }
}

#[cfg(test)]
mod tests;
