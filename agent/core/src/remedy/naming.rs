//! What the policies of a remedy are called.

use std::sync::Arc;

use super::{Form, Manifest, in_calico, nodes, opening::Opening};
use crate::{
    cluster::{
        Snapshot,
        object::{Node, Workload},
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Diagnosis, Situation},
    flow::Direction,
    policy::{PolicyKind, PolicyRef},
};

/// The longest name that a label value or a DNS label may have.
const NAME_MAX: usize = 63;

/// The names of one remedy's policies, after the flow that it is for.
pub(super) struct Naming<'a> {
    snapshot: &'a Snapshot,
    diagnosis: &'a Diagnosis,
    /// The remedy is for more backends of a Service than one.
    of_service: bool,
    /// It opens both directions: two policies of it may be in one namespace.
    both: bool,
    ending: &'a str,
}

impl<'a> Naming<'a> {
    /// Of the flow that leads; `ending`: how all names end.
    pub(super) fn new(
        snapshot: &'a Snapshot,
        diagnosis: &'a Diagnosis,
        of_service: bool,
        ending: &'a str,
    ) -> Self {
        let both = diagnosis.verdict.denied_directions().count() > 1;
        Self { snapshot, diagnosis, of_service, both, ending }
    }

    /// `allow-pod-a-to-pod-b-8080`, or with a number behind it where that is taken: a remedy is a new
    /// policy, and never replaces one.
    pub(super) fn free(&self, opening: &Opening<'_>, form: Form, own: &[Manifest]) -> String {
        let base = self.base(opening.direction);
        let (kind, prefix) = match form {
            Form::Kubernetes => (PolicyKind::NetworkPolicy, String::new()),
            Form::Calico(group) => {
                (PolicyKind::CalicoNetworkPolicy, in_calico::name_prefix(opening, group))
            }
        };
        let direction = if self.both { format!("-{}", opening.direction) } else { String::new() };
        let ending = direction + self.ending;
        let name = |ending: &str| {
            let mut name: String = base.chars().take(NAME_MAX - ending.len()).collect();
            name.truncate(name.trim_end_matches(['-', '.']).len());
            prefix.clone() + &name + ending
        };
        let is_free = |name: &String| {
            let namespace = opening.pod.namespace.clone();
            let reference =
                PolicyRef { kind, namespace: Some(namespace), name: name.as_str().into() };
            let is_own = |manifest: &Manifest| {
                let metadata = manifest.metadata();
                metadata.name.as_ref() == Some(name)
                    && metadata.namespace.as_deref() == Some(&*opening.pod.namespace)
            };
            self.snapshot.policies().get(&reference).is_none() && !own.iter().any(is_own)
        };
        let first = name(&ending);
        let numbered = (2..).map(|number: u64| name(&format!("{ending}-{number}")));
        std::iter::once(first.clone()).chain(numbered).find(is_free).unwrap_or(first)
    }

    fn base(&self, direction: Direction) -> String {
        let question = &self.diagnosis.question;
        let source = match &question.source.holder {
            Holder::Node(node) => self.nodes(node, &question.source).to_owned(),
            _ => self.short(&question.source),
        };
        let destination = match &self.diagnosis.service {
            Some(dialled) if self.of_service => dialled.service.name.to_string(),
            _ => self.short(&question.destination),
        };
        match (direction, self.diagnosis.cause.situation) {
            (Direction::Egress, Some(Situation::Dns)) => format!("allow-{source}-dns"),
            (_, Some(Situation::Probe(_))) => {
                format!("allow-probes-{}-of-{destination}", question.port)
            }
            (_, Some(Situation::Dns)) => format!("allow-{source}-to-{destination}-dns"),
            (_, _) => {
                format!("allow-{source}-to-{destination}-{}", question.port)
            }
        }
    }

    /// An end, in a name.
    fn short(&self, end: &Endpoint) -> String {
        let is_api_server = |address| self.snapshot.is_api_server_address(address);
        match &end.holder {
            Holder::Pod(pod) => match &pod.workload {
                Some(workload) => lasting_name(workload).to_owned(),
                None => pod.name.to_string(),
            },
            Holder::Node(node) => node.name.to_string(),
            Holder::Outside if end.address.is_some_and(is_api_server) => "api-servers".to_owned(),
            _ => end.address.map_or_else(
                || "unknown".to_owned(),
                |address| address.to_string().replace([':', '.'], "-"),
            ),
        }
    }

    /// What the nodes are called that stand where this one connects.
    fn nodes(&self, node: &Arc<Node>, end: &Endpoint) -> &'static str {
        match nodes::clients(self.snapshot, node, end.address).which {
            nodes::Which::ControlPlane => "control-plane",
            nodes::Which::All => "nodes",
            nodes::Which::One => "node",
        }
    }
}

/// The workload's name; of a Job that a `CronJob` made, that one's, which is followed by the time in
/// minutes (`pkg/controller/cronjob/utils.go`).
fn lasting_name(workload: &Workload) -> &str {
    const MINUTES_DIGITS: usize = 8;
    let is_minutes =
        |text: &str| text.len() == MINUTES_DIGITS && text.bytes().all(|b| b.is_ascii_digit());
    match workload.name.rsplit_once('-') {
        Some((name, minutes)) if &*workload.kind == "Job" && is_minutes(minutes) => name,
        _ => &workload.name,
    }
}
