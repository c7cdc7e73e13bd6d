//! The cluster's objects as the agent reads them, and what its look-ups find.

use std::sync::Arc;

use whydrop_core::{
    cluster::{
        look_up::Query,
        node_address::NodeAddress,
        object::{
            EndpointSlice, Namespace, Node, Object, Pod, Scale, Service, ServicePort,
            SliceEndpoint, SlicePort, TargetPort, TrafficPolicy, Workload,
        },
    },
    flow::Protocol,
    policy::{NAMESPACE_NAME_LABEL, requirement},
};

use crate::{
    cluster::{
        self, CAST, Cluster, FIRST_REMOTE, NODE, OTHER_NODE, SERVICE_PORT, address, service_address,
    },
    network::last_of,
    policies::Label,
    time::whole_second,
};

fn labels(of: &[Label]) -> requirement::Labels {
    of.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

pub(crate) fn nodes() -> [Object; 2] {
    [(NODE, 1, "10.1.0.0/25"), (OTHER_NODE, 129, "10.1.0.128/25")].map(|(name, last, network)| {
        Object::Node(Node {
            name: name.into(),
            labels: requirement::Labels::new(),
            addresses: vec![NodeAddress::internal([192, 0, 2, last].into())],
            pod_networks: vec![network.parse().expect("a network")],
            subnets: Vec::new(),
        })
    })
}

pub(crate) fn namespace(name: &'static str, of: &[Label]) -> Object {
    let mut labels = labels(of);
    labels.insert(NAMESPACE_NAME_LABEL.into(), name.into());
    Object::Namespace(Namespace { name: name.into(), labels, mute: None })
}

/// A pod as the API server has it now; `None`: it does not.
pub(crate) fn pod(pod: &cluster::Pod) -> Option<Object> {
    let state = pod.states.latest()?;
    let workload = pod.workload();
    Some(Object::Pod(Pod {
        namespace: workload.namespace.into(),
        name: pod.name.as_str().into(),
        is_template: false,
        uid: Some(format!("uid-{}", pod.name).into()),
        labels: labels(&state.labels),
        created: Some(whole_second(pod.created)),
        started: Some(whole_second(pod.created)),
        service_account: "default".into(),
        node: Some(if pod.is_local { NODE } else { OTHER_NODE }.into()),
        host_network: false,
        addresses: state.has_address.then(|| address(pod.address)).into_iter().collect(),
        finished: None,
        host_addresses: Vec::new(),
        second_networks: Vec::new(),
        ports: Vec::new(),
        probes: Vec::new(),
        scraped_port: None,
        workload: Some(Workload { kind: "Deployment".into(), name: workload.name.into() }),
        ready: Some(state.is_ready),
        terminating: pod.states.since(|state| state.is_terminating).map(whole_second),
        restarts: 0,
        dns_cache_addresses: Vec::new(),
    }))
}

pub(crate) fn service(deployment: usize, keeps_local: bool) -> Object {
    let workload = &CAST[deployment];
    let internal_policy = if keeps_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    Object::Service(Service {
        namespace: workload.namespace.into(),
        name: workload.name.into(),
        cluster_addresses: vec![service_address(deployment)],
        ports: vec![ServicePort {
            name: "".into(),
            port: SERVICE_PORT,
            protocol: Protocol::Tcp,
            target: TargetPort::Number(workload.port.expect("a server")),
            node_port: None,
        }],
        selector: labels(&[("app", workload.name)]),
        internal_policy,
        ..Service::default()
    })
}

/// What is behind a server's Service, as the API server has it now.
pub(crate) fn slice(deployment: usize, of: &Cluster) -> Object {
    let workload = &CAST[deployment];
    let endpoints = of.slices.get(&deployment).and_then(|slice| slice.latest());
    let endpoint = |own: &cluster::Endpoint| SliceEndpoint {
        is_ready: own.is_ready,
        is_serving: own.is_serving,
        is_terminating: own.is_terminating,
        node: Some(if own.is_local { NODE } else { OTHER_NODE }.into()),
        ..SliceEndpoint::ready(address(own.address))
    };
    Object::EndpointSlice(EndpointSlice {
        namespace: workload.namespace.into(),
        name: format!("{}-x", workload.name).into(),
        service: Some(workload.name.into()),
        endpoints: endpoints.into_iter().flatten().map(endpoint).collect(),
        ports: vec![SlicePort {
            name: "".into(),
            port: workload.port.expect("a server"),
            protocol: Protocol::Tcp,
        }],
    })
}

/// What a look-up finds, as `agent/kube` asks for it.
pub(crate) fn found(query: &Query, of: &Cluster) -> (Vec<Object>, Option<Scale>) {
    let with_slice =
        |deployment: usize| [service(deployment, of.keeps_local), slice(deployment, of)];
    let servers = || (0..CAST.len()).filter(|deployment| CAST[*deployment].port.is_some());
    let is_named = |deployment: &usize, namespace: &Arc<str>, name: &str| {
        let workload = &CAST[*deployment];
        (workload.namespace, workload.name) == (&**namespace, name)
    };
    let objects = match query {
        Query::Address(sought) => {
            let holds = |pod: &&cluster::Pod| {
                address(pod.address) == *sought
                    && pod.states.latest().is_some_and(|state| state.has_address)
            };
            let mut found: Vec<Object> = of.pods.iter().filter(holds).filter_map(pod).collect();
            if found.is_empty() {
                let sought = servers().filter(|server| service_address(*server) == *sought);
                found.extend(sought.flat_map(with_slice));
            }
            if found.is_empty() {
                let is_local = last_of(*sought) < FIRST_REMOTE;
                found.extend(of.pods.iter().filter(|p| p.is_local == is_local).filter_map(pod));
            }
            found
        }
        Query::Service((namespace, name)) => {
            servers().filter(|d| is_named(d, namespace, name)).flat_map(with_slice).collect()
        }
        Query::ServicesOf((namespace, name)) => {
            let is_it = |pod: &&cluster::Pod| {
                (pod.workload().namespace, &*pod.name) == (&**namespace, &**name)
            };
            let pod = of.pods.iter().find(is_it);
            let server = pod.filter(|pod| pod.workload().port.is_some());
            server.into_iter().flat_map(|pod| with_slice(pod.deployment)).collect()
        }
        Query::Exposed | Query::Callers => Vec::new(),
        Query::Scale(namespace, workload) => {
            let states = of.pods.iter().filter(|pod| {
                (pod.workload().namespace, pod.workload().name) == (&**namespace, &*workload.name)
            });
            let states: Vec<_> = states.filter_map(|pod| pod.states.latest()).collect();
            let ready = states.iter().filter(|state| state.is_ready).count();
            return (Vec::new(), Some(Scale { replicas: states.len(), ready }));
        }
    };
    (objects, None)
}
