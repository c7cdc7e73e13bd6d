//! The remedy for the flows of an incident, proved against the cluster as it is now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::SignedDuration;

use super::{Between, CaseId, Past, Refusal, Unclear};
use crate::{
    cluster::{
        Snapshot,
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Case, Class, Diagnosis, Fate, diagnose},
    flow::Flow,
    kinds,
    policy::{DEFAULT_TIER, Policy, PolicyRef},
    remedy::{Manifest, remedy_named},
    verdict::{Decision, Question, Verdict},
};

/// How many policies one incident may take: one for each path and direction. One of more paths
/// wants a policy written by a person.
pub const POLICIES_MAX: usize = 4;

/// How many hex digits of the incident's name end the names of policies: enough to distinguish
/// incidents, as text lines do.
const ID_DIGITS: usize = 8;

/// What is to be put back, by what agents reported.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which incident, and between whom.
    pub case: CaseId,
    /// Its flows that were dropped lately and worked before, with what the agents know of that.
    pub flows: BTreeMap<Flow, Past>,
    /// For how long each must have worked.
    pub min_worked: SignedDuration,
}

impl Wanted {
    /// No flow of this.
    pub(super) const fn nothing(case: CaseId) -> Self {
        Self { case, flows: BTreeMap::new(), min_worked: SignedDuration::ZERO }
    }
}

/// What is to be applied.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// The policies: new ones, by names that no object has.
    pub manifests: Vec<Manifest>,
    /// Their names, in the same order.
    pub policies: Vec<PolicyRef>,
    /// What they do.
    pub summary: String,
    /// How many other pairs of ends they newly allow, at least.
    pub newly_allowed: usize,
    /// How many flows were denied, and pass with it.
    pub proved: usize,
    /// The namespaces of the pods at both ends of these flows.
    pub between: Between,
}

impl Proposal {
    /// The namespaces in which something is created.
    pub fn namespaces(&self) -> BTreeSet<Arc<str>> {
        self.policies.iter().filter_map(|policy| policy.namespace.clone()).collect()
    }

    /// The namespaces that have to agree: those in which something is created, and those of both
    /// ends. The side that is let in has to ask for it as much as the side that lets in.
    pub fn consenting(&self) -> BTreeSet<Arc<str>> {
        self.namespaces().union(&self.between.namespaces()).cloned().collect()
    }
}

/// Finds what lets these flows of an incident pass, and proves it with the evaluator of all else:
/// they are denied now, by policies of namespaces in the default tier and by no rule, between ends in
/// the cluster; they pass with it; and no rule that denies is got round by it. Their addresses are
/// those of pods of the two namespaces still, and that they worked before is the word of the agents on
/// the nodes of these pods: one of another node has not seen it.
///
/// # Errors
/// Why there is nothing that may be applied.
pub fn propose(snapshot: &Snapshot, wanted: &Wanted) -> Result<Proposal, Refusal> {
    let denied = denied(snapshot, wanted)?;
    let name = wanted.case.incident.to_string();
    let ending = format!("-{}", &name[..ID_DIGITS]);
    let mut with = snapshot.clone();
    let mut summaries = Vec::new();
    let mut proposal = Proposal {
        manifests: Vec::new(),
        policies: Vec::new(),
        summary: String::new(),
        newly_allowed: 0,
        proved: denied.len(),
        between: wanted.case.between.clone(),
    };
    for flow in &denied {
        let diagnosis = ask(&with, flow);
        if !is_denied(flow, &diagnosis)? {
            continue;
        }
        let Ok(remedy) = remedy_named(&with, std::slice::from_ref(&diagnosis), &ending) else {
            return Err(Refusal::Unclear(Unclear::Unproved(*flow)));
        };
        let lowered: Option<Vec<Policy>> = remedy.policies.iter().map(Manifest::lower).collect();
        let Some(lowered) = lowered.filter(|_| remedy.verified) else {
            return Err(Refusal::Unclear(Unclear::Unproved(*flow)));
        };
        for policy in lowered {
            proposal.policies.push(policy.reference.clone());
            with = with.with_policy(policy);
        }
        proposal.manifests.extend(remedy.policies);
        proposal.newly_allowed += remedy.newly_allowed;
        summaries.push(remedy.summary);
        if proposal.manifests.len() > POLICIES_MAX {
            return Err(Refusal::TooManyPolicies(POLICIES_MAX));
        }
    }
    for flow in wanted.flows.keys() {
        if is_denied(flow, &ask(&with, flow))? {
            return Err(Refusal::Unclear(Unclear::StillDenied(*flow)));
        }
    }
    if let Some(policy) = proposal.policies.iter().find(|policy| policy.namespace.is_none()) {
        return Err(Refusal::ClusterWide(policy.clone()));
    }
    proposal.summary = summaries.join("; ");
    Ok(proposal)
}

/// Those of these flows that policies deny, each of which may be helped.
fn denied(snapshot: &Snapshot, wanted: &Wanted) -> Result<Vec<Flow>, Refusal> {
    let mut denied = Vec::new();
    for (flow, past) in &wanted.flows {
        let diagnosis = ask(snapshot, flow);
        if is_denied(flow, &diagnosis)? {
            may_be_helped(&diagnosis.verdict)?;
            let Question { source, destination, .. } = &diagnosis.question;
            is_inside(&diagnosis.question)?;
            is_between(flow, [source, destination], &wanted.case.between)?;
            let nodes: Vec<&str> = [source, destination].into_iter().filter_map(node_of).collect();
            past.worked_before(*flow, wanted.min_worked, |node| nodes.contains(&node))?;
            denied.push(*flow);
        }
    }
    if denied.is_empty() { Err(Refusal::NotDenied) } else { Ok(denied) }
}

/// Whether the pods at these ends are of these namespaces.
fn is_between(flow: &Flow, ends: [&Endpoint; 2], between: &Between) -> Result<(), Refusal> {
    let [client, server] = ends.map(|end| end.pod().map(|pod| pod.namespace.clone()));
    match *between == (Between { client, server }) {
        true => Ok(()),
        false => Err(Refusal::Unclear(Unclear::OtherEnds(*flow))),
    }
}

/// The node of a pod, or that it is.
fn node_of(end: &Endpoint) -> Option<&str> {
    match &end.holder {
        Holder::Node(node) => Some(&node.name),
        _ => end.pod()?.node.as_deref(),
    }
}

fn ask(snapshot: &Snapshot, flow: &Flow) -> Diagnosis {
    diagnose(snapshot, &Case { flow: *flow, dialled: None, at: None, fate: Fate::Asked })
}

/// Whether policies deny the flow; an error where that is unknown.
fn is_denied(flow: &Flow, diagnosis: &Diagnosis) -> Result<bool, Refusal> {
    let Diagnosis { verdict, cause, .. } = diagnosis;
    let is_unknown = cause.class == Class::CannotTell || verdict.decision() == Decision::Unknown;
    if is_unknown {
        let why = verdict.unknowns().cloned().collect();
        return Err(Refusal::Unclear(Unclear::Verdict { flow: *flow, why }));
    }
    Ok(verdict.decision() == Decision::Denied && verdict.exempt.is_none())
}

/// Whether what denies it is what a namespace's own policies left out, and nothing that somebody
/// wrote down or that is not the namespace's.
fn may_be_helped(verdict: &Verdict) -> Result<(), Refusal> {
    for direction in verdict.denied_directions() {
        let verdict = verdict.direction(direction);
        if let Some(rule) = &verdict.denied_by {
            return Err(Refusal::ExplicitDeny(rule.policy.clone()));
        }
        for policy in verdict.responsible() {
            let reference = &policy.reference;
            is_of_namespace(reference)?;
            if policy.layer.tier() != Some(DEFAULT_TIER) {
                let tier = policy.layer.tier().unwrap_or("none").into();
                return Err(Refusal::OtherTier { policy: reference.clone(), tier });
            }
        }
    }
    Ok(())
}

/// Whether both ends are of this cluster.
fn is_inside(question: &Question) -> Result<(), Refusal> {
    let mut ends = [&question.source, &question.destination].into_iter();
    match ends.find(|end| matches!(end.holder, Holder::Outside)) {
        Some(end) => Err(Refusal::Outside(end.address_text().into())),
        None => Ok(()),
    }
}

/// Whether a policy is of a namespace, and of a kind that a remedy may be.
pub(super) fn is_of_namespace(policy: &PolicyRef) -> Result<(), Refusal> {
    if kinds::of_policy(policy.kind).is_remedy {
        return Ok(());
    }
    Err(match policy.namespace {
        Some(_) => Refusal::OtherKind(policy.clone()),
        None => Refusal::ClusterWide(policy.clone()),
    })
}
