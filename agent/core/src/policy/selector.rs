//! Label selectors, and why one does not match.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::problem::{FieldPath, Problem};

/// Labels of an object.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A `metav1.LabelSelector`: all requirements must hold; none selects everything.
///
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/label-selector/>
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Sorted, so that equal selectors compare equal.
    requirements: Vec<Requirement>,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// The label's key.
    pub key: Arc<str>,
    /// What the label's value must be.
    pub operator: Operator,
}

/// What a requirement asks of a label's value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// Present, with one of these values. `matchLabels` is this with one value.
    In(Vec<Arc<str>>),
    /// Absent, or with none of these values.
    NotIn(Vec<Arc<str>>),
    /// Present.
    Exists,
    /// Absent.
    DoesNotExist,
}

impl Requirement {
    /// The label `key` with exactly this value.
    pub fn equals(key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        Self { key: key.into(), operator: Operator::In(vec![value.into()]) }
    }

    /// Whether the labels satisfy this requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            // "NotIn ... also selects objects that lack the key" (labels.Requirement.Matches).
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl fmt::Display for Requirement {
    /// As `kubectl get -l` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.operator {
            Operator::In(values) if values.len() == 1 => write!(f, "{key}={}", values[0]),
            Operator::In(values) => write!(f, "{key} in ({})", values.join(",")),
            Operator::NotIn(values) if values.len() == 1 => write!(f, "{key}!={}", values[0]),
            Operator::NotIn(values) => write!(f, "{key} notin ({})", values.join(",")),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
        }
    }
}

impl Selector {
    /// Selects every object.
    pub const EVERYTHING: Self = Self { requirements: Vec::new() };

    /// A selector of these requirements.
    pub fn new(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort();
        requirements.dedup();
        Self { requirements }
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
        self.requirements.is_empty()
    }

    /// The requirements, sorted.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// Whether the labels satisfy every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches(labels))
    }

    /// The requirements that the labels do not satisfy.
    pub fn unmet<'a>(&'a self, labels: &'a Labels) -> impl Iterator<Item = &'a Requirement> {
        self.requirements.iter().filter(|requirement| !requirement.matches(labels))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_everything() {
            return f.write_str("(any)");
        }
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}
