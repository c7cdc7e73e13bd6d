//! Since which change kube-proxy refuses a connection to a Service.

use std::mem::discriminant;

use super::attribution::{Attribution, seen};
use crate::{
    cluster::{
        Snapshot,
        history::{Change, Past},
        object::Kind,
    },
    diagnosis::KubeProxy,
    service::{Dial, Refusal, to_address},
};

/// How many times it is asked what kube-proxy would do, in search of a change: each costs about as much
/// as an evaluation of policies.
const ASKED_MAX: usize = 64;

/// The latest change of the Service, or of what is behind it, across which kube-proxy came to refuse the
/// connection for this reason.
pub(super) fn since(past: &Past<'_>, kube_proxy: &KubeProxy) -> Attribution {
    let course = &kube_proxy.course;
    let Some(address) = course.address.filter(|_| !kube_proxy.is_over) else {
        return Attribution::None;
    };
    let dial = Dial { client: &course.client, port: course.port, protocol: course.protocol };
    let is_refused_so = |snapshot: &Snapshot| {
        let course = to_address(snapshot, &dial, address, None);
        let refusal = course.as_ref().and_then(|course| course.refusal());
        // On which node, and by which name, is the same reason.
        let is_same = |own: &Refusal| discriminant(own) == discriminant(kube_proxy.refusal());
        refusal.is_some_and(is_same)
    };
    if !is_refused_so(&past.snapshot) {
        return Attribution::None;
    }
    let mut earlier = past.snapshot.clone();
    let mut asked = 0;
    for undoable in past.latest_first() {
        undoable.undo(&mut earlier);
        if !concerns(&undoable.change, kube_proxy) {
            continue;
        }
        if asked == ASKED_MAX {
            break;
        }
        asked += 1;
        if !is_refused_so(&earlier) {
            return seen(vec![undoable.change.clone()]);
        }
    }
    Attribution::None
}

/// Whether a change of this object can bear on what kube-proxy does: the Service, the slices of its
/// namespace, which do not name their Service in their own name, and its pods.
fn concerns(change: &Change, kube_proxy: &KubeProxy) -> bool {
    let service = &kube_proxy.course.service;
    let object = &change.object;
    let is_of_namespace = object.namespace.as_ref() == Some(&service.namespace);
    match object.kind {
        Kind::Service => is_of_namespace && object.name == service.name,
        Kind::EndpointSlice | Kind::Pod => is_of_namespace,
        _ => false,
    }
}
