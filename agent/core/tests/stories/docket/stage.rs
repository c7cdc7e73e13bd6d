//! A docket on a stage: what the kernel sees and what the cluster becomes are steps at their
//! milliseconds; what is reported is lines. In between the docket is called as the agent does.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use whydrop_core::{
    cluster::{
        Cluster,
        look_up::{LookUp, Query},
        node_address::NodeAddress,
        object::{Key, Node, Object, Pod},
    },
    docket::{Action, AnswersQuery, Asked, CutBy, Docket, Settings},
    flow::{Flow, Protocol, Worked},
    incident::{IncidentChange, JudgedDrop},
    mute::Rule,
    observation::{AttemptId, DropReason, Fact, Observation, Sender},
    own_path::Destination,
    policy::{Policy, requirement::Labels, selector::Selector},
};

use crate::build::{address, at, ingress, namespace, pod};

pub(crate) const WEB: u8 = 10;
pub(crate) const DB: u8 = 20;
/// Of another node: unknown until it is looked up, where things are.
pub(crate) const REMOTE: u8 = 30;
pub(crate) const NODE: u8 = 1;

/// Milliseconds into the story.
pub(crate) fn ms(milliseconds: i64) -> Timestamp {
    at(0) + SignedDuration::from_millis(milliseconds)
}

/// The same of a time.
pub(crate) fn since_start(at: Timestamp) -> i128 {
    at.duration_since(ms(0)).as_millis()
}

/// What becomes of the cluster at a time.
pub(crate) type BecomesOf = dyn Fn(&mut Cluster, Timestamp);

/// One thing that happens.
pub(crate) enum Step {
    /// A SYN of the connect with this source port is dropped by a filter.
    Dropped { from: u8, to: u8, port: u16, attempt: u16 },
    /// The kernel's counters: as many more.
    Counted { from: u8, to: u8, packets: u64 },
    /// An attempt of which something was seen before is answered.
    AnsweredLate { from: u8, to: u8, attempt: u16 },
    /// Something else is seen.
    Seen(Box<dyn Fn(Timestamp) -> Observation>),
    /// Something else becomes of the cluster.
    Change(Box<BecomesOf>),
    /// A flow is answered for the first time.
    AnsweredFirst { from: u8, to: u8 },
    /// The kernel's table of last answers has it, without a word.
    Works { from: u8, to: u8 },
    /// An object comes, or comes to be so.
    Apply(Object),
    /// Objects go, at one moment.
    Delete(Vec<Key>),
    /// A look-up comes back, with what was found.
    LookedUp(u8, Option<Object>),
    /// It ends.
    Flush,
}

/// SYNs of one connect as Linux sends the first two.
pub(crate) fn connect(start: i64, from: u8, to: u8) -> Vec<(i64, Step)> {
    let syn = || Step::Dropped { from, to, port: 5432, attempt: 40_000 };
    vec![(start, syn()), (start + 1_000, syn())]
}

/// `shop/web`, `shop/db` and the node that they run on, all from yesterday.
pub(crate) fn shop() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(namespace("shop", &[]), None);
    cluster.apply(
        Object::Node(Node {
            name: "worker-1".into(),
            labels: Labels::new(),
            addresses: vec![NodeAddress::internal(address(NODE))],
            pod_networks: Vec::new(),
            subnets: Vec::new(),
        }),
        None,
    );
    for (name, last) in [("web", WEB), ("db", DB)] {
        cluster.apply(Object::Pod(old(pod("shop", name, last, &[("app", name)]))), None);
    }
    cluster.history_begins(at(-3_600));
    cluster
}

/// The same, where an agent follows the pods of its own node alone.
pub(crate) fn shop_of_own_node() -> Cluster {
    let mut cluster = shop();
    cluster.look_up_on_demand();
    cluster
}

pub(crate) fn old(pod: Pod) -> Pod {
    Pod { created: Some(at(-86_400)), ..pod }
}

/// A pod of another node.
pub(crate) fn remote() -> Object {
    let remote = pod("shop", "remote", REMOTE, &[("app", "remote")]);
    Object::Pod(old(Pod { node: Some("worker-2".into()), ..remote }))
}

/// Denies all ingress in `shop`.
pub(crate) fn deny(name: &str) -> Policy {
    ingress("shop", name, Selector::EVERYTHING, Vec::new())
}

pub(crate) fn settings() -> Settings {
    Settings { node: "worker-1".into(), mute: Vec::new(), destinations: Vec::new() }
}

pub(crate) fn muting(rule: Rule) -> Settings {
    Settings { mute: vec![rule], ..settings() }
}

pub(crate) fn reaching(what: &str, last: u8, port: u16) -> Settings {
    let address = (address(last), port).into();
    Settings { destinations: vec![Destination { what: what.into(), address }], ..settings() }
}

pub(crate) struct Stage {
    pub(crate) docket: Docket,
    pub(crate) cluster: Cluster,
    /// The kernel's table of last answers.
    answers: BTreeMap<Flow, Timestamp>,
    /// When each flow was answered first, and how often.
    counts: BTreeMap<Flow, (Timestamp, u64)>,
    now: Timestamp,
    next_turn: Timestamp,
    /// What was reported: `MILLISECONDS WHAT`.
    pub(crate) lines: Vec<String>,
    /// What was asked for so far.
    pub(crate) looked_up: BTreeSet<Query>,
    /// Packets in drops that were reported.
    pub(crate) packets: u64,
    /// The drops that were reported.
    pub(crate) drops: Vec<Arc<JudgedDrop>>,
    /// What was reported of incidents, and when.
    pub(crate) changes: Vec<(i64, IncidentChange)>,
}

impl Stage {
    /// What was reported of incidents.
    pub(crate) fn incidents(&self) -> impl DoubleEndedIterator<Item = &IncidentChange> {
        self.changes.iter().map(|(_, change)| change)
    }

    pub(crate) fn new(cluster: Cluster, settings: Settings) -> Self {
        Self {
            docket: Docket::new(settings),
            cluster,
            answers: BTreeMap::new(),
            counts: BTreeMap::new(),
            now: ms(0),
            next_turn: ms(0),
            lines: Vec::new(),
            looked_up: BTreeSet::new(),
            packets: 0,
            drops: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// What is reported of these steps, in the order of their times, until then.
    pub(crate) fn play(
        cluster: Cluster,
        settings: Settings,
        steps: Vec<(i64, Step)>,
        until: i64,
    ) -> Self {
        let mut stage = Self::new(cluster, settings);
        for (time, step) in steps {
            stage.until(time);
            stage.step(step);
        }
        stage.until(until);
        stage
    }

    /// Lets time pass: a turn each second, and a tick whenever there is something to do.
    pub(crate) fn until(&mut self, time: i64) {
        let end = ms(time);
        loop {
            let due = self.docket.deadline().map_or(Timestamp::MAX, |due| due.max(self.now));
            let next = due.min(self.next_turn);
            if next > end {
                break;
            }
            self.now = next;
            if next == self.next_turn {
                self.next_turn += SignedDuration::from_secs(1);
                let actions = self.docket.turn(&self.cluster, next);
                self.carry_out(actions);
            }
            self.tick();
        }
        self.now = end;
    }

    fn tick(&mut self) {
        let mut generation = None;
        // Again where something was looked up meanwhile.
        while generation != Some(self.cluster.snapshot().generation()) {
            generation = Some(self.cluster.snapshot().generation());
            let actions = self.docket.tick(&self.cluster, self.now);
            self.carry_out(actions);
        }
    }

    /// Finds at once that there is nothing of what only shows a drop's situation: no Services, no API
    /// servers. Who holds an address is a step of its own.
    fn answer(&mut self, missing: &[Query]) {
        let is_of_situations = |query: &&Query| {
            matches!(
                query,
                Query::Service(_) | Query::ServicesOf(_) | Query::Exposed | Query::Callers
            )
        };
        for query in missing.iter().filter(is_of_situations) {
            let found = LookUp { at: self.now, failed: None, scale: None };
            self.cluster.looked_up(query.clone(), found);
        }
    }

    pub(crate) fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Dropped { from, to, port, attempt } => {
                let flow = Flow { port, ..flow(from, to) };
                self.see(&seen(now, flow, Some(attempt), 1, netfilter()));
            }
            Step::Counted { from, to, packets } => {
                self.see(&seen(now, flow(from, to), None, packets, netfilter()));
            }
            Step::AnsweredLate { from, to, attempt } => {
                self.answered(flow(from, to), now);
                self.see(&seen(now, flow(from, to), Some(attempt), 1, Fact::AnsweredLate));
            }
            Step::Seen(seen) => self.see(&seen(now)),
            Step::Change(change) => change(&mut self.cluster, now),
            Step::AnsweredFirst { from, to } => {
                self.answered(flow(from, to), now);
                self.see(&seen(now, flow(from, to), None, 1, Fact::AnsweredFirst));
            }
            Step::Works { from, to } => {
                self.answered(flow(from, to), now);
            }
            Step::Apply(object) => {
                if matches!(object, Object::Policy(_)) {
                    self.docket.policies_changed(now);
                }
                self.cluster.apply(object, Some(now));
            }
            Step::Delete(keys) => {
                self.docket.policies_changed(now);
                for key in keys {
                    self.cluster.delete(&key, now);
                }
            }
            Step::LookedUp(last, found) => {
                let failed = None;
                if let Some(object) = found {
                    self.cluster.apply(object, None);
                }
                self.cluster.looked_up(address(last), LookUp { at: now, failed, scale: None });
            }
            Step::Flush => {
                let actions = self.docket.flush(&self.cluster, now);
                self.carry_out(actions);
                let muted = self.docket.take_muted();
                self.carry_out(muted);
            }
        }
        self.tick();
    }

    /// The kernel's table has this as the last answer of a flow.
    pub(crate) fn answer_of(&mut self, flow: Flow, time: i64) {
        self.answered(flow, ms(time));
    }

    pub(crate) fn see(&mut self, observation: &Observation) {
        let action = self.docket.observed(observation);
        self.carry_out(action);
    }

    fn carry_out(&mut self, actions: impl IntoIterator<Item = Action>) {
        for action in actions {
            let line = match action {
                Action::LookUp(missing) => {
                    self.answer(&missing);
                    self.looked_up.extend(missing);
                    continue;
                }
                Action::AskLastAnswers(query) => {
                    self.ask(query);
                    continue;
                }
                Action::Drop(judged) => {
                    self.packets += judged.drop.unreported_packets();
                    self.drops.push(judged.clone());
                    let last = judged.worked.map(|worked| worked.last);
                    let worked = last.map(|at| format!(", worked at {}", since_start(at)));
                    let judgement = &judged.judgement;
                    let changes = judgement.changed.changes().iter();
                    let changes: Vec<_> = changes
                        .map(|change| format!("{} {}", change.object.name, change.kind.name()))
                        .collect();
                    format!(
                        "drop {} {}{}{}",
                        judgement.diagnosis.question,
                        judgement.diagnosis.cause.class.name(),
                        if changes.is_empty() {
                            String::new()
                        } else {
                            format!(" since {}", changes.join(" and "))
                        },
                        worked.unwrap_or_default(),
                    )
                }
                Action::Finding { at, diagnosis } => {
                    format!("finding {} answered at {}", diagnosis.question, since_start(at))
                }
                Action::Folded(folded) => format!("folded {}", folded.source),
                Action::Muted(by) => format!("muted by {by}"),
                Action::MutedSoFar { since, tallies } => {
                    let tallies = tallies.iter();
                    let tallies: Vec<_> = tallies
                        .map(|(by, tally)| {
                            format!("{} reports, {} packets by {by}", tally.reports, tally.packets)
                        })
                        .collect();
                    format!("muted since {}: {}", since_start(since), tallies.join("; "))
                }
                Action::Incident(change) => {
                    let severity = change.incident.assessment.severity;
                    let line = format!("incident {:?} {severity}", change.happened);
                    let at = self.now.duration_since(ms(0)).as_millis();
                    self.changes.push((i64::try_from(at).expect("some hours"), *change));
                    line
                }
                Action::Note(note) => {
                    let severity = note.severity.map_or("unreported".into(), |s| s.to_string());
                    format!("note on {} of {severity} incident", note.pod.name)
                }
                Action::CutOff { destination, by } => match by {
                    CutBy::Policies(diagnosis) => {
                        let policy =
                            diagnosis.cause.policy.as_ref().map(|p| p.reference.to_string());
                        format!(
                            "cut off from {} by {}",
                            destination.what,
                            policy.unwrap_or_default()
                        )
                    }
                    CutBy::Unexplained { dropped } => {
                        let reason = dropped.map(|reason| reason.name.to_string());
                        format!("cut off from {}: {}", destination.what, reason.unwrap_or_default())
                    }
                },
                Action::Reconnected => "reconnected".to_owned(),
            };
            self.lines.push(format!("{} {line}", since_start(self.now)));
        }
    }

    fn answered(&mut self, flow: Flow, now: Timestamp) {
        self.answers.insert(flow, now);
        self.counts.entry(flow).or_insert((now, 0)).1 += 1;
    }

    /// As the table has it: how many there were since a time is known where the first was later.
    fn worked(&self, flow: &Flow, since: Timestamp) -> Option<(Flow, Worked)> {
        let last = *self.answers.get(flow).filter(|last| **last >= since)?;
        let (first, connections) = *self.counts.get(flow)?;
        let worked = match first >= since {
            true => Worked { first, last, connections },
            false => Worked::once(last),
        };
        Some((*flow, worked))
    }

    fn ask(&mut self, query: AnswersQuery) {
        let since_of = |flow: &Flow, since: &Timestamp| {
            self.answers.get(flow).filter(|at| *at >= since).map(|at| (*flow, Worked::once(*at)))
        };
        let answers: Vec<(Flow, Worked)> = match &query.asked {
            Asked::Last(flows) => {
                flows.iter().filter_map(|flow| since_of(flow, &Timestamp::MIN)).collect()
            }
            Asked::Worked(flows) => {
                let since = |since: &Option<Timestamp>| since.unwrap_or(Timestamp::MIN);
                flows.iter().filter_map(|(flow, from)| self.worked(flow, since(from))).collect()
            }
            Asked::SinceOf(flows, since) => {
                flows.iter().filter_map(|flow| since_of(flow, since)).collect()
            }
            Asked::Since(since) => {
                self.answers.keys().filter_map(|flow| since_of(flow, since)).collect()
            }
        };
        let actions = self.docket.last_answers(query, &answers, &self.cluster, self.now);
        self.carry_out(actions);
    }

    /// The lines that begin with one of these words.
    pub(crate) fn said(&self, words: &[&str]) -> Vec<&str> {
        let is_wanted = |line: &&str| {
            let what = line.split_once(' ').map_or("", |(_, what)| what);
            words.iter().any(|word| what.starts_with(word))
        };
        self.lines.iter().map(String::as_str).filter(is_wanted).collect()
    }
}

pub(crate) fn flow(from: u8, to: u8) -> Flow {
    Flow { source: address(from), destination: address(to), port: 5432, protocol: Protocol::Tcp }
}

pub(crate) fn netfilter() -> Fact {
    Fact::KernelDrop {
        reason: DropReason { number: 12, name: "NETFILTER_DROP".into() },
        location: Some("nf_hook_slow".into()),
        interface: 5,
    }
}

pub(crate) fn attempt(source: IpAddr, source_port: u16) -> AttemptId {
    AttemptId {
        protocol: Protocol::Tcp,
        source,
        source_port,
        sequence: u32::from(source_port),
        foreign: None,
    }
}

pub(crate) fn seen(
    now: Timestamp,
    flow: Flow,
    source_port: Option<u16>,
    packets: u64,
    fact: Fact,
) -> Observation {
    Observation {
        at: now,
        first: now,
        attempt: source_port.map(|port| attempt(flow.source, port)),
        packets,
        flow,
        dialled: None,
        sender: Sender::default(),
        entered: None,
        delivered: false,
        fact,
    }
}
