//! Expected denials: what is muted, and by what.
//!
//! Muted is not lost: a muted drop is counted where others are reported, see [`Muted`]. What mutes is an
//! annotation on the policy that leads a denial, or on that policy's namespace, or a rule that the
//! agent was given. All three are about what the diagnosis names, so that a flow whose cause becomes
//! another is reported again.

mod muted;

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumDiscriminants, IntoStaticStr};

use crate::{
    cluster::{
        Snapshot,
        resolve::{Endpoint, Holder},
    },
    diagnosis::{Class, Diagnosis},
    flow::Protocol,
    policy::PolicyRef,
};
pub use muted::{INTERVAL, Muted, MutedCount, OTHERS};

/// A rule of the agent's configuration: all that it says must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What it goes by in records and metrics.
    pub name: Arc<str>,
    /// Why; empty where it is not said.
    pub reason: Arc<str>,
    /// Who connects.
    pub source: EndFilter,
    /// Who is connected to: after translation, where that is known.
    pub destination: EndFilter,
    /// Destination ports, the first and the last; `None`: any.
    pub ports: Option<(u16, u16)>,
    /// `None`: any.
    pub protocol: Option<Protocol>,
    /// Causes; empty: every denial, and nothing else.
    pub causes: Vec<Class>,
}

/// An end that a rule is about; empty: any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EndFilter {
    /// A pod's, or a Service's, namespace.
    pub namespace: Option<Arc<str>>,
    /// The name of a pod's workload, or of a pod that nothing owns.
    pub workload: Option<Arc<str>>,
    /// A network that the address is in.
    pub network: Option<IpNet>,
}

impl EndFilter {
    /// Whether it leaves nothing out.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }

    /// What is not known of an end cannot match.
    fn matches(&self, end: &Endpoint) -> bool {
        let Self { namespace, workload, network } = self;
        let (of_namespace, of_workload) = match &end.holder {
            Holder::Pod(pod) => {
                let workload = pod.workload.as_ref().map_or(&pod.name, |workload| &workload.name);
                (Some(&pod.namespace), Some(workload))
            }
            Holder::Service(service) => (Some(&service.namespace), None),
            Holder::Hidden(hidden) => (Some(&hidden.namespace), None),
            Holder::Node(_) | Holder::SecondNetwork(..) | Holder::Outside | Holder::Unknown(_) => {
                (None, None)
            }
        };
        namespace.as_ref().is_none_or(|wanted| of_namespace == Some(wanted))
            && workload.as_ref().is_none_or(|wanted| of_workload == Some(wanted))
            && network
                .is_none_or(|network| end.address.is_some_and(|address| network.contains(&address)))
    }
}

impl Rule {
    fn matches(&self, diagnosis: &Diagnosis) -> bool {
        let (question, class) = (&diagnosis.question, diagnosis.cause.class);
        let is_of_cause = match self.causes.as_slice() {
            [] => class.is_denial(),
            causes => causes.contains(&class),
        };
        is_of_cause
            && self.ports.is_none_or(|(first, last)| (first..=last).contains(&question.port))
            && self.protocol.is_none_or(|protocol| protocol == question.protocol)
            && self.source.matches(&question.source)
            && self.destination.matches(&question.destination)
    }

    /// Whether it is about a source, whatever that one attempts.
    fn is_about_source_alone(&self) -> bool {
        let Self { source, destination, ports, protocol, causes, .. } = self;
        !source.is_any()
            && destination.is_any()
            && ports.is_none()
            && protocol.is_none()
            && causes.is_empty()
    }
}

/// What muted a drop.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EnumDiscriminants)]
#[strum_discriminants(
    name(MutedByKind),
    doc = "What kind of thing muted a drop.",
    derive(Display, IntoStaticStr, Serialize, Deserialize, JsonSchema),
    strum(serialize_all = "lowercase"),
    serde(rename_all = "lowercase")
)]
pub enum MutedBy {
    /// The annotation of the policy that leads the denial.
    Policy(PolicyRef),
    /// The annotation of that policy's namespace.
    Namespace(Arc<str>),
    /// A rule of this name.
    Rule(Arc<str>),
}

impl MutedBy {
    /// What kind of thing it is.
    pub fn kind(&self) -> MutedByKind {
        self.into()
    }

    /// Its name.
    pub fn name(&self) -> String {
        match self {
            Self::Policy(policy) => policy.to_string(),
            Self::Namespace(name) | Self::Rule(name) => name.to_string(),
        }
    }
}

impl fmt::Display for MutedBy {
    /// `NetworkPolicy backend/default-deny`, `namespace backend`, `rule scanners`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(policy) => write!(f, "{} {policy}", policy.kind),
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Rule(name) => write!(f, "rule {name}"),
        }
    }
}

/// What mutes a drop, if anything does, and the reason it gives: an annotation first, which stands
/// with the policy for all to see.
///
/// The leading policy alone counts, because it is the one that the drop's record would name. Behind an
/// implicit denial it is the one that came last: a policy that begins to deny beside one that is
/// muted is news. A namespace mutes what its own policies deny, not what its pods are denied: whether
/// a denial is intended is for its authors to say.
pub fn muted(
    snapshot: &Snapshot,
    rules: &[Rule],
    diagnosis: &Diagnosis,
) -> Option<(MutedBy, Arc<str>)> {
    let leading = diagnosis.cause.policy.as_ref().filter(|_| diagnosis.cause.class.is_denial());
    if let Some(policy) = leading {
        // As it is now: the diagnosis may be of a policy as it was.
        let now = snapshot.policies().get(&policy.reference).unwrap_or(policy);
        if let Some(reason) = &now.mute {
            return Some((MutedBy::Policy(policy.reference.clone()), reason.clone()));
        }
        let namespace = policy.reference.namespace.as_ref();
        let namespace = namespace.and_then(|name| snapshot.namespace(name));
        if let Some((namespace, reason)) = namespace.and_then(|n| Some((n, n.mute.as_ref()?))) {
            return Some((MutedBy::Namespace(namespace.name.clone()), reason.clone()));
        }
    }
    let rule = rules.iter().find(|rule| rule.matches(diagnosis))?;
    Some((MutedBy::Rule(rule.name.clone()), rule.reason.clone()))
}

/// What mutes everything that a source attempts, where nothing more is known of it: a rule that names
/// nothing but sources.
pub fn muted_source(
    snapshot: &Snapshot,
    rules: &[Rule],
    source: IpAddr,
) -> Option<(MutedBy, Arc<str>)> {
    let source = snapshot.resolve(source, None);
    let mut about = rules.iter().filter(|rule| rule.is_about_source_alone());
    let rule = about.find(|rule| rule.source.matches(&source))?;
    Some((MutedBy::Rule(rule.name.clone()), rule.reason.clone()))
}
