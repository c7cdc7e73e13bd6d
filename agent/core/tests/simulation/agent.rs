//! The agent as its task runs it: what comes in goes to the docket, what comes out is carried out, at
//! the same moment in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::Timestamp;
use whydrop_core::{
    cluster::{
        Addresses, Cluster, Interface,
        look_up::{LookUp, Query},
        object::{Key, Kind, Object, Scale},
    },
    diagnosis::Diagnosis,
    docket::{Account, Action, Docket, Settings},
    incident::{IncidentChange, JudgedDrop},
    observation::Observation,
};

use crate::{
    cluster::NODE,
    kernel::Kernel,
    time::{Ms, at, ms},
};

/// What the agent reported.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    Drop(Arc<JudgedDrop>),
    Incident(Box<IncidentChange>),
    Finding(Box<Diagnosis>),
}

/// The agent.
pub(crate) struct Agent {
    pub(crate) cluster: Cluster,
    docket: Docket,
    /// What it reported, and when.
    pub(crate) reports: Vec<(Ms, Report)>,
    /// What is to be looked up for it.
    pub(crate) asks: Vec<Query>,
    looking_up: BTreeSet<Query>,
    /// What a look-up found.
    found: BTreeMap<Query, Vec<Key>>,
    interfaces: Addresses,
}

impl Agent {
    pub(crate) fn new(looks_up: bool) -> Self {
        let mut cluster = Cluster::default();
        if looks_up {
            cluster.look_up_on_demand();
        }
        let settings = Settings { node: NODE.into(), mute: Vec::new(), destinations: Vec::new() };
        Self {
            cluster,
            docket: Docket::new(settings),
            reports: Vec::new(),
            asks: Vec::new(),
            looking_up: BTreeSet::new(),
            found: BTreeMap::new(),
            interfaces: Addresses::default(),
        }
    }

    /// When it has something to do without anything coming in.
    pub(crate) fn due(&self, now: Ms) -> Option<Ms> {
        // Of a time between two milliseconds the later one.
        let round_up = |due: Timestamp| if at(ms(due)) < due { ms(due) + 1 } else { ms(due) };
        self.docket.deadline().map(|due| round_up(due.max(at(now))))
    }

    pub(crate) fn account(&self) -> Account {
        self.docket.account()
    }

    pub(crate) fn observed(&mut self, seen: &[Observation], kernel: &Kernel, now: Ms) {
        for one in seen {
            let action = self.docket.observed(one);
            self.carry_out(action, kernel, now);
        }
    }

    pub(crate) fn tick(&mut self, kernel: &Kernel, now: Ms) {
        let actions = self.docket.tick(&self.cluster, at(now));
        self.carry_out(actions, kernel, now);
    }

    pub(crate) fn turn(&mut self, counted: &[Observation], kernel: &Kernel, now: Ms) {
        self.observed(counted, kernel, now);
        let actions = self.docket.turn(&self.cluster, at(now));
        self.carry_out(actions, kernel, now);
    }

    pub(crate) fn flush(&mut self, kernel: &Kernel, now: Ms) {
        let actions = self.docket.flush(&self.cluster, at(now));
        self.carry_out(actions, kernel, now);
    }

    /// The watch brings an object, or that one is gone.
    pub(crate) fn heard(&mut self, news: Result<Object, Key>, now: Ms) {
        let key = news.as_ref().map_or_else(Key::clone, Object::key);
        if matches!(key.kind, Kind::Policy(_) | Kind::Namespace) {
            self.docket.policies_changed(at(now));
        }
        match news {
            Ok(object) => self.cluster.apply(object, Some(at(now))),
            Err(key) => self.cluster.delete(&key, at(now)),
        }
    }

    /// What comes of a look-up, as `agent/kube` takes it in: pods of this node are followed.
    pub(crate) fn looked_up(
        &mut self,
        query: &Query,
        mut objects: Vec<Object>,
        scale: Option<Scale>,
        now: Ms,
    ) {
        self.looking_up.remove(query);
        objects.retain(
            |object| !matches!(object, Object::Pod(pod) if pod.node.as_deref() == Some(NODE)),
        );
        let keys: Vec<Key> = objects.iter().map(Object::key).collect();
        let before = self.found.insert(query.clone(), keys.clone()).unwrap_or_default();
        for key in before.iter().filter(|key| !keys.contains(key)) {
            if !self.found.values().any(|found| found.contains(key)) {
                match query {
                    Query::ServicesOf(_) | Query::Exposed => self.cluster.forget(key, at(now)),
                    _ => self.cluster.delete_found(key, at(now)),
                }
            }
        }
        for object in objects {
            self.cluster.apply_found(object, at(now));
        }
        self.cluster.looked_up(query.clone(), LookUp { at: at(now), failed: None, scale });
    }

    /// A local pod's interface came, or went.
    pub(crate) fn interface(&mut self, index: u32, pod: std::net::IpAddr, is_there: bool, now: Ms) {
        let since = (now > 0).then(|| at(now));
        let name = format!("veth{index}").into();
        let interface = Interface { name, addresses: vec![pod], since };
        self.cluster.set_interface(index, is_there.then_some(interface));
        match is_there {
            true => self.interfaces.routed.insert(pod),
            false => self.interfaces.routed.remove(&pod),
        };
        self.cluster.set_addresses(&NODE.into(), self.interfaces.clone());
    }

    fn carry_out(&mut self, actions: impl IntoIterator<Item = Action>, kernel: &Kernel, now: Ms) {
        for action in actions {
            let report = match action {
                Action::LookUp(missing) => {
                    let news = missing.into_iter().filter(|query| !self.looking_up.contains(query));
                    let news: BTreeSet<Query> = news.collect();
                    self.asks.extend(news.iter().cloned());
                    self.looking_up.extend(news);
                    continue;
                }
                Action::AskLastAnswers(query) => {
                    let answers = kernel.answers(&query.asked);
                    let actions = self.docket.last_answers(query, &answers, &self.cluster, at(now));
                    self.carry_out(actions, kernel, now);
                    continue;
                }
                Action::Drop(judged) => Report::Drop(judged),
                Action::Incident(change) => Report::Incident(change),
                Action::Finding { diagnosis, .. } => Report::Finding(diagnosis),
                Action::Folded(_)
                | Action::Muted(_)
                | Action::MutedSoFar { .. }
                | Action::Note(_)
                | Action::CutOff { .. }
                | Action::Reconnected => continue,
            };
            self.reports.push((now, report));
        }
    }
}
