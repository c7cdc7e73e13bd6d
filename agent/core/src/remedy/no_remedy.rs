//! Why there is no remedy.

use std::sync::Arc;

use strum::IntoStaticStr;

use crate::{policy::RuleRef, verdict::Verdict};

/// Why no remedy is given for a question. A program reads [`Self::reason`], a person the sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum NoRemedy {
    /// Nothing of it is denied.
    #[error("policies deny none of it")]
    NotDenied,
    /// Something else than policies stops it: a Service that refuses it by itself.
    #[error("policies are not what stops it")]
    NotPolicy,
    /// A rule denies it by name, which a new rule may not outweigh.
    #[error("rule {} of {} {} denies it: only its owner can change that", .0.rule, .0.policy.kind, .0.policy)]
    DeniedByRule(RuleRef),
    /// What policies say of one of its packets is unknown, or would be with the rule.
    #[error("with the rule that would be for it, it is unknown whether it passes: {0}")]
    Unknown(Arc<str>),
    /// No rule can name an end of it.
    #[error("no rule can name {0}")]
    Unnamed(String),
    /// The engine matches an address of the cluster with no `ipBlock`.
    #[error(
        "{engine} matches no node with ipBlock, and nothing else names {end}: that takes a policy of its own kinds"
    )]
    NotMatched {
        /// Whom a rule would have to match.
        end: String,
        /// Who enforces policies.
        engine: String,
    },
    /// A policy with the rule would close pods that are open.
    #[error("a policy for it would close pods that no policy closes now")]
    Isolates,
    /// The rule would let pass what another rule denies.
    #[error("a rule for it would let pass what another rule denies")]
    Overrules,
    /// No rule was found with which it passes by the same evaluator.
    #[error("no rule was found with which it is proved to pass")]
    Unproved,
}

impl NoRemedy {
    /// As the answer in JSON names it.
    pub fn reason(&self) -> &'static str {
        self.into()
    }

    /// Why a packet of this verdict is given none, where that shows before any rule is tried.
    pub(super) fn of_verdict(verdict: &Verdict) -> Option<Self> {
        let rule = verdict.denied_directions().find_map(|d| verdict.direction(d).denied_by.clone());
        let unknown = || verdict.unknowns().next().cloned();
        rule.map(Self::DeniedByRule).or_else(|| unknown().map(Self::Unknown))
    }
}
