//! What whydrop answers of a connection to a Service, as outcomes that may be seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use serde_json::Value;
use whydrop_core::{
    answer::{Answer, Effective, Way},
    cluster::Snapshot,
    diagnosis::Class,
    flow::{Direction, Protocol},
    service::{Course, Dial, Doubt, Entry, Fate, Refusal, Remark, to_address, to_service},
    verdict::{Decision, DirectionVerdict, Question, Verdict, evaluate},
};

use super::{Outcome, Probe};
use crate::play::differential::{
    DNS,
    generate::services::{By, Client, Served},
};

/// What is expected of a probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// Outcomes that may come.
    pub may: BTreeSet<Outcome>,
    /// Those of them that come once one dials often enough.
    pub must: BTreeSet<Outcome>,
    /// Whether every connection of the client's goes to the endpoint of the first.
    pub is_sticky: bool,
    /// Packets that a policy denies.
    pub denials: BTreeSet<Denial>,
    /// Those of them of which at least one is reported where nobody answers: policies alone are why.
    pub reported: BTreeSet<Denial>,
    /// What it comes to.
    pub effective: Effective,
    /// The class of the cause.
    pub class: Class,
    /// Whether the question itself is refused: the Service has no such port.
    pub is_error: bool,
    /// Whether some of it is unknown.
    pub is_undecided: bool,
}

/// A packet that policies of a direction deny, and which they are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Denial {
    source: IpAddr,
    destination: SocketAddr,
    direction: String,
    policies: BTreeSet<String>,
}

impl Denial {
    fn of(question: &Question, direction: Direction, verdict: &DirectionVerdict) -> Option<Self> {
        let responsible = verdict.responsible();
        Some(Self {
            source: question.source.address?,
            destination: (question.destination.address?, question.port).into(),
            direction: direction.to_string(),
            policies: responsible.iter().map(|policy| policy.reference.name.to_string()).collect(),
        })
    }

    /// The same, of what was dialled.
    fn dialled(self, destination: SocketAddr) -> Self {
        Self { destination, ..self }
    }

    /// A record of it.
    #[cfg(test)]
    pub(super) fn record(&self, id: usize) -> Value {
        let Self { source, destination, direction, policies } = self;
        serde_json::json!({
            "kind": "drop", "id": id.to_string(),
            "flow": {
                "source": { "ip": source },
                "destination": { "ip": destination.ip(), "port": destination.port() },
            },
            "cause": { "policy": { "name": policies.first() }, "direction": direction },
            "evidence": { "level": "kernel-drop" },
        })
    }

    /// Whether a record is about it, and blames one of the policies.
    pub(super) fn is_of(&self, record: &Value) -> bool {
        let (flow, cause) = (&record["flow"], &record["cause"]);
        let policy = cause["policy"]["name"].as_str().unwrap_or_default();
        flow["source"]["ip"] == self.source.to_string()
            && flow["destination"]["ip"] == self.destination.ip().to_string()
            && flow["destination"]["port"] == self.destination.port()
            && cause["direction"] == self.direction
            && self.policies.contains(policy)
    }
}

/// What is expected of each of [`Served::probes`].
pub fn expectations(served: &Served, snapshot: &Snapshot) -> Vec<Expectation> {
    served.probes().iter().map(|probe| expectation(served, snapshot, probe)).collect()
}

fn expectation(served: &Served, snapshot: &Snapshot, probe: &Probe) -> Expectation {
    let frontend = probe.frontend;
    let client = snapshot.resolve(served.address_of(probe.client), None);
    let protocol = if frontend.is_udp { Protocol::Udp } else { Protocol::Tcp };
    let dial = Dial { client: &client, port: frontend.to.port(), protocol };
    let answer = answer(served, snapshot, &dial, probe);
    let mut expected = Expectation {
        may: BTreeSet::new(),
        must: BTreeSet::new(),
        is_sticky: false,
        denials: BTreeSet::new(),
        reported: BTreeSet::new(),
        effective: answer.effective(),
        class: answer.diagnosis(snapshot, &client).map_or(Class::None, |own| own.cause.class),
        is_error: false,
        is_undecided: answer.courses.is_empty(),
    };
    for (number, course) in answer.courses.iter().enumerate() {
        let ways = answer.ways_of(Some(number));
        let of_dialled = |way: &&Way| {
            frontend.by != By::Headless || way.destination().address == Some(frontend.to.ip())
        };
        let ways: Vec<&Way> = ways.filter(of_dialled).collect();
        match &course.fate {
            Fate::Sent(_) => {
                // Which node translates it, the route from outside says.
                let is_sure = probe.client != Client::Outside
                    || matches!(course.entry, Entry::NodePort(Some(_)));
                expected.is_sticky = course.service.is_sticky && frontend.by != By::Headless;
                // What one node sends on, another one drops; and so does who takes no pod for its own.
                let is_perhaps = course.remarks.iter().any(|remark| {
                    matches!(remark, Remark::NotByEveryNode(_) | Remark::PerhapsTakenForLocal(_))
                });
                expected.add_sent(&ways, is_sure && !is_perhaps, frontend.is_udp);
                expected.add_as_dialled(frontend.to);
                if is_perhaps {
                    expected.may.insert(Outcome::Silent);
                } else if is_sure && (!frontend.is_udp || frontend.to.port() == DNS) {
                    // Of datagrams agents watch those to resolvers.
                    expected.reported = expected.denials.clone();
                }
            }
            Fate::Untranslated(_) => {
                expected.add_ways(&ways, Outcome::Unreachable, true);
                // Nobody has to say that nobody is there.
                expected.may.insert(Outcome::Silent);
                expected.must.clear();
            }
            Fate::Unknown(Doubt::TakenForLocal { otherwise, .. }) => {
                let mut perhaps = Answer::default();
                let fate = Fate::Sent(otherwise.clone());
                perhaps.add_course(snapshot, Course { fate, ..course.clone() });
                let ways: Vec<&Way> = perhaps.ways.iter().collect();
                expected.add_sent(&ways, false, frontend.is_udp);
                expected.may.insert(Outcome::Silent);
            }
            Fate::Refused { refusal: Refusal::NoPort, .. } => {
                expected.is_error = true;
                expected.may.extend([Outcome::Rejected, Outcome::Unreachable, Outcome::Silent]);
                expected.add_policies_before(snapshot, &dial, frontend.to);
            }
            Fate::Refused { refusal, .. } => {
                let outcome = match refusal {
                    refusal if refusal.is_rejection() => Outcome::Rejected,
                    Refusal::NoAddress => continue,
                    _ => Outcome::Silent,
                };
                expected.may.insert(outcome);
                expected.must.insert(outcome);
                // Where policies deny how it leaves as well, they are named for what would come of it.
                expected.denials.extend(ways.iter().flat_map(|way| denials(way)));
                let is_of_node = matches!(probe.client, Client::Node(_));
                if is_of_node && matches!(frontend.by, By::External | By::Balancer) {
                    // KUBE-EXTERNAL-SERVICES is no chain of OUTPUT (iptables): the packet leaves as it is.
                    expected.may.extend([Outcome::Silent, Outcome::Unreachable]);
                    expected.must.clear();
                }
                if course.remarks.contains(&Remark::KeptOut) {
                    // By the mode of kube-proxy.
                    expected.may.insert(Outcome::Silent);
                    expected.must.clear();
                }
                expected.add_policies_before(snapshot, &dial, frontend.to);
            }
            Fate::Name(_) | Fate::Unknown(_) => expected.is_undecided = true,
        }
    }
    expected
}

/// The answer to the question, as `whydrop explain` makes it.
fn answer(served: &Served, snapshot: &Snapshot, dial: &Dial<'_>, probe: &Probe) -> Answer {
    let mut answer = Answer::default();
    let service = &served.services[probe.frontend.service];
    let courses = match probe.frontend.by {
        By::Headless => {
            let service = snapshot.service(service.namespace(), service.name());
            service.map(|service| to_service(snapshot, dial, service)).unwrap_or_default()
        }
        _ => to_address(snapshot, dial, probe.frontend.to.ip(), None).into_iter().collect(),
    };
    for course in courses {
        // Somebody else's is an answer to another question.
        if *course.service.name == *service.name() {
            answer.add_course(snapshot, course);
        }
    }
    answer
}

impl Expectation {
    /// Packets to endpoints, one of which comes each time.
    fn add_sent(&mut self, ways: &[&Way], is_sure: bool, is_udp: bool) {
        let mut by_endpoint: BTreeMap<SocketAddr, Vec<&Way>> = BTreeMap::new();
        for way in ways {
            let question = &way.arrival().question;
            let Some(address) = way.destination().address else { continue };
            by_endpoint.entry((address, question.port).into()).or_default().push(way);
        }
        // Whoever stays with one endpoint does not see what others do.
        let is_sure = is_sure && (!self.is_sticky || by_endpoint.len() == 1);
        for (endpoint, ways) in by_endpoint {
            let answered = Outcome::Answered((!is_udp).then_some(endpoint));
            self.add_ways(&ways, answered, is_sure);
        }
        if is_udp && self.must.len() > 1 {
            // A resolver asks again, and comes to another endpoint.
            self.must.remove(&Outcome::Silent);
        }
    }

    /// Packets to one end, of which one comes; `answered`: what does where none denies it.
    fn add_ways(&mut self, ways: &[&Way], answered: Outcome, is_sure: bool) {
        let outcomes: BTreeSet<Option<Outcome>> = ways
            .iter()
            .map(|way| match way.effective() {
                Effective::Allow => Some(answered),
                Effective::Deny => Some(Outcome::Silent),
                Effective::Some | Effective::Unknown => None,
            })
            .collect();
        self.is_undecided |= outcomes.is_empty() || outcomes.contains(&None);
        let outcomes: BTreeSet<Outcome> = outcomes.into_iter().flatten().collect();
        let all: BTreeSet<Denial> = ways.iter().flat_map(|way| denials(way)).collect();
        if is_sure && outcomes.len() == 1 {
            self.must.extend(&outcomes);
        }
        self.may.extend(outcomes);
        self.denials.extend(all);
    }

    /// An agent that saw nothing but what was dialled names a policy where whatever comes of it is denied.
    fn add_as_dialled(&mut self, to: SocketAddr) {
        if self.may.iter().all(|outcome| *outcome == Outcome::Silent) {
            let dialled = self.denials.iter().cloned();
            let dialled: Vec<Denial> = dialled.map(|denial| denial.dialled(to)).collect();
            self.denials.extend(dialled);
        }
    }

    /// What policies of the client may do before kube-proxy rejects or drops it: who comes first depends
    /// on whose rules were written last.
    fn add_policies_before(&mut self, snapshot: &Snapshot, dial: &Dial<'_>, to: SocketAddr) {
        let Dial { client, port, protocol } = *dial;
        let destination = snapshot.resolve(to.ip(), None);
        let question = Question::new(client.clone(), destination, port, protocol);
        let verdict = evaluate(snapshot, &question);
        if is_denied(&verdict, Direction::Egress) {
            self.may.insert(Outcome::Silent);
            self.must.clear();
            self.denials.extend(Denial::of(&question, Direction::Egress, &verdict.egress));
        }
    }
}

fn is_denied(verdict: &Verdict, direction: Direction) -> bool {
    verdict.exempt.is_none() && verdict.direction(direction).decision == Decision::Denied
}

/// What denies a packet where it is first denied on its way, in either direction: a report names the one that
/// a rule denies before the one that no rule admits.
fn denials(way: &Way) -> Vec<Denial> {
    let Some(leg) = way.denials().next() else { return Vec::new() };
    let directions = [Direction::Egress, Direction::Ingress].into_iter();
    let denied = directions.filter(|direction| is_denied(&leg.verdict, *direction));
    let denials = denied.map(|to| Denial::of(&leg.question, to, leg.verdict.direction(to)));
    denials.flatten().collect()
}
