//! What was reported beside the clients' own account.

use std::{collections::BTreeSet, fmt, net::SocketAddr};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Churned, Line, plan::PolicyChange};
use crate::play::living::caller::{Outcome, Try};

/// How far the times of a packet in a record and of a connect may lie apart: clocks are the same, and a
/// connect's last SYN is sent well before the client gives up.
const SLACK: SignedDuration = SignedDuration::from_secs(2);

/// What takes longer than this was not answered at once: its first SYN was lost.
const AT_ONCE: SignedDuration = SignedDuration::from_millis(900);

/// How long after an end a path must work: connects that began before it are over by then.
const AFTER_END: SignedDuration = SignedDuration::from_secs(10);

/// How long a change may take into the kernel, before or after which what fails is its doing.
const SETTLED: SignedDuration = SignedDuration::from_secs(8);

/// Where what was reported is not what happened; each a line.
#[derive(Debug, Default)]
pub struct Differences {
    /// Connects that nobody answered and no record has.
    pub missed: Vec<String>,
    /// Records of what no client saw.
    pub invented: Vec<String>,
    /// Records that name a policy that was not there when their packets were dropped.
    pub blamed: Vec<String>,
    /// Incidents that were over while their connects went on to fail, or never were.
    pub untrue_ends: Vec<String>,
}

impl Differences {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        let Self { missed, invented, blamed, untrue_ends } = self;
        [missed, invented, blamed, untrue_ends].into_iter().all(Vec::is_empty)
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { missed, invented, blamed, untrue_ends } = self;
        let all = [
            ("missed", missed),
            ("invented", invented),
            ("wrongly blamed", blamed),
            ("untrue ends", untrue_ends),
        ];
        let counts: Vec<String> =
            all.iter().map(|(what, lines)| format!("{what} {}", lines.len())).collect();
        writeln!(f, "{}", counts.join(", "))?;
        for (what, lines) in all {
            lines.iter().try_for_each(|line| writeln!(f, "{what}: {line}"))?;
        }
        Ok(())
    }
}

/// A drop's record, as far as it is compared.
struct Reported<'a> {
    record: &'a Value,
    client: String,
    dialled: Option<SocketAddr>,
    first: Timestamp,
    last: Timestamp,
    is_rejection: bool,
}

impl<'a> Reported<'a> {
    fn of(record: &'a Value) -> Option<Self> {
        let source = &record["flow"]["source"];
        let at = |field: &str| record["evidence"][field].as_str()?.parse().ok();
        let end = |end: &Value| -> Option<SocketAddr> {
            let port = u16::try_from(end["port"].as_u64()?).ok()?;
            Some(SocketAddr::new(end["ip"].as_str()?.parse().ok()?, port))
        };
        let to = &record["flow"]["destination"];
        Some(Self {
            record,
            client: format!("{}/{}", source["namespace"].as_str()?, source["pod"].as_str()?),
            dialled: end(&to["service"]).or_else(|| end(to)),
            first: at("first")?,
            last: at("last")?,
            is_rejection: record["evidence"]["level"] == "rejected",
        })
    }

    fn is_of(&self, line: &Line) -> bool {
        self.client == line.client && self.dialled == Some(line.to)
    }

    /// Whether the policy that it names was there when the packets were dropped.
    fn names_what_was_there(&self, churned: &Churned) -> bool {
        let policy = &self.record["cause"]["policy"];
        let (Some(namespace), Some(name)) = (policy["namespace"].as_str(), policy["name"].as_str())
        else {
            return true;
        };
        let mut there_since = None;
        for done in churned.done.iter().filter(|done| done.action.namespace() == namespace) {
            match (done.action.changes_policy(name), there_since) {
                (Some(PolicyChange::Applied), None) => there_since = Some(done.at.0),
                (Some(PolicyChange::Deleted), Some(since)) => {
                    if self.first <= done.at.1 + SETTLED && since <= self.last + SLACK {
                        return true;
                    }
                    there_since = None;
                }
                _ => {}
            }
        }
        there_since.is_some_and(|since| since <= self.last + SLACK)
    }

    fn spans(&self, one: &Try) -> bool {
        self.first - SLACK <= one.at + one.took && one.at <= self.last + SLACK
    }
}

/// Compares them.
pub(super) fn compare(churned: &Churned) -> Differences {
    let drops = churned.records.iter().filter(|record| record["kind"] == "drop");
    let drops: Vec<Reported<'_>> = drops.filter_map(Reported::of).collect();
    let mut differences = Differences::default();
    for line in &churned.lines {
        for one in line.tries.iter().filter(|one| one.outcome == Outcome::Silent) {
            let is_reported = drops.iter().any(|drop| drop.is_of(line) && drop.spans(one));
            if !is_reported {
                let Line { client, to, .. } = line;
                differences.missed.push(format!("{} {client} -> {to}", one.at));
            }
        }
    }
    for drop in &drops {
        let lines = churned.lines.iter().filter(|line| drop.is_of(line));
        let is_late = |one: &Try| one.took > AT_ONCE;
        let is_sign = |one: &&Try| match one.outcome {
            Outcome::Answered => is_late(one),
            // Of rejections the kernel sends one a second to a client, so that the others are silent.
            Outcome::Refused => drop.is_rejection || is_late(one),
            // A client that is over gives up in the middle of it.
            Outcome::Silent | Outcome::Untried => true,
        };
        let mut signs =
            lines.flat_map(|line| &line.tries).filter(|one| drop.spans(one)).filter(is_sign);
        if signs.next().is_none() {
            differences.invented.push(drop.record.to_string());
        }
        if !drop.names_what_was_there(churned) {
            differences.blamed.push(drop.record.to_string());
        }
    }
    ends(churned, &drops, &mut differences.untrue_ends);
    differences
}

/// Ends of incidents: each of them has one, and nothing that it was about fails after it for no change.
fn ends(churned: &Churned, drops: &[Reported<'_>], untrue: &mut Vec<String>) {
    let incidents: Vec<&Value> =
        churned.records.iter().filter(|record| record["kind"] == "incident").collect();
    let ids: BTreeSet<&str> = incidents.iter().filter_map(|record| record["id"].as_str()).collect();
    for id in ids {
        let of_id: Vec<&Value> = incidents.iter().copied().filter(|r| r["id"] == id).collect();
        let own: Vec<&Reported<'_>> = drops.iter().filter(|d| d.record["incident"] == id).collect();
        let mut is_over = false;
        for record in &of_id {
            let happened = record["happened"].as_str().unwrap_or_default();
            let was_over = std::mem::replace(&mut is_over, happened == "resolved");
            if happened != "resolved" {
                continue;
            }
            if was_over {
                untrue.push(format!("resolved again: {record}"));
            }
            let Some(at) = record["time"].as_str().and_then(|at| at.parse().ok()) else { continue };
            if let Some(failed) = fails_after(churned, &own, at) {
                untrue.push(format!("{failed} fails after {record}"));
            }
        }
        if !is_over {
            let last = of_id.last().map(ToString::to_string).unwrap_or_default();
            untrue.push(format!("not over, though everything passes: {last}"));
        }
    }
}

/// A connect of these drops' paths that fails soon after an end, where nothing was done around it.
fn fails_after(churned: &Churned, own: &[&Reported<'_>], end: Timestamp) -> Option<String> {
    let until = end + AFTER_END;
    let is_done = |namespaces: &[&str]| {
        churned.done.iter().any(|done| {
            namespaces.contains(&done.action.namespace())
                && done.at.0 <= until
                && done.at.1 + SETTLED >= end
        })
    };
    for line in churned.lines.iter().filter(|line| own.iter().any(|drop| drop.is_of(line))) {
        let namespaces: BTreeSet<&str> = own
            .iter()
            .filter(|drop| drop.is_of(line))
            .flat_map(|drop| {
                let end = |end: &str| drop.record["flow"][end]["namespace"].as_str();
                [end("source"), end("destination")]
            })
            .flatten()
            .collect();
        let namespaces: Vec<&str> = namespaces.into_iter().collect();
        // What fails for another reason is another incident's.
        let is_own = |one: &Try| own.iter().any(|drop| drop.is_of(line) && drop.spans(one));
        let after = |one: &&Try| {
            one.at > end && one.at <= until && one.outcome == Outcome::Silent && is_own(one)
        };
        if let Some(one) = line.tries.iter().find(after)
            && !is_done(&namespaces)
        {
            return Some(format!("{} {} -> {}", one.at, line.client, line.to));
        }
    }
    None
}
