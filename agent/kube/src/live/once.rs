//! The part of a cluster that a question is about, read once with the rights of who asks.

use std::{collections::BTreeSet, fmt::Debug, net::IpAddr, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1::Node};
use kube::{Api, Client, api::ListParams};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Duration;
use whydrop_core::{
    cluster::{
        Cluster, Snapshot, Unreadable, api_server,
        look_up::{LookUp, Query},
        object::{Kind, Object, WorkloadKind},
        profile::{
            Engine, EngineName,
            detect::{Sign, Weight, detect, of_served, signs},
        },
        resolve::Holder,
    },
    kinds::{self, KindRow, Role, Scope},
    policy::unread::Unread,
};

pub use super::refused::Refused;
use super::{
    list::{Listing, get, list},
    look_up::{About, look_up},
    switch,
};
use crate::api_error::{ApiError, answered, reason};

/// How many `DaemonSets` are looked at for an engine's: a cluster has some dozens.
const AGENTS_MAX: u32 = 500;

/// How long each question may take that only shows who enforces policies.
const WAIT: Duration = Duration::from_secs(5);

/// Why nothing can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The API server does not say which kinds it has: it is not reached, or does not know the user.
    #[error("{0}")]
    Unreachable(String),
}

/// What a question names.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Namespaces of pods, workloads and Services.
    pub namespaces: BTreeSet<String>,
    /// Kinds of workloads, and the namespaces in which one is asked about.
    pub workloads: BTreeSet<(WorkloadKind, String)>,
    /// The namespace of what is given without one: whoever may not look everywhere for who holds an
    /// address may look there.
    pub home: Option<String>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Whether a node is named.
    pub nodes: bool,
    /// Who enforces policies; `None`: what the cluster shows.
    pub engine: Option<Engine>,
}

/// A part of the cluster, and what could not be read of it.
#[derive(Debug)]
pub struct Part {
    /// What is known. What depends on an object that could not be read is unknown in it.
    pub snapshot: Snapshot,
    /// What could not be read though it may be, and why, a line each.
    pub failed: Vec<String>,
    /// What may not be read.
    pub refused: Refused,
    /// What was assumed because it may not be asked, a line each.
    pub assumed: Vec<String>,
}

/// Reads what a question needs, and says what it is about to read: who holds the addresses; of all
/// namespaces that take part the pods, Services and policies; and the policies of the cluster.
///
/// # Errors
/// Where the API server does not answer, or does not accept who asks.
pub async fn read(client: Client, wanted: Wanted, say: &dyn Fn(&str)) -> Result<Part, ReadError> {
    say("asking the API server what it serves");
    let groups = client.list_api_groups().await;
    let groups = groups.map_err(|error| ReadError::Unreachable(reason(&error)))?;
    let groups: BTreeSet<String> = groups.groups.into_iter().map(|group| group.name).collect();
    // Every server knows the core's group, which has no name.
    let is_served =
        |row: &&KindRow| row.groups().iter().any(|g| g.is_empty() || groups.contains(*g));
    let served: Vec<&KindRow> = kinds::all().filter(is_served).collect();
    let mut cluster = Cluster::default();
    cluster.look_up_on_demand();
    let mut reader = Reader {
        say,
        client,
        served,
        cluster,
        now: Timestamp::now(),
        unread: Vec::new(),
        failed: BTreeSet::new(),
        refused: Refused::default(),
        assumed: Vec::new(),
    };
    reader.cluster.set_served(groups.iter().map(String::as_str));
    match wanted.engine.clone() {
        Some(engine) => reader.cluster.give_engine(engine),
        None => reader.engine(&groups).await,
    }
    reader.read(wanted).await;
    let Reader { cluster, failed, refused, assumed, .. } = reader;
    let failed = failed.into_iter().collect();
    Ok(Part { snapshot: cluster.snapshot(), failed, refused, assumed })
}

struct Reader<'a> {
    say: &'a dyn Fn(&str),
    client: Client,
    /// Kinds whose group the server knows.
    served: Vec<&'static KindRow>,
    cluster: Cluster,
    now: Timestamp,
    /// Policies that are not read, malformed ones among them.
    unread: Vec<Arc<Unread>>,
    /// Lines for the user.
    failed: BTreeSet<String>,
    refused: Refused,
    assumed: Vec<String>,
}

impl Reader<'_> {
    async fn read(&mut self, wanted: Wanted) {
        let Wanted { namespaces, workloads, home, addresses, nodes, engine: _ } = wanted;
        for namespace in &namespaces {
            self.namespace(namespace).await;
        }
        for (kind, namespace) in workloads {
            self.all(kinds::of(Kind::Template(kind)), Some(&namespace), &ListParams::default())
                .await;
            if kind == WorkloadKind::CronJob {
                // By which its pods are known.
                let jobs = kinds::of(Kind::Template(WorkloadKind::Job));
                self.all(jobs, Some(&namespace), &ListParams::default()).await;
            }
        }
        // Without nodes it is unknown whose an address is; a pod names its own.
        let with_nodes = nodes || !addresses.is_empty();
        if with_nodes {
            self.nodes().await;
        }
        let mut known = namespaces;
        for address in &addresses {
            for namespace in self.address(*address, home.as_deref(), &mut known).await {
                if known.insert(namespace.clone()) {
                    self.namespace(&namespace).await;
                }
            }
        }
        for namespace in self.exposed(&addresses).await {
            if known.insert(namespace.clone()) {
                self.namespace(&namespace).await;
            }
        }
        // A pod in its node's network has that one's addresses, of which its status names the first.
        if !with_nodes && self.cluster.snapshot().pods().any(|pod| pod.host_network) {
            self.nodes().await;
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
        self.callers(with_nodes).await;
        self.read_unread(&known).await;
    }

    /// Who enforces policies: by the agents that run, a node, and the groups that are served. What may
    /// not be read shows nothing.
    async fn engine(&mut self, groups: &BTreeSet<String>) {
        (self.say)("looking at who enforces policies");
        let mut signs: Vec<Sign> = groups.iter().filter_map(|group| of_served(group)).collect();
        let some = ListParams::default().limit(AGENTS_MAX);
        signs.extend(self.shown::<DaemonSet>("apps/v1", "DaemonSet", &some).await);
        let one = ListParams::default().limit(1);
        signs.extend(self.shown::<Node>("v1", "Node", &one).await);
        let is_auto =
            |sign: &Sign| sign.engine == EngineName::EksAuto && sign.weight == Weight::Agent;
        if signs.iter().any(is_auto) {
            signs.push(switch::read(&self.client).await);
        }
        self.cluster.set_engine(detect(&signs));
    }

    async fn shown<K>(&self, api_version: &str, kind: &str, which: &ListParams) -> Vec<Sign>
    where
        K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
    {
        let api: Api<K> = Api::all(self.client.clone());
        let asked = async { api.list(which).await.map_err(ApiError::from) };
        let Ok(listed) = answered(WAIT, asked).await else { return Vec::new() };
        let objects = listed.items.iter().filter_map(|item| serde_json::to_value(item).ok());
        let shown = objects.flat_map(|mut object| {
            // Items of a list do not name their type.
            object["apiVersion"] = api_version.into();
            object["kind"] = kind.into();
            signs(&object)
        });
        shown.collect()
    }

    /// Reads the nodes, and what network plugins say of them.
    async fn nodes(&mut self) {
        let is_of_nodes = |row: &KindRow| {
            row.is_followed()
                && matches!(row.reads(), Some(Kind::Node | Kind::PluginNode(_) | Kind::AddressPool))
        };
        for row in self.served(is_of_nodes) {
            self.all(row, None, &ListParams::default()).await;
        }
    }

    /// Reads what makes something connect to pods: of the API server's own, and where it is itself, only
    /// where it may be an end. No answer hangs on it: what may not be read is not remarked on.
    async fn callers(&mut self, may_be_api_server: bool) {
        if may_be_api_server {
            (self.say)("looking up where the API server is");
            let api_servers = Query::Service(api_server::service_name());
            let found = look_up(self.client.clone(), api_servers, About::default()).await;
            for object in found.unwrap_or_default().objects {
                self.cluster.apply(object, None);
            }
        }
        let is_wanted = |row: &KindRow| {
            row.role == Role::Caller && (may_be_api_server || row.scope == Scope::AnyNamespace)
        };
        for row in self.served(is_wanted) {
            (self.say)(&format!("reading {} objects", row.name()));
            let listed = list(&self.client, row, None, &ListParams::default()).await;
            for object in listed.unwrap_or_default().objects {
                self.cluster.apply(object, None);
            }
        }
    }

    /// The kinds that the server may have and whose objects are read.
    fn served(&self, which: impl Fn(&KindRow) -> bool) -> Vec<&'static KindRow> {
        let read = self.served.iter().filter(|row| row.reads().is_some());
        read.copied().filter(|row| which(row)).collect()
    }

    /// Reads a namespace, by name, as a user of it may, and what is in it.
    async fn namespace(&mut self, name: &str) {
        (self.say)(&format!("reading namespace {name}"));
        match get(&self.client, kinds::of(Kind::Namespace), name).await {
            Ok(object) => object.into_iter().for_each(|object| self.cluster.apply(object, None)),
            Err(why) => {
                let unreadable = self.unreadable(&why, &format!("namespace {name}"));
                if unreadable == Unreadable::Refused {
                    self.refused.hide(name);
                }
                self.cluster.unreadable(Kind::Namespace, Some(name), unreadable);
            }
        }
        let is_asked = |row: &KindRow| row.scope == Scope::Namespace && row.role != Role::Template;
        for row in self.served(is_asked) {
            self.all(row, Some(name), &ListParams::default()).await;
        }
    }

    /// Reads all objects of a kind; what cannot be read is unknown.
    async fn all(&mut self, row: &'static KindRow, namespace: Option<&str>, which: &ListParams) {
        let place = namespace.map(|name| format!(" in {name}")).unwrap_or_default();
        (self.say)(&format!("reading {} objects{place}", row.name()));
        self.refused.asked(namespace, row.plural);
        match list(&self.client, row, namespace, which).await {
            Ok(Listing { objects, unread }) => {
                for object in objects {
                    self.cluster.apply(object, None);
                }
                self.unread.extend(unread.into_iter().map(Arc::new));
            }
            Err(why) => {
                let unreadable = self.unreadable(&why, &format!("{} objects{place}", row.name()));
                if unreadable == Unreadable::Refused {
                    self.refused.refuse(namespace, row.plural);
                }
                if let Some(kind) = row.reads() {
                    self.cluster.unreadable(kind, namespace, unreadable);
                }
            }
        }
    }

    /// Why something is unknown. What is refused is said once and together, all else where it fails.
    fn unreadable(&mut self, why: &ApiError, what: &str) -> Unreadable {
        if why.is_refused() {
            return Unreadable::Refused;
        }
        self.failed.insert(format!("cannot read {what}: {why}"));
        Unreadable::Failed(why.to_string().into())
    }

    /// Looks up who holds an address; returns the namespaces of those.
    async fn address(
        &mut self,
        address: IpAddr,
        home: Option<&str>,
        known: &mut BTreeSet<String>,
    ) -> BTreeSet<String> {
        (self.say)(&format!("looking up {address}"));
        let snapshot = self.cluster.snapshot();
        let sought = Query::from(address);
        let about = About::of(&sought, &snapshot);
        let found = look_up(self.client.clone(), sought, about).await;
        let mut failed = None;
        if let Err(why) = &found {
            // A user of one namespace may ask about that.
            if let Some(home) = home
                && why.is_refused()
                && known.insert(home.to_owned())
            {
                self.namespace(home).await;
            }
            failed = self.not_looked_up(address, why);
        }
        let mut namespaces = BTreeSet::new();
        for object in found.unwrap_or_default().objects {
            if let Object::Pod(pod) = &object {
                namespaces.insert(pod.namespace.to_string());
            } else if let Object::Service(service) = &object {
                namespaces.insert(service.namespace.to_string());
            }
            self.cluster.apply(object, None);
        }
        let failed = failed.map(Into::into);
        self.cluster.looked_up(address, LookUp { at: self.now, failed, scale: None });
        namespaces
    }

    /// Looks up the Services that have one of these addresses, where nobody else in the cluster has it;
    /// returns their namespaces. Who may not list Services is told of it by [`Self::address`].
    async fn exposed(&mut self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<String> {
        let snapshot = self.cluster.snapshot();
        let is_nobodys = |address: &&IpAddr| {
            let end = snapshot.resolve(**address, None);
            matches!(end.holder, Holder::Outside) && end.known_address().is_none()
        };
        let nobodys: Vec<IpAddr> = addresses.iter().filter(is_nobodys).copied().collect();
        let mut namespaces = BTreeSet::new();
        if nobodys.is_empty() {
            return namespaces;
        }
        (self.say)("looking up Services that are reached from outside");
        let found = look_up(self.client.clone(), Query::Exposed, About::default()).await;
        for object in found.unwrap_or_default().objects {
            if let Object::Service(service) = &object
                && service.addresses().any(|address| nobodys.contains(&address))
            {
                namespaces.insert(service.namespace.to_string());
                self.cluster.apply(object, None);
            }
        }
        namespaces
    }

    /// Why it is unknown who holds an address that could not be looked up; `None`: it is known, or
    /// assumed.
    fn not_looked_up(&mut self, address: IpAddr, why: &ApiError) -> Option<String> {
        let snapshot = self.cluster.snapshot();
        let holder = snapshot.resolve(address, None).holder;
        if matches!(holder, Holder::Pod(_) | Holder::Node(_) | Holder::Service(_)) {
            return None;
        }
        if let Unreadable::Failed(why) = self.unreadable(why, &format!("who holds {address}")) {
            return Some(why.to_string());
        }
        let mut of_pods = snapshot.pods().flat_map(|pod| &pod.addresses);
        let has_public_pods = of_pods.any(|address| is_public(*address));
        if is_public(address) && !has_public_pods {
            self.assumed.push(format!(
                "{address} is taken to be outside of the cluster: you may not look for a pod that holds \
                 it"
            ));
            return None;
        }
        Some("you may not look for it in all namespaces".to_owned())
    }

    /// Asks whom the policies may be about that are not read, where they can be about one of these
    /// namespaces.
    async fn read_unread(&mut self, namespaces: &BTreeSet<String>) {
        let unread = |row: &&&'static KindRow| matches!(row.role, Role::Unread | Role::Remarked);
        let rows: Vec<&'static KindRow> = self.served.iter().filter(unread).copied().collect();
        for row in rows {
            match row.scope {
                Scope::Namespace => {
                    for namespace in namespaces {
                        self.unread_of(row, Some(namespace)).await;
                    }
                }
                Scope::Cluster | Scope::AnyNamespace => self.unread_of(row, None).await,
            }
        }
        self.cluster.set_unread(std::mem::take(&mut self.unread));
    }

    async fn unread_of(&mut self, row: &'static KindRow, namespace: Option<&str>) {
        let place = namespace.map(|name| format!(" in {name}")).unwrap_or_default();
        (self.say)(&format!("reading {} objects{place}", row.label()));
        if row.role == Role::Unread {
            self.refused.asked(namespace, row.plural);
        }
        match list(&self.client, row, namespace, &ListParams::default()).await {
            Ok(Listing { unread, .. }) => self.unread.extend(unread.into_iter().map(Arc::new)),
            // What only makes a remark is no loss to say, but for pods on second networks.
            Err(_) if row.role == Role::Remarked => {
                self.unread.push(Arc::new(row.unlisted(namespace)));
            }
            Err(why) => {
                let unreadable = self.unreadable(&why, &format!("{} objects{place}", row.label()));
                if unreadable == Unreadable::Refused {
                    self.refused.refuse(namespace, row.plural);
                }
                // There may be some, and they may decide.
                self.unread.push(Arc::new(row.unlisted(namespace)));
            }
        }
    }
}

/// Whether an address is one of IPv4 that the whole internet routes. Pods have such addresses in few
/// clusters, and then all of them have.
fn is_public(address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else { return false };
    let [a, b, ..] = address.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || is_shared)
}

#[cfg(test)]
mod tests;
