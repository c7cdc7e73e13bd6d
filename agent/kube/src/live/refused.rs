//! What a user may not read, in one line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What was asked for and refused, of a cluster that was read with somebody's rights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Resources that are in no namespace.
    cluster: BTreeSet<&'static str>,
    /// By namespace, what was asked for in it, and what of that was refused.
    namespaces: BTreeMap<String, Of>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Of {
    /// The namespace itself.
    is_hidden: bool,
    asked: BTreeSet<&'static str>,
    refused: BTreeSet<&'static str>,
}

impl Refused {
    /// A resource was asked for, in a namespace or of the cluster.
    pub(super) fn asked(&mut self, namespace: Option<&str>, resource: &'static str) {
        if let Some(namespace) = namespace {
            self.of(namespace).asked.insert(resource);
        }
    }

    /// A resource may not be read.
    pub(super) fn refuse(&mut self, namespace: Option<&str>, resource: &'static str) {
        match namespace {
            Some(namespace) => self.of(namespace).refused.insert(resource),
            None => self.cluster.insert(resource),
        };
    }

    /// A namespace itself may not be read.
    pub(super) fn hide(&mut self, namespace: &str) {
        self.of(namespace).is_hidden = true;
    }

    /// Whether nothing was refused.
    pub fn is_empty(&self) -> bool {
        let nothing = |of: &Of| !of.is_hidden && of.refused.is_empty();
        self.cluster.is_empty() && self.namespaces.values().all(nothing)
    }

    fn of(&mut self, namespace: &str) -> &mut Of {
        self.namespaces.entry(namespace.to_owned()).or_default()
    }
}

impl fmt::Display for Refused {
    /// `namespaces; everything in backend; services in shop`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        let hidden: Vec<_> = self.namespaces.iter().filter(|(_, of)| of.is_hidden).collect();
        match hidden.as_slice() {
            [] => {}
            all if all.len() == self.namespaces.len() => parts.push("namespaces".to_owned()),
            some => parts.extend(some.iter().map(|(name, _)| format!("namespace {name}"))),
        }
        parts.extend(self.cluster.iter().map(ToString::to_string));
        for (name, Of { asked, refused, .. }) in &self.namespaces {
            if refused.is_empty() {
                continue;
            }
            let what = match asked == refused {
                true => "everything".to_owned(),
                false => refused.iter().copied().collect::<Vec<_>>().join(", "),
            };
            parts.push(format!("{what} in {name}"));
        }
        f.write_str(&parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_one_line() {
        let mut refused = Refused::default();
        assert!(refused.is_empty());
        for resource in ["pods", "services"] {
            refused.asked(Some("backend"), resource);
            refused.asked(Some("shop"), resource);
            refused.refuse(Some("backend"), resource);
        }
        refused.hide("backend");
        assert_eq!(refused.to_string(), "namespace backend; everything in backend");
        refused.hide("shop");
        refused.refuse(None, "nodes");
        refused.refuse(Some("shop"), "services");
        assert!(!refused.is_empty());
        let line = "namespaces; nodes; everything in backend; services in shop";
        assert_eq!(refused.to_string(), line);
    }
}
