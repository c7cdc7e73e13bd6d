//! What Calico selects by labels beside pods' own: service accounts, network sets, Services.
//!
//! Semantics: Calico 3.28, `libcalico-go/lib/backend/syncersv1/updateprocessors`.

use std::{fmt, sync::Arc};

use super::{
    Accounts, Namespaces, PodPeer, ServicePeer,
    matching::{LabelMiss, Outcome, PeerMiss, Subject, label_list, namespace},
    selector::{Labelled, Labels},
};
use crate::cluster::{
    Snapshot,
    object::{Kind, NetworkSet, Pod},
    resolve::Endpoint,
};

/// The label by which Calico's selectors name a namespace, or a service account.
const NAME: &str = "projectcalico.org/name";
/// The label that names the namespace of a pod or a network set.
const NAMESPACE: &str = "projectcalico.org/namespace";
const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";
const ORCHESTRATOR: &str = "projectcalico.org/orchestrator";

/// What the keys of the labels that Calico gives begin with.
pub(crate) const GIVEN_PREFIX: &str = "projectcalico.org/";

/// The labels that Calico gives a pod.
pub(super) fn given_to_pod(pod: &Pod) -> [(&str, &str); 3] {
    [(NAMESPACE, &pod.namespace), (SERVICE_ACCOUNT, &pod.service_account), (ORCHESTRATOR, "k8s")]
}

/// The label that Calico gives a namespace.
pub(super) fn namespace_given(name: &str) -> [(&str, &str); 1] {
    [(NAME, name)]
}

/// Whether a pod runs as one of these service accounts. One of which there is no object has no
/// labels.
pub(super) fn account(snapshot: &Snapshot, wanted: &Accounts, pod: &Pod) -> Outcome<LabelMiss> {
    let (namespace, name) = (&pod.namespace, &pod.service_account);
    if !wanted.names.is_empty() && !wanted.names.contains(name) {
        return Outcome::Miss(LabelMiss {
            wanted: format!("service account {}", wanted.names.join(" or ")),
            found: format!("pod {namespace}/{}: service account {name}", pod.name),
            unmet: 1,
            other_namespace: false,
        });
    }
    if wanted.selector.is_everything() {
        return Outcome::Match;
    }
    if snapshot.unsynced().contains_key(&Kind::ServiceAccount) {
        return Outcome::Unknown("ServiceAccount objects are not synced yet".into());
    }
    let account = snapshot.service_account(namespace, name);
    let none = Labels::new();
    let labels = account.map_or(&none, |account| &account.labels);
    let of = Labelled { given: &[(NAME, name)], ..Labelled::from(labels) };
    if wanted.selector.matches(of) {
        return Outcome::Match;
    }
    let found = format!("service account {namespace}/{name}: {}", label_list(labels));
    Outcome::Miss(LabelMiss::of("service account", &wanted.selector, of, found))
}

/// Whether one of these network sets is wanted; `Err` names what cannot be told.
pub(super) fn is_in_set(
    snapshot: &Snapshot,
    wanted: &PodPeer,
    sets: &[&Arc<NetworkSet>],
) -> Result<bool, Arc<str>> {
    let mut unknown = None;
    for set in sets {
        match selects_set(snapshot, wanted, set) {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(why) => unknown = Some(why),
        }
    }
    unknown.map_or(Ok(false), Err)
}

/// A network set is selected as a pod is that runs as nobody. It has the labels of its namespace; a
/// global one is in none.
fn selects_set(snapshot: &Snapshot, wanted: &PodPeer, set: &NetworkSet) -> Result<bool, Arc<str>> {
    let own = set.namespace.as_deref();
    let given = own.map(|name| (NAMESPACE, name));
    let of = Labelled { given: given.as_slice(), ..Labelled::from(&set.labels) };
    let nobody = Labels::new();
    let as_nobody =
        |accounts: &Accounts| accounts.names.is_empty() && accounts.selector.matches(&nobody);
    if !wanted.pods.matches(of) || !wanted.accounts.as_ref().is_none_or(as_nobody) {
        return Ok(false);
    }
    match (&set.namespace, &wanted.namespaces) {
        (Some(own), wanted) => match namespace(snapshot, wanted, own) {
            Outcome::Match => Ok(true),
            Outcome::Miss(_) => Ok(false),
            Outcome::Unknown(why) => Err(why),
        },
        (None, Namespaces::Own(_)) => Ok(false),
        (None, Namespaces::Selected(selector)) => {
            Ok(selector.matches(Labelled { all: false, ..Labelled::from(&nobody) }))
        }
    }
}

/// Whether an end is behind a Service; as a destination, on the port that the Service sends to.
pub(super) fn service(
    wanted: &ServicePeer,
    end: &Endpoint,
    subject: Subject<'_>,
) -> Outcome<PeerMiss> {
    let snapshot = subject.snapshot;
    let ServicePeer { namespace, name } = wanted;
    let Some(service) = snapshot.service(namespace, name) else {
        return Outcome::Unknown(
            format!("the rule names Service {namespace}/{name}, which is not among the objects")
                .into(),
        );
    };
    let is_destination = end == subject.destination;
    let is_behind = service.ports.iter().any(|port| {
        let backends = snapshot.backends(service, port.port, port.protocol, end.address);
        backends.iter().any(|backend| {
            let right_port = (backend.port, port.protocol) == (subject.port, subject.protocol);
            backend.endpoint.address == end.address && (right_port || !is_destination)
        })
    });
    if is_behind {
        return Outcome::Match;
    }
    Outcome::Miss(PeerMiss::AnotherEnd {
        wanted: format!("an endpoint of Service {namespace}/{name}"),
        found: end.to_string(),
    })
}

impl fmt::Display for Accounts {
    /// `service accounts a or b with labels role == 'ci'`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("service accounts")?;
        if !self.names.is_empty() {
            write!(f, " {}", self.names.join(" or "))?;
        }
        match self.selector.is_everything() {
            true => Ok(()),
            false => write!(f, " with labels {}", self.selector),
        }
    }
}
