//! Policies by the labels they ask of the pods they select, so that explaining one flow looks at
//! few policies of a large cluster.

use std::sync::Arc;

use rpds::{HashTrieMapSync, HashTrieSetSync};

use super::{
    Namespaces, Policy, PolicyRef, given_label,
    requirement::{Labels, Operator},
    selector::Selector,
};

/// A requirement on more values than this is not indexed by each of them.
const INDEXED_VALUES_MAX: usize = 8;

/// Where a policy is filed: its namespace (none for cluster-scoped kinds), and one label that the
/// pod (of a cluster-scoped kind: the namespace) must carry to be selected, if it asks for any.
type Drawer = (Option<Arc<str>>, Option<(Arc<str>, Arc<str>)>);

/// All policies of a cluster. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PolicyIndex {
    by_reference: HashTrieMapSync<PolicyRef, Arc<Policy>>,
    drawers: HashTrieMapSync<Drawer, HashTrieSetSync<PolicyRef>>,
}

impl PolicyIndex {
    /// Adds or replaces a policy.
    pub fn insert(&mut self, policy: Arc<Policy>) {
        self.remove(&policy.reference);
        for drawer in drawers(&policy) {
            let content = self.drawers.get(&drawer).cloned().unwrap_or_default();
            self.drawers.insert_mut(drawer, content.insert(policy.reference.clone()));
        }
        self.by_reference.insert_mut(policy.reference.clone(), policy);
    }

    /// Removes a policy, if it is there.
    pub fn remove(&mut self, reference: &PolicyRef) {
        let Some(policy) = self.by_reference.get(reference).cloned() else { return };
        for drawer in drawers(&policy) {
            let content = self.drawers.get(&drawer).map(|content| content.remove(reference));
            match content {
                Some(content) if !content.is_empty() => self.drawers.insert_mut(drawer, content),
                _ => {
                    self.drawers.remove_mut(&drawer);
                }
            }
        }
        self.by_reference.remove_mut(reference);
    }

    /// A policy by name.
    pub fn get(&self, reference: &PolicyRef) -> Option<&Arc<Policy>> {
        self.by_reference.get(reference)
    }

    /// All policies, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.by_reference.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_reference.size()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_reference.is_empty()
    }

    /// The policies that may select pods of a namespace, whatever labels they have.
    pub fn of_namespace(&self, namespace: &str) -> Vec<Arc<Policy>> {
        let of = |policy: &&Arc<Policy>| {
            policy.reference.namespace.as_deref().is_none_or(|own| own == namespace)
        };
        self.iter().filter(of).cloned().collect()
    }

    /// The policies that may select a pod: all that do, and some that do not.
    ///
    /// `namespace_labels` is `None` where they are not known: then every cluster-scoped policy may.
    pub fn candidates(
        &self,
        namespace: &Arc<str>,
        pod_labels: &Labels,
        namespace_labels: Option<&Labels>,
    ) -> Vec<Arc<Policy>> {
        let own = Some(namespace.clone());
        let mut found: HashTrieSetSync<PolicyRef> = HashTrieSetSync::default();
        let mut open = |drawer: Drawer| {
            for reference in self.drawers.get(&drawer).into_iter().flatten() {
                found.insert_mut(reference.clone());
            }
        };
        open((own.clone(), None));
        for (key, value) in pod_labels {
            open((own.clone(), Some((key.clone(), value.clone()))));
        }
        open((None, None));
        for (key, value) in namespace_labels.into_iter().flatten() {
            open((None, Some((key.clone(), value.clone()))));
        }
        let mut candidates: Vec<_> =
            found.iter().filter_map(|reference| self.get(reference)).cloned().collect();
        if namespace_labels.is_none() {
            let cluster = self.iter().filter(|policy| policy.reference.namespace.is_none());
            candidates.extend(cluster.filter(|p| !found.contains(&p.reference)).cloned());
        }
        candidates
    }
}

fn drawers(policy: &Policy) -> Vec<Drawer> {
    let scope = policy.reference.namespace.clone();
    let selector = match &policy.subject.namespaces {
        Namespaces::Own(_) => &policy.subject.pods,
        Namespaces::Selected(selector) => selector,
    };
    match required_label(selector) {
        Some((key, values)) => {
            values.iter().map(|v| (scope.clone(), Some((key.clone(), v.clone())))).collect()
        }
        None => vec![(scope, None)],
    }
}

/// The label with the fewest possible values that a selector insists on.
fn required_label(selector: &Selector) -> Option<(&Arc<str>, &Vec<Arc<str>>)> {
    let required = selector.requirements().iter().filter_map(|r| match &r.operator {
        // No object carries the labels that Calico gives.
        _ if r.key.starts_with(given_label::PREFIX) => None,
        // With no value to have, as `in {}`, nothing is selected.
        Operator::In(values) if values.len() <= INDEXED_VALUES_MAX => Some((&r.key, values)),
        _ => None,
    });
    required.min_by_key(|(_, values)| values.len())
}
