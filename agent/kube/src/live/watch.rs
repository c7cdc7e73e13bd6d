//! One kind, followed for as long as the agent runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures_util::StreamExt as _;
use kube::{
    Api, Client,
    api::DynamicObject,
    runtime::watcher::{self, Event, watcher},
};
use tokio::{
    sync::{mpsc, watch as latest},
    time::{Duration, sleep},
};
use whydrop_core::{
    cluster::{
        object::{Key, Object},
        profile::detect::Sign,
    },
    kinds::KindRow,
    policy::unread::Unread,
};

use super::{
    News, Unreads,
    groups::{Known, lists, until_served, versions_of},
    owners::Owners,
};
use crate::{
    api_error::ApiError,
    resource::{Read, name_of, read, resource_in},
};

/// The longest pause after a failure, to be back soon after an API server was restarted.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The pauses after failures: each twice the one before, and up to as much again by chance, so that a
/// thousand agents do not come back in one moment.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(500))
    .with_max_delay(PAUSE_MAX)
    .with_factor(2.0)
    .without_max_times()
    .with_jitter();
/// How long a kind is left alone that the API server does not have though it has its group: somebody
/// installs it some day.
const SERVED_PAUSE: Duration = Duration::from_secs(30);

/// What is followed.
pub(super) struct Followed {
    pub(super) row: &'static KindRow,
    /// As a field selector.
    pub(super) fields: Option<String>,
    /// What the API server serves.
    pub(super) served: latest::Receiver<Known>,
}

/// Follows a kind, and says what becomes of it, until nobody listens. Of its versions it is followed in
/// the first that the API server knows: objects that two groups show are there once. A kind that it does
/// not know is not asked for.
///
/// After a failure everything is listed again: that, and not a watch that is resumed and stays silent,
/// shows that the API server answers.
pub(super) async fn follow(client: Client, followed: Followed, news: mpsc::Sender<News>) {
    let Followed { row, fields, mut served } = followed;
    let config = watcher::Config { field_selector: fields, ..watcher::Config::default() };
    let mut held = Held::new(row, &client);
    let mut pauses = PAUSES.build();
    let Ok(mut versions) = versions_of(&mut served, row).await else { return };
    while !news.is_closed() {
        let Some(version) = versions.first().copied() else {
            if news.send(held.nothing()).await.is_err() {
                return;
            }
            let Ok(by_now) = until_served(&mut served, row).await else { return };
            versions = by_now;
            continue;
        };
        held.begin(version);
        let resource = resource_in(row, version);
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
        let mut events = Box::pin(watcher(api.clone(), config.clone()));
        let failure = loop {
            let heard = match events.next().await {
                Some(Ok(event)) => held.handle(event).await,
                Some(Err(error)) => break Some(error),
                None => break None,
            };
            for each in heard {
                pauses = PAUSES.build();
                if news.send(each).await.is_err() {
                    return;
                }
            }
        };
        let Some(failure) = failure else { continue };
        let error = ApiError::from(&failure);
        let is_absent = is_absent(&client, row, version, &error).await;
        if is_absent && versions.len() > 1 {
            versions.remove(0);
            continue;
        }
        let pause = pauses.next().unwrap_or(PAUSE_MAX);
        let (failed, wait) = match is_absent {
            true => (held.nothing(), SERVED_PAUSE + pause),
            false => (News::Failing(row, error), pause),
        };
        if news.send(failed).await.is_err() {
            return;
        }
        sleep(wait).await;
        let Ok(by_now) = versions_of(&mut served, row).await else { return };
        versions = by_now;
    }
}

/// Whether the API server does not have a kind in a version that it refuses. Who has no right to a kind
/// is refused whether there is one or not.
async fn is_absent(client: &Client, row: &KindRow, version: &str, error: &ApiError) -> bool {
    error.is_not_found() || (error.is_refused() && !lists(client, row, version).await)
}

/// What a watch knows beside what it has sent.
struct Held {
    row: &'static KindRow,
    /// The version that it is followed in.
    api_version: &'static str,
    owners: Owners,
    /// What a list in progress has brought so far.
    listing: Option<Listing>,
    /// Objects that cannot be read, by name, with what is wrong with them.
    bad: BTreeMap<String, String>,
    /// What objects show of who enforces policies, by name.
    signs: BTreeMap<String, Vec<Sign>>,
}

#[derive(Default)]
struct Listing {
    objects: Vec<Object>,
    unread: Unreads,
    names: BTreeSet<String>,
}

impl Held {
    fn new(row: &'static KindRow, client: &Client) -> Self {
        Self {
            row,
            api_version: row.api_version(),
            owners: Owners::new(client.clone()),
            listing: None,
            bad: BTreeMap::new(),
            signs: BTreeMap::new(),
        }
    }

    /// Begins to follow it in a version.
    fn begin(&mut self, api_version: &'static str) {
        self.api_version = api_version;
        self.listing = None;
    }

    /// The API server does not know the kind, so that it has no objects.
    fn nothing(&mut self) -> News {
        self.listing = None;
        self.bad.clear();
        News::NotServed(self.row)
    }

    async fn handle(&mut self, event: Event<DynamicObject>) -> Vec<News> {
        let mut news = Vec::new();
        match event {
            Event::Init => self.listing = Some(Listing::default()),
            Event::InitApply(object) => {
                let name = name_of(&object.metadata);
                let (read, unread) = self.read(&name, object, &mut news).await;
                if let Some(listing) = &mut self.listing {
                    listing.objects.extend(read);
                    listing.unread.extend(unread.map(|unread| (name.clone(), Arc::new(unread))));
                    listing.names.insert(name);
                }
            }
            Event::InitDone => {
                let Listing { objects, unread, names } = self.listing.take().unwrap_or_default();
                self.bad.retain(|name, _| names.contains(name));
                let gone: Vec<String> =
                    self.signs.keys().filter(|name| !names.contains(*name)).cloned().collect();
                for name in gone {
                    self.signs.remove(&name);
                    news.push(News::Signs(self.row, name, Vec::new()));
                }
                news.push(News::Listed(self.row, objects, unread));
            }
            Event::Apply(object) => {
                let (name, key) = (name_of(&object.metadata), self.key(&object));
                let (read, unread) = self.read(&name, object, &mut news).await;
                news.push(News::Unread(self.row, name, unread));
                match read {
                    Some(object) => news.push(News::Applied(Box::new(object))),
                    // What it said before is not what it says now.
                    None => news.extend(key.map(News::Deleted)),
                }
            }
            Event::Delete(object) => {
                let name = name_of(&object.metadata);
                self.bad.remove(&name);
                if self.signs.remove(&name).is_some() {
                    news.push(News::Signs(self.row, name.clone(), Vec::new()));
                }
                news.extend(self.key(&object).map(News::Deleted));
                news.push(News::Unread(self.row, name, None));
            }
        }
        news
    }

    fn key(&self, object: &DynamicObject) -> Option<Key> {
        let namespace = object.metadata.namespace.as_deref().map(Into::into);
        let name = self.row.name_in_key(&object.metadata)?;
        Some(Key { kind: self.row.reads()?, namespace, name })
    }

    /// Reads an object down to what decisions depend on, or to what it may do. One that is malformed is
    /// reported once.
    async fn read(
        &mut self,
        name: &str,
        object: DynamicObject,
        news: &mut Vec<News>,
    ) -> (Option<Object>, Option<Unread>) {
        let Read { mut object, unread, problem, signs } = read(self.row, self.api_version, object);
        if self.signs.get(name).map_or(&[][..], Vec::as_slice) != signs {
            match signs.is_empty() {
                true => self.signs.remove(name),
                false => self.signs.insert(name.to_owned(), signs.clone()),
            };
            news.push(News::Signs(self.row, name.to_owned(), signs));
        }
        match problem {
            None => {
                self.bad.remove(name);
            }
            Some(problem) => {
                let what = format!("{} {name}: {problem}", self.row.name());
                if self.bad.get(name) != Some(&what) {
                    self.bad.insert(name.to_owned(), what.clone());
                    news.push(News::Skipped(what));
                }
            }
        }
        if let Some(object) = &mut object {
            self.owners.complete(object).await;
        }
        (object, unread)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::{Request, Response};
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    use whydrop_core::{
        kinds::{self, served::Served},
        policy::PolicyKind,
    };

    use super::*;

    /// How long the next piece of news may take: the first pause, and then some.
    const PATIENCE: Duration = Duration::from_secs(10);

    /// A list of one policy.
    fn list(name: &str, version: &str) -> Value {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicyList",
            "metadata": { "resourceVersion": version },
            "items": [{ "metadata": { "name": name, "namespace": "shop" }, "spec": {} }],
        })
    }

    /// What the API server of a test has of what is followed.
    fn followed(served: &[&str]) -> Followed {
        let row = kinds::of_policy(PolicyKind::NetworkPolicy);
        let served = Served::new(served.iter().map(|version| (*version).to_owned()));
        // It goes on to be known when nobody asks any more.
        let (_, served) = latest::channel(Known::Served(Arc::new(served)));
        Followed { row, fields: None, served }
    }

    /// What the API server says to who has no rights but to ask what there is.
    fn refusing(resources: Value) -> Client {
        let service = service_fn(move |request: Request<Body>| {
            let forbidden = json!({
                "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 403,
                "reason": "Forbidden", "message": "networkpolicies is forbidden",
            });
            let (status, answer) = match request.uri().path() {
                "/apis/networking.k8s.io/v1" => (200, resources.clone()),
                _ => (403, forbidden),
            };
            let response = Response::builder().status(status);
            let body = Full::new(Bytes::from(answer.to_string()));
            async move { response.body(body) }
        });
        Client::new(service, "shop")
    }

    /// What is heard first of a kind whose list is refused.
    async fn first_of(client: Client, followed: Followed) -> News {
        let (news, mut heard) = mpsc::channel(1);
        let following = tokio::spawn(follow(client, followed, news));
        let next = tokio::time::timeout(PATIENCE, heard.recv()).await;
        following.abort();
        next.expect("news").expect("it goes on")
    }

    #[tokio::test]
    async fn a_refusal_counts_where_the_kind_is_served() {
        let resources = |names: &[&str]| {
            let named = |name: &&str| {
                json!({
                    "name": name, "kind": "X", "namespaced": true, "singularName": "", "verbs": [],
                })
            };
            let resources: Vec<Value> = names.iter().map(named).collect();
            json!({
                "kind": "APIResourceList", "apiVersion": "v1",
                "groupVersion": "networking.k8s.io/v1", "resources": resources,
            })
        };
        let group = &["networking.k8s.io/v1"];
        for (served, has, is_forbidden) in [
            (&group[..], &["ingresses", "networkpolicies"][..], true),
            // The group is there, and the kind is not.
            (group, &["ingresses"], false),
            // Without the group nothing is asked.
            (&[], &["networkpolicies"], false),
        ] {
            let news = first_of(refusing(resources(has)), followed(served)).await;
            let is_failing = matches!(news, News::Failing(_, ref why) if why.is_refused());
            let is_absent = matches!(news, News::NotServed(_));
            assert_eq!(
                (is_failing, is_absent),
                (is_forbidden, !is_forbidden),
                "{served:?} {has:?}"
            );
        }
    }

    /// A real API server does this five minutes after it was asked, when it has forgotten where the
    /// watch stood; so here is one of a few lines.
    #[tokio::test]
    async fn a_watch_that_is_too_old_is_listed_again() {
        let lists = Arc::new(AtomicUsize::new(0));
        let service = service_fn(move |request: Request<Body>| {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let answer = if query.contains("watch=true") {
                json!({ "type": "ERROR", "object": {
                    "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 410,
                    "reason": "Expired", "message": "too old resource version: 1 (9)",
                } })
            } else {
                match lists.fetch_add(1, Ordering::Relaxed) {
                    0 => list("before", "1"),
                    _ => list("after", "9"),
                }
            };
            let body = Full::new(Bytes::from(format!("{answer}\n")));
            async move { Ok::<_, Infallible>(Response::new(body)) }
        });
        let (news, mut heard) = mpsc::channel(1);
        let followed = followed(&["networking.k8s.io/v1"]);
        let following = tokio::spawn(follow(Client::new(service, "shop"), followed, news));
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let next = tokio::time::timeout(PATIENCE, heard.recv()).await;
            match next.expect("news").expect("it goes on") {
                News::Listed(_, objects, _) => {
                    seen.push(objects.iter().map(|object| object.key().name.to_string()).collect());
                }
                News::Failing(_, why) => seen.push(why.to_string()),
                _ => panic!("neither a list nor a failure"),
            }
        }
        drop(heard);
        following.await.expect("it ends when nobody listens");
        assert_eq!((&*seen[0], &*seen[2]), ("before", "after"));
        assert!(seen[1].contains("too old resource version"), "{seen:?}");
    }
}
