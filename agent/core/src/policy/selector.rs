//! Label selectors, and why one does not match.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::expression::{Expression, parse};
use crate::problem::{FieldPath, Problem};

/// Labels of an object.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// What a selector is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Labelled<'a> {
    /// Its labels.
    pub labels: &'a Labels,
    /// Labels that Calico gives it, whatever its own say; only its own selectors see them.
    pub given: &'a [(&'a str, &'a str)],
    /// Whether Calico's `all()` means it.
    pub all: bool,
    /// Whether Calico's `global()` means it.
    pub global: bool,
}

impl<'a> From<&'a Labels> for Labelled<'a> {
    fn from(labels: &'a Labels) -> Self {
        Self { labels, given: &[], all: true, global: true }
    }
}

impl Labelled<'_> {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let given = self.given.iter().find(|(given, _)| *given == key);
        given.map(|(_, value)| *value).or_else(|| self.labels.get(key).map(|value| &**value))
    }
}

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
    /// Present, with this in it (Calico's, as the next two).
    Contains(Arc<str>),
    /// Present, beginning with this.
    StartsWith(Arc<str>),
    /// Present, ending with this.
    EndsWith(Arc<str>),
}

impl Requirement {
    /// The label `key` with exactly this value.
    pub fn equals(key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) -> Self {
        Self { key: key.into(), operator: Operator::In(vec![value.into()]) }
    }

    /// Whether a label's value, if there is one, is as required.
    pub fn holds(&self, value: Option<&str>) -> bool {
        let is_in = |values: &[Arc<str>]| value.is_some_and(|v| values.iter().any(|w| **w == *v));
        match &self.operator {
            Operator::In(values) => is_in(values),
            // "NotIn ... also selects objects that lack the key" (labels.Requirement.Matches).
            Operator::NotIn(values) => !is_in(values),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Contains(part) => value.is_some_and(|value| value.contains(&**part)),
            Operator::StartsWith(part) => value.is_some_and(|value| value.starts_with(&**part)),
            Operator::EndsWith(part) => value.is_some_and(|value| value.ends_with(&**part)),
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
            // `kubectl` has no word for these.
            Operator::Contains(_) | Operator::StartsWith(_) | Operator::EndsWith(_) => {
                write!(f, "{}", Expression::Label(self.clone()))
            }
        }
    }
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

    /// The part that asks for nothing but labels of these keys, and the rest.
    pub(super) fn split(&self, keys: &[&str]) -> (Self, Self) {
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
