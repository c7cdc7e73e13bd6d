//! Label selectors, and why one does not match.

use std::{fmt, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::{
    expression::{Expression, parse},
    requirement::{Labelled, Labels, Operator, Requirement},
};
use crate::problem::{FieldPath, Problem};

/// Which labels an object must have: a `metav1.LabelSelector`, all of whose requirements must hold
/// (none selects everything), or a selector in Calico's language.
///
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/label-selector/>
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// What must hold in any case, sorted, so that equal selectors compare equal.
    requirements: Vec<Requirement>,
    /// Calico's: all of it, what `requirements` say included.
    expression: Option<Expression>,
}

impl Selector {
    /// Selects every object.
    pub const EVERYTHING: Self = Self { requirements: Vec::new(), expression: None };

    /// A selector of these requirements.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort();
        requirements.dedup();
        Self { requirements, expression: None }
    }

    /// Reads a selector in Calico's language.
    ///
    /// # Errors
    /// Where it breaks the grammar: the column is named.
    pub fn read(text: &str, path: &FieldPath) -> Result<Self, Problem> {
        let expression = parse(text).map_err(|fault| {
            path.expected(
                format!("{} at column {}", fault.expected, fault.column),
                format!("{} in {text:?}", fault.found),
            )
        })?;
        let requirements = expression.conjuncts().iter().filter_map(|part| match part {
            Expression::Label(requirement) => Some(requirement.clone()),
            _ => None,
        });
        Ok(Self { expression: Some(expression.clone()), ..Self::new(requirements.collect()) })
    }

    /// Translates the API's selector; an absent one is the caller's to interpret.
    ///
    /// # Errors
    /// What the API server would refuse: an unknown operator, or values where none may be.
    pub fn lower(selector: &LabelSelector, path: &FieldPath) -> Result<Self, Problem> {
        let mut requirements = Vec::new();
        for (key, value) in selector.match_labels.iter().flatten() {
            requirements.push(Requirement::equals(key.as_str(), value.as_str()));
        }
        for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
            let path = path.field("matchExpressions").index(index);
            let values: Vec<Arc<str>> =
                expression.values.iter().flatten().map(|value| value.as_str().into()).collect();
            let operator = match (expression.operator.as_str(), values.is_empty()) {
                ("In", false) => Operator::In(values),
                ("NotIn", false) => Operator::NotIn(values),
                ("In" | "NotIn", true) => {
                    return Err(path.field("values").expected("at least one value", "none"));
                }
                ("Exists", true) => Operator::Exists,
                ("DoesNotExist", true) => Operator::DoesNotExist,
                ("Exists" | "DoesNotExist", false) => {
                    return Err(path.field("values").expected(
                        format!("no values with operator {}", expression.operator),
                        format!("{}", values.len()),
                    ));
                }
                (other, _) => {
                    return Err(path
                        .field("operator")
                        .expected("In, NotIn, Exists or DoesNotExist", format!("{other:?}")));
                }
            };
            requirements.push(Requirement { key: expression.key.as_str().into(), operator });
        }
        if let Some(empty) = requirements.iter().find(|requirement| requirement.key.is_empty()) {
            return Err(path.expected("label keys that are not empty", format!("{empty:?}")));
        }
        Ok(Self::new(requirements))
    }

    /// Whether nothing is required, so that everything is selected.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && self.expression.is_none()
    }

    /// What must hold in any case, sorted; for a selector of Kubernetes that is all of it.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The selector in Calico's language, if it is one.
    pub fn expression(&self) -> Option<&Expression> {
        self.expression.as_ref()
    }

    /// Whether these labels are selected.
    pub fn matches<'a>(&self, of: impl Into<Labelled<'a>>) -> bool {
        let of = of.into();
        match &self.expression {
            Some(expression) => expression.matches(of),
            None => self.unmet(of.labels).next().is_none(),
        }
    }

    /// The requirements that the labels do not satisfy.
    pub fn unmet<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = &'a Requirement> {
        let value = |key: &str| labels.get(key).map(|value| &**value);
        self.requirements.iter().filter(move |r| !r.holds(value(&r.key)))
    }

    /// What of the selector the labels do not satisfy, part by part, in its own language.
    pub fn unmet_parts(&self, of: Labelled<'_>) -> Vec<String> {
        match &self.expression {
            Some(expression) => {
                let unmet = expression.conjuncts().iter().filter(|part| !part.matches(of));
                unmet.map(ToString::to_string).collect()
            }
            None => self.unmet(of.labels).map(ToString::to_string).collect(),
        }
    }

    /// Whether it asks for a label of one of these keys.
    pub(crate) fn asks_for(&self, keys: &[&str]) -> bool {
        match &self.expression {
            Some(expression) => expression.asks_for(keys),
            None => self.requirements.iter().any(|requirement| keys.contains(&&*requirement.key)),
        }
    }

    /// The part that asks for nothing but labels of these keys, and the rest.
    pub(crate) fn split(&self, keys: &[&str]) -> (Self, Self) {
        if let Some(expression) = &self.expression {
            let parts = expression.conjuncts().iter().cloned();
            let (known, rest): (Vec<_>, Vec<_>) = parts.partition(|part| part.asks_only(keys));
            let all_of = |parts: Vec<Expression>| match parts.as_slice() {
                [] => Self::EVERYTHING,
                [only] => Self { expression: Some(only.clone()), ..Self::EVERYTHING },
                _ => Self { expression: Some(Expression::And(parts)), ..Self::EVERYTHING },
            };
            return (all_of(known), all_of(rest));
        }
        let requirements = self.requirements.iter().cloned();
        let (known, rest) = requirements.partition(|r| keys.contains(&&*r.key));
        (Self::new(known), Self::new(rest))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("(any)");
        }
        if let Some(expression) = &self.expression {
            return write!(f, "{expression}");
        }
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}
