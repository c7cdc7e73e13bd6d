//! Calico's policies: `NetworkPolicy`, `GlobalNetworkPolicy` and their staged forms, of
//! `projectcalico.org/v3` and of `crd.projectcalico.org/v1`, the form in which they are stored.
//!
//! Semantics: <https://docs.tigera.io/calico/latest/reference/resources/networkpolicy>; where that is
//! silent, Calico 3.28: `libcalico-go/lib/backend/syncersv1/updateprocessors` (conversion),
//! `libcalico-go/lib/validator/v3` (validation).
//!
//! Not decided from the first packet of a connection, and named where it matters: HTTP matches and
//! source ports. `applyOnForward` changes nothing for pods, and host endpoints are no pods: a node is
//! not policed here.

mod entity;
mod port;
mod set;
pub mod wire;

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{
    Accounts, Action, DEFAULT_TIER, Layer, Namespaces, Peer, Peers, PodPeer, Policy, PolicyKind,
    Rule,
    metadata::{Header, Rules},
    network_policy,
    order::Order,
    selector::Selector,
};
use crate::{
    flow::Direction,
    problem::{FieldPath, Problem},
};
use entity::{Family, entity};
pub use set::{network_set, tier};
use wire::{CalicoPolicy, Spec, StagedKubernetesPolicy, WireRule};

/// The API group that an object is written in: they differ in what an absent field means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// `projectcalico.org/v3`: validated and defaulted by Calico's API server, or `calicoctl`.
    Api,
    /// `crd.projectcalico.org/v1`: as stored. Nobody defaults what is written there.
    Stored,
}

impl Group {
    /// The group with this version, if it is one of Calico's that can be read.
    pub fn of(api_version: &str) -> Option<Self> {
        [Self::Api, Self::Stored].into_iter().find(|group| group.api_version() == api_version)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Api => "projectcalico.org",
            Self::Stored => "crd.projectcalico.org",
        }
    }

    /// The group and version.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Api => "projectcalico.org/v3",
            Self::Stored => "crd.projectcalico.org/v1",
        }
    }
}

/// The annotation in which what Calico stores keeps the metadata of the object that a user wrote.
const METADATA: &str = "projectcalico.org/metadata";

/// The name of a policy, as users wrote it and `kubectl get` finds it in `projectcalico.org/v3`.
///
/// Until Calico 3.32 a policy was stored with its tier before its name (`default.web`), whatever users
/// had called it; from 3.30 on the stored object says what that was (`libcalico-go`,
/// `lib/backend/k8s/resources`). Without that, the stored name is the only one there is.
pub fn name_of(metadata: &ObjectMeta) -> Option<Arc<str>> {
    let written = metadata.annotations.as_ref().and_then(|all| all.get(METADATA));
    let written: Option<serde_json::Value> =
        written.and_then(|written| serde_json::from_str(written).ok());
    let name = written.as_ref().and_then(|metadata| metadata["name"].as_str());
    let name = name.or(metadata.name.as_deref()).filter(|name| !name.is_empty());
    name.map(Into::into)
}

/// Lowers a policy of one of Calico's own kinds, staged or not.
///
/// # Errors
/// The first field that Calico would refuse, or could not use.
pub fn lower(policy: &CalicoPolicy, kind: PolicyKind, group: Group) -> Result<Policy, Problem> {
    let stored = policy.metadata.name.clone();
    let name = name_of(&policy.metadata).map(|name| name.to_string());
    let metadata = &ObjectMeta { name, ..policy.metadata.clone() };
    let is_global =
        matches!(kind, PolicyKind::GlobalNetworkPolicy | PolicyKind::StagedGlobalNetworkPolicy);
    let header = match is_global {
        true => Header::cluster_wide(metadata, kind, group.api_version())?,
        false => Header::namespaced(metadata, kind, group.api_version())?,
    };
    let path = FieldPath::root("spec");
    let spec = &policy.spec;
    refuse_fields_of_others(spec, kind, is_global, &path)?;
    let (governs_ingress, governs_egress) = governed(spec, group, &path)?;
    // Policies before DNAT and without tracking are for host endpoints; a staged deletion adds nothing.
    let is_for_pods = spec.pre_dnat != Some(true)
        && spec.do_not_track != Some(true)
        && is_to_be_set(spec.staged_action.as_deref(), &path)?;
    let scope = header.namespace();
    // Both directions are read even where one is not governed: a mistake in it is a mistake.
    let ingress =
        rules(spec.ingress.as_deref(), Direction::Ingress, scope, &path.field("ingress"))?;
    let egress = rules(spec.egress.as_deref(), Direction::Egress, scope, &path.field("egress"))?;
    let tier = spec.tier.as_deref().filter(|tier| !tier.is_empty()).unwrap_or(DEFAULT_TIER);
    let subject = subject(spec, scope, &path)?;
    let order = Order::of_calico(spec.order.as_ref().and_then(serde_json::Number::as_f64));
    let rules = Rules {
        ingress: (governs_ingress && is_for_pods).then_some(ingress),
        egress: (governs_egress && is_for_pods).then_some(egress),
    };
    let lowered = header.policy((Layer::Tier(tier.into()), order), subject, rules);
    let stored_as = stored.filter(|stored| **stored != *lowered.reference.name);
    Ok(Policy { stored_as: stored_as.map(Into::into), ..lowered })
}

/// Lowers a `StagedKubernetesNetworkPolicy`.
///
/// # Errors
/// The first field that the API server would refuse in the policy that it would become.
pub fn lower_staged_kubernetes(
    policy: &StagedKubernetesPolicy,
    group: Group,
) -> Result<Policy, Problem> {
    let path = FieldPath::root("spec");
    let is_set = is_to_be_set(policy.spec.staged_action.as_deref(), &path)?;
    let mut lowered = network_policy::lower(&policy.unstaged())?;
    lowered.reference.kind = PolicyKind::StagedKubernetesNetworkPolicy;
    lowered.api_version = group.api_version().into();
    lowered.ingress = lowered.ingress.filter(|_| is_set);
    lowered.egress = lowered.egress.filter(|_| is_set);
    lowered.undeclared = None;
    Ok(lowered)
}

/// Whether a staged policy says what shall be, and not what shall go or be passed over.
fn is_to_be_set(staged_action: Option<&str>, path: &FieldPath) -> Result<bool, Problem> {
    match staged_action {
        None | Some("" | "Set") => Ok(true),
        Some("Delete" | "Learn" | "Ignore") => Ok(false),
        Some(other) => Err(path
            .field("stagedAction")
            .expected("Set, Delete, Learn or Ignore", format!("{other:?}"))),
    }
}

/// Fields that are only those of policies of the cluster as a whole, or of staged ones.
fn refuse_fields_of_others(
    spec: &Spec,
    kind: PolicyKind,
    is_global: bool,
    path: &FieldPath,
) -> Result<(), Problem> {
    let of_global = [
        ("namespaceSelector", spec.namespace_selector.is_some()),
        ("preDNAT", spec.pre_dnat.is_some()),
        ("doNotTrack", spec.do_not_track.is_some()),
        ("applyOnForward", spec.apply_on_forward.is_some()),
    ];
    let of_global = of_global.into_iter().filter(|_| !is_global);
    let of_staged = [("stagedAction", spec.staged_action.is_some())];
    let of_staged = of_staged.into_iter().filter(|_| !kind.is_staged());
    match of_global.chain(of_staged).find(|(_, is_given)| *is_given) {
        Some((name, _)) => {
            Err(path.field(name).expected("a field of this kind", "one of another kind"))
        }
        None => Ok(()),
    }
}

/// Which directions the policy governs: ingress, egress.
///
/// "When types is omitted or empty, it defaults to one of `[Ingress]`, `[Egress]` or `[Ingress,
/// Egress]`, by the rules that are present", and to Ingress without any. As stored, the default has
/// not been filled in, and Felix takes its absence for both ("back-compatibility").
fn governed(spec: &Spec, group: Group, path: &FieldPath) -> Result<(bool, bool), Problem> {
    let types = spec.types.as_deref().unwrap_or_default();
    if types.is_empty() {
        let has_rules =
            |rules: &Option<Vec<WireRule>>| rules.as_ref().is_some_and(|r| !r.is_empty());
        let (ingress, egress) = (has_rules(&spec.ingress), has_rules(&spec.egress));
        return Ok(match group {
            Group::Api => (ingress || !egress, egress),
            Group::Stored => (true, true),
        });
    }
    let (mut ingress, mut egress) = (false, false);
    for (index, policy_type) in types.iter().enumerate() {
        // Case is what Felix does not look at, here and in actions and protocols.
        match policy_type.to_ascii_lowercase().as_str() {
            "ingress" => ingress = true,
            "egress" => egress = true,
            _ => {
                let path = path.field("types").index(index);
                return Err(path.expected("Ingress or Egress", format!("{policy_type:?}")));
            }
        }
    }
    Ok((ingress, egress))
}

fn subject(
    spec: &Spec,
    namespace: Option<&Arc<str>>,
    path: &FieldPath,
) -> Result<PodPeer, Problem> {
    let accounts = given(spec.service_account_selector.as_deref())
        .map(|text| label_selector(Some(text), &path.field("serviceAccountSelector")))
        .transpose()?;
    Ok(PodPeer {
        namespaces: match (namespace, given(spec.namespace_selector.as_deref())) {
            (Some(own), _) => Namespaces::Own(own.clone()),
            (None, Some(text)) => {
                Namespaces::Selected(Selector::read(text, &path.field("namespaceSelector"))?)
            }
            (None, None) => Namespaces::Selected(Selector::EVERYTHING),
        },
        pods: label_selector(spec.selector.as_deref(), &path.field("selector"))?,
        accounts: accounts.map(|selector| Accounts { names: Vec::new(), selector }),
    })
}

/// A text that says something: Calico takes an empty one for none.
fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

/// A selector of labels; absent, or `all()`, it selects everything.
fn label_selector(text: Option<&str>, path: &FieldPath) -> Result<Selector, Problem> {
    let selector = Selector::read(text.unwrap_or_default(), path)?;
    let is_all = selector.expression() == Some(&super::expression::Expression::All);
    Ok(if is_all { Selector::EVERYTHING } else { selector })
}

fn rules(
    rules: Option<&[WireRule]>,
    direction: Direction,
    namespace: Option<&Arc<str>>,
    path: &FieldPath,
) -> Result<Vec<Rule>, Problem> {
    let rules = rules.unwrap_or_default().iter().enumerate();
    rules.map(|(index, r)| rule(r, direction, namespace, &path.index(index))).collect()
}

fn rule(
    rule: &WireRule,
    direction: Direction,
    namespace: Option<&Arc<str>>,
    path: &FieldPath,
) -> Result<Rule, Problem> {
    let action = action(rule.action.as_deref(), &path.field("action"))?;
    let family = match rule.ip_version {
        None => Family::Any,
        Some(4) => Family::V4,
        Some(6) => Family::V6,
        Some(other) => return Err(path.field("ipVersion").expected("4 or 6", other.to_string())),
    };
    let destination = rule.destination.clone().unwrap_or_default();
    let mut source =
        entity(&rule.source.clone().unwrap_or_default(), namespace, family, &path.field("source"))?;
    if rule.source.as_ref().is_some_and(wire::WireEntity::names_ports) {
        source = both(source, undecidable("source ports"));
    }
    if rule.http.is_some() {
        source = both(source, undecidable("an HTTP match"));
    }
    let (ports, except_ports, is_about_icmp) = port::ports(rule, &destination, path)?;
    if rule.not_icmp.is_some() && !is_about_icmp {
        source = both(source, undecidable("an ICMP match"));
    }
    let destination = entity(&destination, namespace, family, &path.field("destination"))?;
    let (own, peers) = match direction {
        Direction::Ingress => (destination, source),
        Direction::Egress => (source, destination),
    };
    Ok(Rule { name: None, action, own, peers, ports, except_ports })
}

fn action(text: Option<&str>, path: &FieldPath) -> Result<Action, Problem> {
    let text = text.unwrap_or_default();
    match text.to_ascii_lowercase().as_str() {
        "allow" => Ok(Action::Allow),
        "deny" => Ok(Action::Deny),
        "pass" => Ok(Action::Pass),
        "log" => Ok(Action::Log),
        _ => Err(path.expected("Allow, Deny, Log or Pass", format!("{text:?}"))),
    }
}

fn undecidable(what: &str) -> Peers {
    Peers::AnyOf(vec![Peer::Undecidable(what.into())])
}

/// Ends that are both.
fn both(one: Peers, other: Peers) -> Peers {
    match (one, other) {
        (Peers::Everyone, only) | (only, Peers::Everyone) => only,
        (Peers::AllOf(mut parts), other) => {
            parts.push(other);
            Peers::AllOf(parts)
        }
        (one, other) => Peers::AllOf(vec![one, other]),
    }
}
