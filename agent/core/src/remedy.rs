//! The smallest additive rule that lets a denied flow pass, proved by judging the flow with it.
//!
//! Never the deletion of a policy, and never a rule against an explicit deny: that is its owner's.
//!
//! A remedy is for every packet that the question stands for: all backends of a Service, the other
//! pods of the same workloads, and the other nodes where a node is the client. It is verified against
//! each of them.

pub mod choices;
mod dns;
pub mod gain;
mod in_calico;
mod in_kubernetes;
mod intended;
mod labels;
pub mod mark;
mod merge;
mod naming;
mod no_remedy;
mod nodes;
mod opening;
mod packets;
pub mod patch;
mod selection;
mod summary;

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use gain::{Gain, GainedPath, WhatIf};
use k8s_openapi::{
    Resource as _, api::networking::v1::NetworkPolicy,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use crate::{
    cluster::{
        Snapshot,
        object::Pod,
        profile::{Blocks, EngineName},
        resolve::{Endpoint, Holder},
    },
    diagnosis::Diagnosis,
    flow::{Direction, Protocol},
    policy::{
        Layer, Policy, PolicyKind,
        calico::{self, Group, wire::CalicoPolicy},
        network_policy,
    },
    verdict::{
        Decision, DirectionVerdict, Question, Verdict, evaluate, rules_of, selects::selects,
    },
};
use naming::Naming;
pub use no_remedy::NoRemedy;
use opening::Opening;
use packets::Packets;
use summary::Known;

/// How many pairs of pods are judged to find what else a remedy allows; beyond it the number is
/// a lower bound. At some microseconds each this stays within milliseconds.
const PAIRS_MAX: usize = 2_000;

/// What to apply.
#[derive(Clone, Debug)]
pub struct Remedy {
    /// One policy for each direction that denies, and for each of the selectors that it takes.
    pub policies: Vec<Manifest>,
    /// What it is for: `allow frontend/pod-a to reach backend/pod-b on 8080/TCP`.
    pub purpose: String,
    /// What it does, in a sentence.
    pub summary: String,
    /// Every packet that the question stands for passes with it, by the same evaluator, and nothing
    /// that passed is denied by it.
    pub verified: bool,
    /// How many other pairs of ends it newly allows, at least.
    pub newly_allowed: usize,
    /// Between whom these are: the paths with most pairs.
    pub newly_allowed_paths: Vec<GainedPath>,
    /// Kube-proxy refuses the flow whatever policies say: it is for when that sends it on, and is tried
    /// with what is behind the Service, as if it were ready.
    pub is_for_later: bool,
}

impl Remedy {
    /// The same of a flow that kube-proxy refuses by itself.
    #[must_use]
    pub(crate) fn for_later(self) -> Self {
        let summary = format!("once kube-proxy sends it, {}", self.summary);
        Self { summary, is_for_later: true, ..self }
    }

    /// The cluster with it.
    pub fn applied(&self, snapshot: &Snapshot) -> Snapshot {
        let policies = self.policies.iter().filter_map(Manifest::lower);
        policies.fold(snapshot.clone(), |with, policy| with.with_policy(policy))
    }
}

/// A policy to apply.
#[derive(Clone, Debug)]
pub enum Manifest {
    /// `networking.k8s.io/v1` `NetworkPolicy`.
    Kubernetes(NetworkPolicy),
    /// Calico's `NetworkPolicy`, in this group.
    Calico(CalicoPolicy, Group),
}

impl Manifest {
    /// Its kind.
    pub const fn kind(&self) -> PolicyKind {
        match self {
            Self::Kubernetes(_) => PolicyKind::NetworkPolicy,
            Self::Calico(..) => PolicyKind::CalicoNetworkPolicy,
        }
    }

    /// The group and version that it is written in.
    pub const fn api_version(&self) -> &'static str {
        match self {
            Self::Kubernetes(_) => NetworkPolicy::API_VERSION,
            Self::Calico(_, group) => group.api_version(),
        }
    }

    /// Its name, and what else it carries.
    pub const fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Kubernetes(policy) => &policy.metadata,
            Self::Calico(policy, _) => &policy.metadata,
        }
    }

    /// The policy that it is, if it is one.
    pub fn lower(&self) -> Option<Policy> {
        match self {
            Self::Kubernetes(policy) => network_policy::lower(policy).ok(),
            Self::Calico(policy, group) => {
                calico::lower(policy, PolicyKind::CalicoNetworkPolicy, *group).ok()
            }
        }
    }
}

/// The kind of policy that a remedy is written as.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Kubernetes,
    Calico(Group),
}

/// Finds the remedy for a denied flow; `None` where there is no additive rule to give, or where it
/// cannot be proved.
///
/// Where kube-proxy refuses it, what policies deny of the packets that would come of it.
pub fn remedy(snapshot: &Snapshot, diagnosis: &Diagnosis) -> Option<Remedy> {
    let Some(kube_proxy) = &diagnosis.cause.kube_proxy else {
        return remedy_for_all(snapshot, std::slice::from_ref(diagnosis)).ok();
    };
    let remedy = match diagnosis.cause.by_kube_proxy() {
        Some(kube_proxy) => remedy_for_all(snapshot, &kube_proxy.packets(snapshot)),
        None => remedy_for_all(snapshot, std::slice::from_ref(diagnosis)),
    };
    remedy.ok().map(|remedy| if kube_proxy.is_over { remedy } else { remedy.for_later() })
}

/// Finds the remedy for all packets of one question: several backends, both families, several
/// clients. Every one of them passes with it, those that passed before included.
///
/// # Errors
/// Why one of them cannot be made to.
pub fn remedy_for_all(snapshot: &Snapshot, diagnoses: &[Diagnosis]) -> Result<Remedy, NoRemedy> {
    remedy_named(snapshot, diagnoses, "")
}

/// The same, of policies whose names end like this.
pub(crate) fn remedy_named(
    snapshot: &Snapshot,
    diagnoses: &[Diagnosis],
    ending: &str,
) -> Result<Remedy, NoRemedy> {
    let Some(lead) = diagnoses.iter().find(|diagnosis| diagnosis.cause.class.is_denial()) else {
        let of_verdict = |diagnosis: &Diagnosis| NoRemedy::of_verdict(&diagnosis.verdict);
        return Err(diagnoses.iter().find_map(of_verdict).unwrap_or(NoRemedy::NotDenied));
    };
    let packets = Packets::of(snapshot, diagnoses)?;
    let draft = |form: &dyn Fn(&DirectionVerdict) -> Option<Form>| {
        let of_service = packets.backends > 1;
        let naming = Naming::new(snapshot, lead, of_service, ending);
        Draft { snapshot, lead, packets: &packets, naming }.remedy(form)
    };
    let served = snapshot.calico_group();
    draft(&|verdict: &DirectionVerdict| form(verdict, served)).or_else(|why| {
        // A policy of Kubernetes comes before Calico's of a higher order, whose denials stand.
        let is_calico = snapshot.engine().name == EngineName::Calico;
        let as_calico = |_: &DirectionVerdict| Some(Form::Calico(served.unwrap_or(Group::Stored)));
        if is_calico { draft(&as_calico).map_err(|_| why) } else { Err(why) }
    })
}

/// The kind of the policies responsible: Calico's, if any of them is, in the group that users write if it is
/// known which is served, and else in that of the policy.
fn form(verdict: &DirectionVerdict, served: Option<Group>) -> Option<Form> {
    if verdict.layer == Some(Layer::NetworkPolicy) {
        return Some(Form::Kubernetes);
    }
    let responsible = verdict.responsible();
    let is_calico = |policy: &&Arc<Policy>| matches!(policy.layer, Layer::Tier(_));
    let calico = responsible.iter().find(is_calico)?;
    served.or_else(|| Group::of(&calico.api_version)).map(Form::Calico)
}

/// A remedy that is being found.
struct Draft<'a> {
    snapshot: &'a Snapshot,
    /// The packet that leads: the first that is denied.
    lead: &'a Diagnosis,
    packets: &'a Packets,
    naming: Naming<'a>,
}

impl Draft<'_> {
    fn remedy(&self, form: &dyn Fn(&DirectionVerdict) -> Option<Form>) -> Result<Remedy, NoRemedy> {
        let Self { snapshot, lead, packets, .. } = self;
        let mut opened = Opened { with: Snapshot::clone(snapshot), ..Opened::default() };
        for question in packets.required() {
            opened = self.open(&opened, question, form)?;
        }
        for question in packets.more() {
            opened = self.open(&opened, question, form).unwrap_or(opened);
        }
        let Opened { manifests, mut wide, with } = opened;
        let policies: Vec<Policy> = manifests.iter().filter_map(Manifest::lower).collect();
        let passes = |question: &Question| evaluate(&with, question).decision().lets_pass();
        if policies.is_empty() {
            return Err(NoRemedy::NotDenied);
        }
        if !packets.required().all(passes) {
            return Err(NoRemedy::Unproved);
        }
        if !isolates_nobody(snapshot, &with, &policies) {
            return Err(NoRemedy::Isolates);
        }
        let ports = ports(snapshot, lead);
        let gain = newly_allowed(snapshot, &with, packets, &policies, &ports);
        let gain = gain.ok_or(NoRemedy::Overrules)?;
        wide.sort();
        wide.dedup();
        let known = Known { packets, policies: &policies, wide: &wide, is_cut: gain.is_cut };
        Ok(Remedy {
            purpose: summary::purpose(snapshot, lead, packets),
            summary: summary::summary(snapshot, lead, &known),
            newly_allowed: gain.pairs,
            newly_allowed_paths: gain.paths,
            policies: manifests,
            verified: true,
            is_for_later: false,
        })
    }

    /// What is opened already, and what it takes that this packet passes as well; the error: no rule
    /// can be written for it, or it does not pass by it.
    fn open(
        &self,
        before: &Opened,
        question: &Question,
        form: &dyn Fn(&DirectionVerdict) -> Option<Form>,
    ) -> Result<Opened, NoRemedy> {
        let now = evaluate(&before.with, question);
        if now.decision().lets_pass() {
            return Ok(before.clone());
        }
        let verdict = evaluate(self.snapshot, question);
        let mut opened = before.clone();
        for direction in now.denied_directions() {
            let situation = self.lead.cause.situation;
            let opening = Opening::of(self.snapshot, question, &verdict, direction, situation)?;
            opened.wide.extend(opening.namespaces_named().cloned());
            let form = form(verdict.direction(direction)).ok_or(NoRemedy::Unproved)?;
            let name = self.naming.free(&opening, form, &opened.manifests);
            let manifest = match form {
                Form::Kubernetes => Manifest::Kubernetes(in_kubernetes::policy(&opening, name)),
                Form::Calico(group) => Manifest::Calico(in_calico::policy(&opening, name), group),
            };
            merge::add(&mut opened.manifests, manifest);
        }
        opened.with = self.snapshot.clone();
        for manifest in &opened.manifests {
            let policy = manifest.lower().ok_or(NoRemedy::Unproved)?;
            opened.with = opened.with.with_policy(policy);
        }
        let after = evaluate(&opened.with, question);
        match after.decision().lets_pass() {
            true => Ok(opened),
            false => Err(self.why_not(question, &after)),
        }
    }

    /// Why a packet does not pass with the rule that is for it.
    fn why_not(&self, question: &Question, after: &Verdict) -> NoRemedy {
        if let (Decision::Unknown, Some(why)) = (after.decision(), after.unknowns().next()) {
            return NoRemedy::Unknown(why.clone());
        }
        let engine = self.snapshot.engine();
        let is_blind = engine.profile().blocks == Blocks::OutsideOnly;
        let mut others = after.denied_directions().map(|direction| match direction {
            Direction::Egress => &question.destination,
            Direction::Ingress => &question.source,
        });
        let node = others.find(|end| matches!(end.holder, Holder::Node(_)));
        match node.filter(|_| is_blind) {
            Some(node) => {
                NoRemedy::NotMatched { end: node.to_string(), engine: engine.to_string() }
            }
            None => NoRemedy::Unproved,
        }
    }
}

/// The ports that a remedy for this flow may open: on these it is looked for what else passes.
fn ports(snapshot: &Snapshot, lead: &Diagnosis) -> Vec<(u16, Protocol)> {
    let mut ports = opening::ports(snapshot, &lead.question, lead.cause.situation);
    let carried = lead.carried(snapshot).map(|carried| (carried.port, carried.protocol));
    ports.extend(carried.filter(|port| !ports.contains(port)));
    ports
}

/// What is opened so far.
#[derive(Clone, Default)]
struct Opened {
    manifests: Vec<Manifest>,
    /// The namespaces of which a rule names all pods.
    wide: Vec<Arc<str>>,
    /// The cluster with it.
    with: Snapshot,
}

/// A new policy isolates the pods that it selects: none may be among them that was not before.
fn isolates_nobody(before: &Snapshot, after: &Snapshot, policies: &[Policy]) -> bool {
    for policy in policies {
        let own =
            |pod: &&Arc<Pod>| !pod.host_network && selects(after, &policy.subject, pod).is_match();
        for pod in before.pods_and_templates().filter(own) {
            let labels = before.namespace(&pod.namespace).map(|namespace| &namespace.labels);
            let isolated = [Direction::Egress, Direction::Ingress].into_iter().all(|direction| {
                policy.rules(direction).is_none()
                    || before.policies().candidates(&pod.namespace, &pod.labels, labels).iter().any(
                        |other| {
                            other.layer.tier() == policy.layer.tier()
                                && !other.reference.kind.is_staged()
                                && rules_of(before, other, direction).is_some()
                                && selects(before, &other.subject, pod).is_match()
                        },
                    )
            });
            if !isolated {
                return false;
            }
        }
    }
    true
}

/// What else passes with the remedy that did not before; `None`: some of it is denied by a rule, which
/// no remedy may get round.
fn newly_allowed(
    before: &Snapshot,
    after: &Snapshot,
    packets: &Packets,
    policies: &[Policy],
    ports: &[(u16, Protocol)],
) -> Option<Gain> {
    let asked: Vec<&Question> = packets.asked().collect();
    let candidates = |direction: Direction, of: &dyn Fn(&Question) -> &Endpoint| {
        // On the governed side the pods that the policies select; on the other, or where that side
        // was not denied, the ends that their peers can match.
        let own: Vec<_> = policies.iter().filter(|p| p.rules(direction).is_some()).collect();
        let is_selected = |pod: &Pod| match own.as_slice() {
            [] => asked.iter().any(|question| of(question).pod().is_some()),
            own => own.iter().any(|p| selects(before, &p.subject, pod).is_match()),
        };
        let named = asked.iter().copied().chain(packets.more()).map(|q| of(q).clone());
        let pods = before.pods().filter(|pod| !pod.host_network && is_selected(pod));
        let ends = pods.flat_map(|pod| {
            let at = |address: &IpAddr| Endpoint {
                address: Some(*address),
                holder: Holder::Pod(pod.clone()),
            };
            pod.addresses.iter().map(at).collect::<Vec<_>>()
        });
        let mut known = HashSet::new();
        let new = |end: &Endpoint| known.insert((end.address, end.to_string()));
        named.chain(ends).filter(new).take(PAIRS_MAX).collect::<Vec<_>>()
    };
    let sources = candidates(Direction::Egress, &|question| &question.source);
    let destinations = candidates(Direction::Ingress, &|question| &question.destination);
    let gain = WhatIf { before, after }.gain(&asked, (&sources, &destinations), ports, PAIRS_MAX);
    (!gain.overrules_a_rule).then_some(gain)
}
