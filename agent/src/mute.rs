//! The rules of `whydrop agent --mute`, read.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

use anyhow::{Context as _, anyhow, bail};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;
use whydrop_core::{
    diagnosis::Class,
    mute::{End, OTHERS, Rule},
    policy::mute_annotation::REASON_BYTES_MAX,
};

use crate::cluster::manifests;

/// How many rules there may be: each is held against each drop. Who means more than this is better
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
struct Written {
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

/// Reads the rules of a file.
///
/// # Errors
/// A file that cannot be read, and as [`parse`].
pub fn read(file: &Path) -> anyhow::Result<Vec<Rule>> {
    let name = file.display().to_string();
    let text = fs::read_to_string(file).with_context(|| name.clone())?;
    parse(&name, &text)
}

/// Reads rules: a list in YAML or JSON; nothing at all is a list of none.
///
/// # Errors
/// The first field that cannot be taken, with where the text is from and the rule's number and name.
pub fn parse(from: &str, text: &str) -> anyhow::Result<Vec<Rule>> {
    let items = match manifests::yaml(text, 1).map_err(|error| anyhow!("{from}: {error}"))? {
        Value::Null => Vec::new(),
        Value::Array(items) => items,
        other => bail!("{from}: expected a list of rules, found {}", kind_of(&other)),
    };
    if items.len() > RULES_MAX {
        bail!("{from}: expected at most {RULES_MAX} rules, found {}", items.len());
    }
    let mut names = BTreeSet::new();
    let mut rules = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        let name = item["name"].as_str().map(|name| format!(" ({name})")).unwrap_or_default();
        let place = format!("{from}, rule {}{name}", index + 1);
        let rule = rule(item).map_err(|error| anyhow!("{place}: {error}"))?;
        if !names.insert(rule.name.clone()) {
            bail!("{place}: name: expected one that no other rule has");
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn rule(item: Value) -> Result<Rule, String> {
    let written: Written = serde_path_to_error::deserialize(item).map_err(|error| {
        match error.path().to_string().as_str() {
            "." => error.inner().to_string(),
            path => format!("{path}: {}", error.inner()),
        }
    })?;
    let Written { name, reason, source, destination, port, protocol, cause } = written;
    let expected = |field: &str, what: &str, found: &str| {
        Err::<(), _>(format!("{field}: expected {what}, found {found:?}"))
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(is_plain) {
        let what = format!("1 to {NAME_BYTES_MAX} letters, digits, dashes, dots or underscores");
        expected("name", &what, &name)?;
    }
    if name == OTHERS {
        expected("name", "one of your own: this one stands for the rest", &name)?;
    }
    if reason.len() > REASON_BYTES_MAX {
        return Err(format!("reason: expected at most {REASON_BYTES_MAX} bytes"));
    }
    let rule = Rule {
        name: name.into(),
        reason: reason.trim().into(),
        source: end("source", source)?,
        destination: end("destination", destination)?,
        ports: port.map(|port| ports(&port)).transpose()?,
        protocol: match protocol {
            Some(text) => Some(text.parse().map_err(|error| format!("protocol: {error}"))?),
            None => None,
        },
        causes: cause.map(causes).transpose()?.unwrap_or_default(),
    };
    let says_nothing = rule.source.is_any()
        && rule.destination.is_any()
        && rule.ports.is_none()
        && rule.protocol.is_none()
        && rule.causes.is_empty();
    if says_nothing {
        return Err("expected source, destination, port, protocol or cause: without any, this \
                    would mute everything"
            .to_owned());
    }
    Ok(rule)
}

fn end(field: &str, written: WrittenEnd) -> Result<End, String> {
    let WrittenEnd { namespace, workload, network } = written;
    for (name, value) in [("namespace", &namespace), ("workload", &workload)] {
        if value.as_ref().is_some_and(String::is_empty) {
            return Err(format!("{field}.{name}: expected a name, found \"\""));
        }
    }
    let network = network.map(|text| {
        let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
        let found = text.parse().ok().or_else(address);
        found.ok_or_else(|| {
            format!("{field}.network: expected an address or a network, found {text:?}")
        })
    });
    Ok(End {
        namespace: namespace.map(Into::into),
        workload: workload.map(Into::into),
        network: network.transpose()?,
    })
}

/// `8080`, or `"8000-8999"`.
fn ports(value: &Value) -> Result<(u16, u16), String> {
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
        format!("port: expected 1 to 65535, or two of them as in 8000-8999, found {value}")
    })
}

/// One cause, or a list of them.
fn causes(value: Value) -> Result<Vec<Class>, String> {
    let known = || named_causes().map(Class::name).collect::<Vec<_>>().join(", ");
    let class = |value: &Value| {
        let class = named_causes().find(|class| value == class.name());
        class.ok_or_else(|| format!("cause: expected {}, found {value}", known()))
    };
    match value {
        Value::Array(values) if values.is_empty() => {
            Err(format!("cause: expected one or more of {}", known()))
        }
        Value::Array(values) => values.iter().map(class).collect(),
        one => class(&one).map(|class| vec![class]),
    }
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
            ("- name: [", "mute.yaml: line 1"),
        ] {
            let error = parse("mute.yaml", text).expect_err(text).to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
        let many = "- {name: a, port: 1}\n".repeat(RULES_MAX + 1);
        let error = parse("mute.yaml", &many).expect_err("too many").to_string();
        assert!(error.contains("at most 256 rules, found 257"), "{error}");
    }
}
