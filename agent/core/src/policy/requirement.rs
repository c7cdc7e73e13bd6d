//! Labels, and conditions on them: what the selectors of all kinds are made of.

use std::{collections::BTreeMap, fmt, sync::Arc};

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

    /// As Calico's selectors spell it.
    pub(super) fn fmt_in_calico(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let set = |f: &mut fmt::Formatter<'_>, word: &str, values: &[Arc<str>]| {
            let values: Vec<_> = values.iter().map(|value| Quoted(value).to_string()).collect();
            write!(f, "{key} {word} {{{}}}", values.join(", "))
        };
        match &self.operator {
            Operator::In(values) if values.len() == 1 => {
                write!(f, "{key} == {}", Quoted(&values[0]))
            }
            Operator::In(values) => set(f, "in", values),
            Operator::NotIn(values) if values.len() == 1 => {
                write!(f, "{key} != {}", Quoted(&values[0]))
            }
            Operator::NotIn(values) => set(f, "not in", values),
            Operator::Exists => write!(f, "has({key})"),
            Operator::DoesNotExist => write!(f, "!has({key})"),
            Operator::Contains(part) => write!(f, "{key} contains {}", Quoted(part)),
            Operator::StartsWith(part) => write!(f, "{key} starts with {}", Quoted(part)),
            Operator::EndsWith(part) => write!(f, "{key} ends with {}", Quoted(part)),
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
                self.fmt_in_calico(f)
            }
        }
    }
}

/// In the quotes that the value itself does not contain; one cannot contain both.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('\'') { '"' } else { '\'' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}
