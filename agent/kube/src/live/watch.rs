//! One kind, followed for as long as the agent runs.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::StreamExt as _;
use kube::{
    Api, Client,
    api::DynamicObject,
    runtime::watcher::{self, Event, watcher},
};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Duration, sleep},
};
use whydrop_core::{
    cluster::object::{Key, Object},
    problem::Problem,
};

use super::{News, kinds::Followed, look_up::reason, owners::Owners};
use crate::decode::{Decoded, decode};

/// The pause after a failure: from the first to the longest, each twice the one before. Short enough
/// to be back soon after an API server was restarted.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How often it is asked whether a kind is served by now: somebody installs it some day.
const SERVED_PAUSE: Duration = Duration::from_secs(30);

/// Follows a kind, and tells what becomes of it, until nobody listens.
///
/// After a failure everything is listed anew: that, and not a watch that is taken up again and keeps
/// silent, shows that the API server answers.
pub(super) async fn follow(
    client: Client,
    followed: Followed,
    fields: Option<String>,
    news: mpsc::Sender<News>,
) {
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &followed.resource());
    let config = watcher::Config { field_selector: fields, ..watcher::Config::default() };
    let mut held =
        Held { followed, owners: Owners::new(client), listing: None, bad: BTreeMap::new() };
    let mut pause = PAUSE_MIN;
    while !news.is_closed() {
        let mut events = Box::pin(watcher(api.clone(), config.clone()));
        let failure = loop {
            let told = match events.next().await {
                Some(Ok(event)) => held.take(event).await,
                Some(Err(error)) => break Some(error),
                None => break None,
            };
            for each in told {
                pause = PAUSE_MIN;
                if news.send(each).await.is_err() {
                    return;
                }
            }
        };
        let (told, wait) = match failure {
            Some(error) if is_not_served(&error) => (held.nothing(), SERVED_PAUSE),
            Some(error) => (News::Failing(followed, reason(&error)), pause),
            None => continue,
        };
        if news.send(told).await.is_err() {
            return;
        }
        sleep(wait + jitter()).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Up to half a second more, so that a thousand agents do not come back in one moment.
fn jitter() -> Duration {
    let now = jiff::Timestamp::now().subsec_nanosecond();
    Duration::from_nanos(u64::from(now.unsigned_abs()) / 2)
}

/// Whether the API server does not know the kind, so that there is none of it.
fn is_not_served(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.code == 404,
        _ => false,
    }
}

/// What a watch knows beside what it has told.
struct Held {
    followed: Followed,
    owners: Owners,
    /// What a list in progress has brought so far.
    listing: Option<Listing>,
    /// Objects that cannot be read, by name, with what is wrong with them.
    bad: BTreeMap<String, String>,
}

#[derive(Default)]
struct Listing {
    objects: Vec<Object>,
    names: BTreeSet<String>,
}

impl Held {
    /// The API server does not know the kind, so that it has no objects.
    fn nothing(&mut self) -> News {
        self.listing = None;
        self.bad.clear();
        News::NotServed(self.followed)
    }

    async fn take(&mut self, event: Event<DynamicObject>) -> Vec<News> {
        let mut told = Vec::new();
        match event {
            Event::Init => self.listing = Some(Listing::default()),
            Event::InitApply(object) => {
                let name = name_of(&object);
                let read = self.read(object, &mut told).await;
                if let Some(listing) = &mut self.listing {
                    listing.objects.extend(read);
                    listing.names.insert(name);
                }
            }
            Event::InitDone => {
                let Listing { objects, names } = self.listing.take().unwrap_or_default();
                self.bad.retain(|name, _| names.contains(name));
                let bad = self.bad.keys().cloned().collect();
                let unread = if self.followed.is.is_some() { bad } else { names };
                told.push(News::Listed(self.followed, objects, unread));
            }
            Event::Apply(object) => {
                let (name, key) = (name_of(&object), self.key(&object));
                let read = self.read(object, &mut told).await;
                told.push(News::Unread(self.followed, name, read.is_none()));
                match read {
                    Some(object) => told.push(News::Applied(Box::new(object))),
                    // What it said before is not what it says now.
                    None => told.extend(key.map(News::Deleted)),
                }
            }
            Event::Delete(object) => {
                let name = name_of(&object);
                self.bad.remove(&name);
                told.extend(self.key(&object).map(News::Deleted));
                told.push(News::Unread(self.followed, name, false));
            }
        }
        told
    }

    fn key(&self, object: &DynamicObject) -> Option<Key> {
        let namespace = object.metadata.namespace.as_deref().map(Into::into);
        let name = object.metadata.name.as_deref().unwrap_or_default().into();
        Some(Key { kind: self.followed.is?, namespace, name })
    }

    /// Reads an object down to what decisions depend on. One that cannot be read is told once.
    async fn read(&mut self, object: DynamicObject, told: &mut Vec<News>) -> Option<Object> {
        self.followed.is?;
        let name = name_of(&object);
        match read(&self.followed, object) {
            Ok(Some(mut object)) => {
                self.bad.remove(&name);
                self.owners.complete(&mut object).await;
                Some(object)
            }
            Ok(None) => None,
            Err(problem) => {
                let what = format!("{} {name}: {problem}", self.followed.name());
                if self.bad.get(&name) != Some(&what) {
                    self.bad.insert(name, what.clone());
                    told.push(News::Skipped(what));
                }
                None
            }
        }
    }
}

/// From an object as the API server gives it to the core's own.
///
/// # Errors
/// The first field that cannot be read.
pub(super) fn read(followed: &Followed, object: DynamicObject) -> Result<Option<Object>, Problem> {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    // Items of a list do not name their type.
    if let Value::Object(fields) = &mut value {
        fields.insert("apiVersion".to_owned(), followed.api_version().into());
        fields.insert("kind".to_owned(), followed.kind().into());
    }
    Ok(match decode(value)? {
        Decoded::Object(object) => Some(*object),
        Decoded::List(_) | Decoded::NoPart | Decoded::Unread => None,
    })
}

fn name_of(object: &DynamicObject) -> String {
    let name = object.metadata.name.as_deref().unwrap_or_default();
    match &object.metadata.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
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
    use serde_json::json;
    use tower::service_fn;

    use super::*;
    use crate::live::kinds::NETWORK_POLICY;

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

    /// A real API server does this five minutes after it was asked, when it has forgotten where the
    /// watch stood; so here is one of a few lines.
    #[tokio::test]
    async fn a_watch_that_is_too_old_is_listed_anew() {
        let lists = std::sync::Arc::new(AtomicUsize::new(0));
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
        let following =
            tokio::spawn(follow(Client::new(service, "shop"), NETWORK_POLICY, None, news));
        let mut told = Vec::new();
        while told.len() < 3 {
            let next = tokio::time::timeout(PATIENCE, heard.recv()).await;
            match next.expect("news").expect("it goes on") {
                News::Listed(_, objects, _) => {
                    told.push(objects.iter().map(|object| object.key().name.to_string()).collect());
                }
                News::Failing(_, why) => told.push(why),
                _ => panic!("neither a list nor a failure"),
            }
        }
        drop(heard);
        following.await.expect("it ends when nobody listens");
        assert_eq!((&*told[0], &*told[2]), ("before", "after"));
        assert!(told[1].contains("too old resource version"), "{told:?}");
    }
}
