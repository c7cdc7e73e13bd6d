//! The rules of `whydrop agent --mute`, read.

use std::{
    collections::BTreeSet,
    fmt::Display,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;
use whydrop_core::{
    diagnosis::Class,
    flow::Protocol,
    mute::{EndFilter, OTHERS, Rule},
    policy::mute_annotation::REASON_BYTES_MAX,
    problem::Problem,
};

use crate::cluster::manifests;

/// How many rules there may be: each is held against each drop. Anyone who needs more is better
/// served by the annotation.
const RULES_MAX: usize = 256;

/// How long a name may be: it is a label's value in metrics.
const NAME_BYTES_MAX: usize = 63;

/// The causes that a rule can name: those of drops and findings.
fn named_causes() -> impl Iterator<Item = Class> {
    Class::ALL.iter().copied().filter(|class| *class != Class::None)
}

/// A rule as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    name: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    source: WrittenEnd,
    #[serde(default)]
    destination: WrittenEnd,
    port: Option<Value>,
    protocol: Option<String>,
    cause: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEnd {
    namespace: Option<String>,
    workload: Option<String>,
    network: Option<String>,
}

/// Why mute rules cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MuteError {
    /// The file cannot be read.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What reading it gave.
        source: io::Error,
    },
    /// The text is no YAML.
    #[error("{from}: {problem}")]
    Yaml {
        /// Where the text is from.
        from: String,
        /// What is wrong, and where.
        problem: String,
    },
    /// The text is no list.
    #[error("{from}: expected a list of rules, found {found}")]
    NoList {
        /// Where the text is from.
        from: String,
        /// What it is.
        found: &'static str,
    },
    /// There are more rules than are tried for each drop.
    #[error("{from}: expected at most {RULES_MAX} rules, found {found}")]
    TooMany {
        /// Where the text is from.
        from: String,
        /// How many there are.
        found: usize,
    },
    /// A rule is wrong.
    #[error("{place}: {problem}")]
    Rule {
        /// Where the text is from, the rule's number and name.
        place: String,
        /// What is wrong with it.
        problem: RuleProblem,
    },
}

/// What is wrong with a rule.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RuleProblem {
    /// It has another form.
    #[error("{0}")]
    Form(String),
    /// A field has another value than is expected.
    #[error(transparent)]
    Value(Problem),
    /// The protocol is none that is known.
    #[error("protocol: {0}")]
    Protocol(String),
    /// Another rule has this name.
    #[error("name: expected one that no other rule has")]
    NameTaken,
    /// The reason is too long for a record.
    #[error("reason: expected at most {REASON_BYTES_MAX} bytes")]
    LongReason,
    /// It names no cause.
    #[error("cause: expected one or more of {}", cause_names())]
    NoCause,
    /// It sets no condition.
    #[error(
        "expected source, destination, port, protocol or cause: without any, this would mute \
         everything"
    )]
    NoCondition,
}

impl RuleProblem {
    fn value(field: impl Into<String>, expected: impl Into<String>, found: impl Display) -> Self {
        let (field, expected) = (field.into(), expected.into());
        Self::Value(Problem { field, expected, found: found.to_string() })
    }
}

/// Reads the rules of a file.
///
/// # Errors
/// The file cannot be read; and as [`parse`].
pub fn read(file: &Path) -> Result<Vec<Rule>, MuteError> {
    let text = fs::read_to_string(file)
        .map_err(|source| MuteError::File { path: file.to_owned(), source })?;
    parse(&file.display().to_string(), &text)
}

/// Reads rules: a list in YAML or JSON; nothing at all is a list of none. `from` is where the text
/// is from, for errors.
///
/// # Errors
/// The first rule or field that cannot be used.
pub fn parse(from: &str, text: &str) -> Result<Vec<Rule>, MuteError> {
    let from = from.to_owned();
    let items = match manifests::yaml(text, 1) {
        Ok(Value::Null) => Vec::new(),
        Ok(Value::Array(items)) => items,
        Ok(other) => return Err(MuteError::NoList { from, found: kind_of(&other) }),
        Err(error) => return Err(MuteError::Yaml { from, problem: error.to_string() }),
    };
    if items.len() > RULES_MAX {
        return Err(MuteError::TooMany { from, found: items.len() });
    }
    let mut names = BTreeSet::new();
    let mut rules = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let name = item["name"].as_str().map(|name| format!(" ({name})")).unwrap_or_default();
        let rule = rule(item).and_then(|rule| match names.insert(rule.name.clone()) {
            true => Ok(rule),
            false => Err(RuleProblem::NameTaken),
        });
        rules.push(rule.map_err(|problem| {
            let place = format!("{from}, rule {}{name}", index + 1);
            MuteError::Rule { place, problem }
        })?);
    }
    Ok(rules)
}

fn rule(item: Value) -> Result<Rule, RuleProblem> {
    let written: WrittenRule = serde_path_to_error::deserialize(item).map_err(|error| {
        RuleProblem::Form(match error.path().to_string().as_str() {
            "." => error.inner().to_string(),
            path => format!("{path}: {}", error.inner()),
        })
    })?;
    let WrittenRule { name, reason, source, destination, port, protocol, cause } = written;
    check_name(&name)?;
    if reason.len() > REASON_BYTES_MAX {
        return Err(RuleProblem::LongReason);
    }
    let protocol = protocol.map(|text| Protocol::from_str(&text)).transpose();
    let rule = Rule {
        name: name.into(),
        reason: reason.trim().into(),
        source: end("source", source)?,
        destination: end("destination", destination)?,
        ports: port.map(|port| ports(&port)).transpose()?,
        protocol: protocol.map_err(|error| RuleProblem::Protocol(error.to_string()))?,
        causes: cause.map(causes).transpose()?.unwrap_or_default(),
    };
    let has_no_condition = rule.source.is_any()
        && rule.destination.is_any()
        && rule.ports.is_none()
        && rule.protocol.is_none()
        && rule.causes.is_empty();
    if has_no_condition { Err(RuleProblem::NoCondition) } else { Ok(rule) }
}

fn check_name(name: &str) -> Result<(), RuleProblem> {
    let wrong = |expected| Err(RuleProblem::value("name", expected, format!("{name:?}")));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_plain) {
        return wrong(format!(
            "1 to {NAME_BYTES_MAX} letters, digits, dashes, dots or underscores"
        ));
    }
    if name == OTHERS {
        return wrong("one of your own: this one stands for the rest".to_owned());
    }
    Ok(())
}

fn end(field: &str, written: WrittenEnd) -> Result<EndFilter, RuleProblem> {
    let WrittenEnd { namespace, workload, network } = written;
    for (name, value) in [("namespace", &namespace), ("workload", &workload)] {
        if value.as_ref().is_some_and(String::is_empty) {
            return Err(RuleProblem::value(format!("{field}.{name}"), "a name", "\"\""));
        }
    }
    let network = network.map(|text| {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse().ok().or_else(address).ok_or_else(|| {
            let found = format!("{text:?}");
            RuleProblem::value(format!("{field}.network"), "an address or a network", found)
        })
    });
    Ok(EndFilter {
        namespace: namespace.map(Into::into),
        workload: workload.map(Into::into),
        network: network.transpose()?,
    })
}

/// `8080`, or `"8000-8999"`.
fn ports(value: &Value) -> Result<(u16, u16), RuleProblem> {
    let number = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0);
    let range = match value {
        Value::Number(_) => number(&value.to_string()).map(|port| (port, port)),
        Value::String(text) => match text.split_once('-') {
            Some((first, last)) => number(first).zip(number(last)),
            None => number(text).map(|port| (port, port)),
        },
        _ => None,
    };
    range.filter(|(first, last)| first <= last).ok_or_else(|| {
        RuleProblem::value("port", "1 to 65535, or two of them as in 8000-8999", value)
    })
}

/// One cause, or a list of them.
fn causes(value: Value) -> Result<Vec<Class>, RuleProblem> {
    let class = |value: &Value| {
        let class = named_causes().find(|class| value == class.name());
        class.ok_or_else(|| RuleProblem::value("cause", cause_names(), value))
    };
    match value {
        Value::Array(values) if values.is_empty() => Err(RuleProblem::NoCause),
        Value::Array(values) => values.iter().map(class).collect(),
        one => class(&one).map(|class| vec![class]),
    }
}

fn cause_names() -> String {
    named_causes().map(Class::name).collect::<Vec<_>>().join(", ")
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "an object",
        Value::String(_) => "a text",
        _ => "a value",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_say_who_where_and_why() {
        let text = r#"
- name: scanners
  reason: The weekly scan, see RUNBOOK-12.
  source: {namespace: security, workload: scanner}
- name: old-clients
  source: {network: 192.0.2.0/24}
  destination: {namespace: shop, workload: db}
  port: 5432-5433
  protocol: TCP
  cause: [default-deny, port-mismatch]
- {name: host, source: {network: "2001:db8::1"}, port: 80, cause: not-policy}
"#;
        let rules = parse("mute.yaml", text).expect("three rules");
        assert_eq!(rules.len(), 3);
        assert_eq!(&*rules[0].reason, "The weekly scan, see RUNBOOK-12.");
        assert_eq!(rules[1].ports, Some((5432, 5433)));
        assert_eq!(rules[1].causes, [Class::DefaultDeny, Class::PortMismatch]);
        assert_eq!(rules[2].source.network, Some("2001:db8::1/128".parse().expect("a network")));
        for empty in ["", "# nothing\n", "[]"] {
            assert_eq!(parse("mute.yaml", empty).expect("no rules"), []);
        }
    }

    #[test]
    fn a_bad_rule_is_refused_by_file_rule_and_field() {
        for (text, wanted) in [
            ("{name: a}", "mute.yaml: expected a list of rules, found an object"),
            ("- {name: a}", "mute.yaml, rule 1 (a): expected source, destination, port"),
            ("- {source: {namespace: x}}", "mute.yaml, rule 1: missing field `name`"),
            ("- {name: a b, port: 1}", "rule 1 (a b): name: expected 1 to 63 letters"),
            ("- {name: other, port: 1}", "name: expected one of your own"),
            ("- {name: a, port: 1}\n- {name: a, port: 2}", "rule 2 (a): name: expected one that"),
            ("- {name: a, ports: 1}", "rule 1 (a): ports: unknown field `ports`"),
            ("- {name: a, source: {pod: x}}", "rule 1 (a): source.pod: unknown field `pod`"),
            ("- {name: a, source: {namespace: \"\"}}", "source.namespace: expected a name"),
            ("- {name: a, source: {network: 10.0.0.0/33}}", "source.network: expected an address"),
            ("- {name: a, port: 0}", "port: expected 1 to 65535"),
            ("- {name: a, port: 90-80}", "port: expected 1 to 65535"),
            ("- {name: a, protocol: tcp}", "protocol: expected TCP, UDP or SCTP, found \"tcp\""),
            ("- {name: a, cause: none}", "cause: expected explicit-deny, "),
            ("- {name: a, cause: []}", "cause: expected one or more of explicit-deny, "),
            ("- name: [", "mute.yaml: line 2, column 1: not YAML: "),
        ] {
            let error = parse("mute.yaml", text).expect_err(text).to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        let many = "- {name: a, port: 1}\n".repeat(RULES_MAX + 1);
        let error = parse("mute.yaml", &many).expect_err("too many").to_string();
        assert!(error.contains("at most 256 rules, found 257"), "{error}");
    }
}
