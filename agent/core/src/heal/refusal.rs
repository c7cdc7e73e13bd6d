//! Why the healer leaves an incident alone, in words.

use std::{
    mem::{self, Discriminant},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use super::CONSENT_ANNOTATION;
use crate::{
    diagnosis::Class,
    flow::Flow,
    incident::{Severity, words::span},
    policy::PolicyRef,
};

/// Why the healer leaves an incident alone.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No policy denies it, or it is not known whether one does.
    #[error("no policy is known to deny it ({0}): no policy can heal it")]
    NotADenial(Class),
    /// A rule of this policy denies it: that is what somebody wrote.
    #[error("explicit deny by {} {}: its owner decides, not a machine", .0.kind, .0)]
    ExplicitDeny(PolicyRef),
    /// A rule denies it, of a policy that its record does not name.
    #[error("explicit deny by a rule: its owner decides, not a machine")]
    ExplicitDenyByUnknown,
    /// A policy that is not of one namespace denies it.
    #[error("{} {} is cluster-wide: the cluster's administrators decide", .0.kind, .0)]
    ClusterWide(PolicyRef),
    /// A policy of a kind whose authors did not ask for help.
    #[error("{} {} is of a kind that the healer leaves alone", .0.kind, .0)]
    OtherKind(PolicyRef),
    /// A policy of another tier than the default one.
    #[error("{} {policy} is of the tier {tier}: its owner decides", policy.kind)]
    OtherTier {
        /// The policy.
        policy: PolicyRef,
        /// Its tier, or `none`.
        tier: Arc<str>,
    },
    /// An end of it is outside the cluster: nobody there can be asked who that is.
    #[error("{0} is outside the cluster: a person decides who may connect")]
    Outside(Arc<str>),
    /// None of its flows qualifies, this one because it was never seen to work: nothing is known to have
    /// broken.
    #[error("{0} was never seen to work: a person decides whether it should")]
    NeverWorked(Flow),
    /// … because it was seen to work over too few connections.
    #[error(
        "{flow} was seen to work over {connections} connection only: it takes more than one to know \
         that it worked"
    )]
    WorkedTooLittle {
        /// The flow.
        flow: Flow,
        /// Over how many.
        connections: u64,
    },
    /// … because it worked for too short a time before it was denied.
    #[error(
        "{flow} was seen to work for {} before it was denied: expected {} or more",
        span(*lasted),
        span(*min)
    )]
    WorkedTooShort {
        /// The flow.
        flow: Flow,
        /// From the first answer to the last one before the denial.
        lasted: SignedDuration,
        /// How long it must be.
        min: SignedDuration,
    },
    /// … because it is not known to have worked before it was denied: the denial is older than that.
    #[error(
        "{flow} has been denied since {}, and last worked at {}: it is not known to have worked \
         before that denial",
        seconds(*denied_since),
        seconds(*worked)
    )]
    DenialOlder {
        /// The flow.
        flow: Flow,
        /// When it last worked.
        worked: Timestamp,
        /// Since when it is denied, at the least.
        denied_since: Timestamp,
    },
    /// … because since when it is denied is unknown.
    #[error("{flow} last worked at {}, and since when it is denied is unknown", seconds(*worked))]
    DenialOfUnknownAge {
        /// The flow.
        flow: Flow,
        /// When it last worked.
        worked: Timestamp,
    },
    /// It is intended, or it is nothing yet.
    #[error("its severity is {0}: it is intended, or it may pass by itself")]
    Severity(Severity),
    /// The cause is not sure enough.
    #[error("confidence {} is below {}", percent(*found), percent(*wanted))]
    Confidence {
        /// How sure it is, from 0 to 1.
        found: f64,
        /// How sure it must be.
        wanted: f64,
    },
    /// The agents give no remedy for it.
    #[error("the agents found no rule that could be proved to help")]
    NoRemedy,
    /// A namespace does not ask for it in which something would be created, or in which one of the
    /// ends is.
    #[error("namespace {} is not annotated {}=dry-run or apply", .0, CONSENT_ANNOTATION)]
    NoConsent(Arc<str>),
    /// A namespace's annotation says something that is not known.
    #[error(
        "namespace {namespace} is annotated {}={found}: expected dry-run or apply",
        CONSENT_ANNOTATION
    )]
    BadConsent {
        /// The namespace.
        namespace: Arc<str>,
        /// What its annotation says.
        found: String,
    },
    /// The cluster as it is now does not show enough.
    #[error("the cluster as it is now does not show enough: {0}")]
    Unclear(Unclear),
    /// The cluster as it is now does not deny it.
    #[error("policies do not deny it in the cluster as it is now")]
    NotDenied,
    /// More policies would be needed than a machine should write.
    #[error("it would take more than {0} policies: a person should write them")]
    TooManyPolicies(usize),
    /// As many were healed within the hour as may be.
    #[error("{} were healed within {}, and no more may be", .0, hour())]
    TooMany(usize),
    /// As many were healed within the hour in one namespace as may be.
    #[error("{most} were healed in namespace {namespace} within {}, and no more may be", hour())]
    TooManyInNamespace {
        /// How many.
        most: usize,
        /// In which namespace.
        namespace: Arc<str>,
    },
    /// As many were healed within the hour for clients of one namespace as may be.
    #[error(
        "{most} were healed for clients in namespace {namespace} within {}, and no more may be",
        hour()
    )]
    TooManyForClients {
        /// How many.
        most: usize,
        /// Of which namespace.
        namespace: Arc<str>,
    },
    /// It was tried before: once is enough for a machine.
    #[error("it was tried at {}, and is not tried again", seconds(*at))]
    Tried {
        /// When.
        at: Timestamp,
    },
    /// An object of this name is there, and is not the healer's.
    #[error("{} {policy} is not the healer's: {why}", policy.kind)]
    Foreign {
        /// The object.
        policy: PolicyRef,
        /// By what that is seen.
        why: String,
    },
    /// The API server rejects it, in its own words.
    #[error("the API server rejects it: {0}")]
    Api(String),
}

/// What the cluster does not show.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unclear {
    /// The remedy's policies are in no namespace that could consent.
    #[error("the remedy is in no namespace")]
    NoNamespace,
    /// It could not be read in time.
    #[error("the cluster cannot be read within {0:?}")]
    NotReadWithin(Duration),
    /// What policies say of this flow depends on something that is unknown.
    #[error("{flow}: {}", .why.iter().map(|why| &**why).collect::<Vec<_>>().join(", "))]
    Verdict {
        /// The flow.
        flow: Flow,
        /// What is unknown.
        why: Vec<Arc<str>>,
    },
    /// There is no rule with which this flow is certain to pass.
    #[error("no rule can be proved to let {0} pass")]
    Unproved(Flow),
    /// The addresses of this flow are others' by now.
    #[error("the addresses of {0} are those of other namespaces by now")]
    OtherEnds(Flow),
    /// This flow would be denied with the remedy as well.
    #[error("{0} would still be denied")]
    StillDenied(Flow),
}

/// A refusal without what may differ from one time to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RefusalKind(Discriminant<Refusal>, Option<Arc<str>>);

impl Refusal {
    /// What distinguishes the refusals of one incident, each of which is reported once: one that lacks
    /// the consent of two namespaces lacks the second's once it has the first's.
    pub(super) fn kind(&self) -> RefusalKind {
        let namespace = match self {
            Self::NoConsent(namespace) | Self::BadConsent { namespace, .. } => Some(namespace),
            _ => None,
        };
        RefusalKind(mem::discriminant(self), namespace.cloned())
    }
}

fn hour() -> String {
    span(SignedDuration::from_hours(1))
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%FT%TZ").to_string()
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 100.0).floor())
}
