//! Which sorts of Services a case has, so that none is missed.

use super::{CaseService, Face, NODES, Served, Source, State};

/// A sort of Service, of what is behind one, or of a client of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sort {
    /// The pods' port is another number than its own.
    Numbered,
    /// It sends to a port by its name.
    Named,
    /// It does, and not all pods have it.
    NamedOfSome,
    /// It does, and no pod has it.
    NamedOfNone,
    /// Several endpoints that are ready.
    Several,
    /// Endpoints that are not ready beside some that are.
    NotReadyBeside,
    /// No other endpoints than such.
    NotReadyOnly,
    /// It publishes such.
    PublishesNotReady,
    /// What is being deleted and still serves, and nothing that is ready.
    EndingOnly,
    /// The same beside what is ready.
    EndingBeside,
    /// What is being deleted and serves no more.
    Ended,
    /// Nothing.
    NoEndpoint,
    /// Slices that a person wrote.
    HandWritten,
    /// With an address that is no pod's.
    OutsidePods,
    /// `Endpoints`, mirrored.
    Endpoints,
    /// `Endpoints` that say otherwise than the slices.
    StaleEndpoints,
    /// A name alone.
    Headless,
    /// A port of all nodes.
    NodePort,
    /// `externalIPs`.
    External,
    /// A load balancer's address.
    Balancer,
    /// Which not everyone may dial.
    SourceRanges,
    /// `internalTrafficPolicy: Local`.
    InternalLocal,
    /// The same, where a node has no endpoint.
    InternalLocalNone,
    /// `externalTrafficPolicy: Local`.
    ExternalLocal,
    /// The same, where a node has no endpoint.
    ExternalLocalNone,
    /// `sessionAffinity: ClientIP`, of several endpoints.
    Sticky,
    /// A port over UDP.
    Udp,
    /// A client is behind it.
    Hairpin,
}

impl Sort {
    /// All of them.
    pub const ALL: [Self; 28] = [
        Self::Numbered,
        Self::Named,
        Self::NamedOfSome,
        Self::NamedOfNone,
        Self::Several,
        Self::NotReadyBeside,
        Self::NotReadyOnly,
        Self::PublishesNotReady,
        Self::EndingOnly,
        Self::EndingBeside,
        Self::Ended,
        Self::NoEndpoint,
        Self::HandWritten,
        Self::OutsidePods,
        Self::Endpoints,
        Self::StaleEndpoints,
        Self::Headless,
        Self::NodePort,
        Self::External,
        Self::Balancer,
        Self::SourceRanges,
        Self::InternalLocal,
        Self::InternalLocalNone,
        Self::ExternalLocal,
        Self::ExternalLocalNone,
        Self::Sticky,
        Self::Udp,
        Self::Hairpin,
    ];
}

impl Served {
    /// The sorts of its Services and of their clients.
    pub fn sorts(&self) -> Vec<Sort> {
        let of_all = self.services.iter().flat_map(CaseService::sorts);
        // Every pod is a client.
        let is_hairpin = |service: &CaseService| {
            let mut behind = service.behind.iter().filter(|behind| behind.state == State::Ready);
            service.face != Face::Headless && behind.any(|behind| behind.pod.is_some())
        };
        let hairpin = self.services.iter().any(is_hairpin).then_some(Sort::Hairpin);
        let mut sorts: Vec<Sort> = of_all.chain(hairpin).collect();
        sorts.sort_unstable();
        sorts.dedup();
        sorts
    }
}

impl CaseService {
    fn sorts(&self) -> Vec<Sort> {
        let mut sorts = self.of_face();
        sorts.extend(self.of_behind());
        sorts.extend(self.of_ports());
        sorts
    }

    fn of_face(&self) -> Vec<Sort> {
        let spec = &self.manifest["spec"];
        let is_local = |field: &str| spec[field] == "Local";
        let face = match self.face {
            Face::Cluster => None,
            Face::NodePort => Some(Sort::NodePort),
            Face::External => Some(Sort::External),
            Face::Balancer => Some(Sort::Balancer),
            Face::Headless => Some(Sort::Headless),
        };
        let is_ready_on = |node: &str| {
            let mut ready = self.behind.iter().filter(|behind| behind.state == State::Ready);
            ready.any(|behind| behind.node.is_some_and(|own| own.name == node))
        };
        let ready_nodes = NODES.iter().filter(|node| is_ready_on(node.name)).count();
        let is_one_without = ready_nodes == 1;
        let all = [
            (face, true),
            (Some(Sort::SourceRanges), spec["loadBalancerSourceRanges"].is_array()),
            (Some(Sort::InternalLocal), is_local("internalTrafficPolicy")),
            (Some(Sort::InternalLocalNone), is_local("internalTrafficPolicy") && is_one_without),
            (Some(Sort::ExternalLocal), is_local("externalTrafficPolicy")),
            (Some(Sort::ExternalLocalNone), is_local("externalTrafficPolicy") && is_one_without),
            (Some(Sort::Sticky), spec["sessionAffinity"] == "ClientIP" && self.behind.len() > 1),
        ];
        all.into_iter().filter(|(_, is)| *is).filter_map(|(sort, _)| sort).collect()
    }

    fn of_behind(&self) -> Vec<Sort> {
        let count = |state| self.behind.iter().filter(|behind| behind.state == state).count();
        let (ready, not_ready) = (count(State::Ready), count(State::NotReady));
        let (ending, ended) = (count(State::Ending), count(State::Ended));
        let is_honest = !self.publishes_not_ready();
        // `Endpoints` say of no address that it is being deleted.
        let says_ending = is_honest && self.source != Source::Endpoints;
        let all = [
            (Sort::Several, ready > 1),
            (Sort::NotReadyBeside, is_honest && ready > 0 && not_ready > 0),
            (Sort::NotReadyOnly, is_honest && not_ready > 0 && not_ready == self.behind.len()),
            (Sort::PublishesNotReady, !is_honest && not_ready > 0),
            (Sort::EndingOnly, says_ending && ending > 0 && ready == 0),
            (Sort::EndingBeside, says_ending && ending > 0 && ready > 0),
            (Sort::Ended, says_ending && ended > 0),
            (Sort::NoEndpoint, self.behind.is_empty()),
            (Sort::HandWritten, self.source == Source::Slices),
            (Sort::OutsidePods, self.behind.iter().any(|behind| behind.pod.is_none())),
            (Sort::Endpoints, self.source == Source::Endpoints),
            (Sort::StaleEndpoints, self.source == Source::Selector && self.endpoints.is_some()),
        ];
        all.into_iter().filter(|(_, is)| *is).map(|(sort, _)| sort).collect()
    }

    fn of_ports(&self) -> Vec<Sort> {
        let ports = self.manifest["spec"]["ports"].as_array().into_iter().flatten();
        let mut sorts = Vec::new();
        for port in ports {
            if port["protocol"] == "UDP" {
                sorts.push(Sort::Udp);
            }
            if port["targetPort"].is_number() {
                sorts.extend((port["targetPort"] != port["port"]).then_some(Sort::Numbered));
                continue;
            }
            sorts.push(Sort::Named);
            let has_port = |slice: &&serde_json::Value| {
                let mut own = slice["ports"].as_array().into_iter().flatten();
                own.any(|own| own["name"] == port["name"])
            };
            let with = self.slices.iter().filter(has_port).count();
            match with {
                0 if !self.behind.is_empty() => sorts.push(Sort::NamedOfNone),
                with if with > 0 && with < self.slices.len() => sorts.push(Sort::NamedOfSome),
                _ => {}
            }
        }
        sorts
    }
}
