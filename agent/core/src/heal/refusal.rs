//! Why the healer leaves an incident alone, in words.

use std::{
    fmt,
    mem::{self, Discriminant},
    net::IpAddr,
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    diagnosis::Class,
    flow::Flow,
    incident::{Severity, words::span},
    policy::PolicyRef,
};

/// Why the healer leaves an incident alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// No policy denies it, or it is not known whether one does.
    NotADenial(Class),
    /// A rule denies it: that is what somebody wrote.
    ExplicitDeny(Option<PolicyRef>),
    /// A policy that is not of one namespace denies it.
    ClusterWide(PolicyRef),
    /// A policy of a kind whose authors did not ask for help, or of a tier of its own.
    NotOurs {
        /// The policy.
        policy: PolicyRef,
        /// What it is instead of a policy of a namespace in the default tier.
        because: String,
    },
    /// An end of it is outside the cluster: nobody there can be asked who that is.
    Outside(IpAddr),
    /// One of its flows was never seen to work: nothing is known to have broken.
    NeverWorked(Flow),
    /// One of its flows was seen to work, but over too few connections.
    WorkedTooLittle {
        /// The flow.
        flow: Flow,
        /// Over how many.
        connections: u64,
    },
    /// One of its flows is not known to have worked before it was denied: the denial is older than
    /// that, or of unknown age.
    DenialOlder {
        /// The flow.
        flow: Flow,
        /// When it last worked.
        worked: Timestamp,
        /// Since when it is denied, at the least.
        denied_since: Option<Timestamp>,
    },
    /// It is meant so, or it is nothing yet.
    Severity(Severity),
    /// The cause is not sure enough.
    Confidence {
        /// How sure it is, from 0 to 1.
        found: f64,
        /// How sure it must be.
        wanted: f64,
    },
    /// The agents give no remedy for it.
    NoRemedy,
    /// A namespace does not ask for it in which something would be created, or in which one of the
    /// ends is.
    NoConsent(Arc<str>),
    /// A namespace's annotation says something that is not known.
    BadConsent {
        /// The namespace.
        namespace: Arc<str>,
        /// What its annotation says.
        found: String,
    },
    /// The cluster as it is now does not show enough.
    CannotTell(String),
    /// The cluster as it is now does not deny it.
    NotDenied,
    /// More policies would be needed than a machine should write.
    TooManyPolicies(usize),
    /// As many were healed in an hour as may be.
    TooMany {
        /// How many.
        most: usize,
        /// Of which namespace; of all where there is none.
        namespace: Option<Arc<str>>,
    },
    /// It was tried before: once is enough for a machine.
    Tried {
        /// When.
        at: Timestamp,
    },
    /// An object of this name is there, and is not the healer's.
    Foreign {
        /// The object.
        policy: PolicyRef,
        /// By what that is seen.
        why: String,
    },
    /// The API server does not take it.
    Api(String),
}

/// A refusal without what may differ from one time to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RefusalKind(Discriminant<Refusal>, Option<Arc<str>>);

impl Refusal {
    /// What tells the refusals of one incident apart that are told once each: one that lacks the
    /// consent of two namespaces lacks the second's once it has the first's.
    pub(super) fn kind(&self) -> RefusalKind {
        let namespace = match self {
            Self::NoConsent(namespace) | Self::BadConsent { namespace, .. } => Some(namespace),
            _ => None,
        };
        RefusalKind(mem::discriminant(self), namespace.cloned())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADenial(class) => {
                write!(f, "no policy is known to deny it ({}): no policy can heal it", class.name())
            }
            Self::ExplicitDeny(Some(policy)) => write!(
                f,
                "explicit deny by {} {policy}: its owner decides, not a machine",
                policy.kind
            ),
            Self::ExplicitDeny(None) => {
                f.write_str("explicit deny by a rule: its owner decides, not a machine")
            }
            Self::ClusterWide(policy) => write!(
                f,
                "{} {policy} is cluster-wide: who administers the cluster decides",
                policy.kind
            ),
            Self::NotOurs { policy, because } => {
                write!(f, "{} {policy} {because}", policy.kind)
            }
            Self::Outside(address) => {
                write!(f, "{address} is outside the cluster: a person decides who may come and go")
            }
            Self::NeverWorked(flow) => {
                write!(f, "{flow} was never seen to work: a person decides whether it should")
            }
            Self::WorkedTooLittle { flow, connections } => write!(
                f,
                "{flow} was seen to work over {connections} connection only: it takes more than one \
                 to know that it worked"
            ),
            Self::DenialOlder { flow, worked, denied_since: Some(denied_since) } => write!(
                f,
                "{flow} has been denied since {}, and worked last at {}: it is not known to have \
                 worked before that denial",
                seconds(*denied_since),
                seconds(*worked)
            ),
            Self::DenialOlder { flow, worked, denied_since: None } => write!(
                f,
                "{flow} worked last at {}, and since when it is denied is unknown",
                seconds(*worked)
            ),
            Self::Severity(severity) => {
                write!(f, "its severity is {severity}: it is meant so, or it may pass by itself")
            }
            Self::Confidence { found, wanted } => {
                write!(f, "confidence {} is below {}", percent(*found), percent(*wanted))
            }
            Self::NoRemedy => f.write_str("the agents found no rule that could be proved to help"),
            Self::NoConsent(namespace) => write!(
                f,
                "namespace {namespace} is not annotated {}=dry-run or apply",
                super::CONSENT_ANNOTATION
            ),
            Self::BadConsent { namespace, found } => write!(
                f,
                "namespace {namespace} is annotated {}={found}: expected dry-run or apply",
                super::CONSENT_ANNOTATION
            ),
            Self::CannotTell(why) => write!(f, "the cluster as it is now cannot tell: {why}"),
            Self::NotDenied => f.write_str("policies do not deny it in the cluster as it is now"),
            Self::TooManyPolicies(most) => {
                write!(f, "it would take more than {most} policies: a person should write them")
            }
            Self::TooMany { most, namespace } => {
                let place = namespace.as_deref().map(|n| format!(" in namespace {n}"));
                let hour = span(SignedDuration::from_hours(1));
                let place = place.unwrap_or_default();
                write!(f, "{most} were healed{place} within {hour}, and no more may be")
            }
            Self::Tried { at } => {
                write!(f, "it was tried at {}, and is not tried again", seconds(*at))
            }
            Self::Foreign { policy, why } => {
                write!(f, "{} {policy} is not the healer's: {why}", policy.kind)
            }
            Self::Api(why) => write!(f, "the API server does not take it: {why}"),
        }
    }
}

fn seconds(at: Timestamp) -> String {
    at.strftime("%FT%TZ").to_string()
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 100.0).floor())
}
