//! Calico's selector language: `app == 'web' && (has(team) || env not in {'prod'})`.
//!
//! Semantics: <https://docs.tigera.io/calico/latest/reference/resources/networkpolicy#selectors>; the
//! corners (`!=` matches a missing label, an empty selector matches everything, only spaces and tabs
//! stand between words) are those of Calico 3.28.

mod parse;

use std::fmt;

use super::requirement::{Labelled, Operator, Requirement};
pub use parse::{Fault, parse};

/// A selector in Calico's language. Made by [`parse`], in a normal form: a negation stands before
/// nothing that can say it itself, and `And` and `Or` have two parts at least.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expression {
    /// `all()`: whatever the selector may mean at all; of namespaces, whatever is in one.
    All,
    /// `global()`: of namespaces, whatever is in none.
    Global,
    /// A condition on one label.
    Label(Requirement),
    /// `!(…)`
    Not(Box<Self>),
    /// `… && …`
    And(Vec<Self>),
    /// `… || …`
    Or(Vec<Self>),
}

impl Expression {
    /// Whether it holds for these labels.
    pub fn matches(&self, of: Labelled<'_>) -> bool {
        match self {
            Self::All => of.all,
            Self::Global => of.global,
            Self::Label(requirement) => requirement.holds(of.get(&requirement.key)),
            Self::Not(inner) => !inner.matches(of),
            Self::And(parts) => parts.iter().all(|part| part.matches(of)),
            Self::Or(parts) => parts.iter().any(|part| part.matches(of)),
        }
    }

    /// The contrary.
    #[must_use]
    pub fn negated(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            Self::Label(Requirement { key, operator: Operator::Exists }) => {
                Self::Label(Requirement { key, operator: Operator::DoesNotExist })
            }
            Self::Label(Requirement { key, operator: Operator::DoesNotExist }) => {
                Self::Label(Requirement { key, operator: Operator::Exists })
            }
            other => Self::Not(Box::new(other)),
        }
    }

    /// The parts that must all hold.
    pub fn conjuncts(&self) -> &[Self] {
        match self {
            Self::And(parts) => parts,
            other => std::slice::from_ref(other),
        }
    }

    /// Whether all that it asks for is known where only these labels are.
    pub(super) fn asks_only(&self, known: &[&str]) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Label(requirement) => known.contains(&&*requirement.key),
            Self::Not(inner) => inner.asks_only(known),
            Self::And(parts) | Self::Or(parts) => parts.iter().all(|part| part.asks_only(known)),
        }
    }

    /// Whether it asks for one of these labels.
    pub(super) fn asks_for(&self, keys: &[&str]) -> bool {
        match self {
            Self::All | Self::Global => false,
            Self::Label(requirement) => keys.contains(&&*requirement.key),
            Self::Not(inner) => inner.asks_for(keys),
            Self::And(parts) | Self::Or(parts) => parts.iter().any(|part| part.asks_for(keys)),
        }
    }

    fn is_compound(&self) -> bool {
        matches!(self, Self::And(_) | Self::Or(_))
    }
}

impl fmt::Display for Expression {
    /// As Calico reads it; [`parse`] gives the same expression back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Label(requirement) => requirement.fmt_in_calico(f),
            Self::Not(inner) => write!(f, "!({inner})"),
            Self::And(parts) => joined(parts, " && ", Self::is_compound, f),
            Self::Or(parts) => joined(parts, " || ", |part| matches!(part, Self::Or(_)), f),
        }
    }
}

fn joined(
    parts: &[Expression],
    word: &str,
    in_parentheses: impl Fn(&Expression) -> bool,
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            f.write_str(word)?;
        }
        if in_parentheses(part) { write!(f, "({part})") } else { write!(f, "{part}") }?;
    }
    Ok(())
}
