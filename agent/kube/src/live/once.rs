//! The part of a cluster that a question is about, read once with the rights of who asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use anyhow::bail;
use jiff::Timestamp;
use kube::{Client, api::ListParams};
use whydrop_core::cluster::{
    Cluster, Engine, Snapshot,
    look_up::{LookUp, Query},
    object::{Kind, Object},
};

use super::{
    kinds::{
        CALICO_NETWORK_POLICY, CALICO_OF_CLUSTER, CALICO_OF_NAMESPACES, CLUSTER_POLICIES,
        ENDPOINT_SLICE, Followed, NAMESPACE, NETWORK_POLICY, NODE, POD, SERVICE, SERVICE_ACCOUNT,
        UNREAD,
    },
    look_up::{About, Listing, count, list, look_up},
};
use crate::chain::kube_chain;

/// What a question names.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Namespaces of pods and Services.
    pub namespaces: BTreeSet<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether a node is named.
    pub nodes: bool,
}

/// A part of the cluster, and what could not be read of it.
#[derive(Debug)]
pub struct Part {
    /// What is known. What depends on an object that could not be read is unknown in it.
    pub snapshot: Snapshot,
    /// What could not be read, and why.
    pub unreadable: Vec<String>,
}

/// Reads what a question needs, and says what it is about to read: who holds the addresses, of all namespaces that take part the pods,
/// Services and policies, and the policies of the cluster.
///
/// # Errors
/// Where the API server does not answer, or does not accept who asks.
pub async fn read(client: Client, wanted: Wanted, say: &dyn Fn(&str)) -> anyhow::Result<Part> {
    say("asking the API server what it serves");
    let served: BTreeSet<String> = match client.list_api_groups().await {
        Ok(groups) => groups.groups.into_iter().map(|group| group.name).collect(),
        Err(error) => bail!("the API server cannot be asked: {}", kube_chain(&error)),
    };
    let of_namespaces: Vec<_> = [POD, NETWORK_POLICY, SERVICE_ACCOUNT]
        .into_iter()
        .chain(CALICO_OF_NAMESPACES)
        .filter(|followed| is_served(&served, followed))
        .collect();
    let of_cluster = CLUSTER_POLICIES.into_iter().chain(CALICO_OF_CLUSTER);
    let of_cluster: Vec<_> = of_cluster.filter(|followed| is_served(&served, followed)).collect();
    let followed = [NAMESPACE, NODE].iter().chain(&of_namespaces).chain(&of_cluster);
    let mut cluster = Cluster::unsynced(followed.filter_map(|followed| followed.is));
    if is_served(&served, &CALICO_NETWORK_POLICY) {
        cluster.set_engine(Engine::Calico);
    }
    cluster.look_up_on_demand();
    let mut reader = Reader {
        say,
        client,
        served,
        of_namespaces,
        of_cluster,
        cluster,
        now: Timestamp::now(),
        unread: BTreeMap::new(),
        unreadable: BTreeMap::new(),
    };
    reader.read(wanted).await;
    let unreadable = reader.unreadable.into_values().collect();
    Ok(Part { snapshot: reader.cluster.snapshot(), unreadable })
}

/// Whether the server knows the group of a kind; every server knows the core's, which has no name.
fn is_served(served: &BTreeSet<String>, followed: &Followed) -> bool {
    followed.group().is_empty() || served.contains(followed.group())
}

struct Reader<'a> {
    say: &'a dyn Fn(&str),
    client: Client,
    /// API groups that the server knows.
    served: BTreeSet<String>,
    /// What is read of the namespaces that take part, and what of the whole cluster.
    of_namespaces: Vec<Followed>,
    of_cluster: Vec<Followed>,
    cluster: Cluster,
    now: Timestamp,
    /// How many policies are malformed, by kind.
    unread: BTreeMap<String, usize>,
    /// By what could not be read, a line for who asks.
    unreadable: BTreeMap<(Option<Kind>, String), String>,
}

impl Reader<'_> {
    async fn read(&mut self, wanted: Wanted) {
        let Wanted { mut namespaces, addresses, nodes } = wanted;
        // Without nodes it cannot be told whose an address is; a pod names its own.
        if nodes || !addresses.is_empty() {
            self.all(&NODE, None, &ListParams::default()).await;
        }
        for address in addresses {
            namespaces.extend(self.address(address).await);
        }
        for namespace in &namespaces {
            let name = ListParams::default().fields(&format!("metadata.name={namespace}"));
            self.all(&NAMESPACE, None, &name).await;
            for followed in [SERVICE, ENDPOINT_SLICE].iter().chain(&self.of_namespaces.clone()) {
                self.all(followed, Some(namespace), &ListParams::default()).await;
            }
        }
        for followed in &self.of_cluster.clone() {
            self.all(followed, None, &ListParams::default()).await;
        }
        for (namespace, name) in self.cluster.snapshot().services_named() {
            let named = ListParams::default().fields(&format!("metadata.name={name}"));
            self.all(&SERVICE, Some(&namespace), &named).await;
            self.all(&ENDPOINT_SLICE, Some(&namespace), &ListParams::default()).await;
        }
        self.count_unread().await;
        let read = [NAMESPACE, NODE].iter().chain(&self.of_namespaces).chain(&self.of_cluster);
        for followed in read {
            if let Some(kind) = followed.is
                && !self.unreadable.keys().any(|(unreadable, _)| *unreadable == Some(kind))
            {
                self.cluster.synced(kind);
            }
        }
    }

    /// Reads all objects of a kind; what cannot be read stays unsynced.
    async fn all(&mut self, followed: &Followed, namespace: Option<&str>, which: &ListParams) {
        let place = namespace.map(|name| format!(" in {name}")).unwrap_or_default();
        (self.say)(&format!("reading {} objects{place}", followed.name()));
        match list(&self.client, followed, namespace, which).await {
            Ok(Listing { objects, malformed }) => {
                for object in objects {
                    self.cluster.apply(object, None);
                }
                if malformed > 0 && followed.is.is_some_and(Kind::decides) {
                    *self.unread.entry(followed.name()).or_default() += malformed;
                }
            }
            Err(error) => {
                let why = kube_chain(&error);
                if let Some(kind) = followed.is {
                    self.cluster.failing(kind, self.now, &why);
                }
                let line = format!("cannot read {} objects{place}: {why}", followed.name());
                self.unreadable.insert((followed.is, place), line);
            }
        }
    }

    /// Looks up who holds an address; returns the namespaces of those.
    async fn address(&mut self, address: IpAddr) -> BTreeSet<String> {
        (self.say)(&format!("looking up {address}"));
        let snapshot = self.cluster.snapshot();
        let sought = Query::from(address);
        let about = About::of(&sought, &snapshot);
        let found = look_up(self.client.clone(), sought, about).await;
        let failed = found.as_ref().err().map(|why| why.as_str().into());
        let mut namespaces = BTreeSet::new();
        for object in found.unwrap_or_default().objects {
            if let Object::Pod(pod) = &object {
                namespaces.insert(pod.namespace.to_string());
            } else if let Object::Service(service) = &object {
                namespaces.insert(service.namespace.to_string());
            }
            self.cluster.apply(object, None);
        }
        self.cluster.looked_up(address, LookUp { at: self.now, failed, scale: None });
        namespaces
    }

    /// Counts the policies that nobody here can read, beside those that are malformed.
    async fn count_unread(&mut self) {
        let mut unread = std::mem::take(&mut self.unread);
        for followed in UNREAD.iter().filter(|kind| is_served(&self.served, kind)) {
            (self.say)(&format!("counting {}", followed.name()));
            match count(&self.client, followed).await {
                Ok(0) => {}
                Ok(count) => {
                    unread.insert(followed.name(), count);
                }
                Err(error) => {
                    let line = format!("cannot count {}: {}", followed.name(), kube_chain(&error));
                    self.unreadable.insert((None, followed.name()), line);
                    // There may be some, and they may decide.
                    unread.insert(followed.name(), 1);
                }
            }
        }
        self.cluster.set_unread(unread);
    }
}
