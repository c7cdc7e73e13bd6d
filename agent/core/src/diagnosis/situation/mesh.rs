//! Istio's ambient mesh: what its ztunnel sends between pods, and what it makes of probes.
//!
//! <https://istio.io/latest/docs/ambient/usage/networkpolicy/>

use super::{HBONE, MESH_PROBE, Scene, Trap, Tunnel, of_purpose};
use crate::{
    cluster::{Snapshot, known_address::Purpose, object::Pod, resolve::Holder},
    diagnosis::Situation,
    flow::Protocol,
    verdict::{Decision, Question},
};

/// The label of namespaces and pods that are in the mesh.
const MODE: &str = "istio.io/dataplane-mode";

/// Whether a pod is in the mesh. Its own label has precedence over its namespace's.
fn is_in_mesh(snapshot: &Snapshot, pod: &Pod) -> bool {
    let of_namespace = || snapshot.namespace(&pod.namespace)?.labels.get(MODE);
    let mode = pod.labels.get(MODE).or_else(of_namespace);
    !pod.host_network && mode.is_some_and(|mode| &**mode == "ambient")
}

/// Between two pods of the mesh: their packets go to another port than the one that the application
/// dials, if its protocol is TCP.
pub(super) fn tunnel(scene: &Scene<'_>) -> Option<Trap> {
    let Scene { snapshot, question, .. } = scene;
    let (source, destination) = (question.source.pod()?, question.destination.pod()?);
    let is_same = (&source.namespace, &source.name) == (&destination.namespace, &destination.name);
    let is_mesh = is_in_mesh(snapshot, source) && is_in_mesh(snapshot, destination);
    if question.protocol != Protocol::Tcp || is_same || !is_mesh {
        return None;
    }
    let decision = scene.verdict.decision();
    if question.port == HBONE {
        return (decision == Decision::Denied).then_some(Trap::Mesh(Tunnel::Denied));
    }
    if !scene.is_asked {
        // It went past the mesh.
        return None;
    }
    let beside = scene.with(|question| question.port = HBONE);
    let is_open = |decision| matches!(decision, Decision::Allowed | Decision::NotIsolated);
    match (decision, beside) {
        (Decision::Denied, Decision::Denied) => Some(Trap::Mesh(Tunnel::BothDenied)),
        (Decision::Denied, beside) if is_open(beside) => Some(Trap::Mesh(Tunnel::AllowedBeside)),
        (decision, Decision::Denied) if is_open(decision) => Some(Trap::Mesh(Tunnel::DeniedBeside)),
        _ => None,
    }
}

/// The packet that the mesh sends instead of one in this situation; `None`: it is the one, or no mesh takes
/// part.
pub(in crate::diagnosis) fn carried(
    snapshot: &Snapshot,
    situation: Situation,
    question: &Question,
) -> Option<Question> {
    let mut carried = question.clone();
    match situation {
        Situation::Mesh => carried.port = HBONE,
        Situation::MeshProbe if matches!(question.source.holder, Holder::Node(_)) => {
            carried.source = snapshot.resolve(MESH_PROBE, None);
        }
        _ => return None,
    }
    (carried != *question).then_some(carried)
}

/// The kubelet's probe of a pod of the mesh, from the address that it arrives with, or, asked from the
/// node, if what arrives is denied.
pub(super) fn probe(scene: &Scene<'_>) -> Option<Trap> {
    let Scene { snapshot, question, .. } = scene;
    let pod = question.destination.pod()?;
    let probe = pod.probes.iter().find(|probe| probe.port == question.port)?.probe;
    if question.protocol != Protocol::Tcp || !is_in_mesh(snapshot, pod) {
        return None;
    }
    let is_own_node = match &question.source.holder {
        Holder::Node(node) => pod.node.as_ref() == Some(&node.name),
        _ => false,
    };
    let (source, decision) = match of_purpose(&question.source, Purpose::MeshProbe) {
        Some(source) => (source, scene.verdict.decision()),
        None if is_own_node && scene.is_asked => {
            let rewritten = snapshot.resolve(MESH_PROBE, None);
            (MESH_PROBE, scene.with(|question| question.source = rewritten))
        }
        None => return None,
    };
    (decision == Decision::Denied).then_some(Trap::MeshProbe(probe, source))
}
