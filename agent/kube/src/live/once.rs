//! The part of a cluster that a question is about, read once with the rights of who asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use jiff::Timestamp;
use kube::{Client, api::ListParams};
use whydrop_core::{
    cluster::{
        Cluster, Snapshot,
        look_up::{LookUp, Query},
        object::{Kind, Object},
    },
    kinds::{self, KindRow, Role, Scope},
};

use super::{
    list::{Listing, count, list},
    look_up::{About, look_up},
};
use crate::api_error::ApiError;

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The API server does not say which kinds it has.
    #[error("the API server cannot be asked: {0}")]
    Unreachable(ApiError),
}

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

/// Reads what a question needs, and says what it is about to read: who holds the addresses; of all
/// namespaces that take part the pods, Services and policies; and the policies of the cluster.
///
/// # Errors
/// Where the API server does not answer, or does not accept who asks.
pub async fn read(client: Client, wanted: Wanted, say: &dyn Fn(&str)) -> Result<Part, ReadError> {
    say("asking the API server what it serves");
    let groups = client.list_api_groups().await;
    let groups = groups.map_err(|error| ReadError::Unreachable(error.into()))?;
    let groups: BTreeSet<String> = groups.groups.into_iter().map(|group| group.name).collect();
    // Every server knows the core's group, which has no name.
    let is_served = |row: &&KindRow| row.group().is_empty() || groups.contains(row.group());
    let served: Vec<&KindRow> = kinds::all().filter(is_served).collect();
    let followed = served.iter().filter(|row| row.is_followed());
    let mut cluster = Cluster::unsynced(followed.filter_map(|row| row.reads()));
    cluster.set_engine(kinds::engine(served.iter().copied()));
    cluster.look_up_on_demand();
    let mut reader = Reader {
        say,
        client,
        served,
        cluster,
        now: Timestamp::now(),
        unread: BTreeMap::new(),
        unreadable: BTreeMap::new(),
    };
    reader.read(wanted).await;
    let unreadable = reader.unreadable.into_values().collect();
    Ok(Part { snapshot: reader.cluster.snapshot(), unreadable })
}

struct Reader<'a> {
    say: &'a dyn Fn(&str),
    client: Client,
    /// Kinds whose group the server knows.
    served: Vec<&'static KindRow>,
    cluster: Cluster,
    now: Timestamp,
    /// How many policies are malformed, by kind.
    unread: BTreeMap<String, usize>,
    /// By what could not be read, a line for the user.
    unreadable: BTreeMap<(Option<Kind>, String), String>,
}

impl Reader<'_> {
    async fn read(&mut self, wanted: Wanted) {
        let Wanted { mut namespaces, addresses, nodes } = wanted;
        // Without nodes it is unknown whose an address is; a pod names its own.
        if nodes || !addresses.is_empty() {
            self.all(kinds::of(Kind::Node), None, &ListParams::default()).await;
        }
        for address in addresses {
            namespaces.extend(self.address(address).await);
        }
        for namespace in &namespaces {
            let name = ListParams::default().fields(&format!("metadata.name={namespace}"));
            self.all(kinds::of(Kind::Namespace), None, &name).await;
            for row in self.served(|row| row.scope == Scope::Namespace) {
                self.all(row, Some(namespace), &ListParams::default()).await;
            }
        }
        let is_policy = |row: &KindRow| matches!(row.role, Role::Policy | Role::Staged);
        for row in self.served(|row| row.scope != Scope::Namespace && is_policy(row)) {
            self.all(row, None, &ListParams::default()).await;
        }
        for (namespace, name) in self.cluster.snapshot().services_named() {
            let named = ListParams::default().fields(&format!("metadata.name={name}"));
            self.all(kinds::of(Kind::Service), Some(&namespace), &named).await;
            let slices = kinds::of(Kind::EndpointSlice);
            self.all(slices, Some(&namespace), &ListParams::default()).await;
        }
        self.count_unread().await;
        for kind in self.served(KindRow::is_followed).into_iter().filter_map(KindRow::reads) {
            if !self.unreadable.keys().any(|(unreadable, _)| *unreadable == Some(kind)) {
                self.cluster.synced(kind);
            }
        }
    }

    /// The kinds that the server may have and whose objects are read.
    fn served(&self, which: impl Fn(&KindRow) -> bool) -> Vec<&'static KindRow> {
        let read = self.served.iter().filter(|row| row.reads().is_some());
        read.copied().filter(|row| which(row)).collect()
    }

    /// Reads all objects of a kind; what cannot be read stays unsynced.
    async fn all(&mut self, row: &KindRow, namespace: Option<&str>, which: &ListParams) {
        let place = namespace.map(|name| format!(" in {name}")).unwrap_or_default();
        (self.say)(&format!("reading {} objects{place}", row.name()));
        match list(&self.client, row, namespace, which).await {
            Ok(Listing { objects, malformed }) => {
                for object in objects {
                    self.cluster.apply(object, None);
                }
                if malformed > 0 && row.decides() {
                    *self.unread.entry(row.name()).or_default() += malformed;
                }
            }
            Err(why) => {
                if let Some(kind) = row.reads() {
                    self.cluster.failing(kind, self.now, &why.to_string());
                }
                let line = format!("cannot read {} objects{place}: {why}", row.name());
                self.unreadable.insert((row.reads(), place), line);
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
        let failed = found.as_ref().err().map(|why| why.to_string().into());
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
        for row in self.served.iter().filter(|row| row.role == Role::Unread) {
            (self.say)(&format!("counting {}", row.name()));
            match count(&self.client, row).await {
                Ok(0) => {}
                Ok(count) => {
                    unread.insert(row.name(), count);
                }
                Err(why) => {
                    let line = format!("cannot count {}: {why}", row.name());
                    self.unreadable.insert((None, row.name()), line);
                    // There may be some, and they may decide.
                    unread.insert(row.name(), 1);
                }
            }
        }
        self.cluster.set_unread(unread);
    }
}
