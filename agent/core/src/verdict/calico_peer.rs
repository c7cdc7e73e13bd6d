//! What Calico's rules select beside pods and addresses: network sets, and what is behind Services.
//!
//! Semantics: Calico 3.28, `libcalico-go/lib/backend/syncersv1/updateprocessors`.

use std::sync::Arc;

use super::{
    Subject,
    outcome::{MatchOutcome, PeerMiss},
    selects::namespace,
};
use crate::{
    cluster::{Snapshot, resolve::Endpoint},
    policy::{
        Accounts, Namespaces, PodPeer, ServicePeer, given_label,
        network_set::NetworkSet,
        requirement::{Labelled, Labels},
    },
    service::behind,
};

/// The first of these network sets that is wanted; `Err` names what is unknown.
pub(super) fn is_in_set<'a>(
    snapshot: &Snapshot,
    wanted: &PodPeer,
    sets: &[&'a Arc<NetworkSet>],
) -> Result<Option<&'a NetworkSet>, Arc<str>> {
    let mut unknown = None;
    for set in sets {
        match selects_set(snapshot, wanted, set) {
            Ok(true) => return Ok(Some(set)),
            Ok(false) => {}
            Err(why) => unknown = Some(why),
        }
    }
    unknown.map_or(Ok(None), Err)
}

/// A network set is selected as a pod is that runs as nobody. It has the labels of its namespace; a
/// global one is in none.
fn selects_set(snapshot: &Snapshot, wanted: &PodPeer, set: &NetworkSet) -> Result<bool, Arc<str>> {
    let own = set.namespace.as_deref();
    let given = own.map(|name| (given_label::NAMESPACE, name));
    let of = Labelled { given: given.as_slice(), ..Labelled::from(&set.labels) };
    let nobody = Labels::new();
    let as_nobody =
        |accounts: &Accounts| accounts.names.is_empty() && accounts.selector.matches(&nobody);
    if !wanted.pods.matches(of) || !wanted.accounts.as_ref().is_none_or(as_nobody) {
        return Ok(false);
    }
    match (&set.namespace, &wanted.namespaces) {
        (Some(own), wanted) => match namespace(snapshot, wanted, own) {
            MatchOutcome::Match => Ok(true),
            MatchOutcome::Miss(_) => Ok(false),
            MatchOutcome::Unknown(why) => Err(why),
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
) -> MatchOutcome<PeerMiss> {
    let snapshot = subject.snapshot;
    let ServicePeer { namespace, name } = wanted;
    let Some(service) = snapshot.service(namespace, name) else {
        return MatchOutcome::Unknown(
            format!("the rule names Service {namespace}/{name}, which is not among the objects")
                .into(),
        );
    };
    let Some(address) = end.address else {
        return MatchOutcome::Unknown(
            format!(
                "the address of {end}, which may be behind Service {namespace}/{name}, is not known"
            )
            .into(),
        );
    };
    let is_destination = end == subject.destination;
    let is_behind = service.ports.iter().any(|port| {
        let backends = behind(snapshot, service, port.port, port.protocol, address);
        backends.iter().filter(|backend| backend.is_ready).any(|backend| {
            let right_port = (backend.port, port.protocol) == (subject.port, subject.protocol);
            backend.endpoint.address == Some(address) && (right_port || !is_destination)
        })
    });
    if is_behind {
        return MatchOutcome::Match;
    }
    MatchOutcome::Miss(PeerMiss::AnotherEnd {
        wanted: format!("an endpoint of Service {namespace}/{name}"),
        found: end.to_string(),
    })
}
