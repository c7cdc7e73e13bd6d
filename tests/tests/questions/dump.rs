//! Clusters that are asked about.

use std::path::PathBuf;

use serde_json::Value;
use whydrop::cluster::manifests::Manifests;
use whydrop_core::{
    cluster::{Snapshot, object::Object, profile::Engine},
    flow::Protocol,
    verdict::Question,
};

/// A cluster, and what is asked about it.
pub(crate) struct Dump {
    /// Which case it is of.
    pub(crate) name: String,
    /// Files, as a person gives them.
    pub(crate) paths: Vec<PathBuf>,
    /// Objects, as they are written.
    pub(crate) objects: Vec<Value>,
    /// `--engine`.
    pub(crate) engine: Option<String>,
    /// Packets that are asked about.
    pub(crate) packets: Vec<Packet>,
}

/// A packet of which it is asked whether it passes.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) question: Question,
}

impl Packet {
    /// As `--port` has it.
    pub(crate) fn port(&self) -> String {
        format!("{}/{}", self.question.port, self.question.protocol)
    }

    pub(crate) const fn protocol(&self) -> Protocol {
        self.question.protocol
    }
}

impl Dump {
    /// The cluster with more objects.
    pub(crate) fn snapshot(&self, more: &[Value]) -> Snapshot {
        self.snapshot_of(&self.objects, more)
    }

    /// The cluster with other objects beside its files.
    pub(crate) fn snapshot_of(&self, objects: &[Value], more: &[Value]) -> Snapshot {
        let mut manifests = Manifests::read(&self.paths);
        for object in objects.iter().chain(more) {
            manifests.read_text(&self.name, &object.to_string());
        }
        let mut cluster = manifests.cluster();
        if let Some(engine) = &self.engine {
            cluster.give_engine(Engine::read(engine).expect("an engine"));
        }
        cluster.snapshot()
    }
}

/// The cluster with what is printed, read as manifests are.
pub(crate) fn with_text(before: &Snapshot, text: &str) -> Snapshot {
    let mut manifests = Manifests::default();
    manifests.read_text("the remedy", text);
    let Manifests { errors, remarks, unread, objects, .. } = manifests;
    assert!(errors.is_empty() && remarks.is_empty() && unread.is_empty(), "{errors:?}\n{text}");
    assert!(!objects.is_empty(), "no object:\n{text}");
    objects.into_iter().fold(before.clone(), |with, object| match object {
        Object::Policy(policy) => {
            let is_there = with.policies().get(&policy.reference).is_some();
            assert!(!is_there, "it replaces {}:\n{text}", policy.reference);
            with.with_policy(policy)
        }
        other => panic!("{:?} is no policy:\n{text}", other.key()),
    })
}
