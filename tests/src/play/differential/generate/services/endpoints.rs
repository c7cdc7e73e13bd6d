//! `EndpointSlice`s and `Endpoints` of a Service, as the controllers write them which do not run here; and
//! what can be dialled.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::{Value, json};

use super::{
    Behind, By, Case, CaseNode, CaseService, Face, Frontend, MISSING_PORT, NODES, Placed, Source,
    Target, Wanted,
};

/// Who writes slices of a Service with a selector.
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
/// Who writes those of `Endpoints`.
const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";

impl CaseService {
    /// Slices of its endpoints, one for all that have the same ports; and the `Endpoints` that they
    /// stand for. Source: `podToEndpoint` and `getEndpointPorts` of
    /// `staging/src/k8s.io/endpointslice/utils.go`.
    pub(super) fn write_endpoints(&mut self, case: &Case, ports: &[Wanted]) {
        let mut by_ports: BTreeMap<Vec<Option<u16>>, Vec<Value>> = BTreeMap::new();
        for behind in &self.behind {
            let numbers = ports.iter().map(|port| port.number_of(behind, case)).collect();
            by_ports.entry(numbers).or_default().push(self.endpoint(case, behind));
        }
        if by_ports.is_empty() {
            // "When no endpoint slices would usually exist, we need to add a placeholder."
            by_ports.insert(ports.iter().map(|_| None).collect(), Vec::new());
        }
        let slices = by_ports.into_iter().enumerate();
        self.slices = slices
            .map(|(index, (numbers, endpoints))| self.slice(index, ports, &numbers, &endpoints))
            .collect();
        if self.source == Source::Endpoints {
            let ready: Vec<&Behind> = self.behind.iter().collect();
            self.endpoints = Some(self.endpoints_of(&ready, ports));
        }
    }

    /// `Endpoints` that say otherwise than the slices: nobody reads them.
    pub(super) fn write_stale_endpoints(&mut self, pods: &[Placed], ports: &[Wanted]) {
        let all = pods.iter().map(|placed| Behind {
            pod: None,
            address: placed.address,
            node: Some(placed.node),
            state: super::State::Ready,
        });
        let all: Vec<Behind> = all.collect();
        self.endpoints = Some(self.endpoints_of(&all.iter().collect::<Vec<_>>(), ports));
    }

    /// Whether its slices say no more than the pods and `Endpoints` do.
    pub fn is_known_without_slices(&self) -> bool {
        match self.source {
            Source::Selector => self.endpoints.is_none() && !self.behind.is_empty(),
            Source::Endpoints => true,
            Source::Slices => false,
        }
    }

    pub(super) fn publishes_not_ready(&self) -> bool {
        self.manifest["spec"]["publishNotReadyAddresses"] == true
    }

    fn endpoint(&self, case: &Case, behind: &Behind) -> Value {
        let (serving, terminating) = (behind.state.serves(), behind.state.is_ending());
        let ready = self.publishes_not_ready() || (serving && !terminating);
        // `Endpoints` say of no address that it is being deleted.
        let conditions = match self.source {
            Source::Endpoints => json!({ "ready": ready }),
            _ => json!({ "ready": ready, "serving": serving, "terminating": terminating }),
        };
        let mut endpoint = json!({ "addresses": [behind.address], "conditions": conditions });
        if let Some(node) = behind.node {
            endpoint["nodeName"] = node.name.into();
        }
        if let Some(pod) = behind.pod.map(|number| &case.pods[number]) {
            endpoint["targetRef"] =
                json!({ "kind": "Pod", "name": pod.name, "namespace": pod.namespace });
        }
        endpoint
    }

    fn slice(
        &self,
        index: usize,
        ports: &[Wanted],
        numbers: &[Option<u16>],
        endpoints: &[Value],
    ) -> Value {
        let (name, namespace) = (self.name(), &self.manifest["metadata"]["namespace"]);
        let mut labels = json!({ "kubernetes.io/service-name": name });
        let by = match self.source {
            Source::Selector => Some(CONTROLLER),
            Source::Endpoints => Some(MIRRORING),
            Source::Slices => None,
        };
        if let Some(by) = by {
            labels["endpointslice.kubernetes.io/managed-by"] = by.into();
        }
        if self.face == Face::Headless {
            labels["service.kubernetes.io/headless"] = "".into();
        }
        let entry = |(port, number): (&Wanted, &Option<u16>)| {
            let number = (*number)?;
            Some(json!({ "name": port.name, "protocol": port.protocol, "port": number }))
        };
        let ports: Vec<Value> = ports.iter().zip(numbers).filter_map(entry).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-{index}"), "namespace": namespace, "labels": labels,
            },
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        })
    }

    fn endpoints_of(&self, behind: &[&Behind], ports: &[Wanted]) -> Value {
        let address = |behind: &&Behind| {
            let mut address = json!({ "ip": behind.address });
            if let Some(node) = behind.node {
                address["nodeName"] = node.name.into();
            }
            address
        };
        let is_ready = |behind: &&&Behind| behind.state == super::State::Ready;
        let (ready, others): (Vec<_>, Vec<_>) = behind.iter().partition(is_ready);
        let mut subset = json!({
            "ports": ports.iter().filter_map(|port| Some(json!({
                "name": port.name, "protocol": port.protocol, "port": port.fixed()?,
            }))).collect::<Vec<_>>(),
        });
        for (field, behind) in [("addresses", ready), ("notReadyAddresses", others)] {
            if !behind.is_empty() {
                subset[field] = behind.into_iter().map(address).collect::<Vec<_>>().into();
            }
        }
        let is_empty = behind.is_empty();
        let metadata = &self.manifest["metadata"];
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": { "name": metadata["name"], "namespace": metadata["namespace"] },
            "subsets": if is_empty { json!([]) } else { json!([subset]) },
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.manifest["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.manifest["metadata"]["namespace"].as_str().unwrap_or_default()
    }

    /// Everything by which it can be dialled.
    pub(super) fn frontends(&self, service: usize) -> Vec<Frontend> {
        let spec = &self.manifest["spec"];
        let mut all = Vec::new();
        for port in spec["ports"].as_array().into_iter().flatten() {
            let number = |field: &str| u16::try_from(port[field].as_u64()?).ok();
            let is_udp = port["protocol"] == "UDP";
            let mut add = |by: By, address: &Value, number: Option<u16>| {
                let address: Option<IpAddr> = address.as_str().and_then(|text| text.parse().ok());
                if let (Some(address), Some(number)) = (address, number) {
                    all.push(Frontend { service, by, to: (address, number).into(), is_udp });
                }
            };
            add(By::Cluster, &spec["clusterIP"], number("port"));
            add(By::External, &spec["externalIPs"][0], number("port"));
            let ingress = &self.manifest["status"]["loadBalancer"]["ingress"];
            add(By::Balancer, &ingress[0]["ip"], number("port"));
            // Of a datagram nobody hears that it was sent to an address which nobody has.
            let own = ingress.get(1).filter(|_| !is_udp);
            add(By::OwnBalancer, own.map_or(&Value::Null, |own| &own["ip"]), number("port"));
            for (node, CaseNode { address, .. }) in NODES.iter().enumerate() {
                add(By::NodePort(node), &json!(address), number("nodePort"));
            }
        }
        all.extend(self.at_no_port(service));
        if self.face == Face::Headless {
            all.extend(self.by_name(service));
        }
        all
    }

    fn at_no_port(&self, service: usize) -> Option<Frontend> {
        let address: IpAddr = self.manifest["spec"]["clusterIP"].as_str()?.parse().ok()?;
        let to = (address, MISSING_PORT).into();
        Some(Frontend { service, by: By::MissingPort, to, is_udp: false })
    }

    /// What the cluster's DNS says of its name, and on the ports of its slices: the addresses of all that
    /// is ready.
    fn by_name(&self, service: usize) -> Vec<Frontend> {
        let mut all = Vec::new();
        for slice in &self.slices {
            let list = |value: &'_ Value| value.as_array().cloned().unwrap_or_default();
            let ready = list(&slice["endpoints"]).into_iter();
            let ready = ready.filter(|endpoint| endpoint["conditions"]["ready"] == true);
            let ready: Vec<Value> =
                ready.map(|endpoint| endpoint["addresses"][0].clone()).collect();
            for port in list(&slice["ports"]) {
                let number = port["port"].as_u64().and_then(|number| u16::try_from(number).ok());
                let is_udp = port["protocol"] == "UDP";
                for address in ready.iter().filter_map(Value::as_str) {
                    let address = address.parse::<IpAddr>().ok();
                    if let (Some(address), Some(number)) = (address, number) {
                        let to = (address, number).into();
                        all.push(Frontend { service, by: By::Headless, to, is_udp });
                    }
                }
            }
        }
        all
    }
}

impl Wanted {
    /// Its number at an endpoint: of a name each pod's own.
    fn number_of(&self, behind: &Behind, case: &Case) -> Option<u16> {
        let Target::Name(name) = self.target else { return self.fixed() };
        let pod = &case.pods[behind.pod?].manifest;
        let mut ports = pod["spec"]["containers"][0]["ports"].as_array()?.iter();
        let port = ports.find(|port| port["name"] == name)?;
        u16::try_from(port["containerPort"].as_u64()?).ok()
    }

    fn fixed(&self) -> Option<u16> {
        match self.target {
            Target::Number(number) => Some(number),
            Target::Name(_) => None,
        }
    }
}
