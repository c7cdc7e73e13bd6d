//! The node's agent, with the core that the real one has, and what its records say to the healer.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use whydrop_core::{
    cluster::{
        Addresses, Cluster, Interface,
        object::{Key, Object},
        resolve::Endpoint,
    },
    docket::{Action, Docket, Settings},
    flow::Flow,
    heal::{
        Between, DropCause, DropReport, FlowPast, IncidentReport, IncidentState, PathName, Recovery,
    },
    incident::{Happened, IncidentChange, JudgedDrop, Party, Path, Resolution},
    observation::Observation,
};

use crate::{
    kernel::Kernel,
    time::{Ms, at},
    world::NODE,
};

/// What it reported.
pub(crate) enum Report {
    Drop(Box<DropReport>),
    Incident(Box<IncidentReport>),
}

pub(crate) struct Agent {
    pub(crate) cluster: Cluster,
    docket: Docket,
    addresses: Addresses,
    reports: Vec<Report>,
}

impl Agent {
    /// One that begins with these objects.
    pub(crate) fn starts(objects: impl IntoIterator<Item = Object>, now: Ms) -> Self {
        let settings = Settings { node: NODE.into(), mute: Vec::new(), destinations: Vec::new() };
        let mut agent = Self {
            cluster: Cluster::default(),
            docket: Docket::new(settings),
            addresses: Addresses::default(),
            reports: Vec::new(),
        };
        for object in objects {
            agent.watch_pod(&object, None);
            agent.cluster.apply(object, None);
        }
        agent.cluster.history_begins(at(now));
        agent
    }

    /// The watch brings an object.
    pub(crate) fn heard(&mut self, object: Object, now: Ms) {
        if matches!(object, Object::Policy(_)) {
            self.docket.policies_changed(at(now));
        }
        self.watch_pod(&object, Some(now));
        self.cluster.apply(object, Some(at(now)));
    }

    /// The watch brings that one is gone.
    pub(crate) fn heard_gone(&mut self, key: &Key, now: Ms) {
        self.docket.policies_changed(at(now));
        self.cluster.delete(key, at(now));
    }

    /// A pod's veth is watched.
    fn watch_pod(&mut self, object: &Object, since: Option<Ms>) {
        let Object::Pod(pod) = object else { return };
        let Some(address) = pod.addresses.first().copied() else { return };
        if !self.addresses.routed.insert(address) {
            return;
        }
        let index = veth(address);
        let name: Arc<str> = format!("veth{index}").into();
        let interface = Interface { name, addresses: vec![address], since: since.map(at) };
        self.cluster.set_interface(index, Some(interface));
        self.cluster.set_addresses(&NODE.into(), self.addresses.clone());
    }

    /// Takes its turn; what it reported.
    pub(crate) fn turn(&mut self, kernel: &mut Kernel, now: Ms) -> Vec<Report> {
        let (rest, counted) = (kernel.drain(), kernel.turn());
        for one in rest.iter().chain(&counted) {
            self.observed(one, kernel, now);
        }
        let actions = self.docket.tick(&self.cluster, at(now));
        self.carry_out(actions, kernel, now);
        let actions = self.docket.turn(&self.cluster, at(now));
        self.carry_out(actions, kernel, now);
        std::mem::take(&mut self.reports)
    }

    fn observed(&mut self, one: &Observation, kernel: &Kernel, now: Ms) {
        let action = self.docket.observed(one);
        self.carry_out(action, kernel, now);
    }

    fn carry_out(&mut self, actions: impl IntoIterator<Item = Action>, kernel: &Kernel, now: Ms) {
        for action in actions {
            match action {
                Action::AskLastAnswers(query) => {
                    let answers = kernel.answers(&query.asked);
                    let actions = self.docket.last_answers(query, &answers, &self.cluster, at(now));
                    self.carry_out(actions, kernel, now);
                }
                Action::Drop(judged) => {
                    let report = drop_report(&judged);
                    self.reports.push(Report::Drop(Box::new(report)));
                }
                Action::Incident(change) => {
                    self.reports.push(Report::Incident(Box::new(incident_report(&change))));
                }
                _ => {}
            }
        }
    }
}

/// The interface of the pod with this address.
pub(crate) fn veth(address: IpAddr) -> u32 {
    let IpAddr::V4(address) = address else { unreachable!("addresses are IPv4") };
    address.to_bits() & 0xffff
}

/// As records have it, and the healer reads it (`agent/src/heal/facts.rs`).
fn drop_report(judged: &JudgedDrop) -> DropReport {
    let JudgedDrop { drop, judgement, worked, incident, .. } = judged;
    let diagnosis = &judgement.diagnosis;
    let (source, destination) = (&diagnosis.question.source, &diagnosis.question.destination);
    let cause = &diagnosis.cause;
    let Flow { port, protocol, .. } = drop.flow;
    let namespace = |end: &Endpoint| end.pod().map(|pod| pod.namespace.clone());
    DropReport {
        incident: *incident,
        node: NODE.into(),
        flow: drop.flow,
        between: Between { client: namespace(source), server: namespace(destination) },
        path: PathName { source: name(source), destination: name(destination), port, protocol },
        last: drop.evidence.last(),
        past: FlowPast { worked: *worked, denied_since: judgement.denied_since() },
        cause: DropCause {
            class: cause.class,
            confidence: cause.confidence,
            policy: cause.policy.as_ref().map(|policy| policy.reference.clone()),
            changed: judgement.changed.lead().and_then(|change| change.object.policy()),
            has_remedy: judgement.remedy.as_ref().is_some_and(|remedy| remedy.verified),
        },
    }
}

fn name(end: &Endpoint) -> Arc<str> {
    let Some(pod) = end.pod() else { return end.to_string().into() };
    let name = pod.workload.as_ref().map_or(&pod.name, |workload| &workload.name);
    format!("{}/{name}", pod.namespace).into()
}

fn incident_report(change: &IncidentChange) -> IncidentReport {
    let incident = &change.incident;
    let path_name = |path: &Path| PathName {
        source: path.source.to_string().into(),
        destination: path.destination.to_string().into(),
        port: path.port,
        protocol: path.protocol,
    };
    let recovered = incident.recovered.iter().filter_map(|(path, resolution)| {
        let at = match resolution {
            Resolution::Passes { at } => Recovery::Passes(*at),
            Resolution::Allowed => Recovery::Allowed,
            Resolution::Gone | Resolution::Silence | Resolution::Muted => return None,
        };
        Some((path_name(path), at))
    });
    IncidentReport {
        id: incident.id,
        node: NODE.into(),
        state: match change.happened {
            Happened::Opened | Happened::Updated | Happened::Reopened => IncidentState::Open,
            Happened::Resolved(Resolution::Passes { at }) => IncidentState::Passes(at),
            Happened::Resolved(Resolution::Allowed) => IncidentState::Allowed,
            Happened::Resolved(_) => IncidentState::Silent,
        },
        last: incident.last,
        severity: incident.assessment.severity,
        confidence: incident.assessment.confidence,
        client: incident.affected.first().and_then(|first| match &first.path.source {
            Party::Workload(namespace, _) | Party::Pod(namespace, _) => Some(namespace.clone()),
            _ => None,
        }),
        recovered: recovered.collect::<BTreeMap<_, _>>(),
    }
}
