//! Who sends: the agent and its node, as attributes of the resource.

use std::{env, fs};

use opentelemetry_proto::tonic::{
    common::v1::{InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    resource::v1::Resource,
};

use super::{
    event::key_value,
    settings::{SettingError, decoded},
};

/// The version of the semantic conventions that names are taken from.
const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.43.0";

/// The agent's name, unless `OTEL_SERVICE_NAME` gives another.
const SERVICE: &str = "whydrop";

/// The attributes of an agent's resource, but for its instance, which its outbox knows.
#[derive(Clone, Debug)]
pub struct Origin {
    attributes: Vec<(String, String)>,
}

impl Origin {
    /// An agent on a node. `OTEL_RESOURCE_ATTRIBUTES` adds to what is known, and comes before it;
    /// `OTEL_SERVICE_NAME` comes before both
    /// (<https://opentelemetry.io/docs/specs/otel/resource/sdk/>).
    ///
    /// # Errors
    /// Variables that cannot be read.
    pub fn new(node: &str) -> Result<Self, SettingError> {
        Self::from(node, &|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from(node: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, SettingError> {
        let mut origin = Self { attributes: Vec::new() };
        origin.set("service.name", SERVICE);
        origin.set("service.version", env!("CARGO_PKG_VERSION"));
        origin.set("k8s.node.name", node);
        let name = "OTEL_RESOURCE_ATTRIBUTES";
        for pair in variable(name).unwrap_or_default().split(',').map(str::trim) {
            if pair.is_empty() {
                continue;
            }
            let parts = pair
                .split_once('=')
                .and_then(|(key, value)| Some((decoded(key.trim())?, decoded(value.trim())?)));
            let texts = parts.and_then(|(key, value)| {
                Some((String::from_utf8(key.into()).ok()?, String::from_utf8(value.into()).ok()?))
            });
            let Some((key, value)) = texts else {
                return Err(SettingError::Value {
                    name: name.to_owned(),
                    expected: "NAME=VALUE, percent-encoded",
                    found: pair.to_owned(),
                });
            };
            origin.set(&key, &value);
        }
        if let Some(service) = variable("OTEL_SERVICE_NAME") {
            origin.set("service.name", &service);
        }
        Ok(origin)
    }

    /// Adds an attribute, or replaces it.
    pub fn set(&mut self, key: &str, value: &str) {
        match self.attributes.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => value.clone_into(known),
            None => self.attributes.push((key.to_owned(), value.to_owned())),
        }
    }

    /// Records of this agent. `instance` distinguishes this agent from all others, and `cluster` is the uid
    /// of its cluster's namespace kube-system, where it is known.
    pub(super) fn logs(
        &self,
        instance: &str,
        cluster: Option<&str>,
        log_records: Vec<LogRecord>,
    ) -> ResourceLogs {
        let text = |key: &str, value: &str| key_value(key, Value::StringValue(value.to_owned()));
        let mut attributes: Vec<KeyValue> =
            self.attributes.iter().map(|(key, value)| text(key, value)).collect();
        let known = |key: &str| self.attributes.iter().any(|(set, _)| set == key);
        let learnt = [("service.instance.id", Some(instance)), ("k8s.cluster.uid", cluster)];
        for (key, value) in learnt.into_iter().filter(|(key, _)| !known(key)) {
            attributes.extend(value.map(|value| text(key, value)));
        }
        let scope = InstrumentationScope {
            name: SERVICE.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        ResourceLogs {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_logs: vec![ScopeLogs {
                scope: Some(scope),
                log_records,
                schema_url: SCHEMA_URL.to_owned(),
            }],
            schema_url: SCHEMA_URL.to_owned(),
        }
    }
}

/// A random UUID, from the kernel: distinguishes this instance of the agent from every other.
pub(super) fn instance() -> String {
    // There wherever /proc is, without which there is no agent; a fixed name would be no name.
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    let uuid = uuid.trim();
    if uuid.is_empty() { format!("pid-{}", std::process::id()) } else { uuid.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(variables: &[(&str, &str)]) -> Result<Vec<(String, String)>, SettingError> {
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Ok(Origin::from("worker-1", &find)?.attributes)
    }

    #[test]
    fn what_the_environment_says_comes_before_what_is_known() {
        let variables = [
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "k8s.cluster.name=east%2C1, service.name=a,service.version=9",
            ),
            ("OTEL_SERVICE_NAME", "drops"),
        ];
        let attributes = origin(&variables).expect("attributes");
        let pairs: Vec<_> =
            attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            pairs,
            [
                "service.name=drops",
                "service.version=9",
                "k8s.node.name=worker-1",
                "k8s.cluster.name=east,1"
            ]
        );
        let fault = origin(&[("OTEL_RESOURCE_ATTRIBUTES", "a")]).expect_err("no value");
        assert!(fault.to_string().contains("expected NAME=VALUE"), "{fault}");
    }
}
