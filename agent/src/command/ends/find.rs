//! From an end as it is written to what there is of it in a cluster.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use anyhow::bail;
use whydrop_core::cluster::{
    Snapshot, Unreadable,
    object::{Kind, Service, Template, WorkloadKind},
    resolve::{Endpoint, Hidden, Holder},
};

use super::{
    dns::DnsName,
    missing::{has_namespace, no_name, no_node, no_pod, no_service, no_workload},
    written::{NamedEnd, Place},
};

/// What an end is in a cluster.
#[derive(Clone, Debug)]
pub(in crate::command) enum Found {
    /// Ends of packets, any of which it may be: a pod's addresses, the pods of a workload.
    Ends(Vec<Endpoint>),
    /// A Service.
    Service(Arc<Service>),
    /// An address, whoever has it.
    Address(IpAddr),
}

impl NamedEnd {
    /// Finds the end.
    ///
    /// # Errors
    /// That there is no such thing, and what there is.
    pub(in crate::command) fn find(&self, snapshot: &Snapshot) -> anyhow::Result<Found> {
        match self {
            Self::Address(address) => Ok(Found::Address(*address)),
            Self::Pod(place) => pod(snapshot, place),
            Self::Workload(kind, place) => workload(snapshot, *kind, place),
            Self::Service(place) => service(snapshot, place),
            Self::Node(name) => node(snapshot, name),
            Self::Dotted { text, dns, namespace } => {
                dotted(snapshot, text, dns, namespace.as_deref())
            }
        }
    }
}

/// The namespace of something: the one that is written, or the only one that has it. `None`: none has.
fn namespace_of<'a>(
    place: &Place,
    having: impl Iterator<Item = &'a Arc<str>>,
) -> anyhow::Result<Option<String>> {
    if let Some(namespace) = &place.namespace {
        return Ok(Some(namespace.clone()));
    }
    let namespaces: BTreeSet<&str> = having.map(|namespace| &**namespace).collect();
    let namespaces: Vec<&str> = namespaces.into_iter().collect();
    match namespaces.as_slice() {
        [] => Ok(None),
        [only] => Ok(Some((*only).to_owned())),
        several => bail!(
            "{} is in the namespaces {}: write which before it and a slash, or set -n",
            place.name,
            several.join(", ")
        ),
    }
}

fn pod(snapshot: &Snapshot, place: &Place) -> anyhow::Result<Found> {
    let name = &place.name;
    let of_pods = snapshot.pods().filter(|pod| *pod.name == **name).map(|pod| &pod.namespace);
    let of_templates = snapshot.templates().map(|template| &template.pod.namespace);
    let to_come = of_templates.filter(|namespace| snapshot.pod_to_come(namespace, name).is_some());
    let Some(namespace) = namespace_of(place, of_pods.chain(to_come))? else {
        return Err(no_pod(snapshot, None, name));
    };
    let to_come = || snapshot.pod_to_come(&namespace, name);
    match snapshot.pod(&namespace, name).cloned().or_else(to_come) {
        Some(pod) => Ok(Found::Ends(snapshot.ends_of(&pod))),
        None => hidden(snapshot, Kind::Pod, &namespace, name.clone())
            .ok_or_else(|| no_pod(snapshot, Some(&namespace), name)),
    }
}

/// The pods of a workload; where it has none that runs, what stands for those that it makes; and if
/// nothing says what those are, the ones that are over.
fn workload(snapshot: &Snapshot, kind: WorkloadKind, place: &Place) -> anyhow::Result<Found> {
    let name = &place.name;
    let wanted = kind.to_string();
    let is_it = |template: &&Arc<Template>| template.kind == kind && *template.name == **name;
    let templates = snapshot.templates().filter(is_it).map(|template| &template.pod.namespace);
    // Of a cluster that was dumped without its workloads, the pods name them.
    let of_pods = snapshot.pods().filter_map(|pod| {
        let of = pod.workload.as_ref()?;
        (*of.kind == *wanted && *of.name == **name).then_some(&pod.namespace)
    });
    let Some(namespace) = namespace_of(place, templates.chain(of_pods))? else {
        return Err(no_workload(snapshot, kind, None, name));
    };
    let pods = snapshot.pods_of(kind, &namespace, name);
    let running = || pods.iter().filter(|pod| !pod.addresses.is_empty());
    let template = snapshot.template(kind, &namespace, name).map(|template| &template.pod);
    let ends: Vec<Endpoint> = match (running().next(), template) {
        (Some(_), _) => running().flat_map(|pod| snapshot.ends_of(pod)).collect(),
        (None, Some(template)) => snapshot.ends_of(template),
        (None, None) => pods.iter().flat_map(|pod| snapshot.ends_of(pod)).collect(),
    };
    if !ends.is_empty() {
        return Ok(Found::Ends(ends));
    }
    let shown = format!("{}/{name}", kind.short());
    let cannot = |of| hidden(snapshot, of, &namespace, shown.clone());
    cannot(Kind::Template(kind))
        .or_else(|| cannot(Kind::Pod))
        .ok_or_else(|| no_workload(snapshot, kind, Some(&namespace), name))
}

fn service(snapshot: &Snapshot, place: &Place) -> anyhow::Result<Found> {
    let name = &place.name;
    let services = snapshot.services().filter(|service| *service.name == **name);
    let services = services.map(|service| &service.namespace);
    let Some(namespace) = namespace_of(place, services)? else {
        return Err(no_service(snapshot, None, name));
    };
    match snapshot.service(&namespace, name) {
        Some(service) => Ok(Found::Service(service.clone())),
        None => hidden(snapshot, Kind::Service, &namespace, format!("svc/{name}"))
            .ok_or_else(|| no_service(snapshot, Some(&namespace), name)),
    }
}

/// What is there, but may not be read.
fn hidden(snapshot: &Snapshot, kind: Kind, namespace: &str, name: String) -> Option<Found> {
    let why = snapshot.sync().unreadable(kind, namespace)?;
    let is_refused =
        |kind| snapshot.sync().unreadable(kind, namespace) == Some(&Unreadable::Refused);
    let why = match is_refused(Kind::Pod) && is_refused(Kind::Service) {
        true => format!("you may not read namespace {namespace}; ask its owner"),
        false => format!("the {kind} objects of namespace {namespace} are unknown: {why}"),
    };
    let hidden = Hidden {
        namespace: namespace.into(),
        name: name.into(),
        is_service: kind == Kind::Service,
        why: why.into(),
    };
    Some(Found::Ends(vec![Endpoint { address: None, holder: Holder::Hidden(Arc::new(hidden)) }]))
}

fn node(snapshot: &Snapshot, name: &str) -> anyhow::Result<Found> {
    if let Some(node) = snapshot.node(name) {
        return Ok(Found::Ends(snapshot.ends_of_node(node)));
    }
    // Its pods name its addresses, too.
    let own = snapshot.pods().filter(|pod| pod.node.as_deref() == Some(name));
    let mut addresses: Vec<IpAddr> = own.flat_map(|pod| pod.host_addresses.clone()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(no_node(snapshot, name));
    }
    let ends = addresses.into_iter().map(|address| snapshot.resolve(address, None));
    Ok(Found::Ends(ends.collect()))
}

/// A name with dots: of DNS if there is what it names, or else a pod's own.
fn dotted(
    snapshot: &Snapshot,
    text: &str,
    dns: &DnsName,
    namespace: Option<&str>,
) -> anyhow::Result<Found> {
    let place = |namespace: &str, name: &str| Place {
        namespace: Some(namespace.to_owned()),
        name: name.to_owned(),
    };
    let (by_dns, is_certain) = match dns {
        DnsName::Address(address) => return Ok(Found::Address(*address)),
        DnsName::Service { namespace, name, is_certain } => {
            (service(snapshot, &place(namespace, name)), *is_certain)
        }
        DnsName::Member { namespace, host, is_certain, .. } => {
            (pod(snapshot, &place(namespace, host)), *is_certain)
        }
        DnsName::Outside => (Err(no_name(text)), false),
    };
    if is_certain || by_dns.is_ok() {
        return by_dns;
    }
    let whole = Place { namespace: namespace.map(str::to_owned), name: text.to_owned() };
    let is_there = dns.namespace().is_some_and(|namespace| has_namespace(snapshot, namespace));
    let is_hidden = |end: &Endpoint| matches!(end.holder, Holder::Hidden(_));
    match (pod(snapshot, &whole), is_there) {
        (Ok(Found::Ends(ends)), _) if !ends.iter().any(is_hidden) => Ok(Found::Ends(ends)),
        (_, true) => by_dns,
        _ => Err(no_name(text)),
    }
}
