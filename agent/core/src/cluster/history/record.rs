//! What is remembered of an object that comes, changes or goes.

use jiff::Timestamp;

use super::{Before, Change, ChangeKind, Learned, difference};
use crate::{
    cluster::{
        Cluster,
        object::{Key, Object, Pod},
    },
    policy::{Peers, Policy},
};

impl Cluster {
    /// Changes are seen from now on. Called once for each kind that has been listed.
    pub fn history_begins(&mut self, at: Timestamp) {
        self.history.begin(at);
    }

    /// Remembers how an object differs from what is known of it.
    pub(in crate::cluster) fn record_apply(
        &mut self,
        object: &Object,
        at: Timestamp,
        learned: Learned,
    ) {
        let before = self.version_before(object);
        if let Some(kind) = change_kind(before.as_ref(), object) {
            let difference = before.as_ref().and_then(|b| difference::in_words(b, object));
            let difference = difference.map(Into::into);
            let change = Change { object: object.key(), kind, difference, at };
            self.history.record(change, learned, Before::of(before));
        } else if let (None, Object::Pod(pod)) = (before, object)
            && learned == Learned::AsItCame
        {
            self.record_rollout(pod, at);
        }
    }

    /// Remembers that an object is gone.
    pub(in crate::cluster) fn record_delete(&mut self, key: &Key, at: Timestamp) {
        let Some(before) = self.snapshot.object(key) else { return };
        let is_nothing = match &before {
            Object::Pod(pod) => !name_returns(pod),
            Object::Policy(policy) => policy.reference.kind.is_staged(),
            _ => false,
        };
        if let Object::Pod(pod) = &before {
            self.keep_gone(pod);
        }
        if !is_nothing {
            let kind = ChangeKind::Deleted;
            let change = Change { object: key.clone(), kind, difference: None, at };
            self.history.record(change, Learned::AsItCame, Before::of(Some(before)));
        }
    }

    /// What an object was before: of a pod that has no address yet, the pod that went by its name.
    fn version_before(&self, object: &Object) -> Option<Object> {
        let key = object.key();
        let known = self.snapshot.object(&key);
        let addressless = |pod: &Pod| pod.addresses.is_empty();
        match (object, &known) {
            (Object::Pod(pod), _) if addressless(pod) => None,
            (Object::Pod(_), None) => self.history.predecessor(&key).cloned().map(Object::Pod),
            (Object::Pod(_), Some(Object::Pod(before))) if addressless(before) => {
                self.history.predecessor(&key).cloned().map(Object::Pod)
            }
            _ => known,
        }
    }
}

/// How an object differs from what it was before, where that can change a verdict. A pod, a
/// namespace or a Service that comes changes no verdict of a flow that was there.
fn change_kind(before: Option<&Object>, object: &Object) -> Option<ChangeKind> {
    let relabelled = |differs: bool| differs.then_some(ChangeKind::Relabelled);
    let moved = |differs: bool| differs.then_some(ChangeKind::Moved);
    let edited = |differs: bool| differs.then_some(ChangeKind::Edited);
    match (before, object) {
        // A staged policy decides nothing.
        (_, Object::Policy(policy)) if policy.reference.kind.is_staged() => None,
        (None, Object::Policy(_) | Object::Tier(_) | Object::NetworkSet(_)) => {
            Some(ChangeKind::Created)
        }
        // A template decides nothing of pods that are there, and who calls them nothing at all.
        (None, _) | (_, Object::Template(_) | Object::Caller(_)) => None,
        (Some(Object::Policy(before)), Object::Policy(policy)) => {
            let now = (&policy.subject, &policy.ingress, &policy.egress);
            let then = (&before.subject, &before.ingress, &before.egress);
            let place = |policy: &Policy| (policy.layer.clone(), policy.order);
            edited(now != then || place(policy) != place(before))
        }
        (Some(Object::Namespace(before)), Object::Namespace(namespace)) => {
            relabelled(before.labels != namespace.labels)
        }
        (Some(Object::ServiceAccount(before)), Object::ServiceAccount(account)) => {
            relabelled(before.labels != account.labels)
        }
        (Some(Object::Pod(before)), Object::Pod(pod)) => relabelled(before.labels != pod.labels)
            .or_else(|| moved(before.addresses != pod.addresses)),
        (Some(Object::Node(before)), Object::Node(node)) => {
            relabelled(before.labels != node.labels)
                .or_else(|| moved(before.addresses != node.addresses))
        }
        (Some(Object::PluginNode(before)), Object::PluginNode(node)) => {
            moved(before.addresses != node.addresses)
        }
        (Some(before), object) => edited(before != object),
    }
}

/// Whether a pod's name can come again: one that a `StatefulSet` or a person gave. Other controllers
/// never give a name twice.
pub(super) fn name_returns(pod: &Pod) -> bool {
    pod.workload.as_ref().is_none_or(|workload| &*workload.kind == "StatefulSet")
}

/// How many things an object holds that take memory.
pub(super) fn parts(object: &Object) -> usize {
    match object {
        Object::Pod(pod) => pod.labels.len() + pod.addresses.len() + pod.ports.len(),
        Object::Namespace(namespace) => namespace.labels.len(),
        Object::Node(node) => node.labels.len() + node.addresses.len(),
        Object::PluginNode(node) => node.addresses.len() + node.pod_networks.len(),
        Object::Service(service) => service.selector.len() + service.ports.len(),
        Object::EndpointSlice(slice) => slice.endpoints.len() + slice.ports.len(),
        Object::ServiceAccount(account) => account.labels.len(),
        Object::Tier(_) | Object::AddressPool(_) => 1,
        Object::Caller(caller) => 1 + caller.calls.len(),
        Object::Template(template) => template.pod.labels.len() + template.pod.ports.len(),
        Object::NetworkSet(set) => set.labels.len() + set.networks.len(),
        Object::Policy(policy) => {
            let rules = policy.ingress.iter().chain(&policy.egress).flatten();
            let parts = rules.map(|rule| {
                let ports = rule.ports.len() + rule.except_ports.len();
                1 + peers(&rule.own) + peers(&rule.peers) + ports
            });
            parts.sum()
        }
    }
}

fn peers(of_rule: &Peers) -> usize {
    match of_rule {
        Peers::Everyone => 0,
        Peers::AnyOf(any) => any.len(),
        Peers::AllOf(all) => all.iter().map(peers).sum(),
    }
}
