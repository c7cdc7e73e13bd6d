//! Objects that make something connect to pods.
//!
//! <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>,
//! <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/>,
//! <https://prometheus-operator.dev/docs/api-reference/api/>

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Deserialize;

use crate::{
    cluster::caller::{
        Call, Caller, CallerKind, Failure, Scrape, ScrapedPort, ServiceCall, Waiting,
    },
    policy::{
        metadata::{name_of, namespace_of},
        selector::Selector,
    },
    problem::{FieldPath, Problem},
};

/// The port of a Service where a webhook or an aggregated API names none.
const DEFAULT_PORT: u16 = 443;

/// In a rule of a webhook: any.
const ANY: &str = "*";

/// The version in which a webhook without a `failurePolicy` is passed over when it fails.
const IGNORES_BY_DEFAULT: &str = "admissionregistration.k8s.io/v1beta1";

/// A Service that the API server is to connect to.
#[derive(Clone, Debug, Deserialize)]
struct ServiceReference {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    port: Option<u16>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct ClientConfig {
    /// None: it is somewhere else, by an URL.
    service: Option<ServiceReference>,
}

/// A `ValidatingWebhookConfiguration` or a `MutatingWebhookConfiguration`, as far as it is read.
#[derive(Debug, Deserialize)]
pub struct WebhookConfiguration {
    #[serde(default)]
    metadata: ObjectMeta,
    webhooks: Option<Vec<Webhook>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Webhook {
    #[serde(default)]
    client_config: ClientConfig,
    failure_policy: Option<String>,
    rules: Option<Vec<RuleWithOperations>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RuleWithOperations {
    operations: Option<Vec<String>>,
    api_groups: Option<Vec<String>>,
    resources: Option<Vec<String>>,
}

/// Translates a configuration of webhooks.
///
/// # Errors
/// It has no name.
pub fn webhooks(
    kind: CallerKind,
    object: &WebhookConfiguration,
    api_version: &str,
) -> Result<Caller, Problem> {
    let webhooks = object.webhooks.iter().flatten();
    let calls = webhooks.filter_map(|webhook| {
        let failure = match webhook.failure_policy.as_deref() {
            Some("Ignore") => Failure::Ignore,
            None if api_version == IGNORES_BY_DEFAULT => Failure::Ignore,
            _ => Failure::Fail,
        };
        let (operations, resources) = ruled(webhook.rules.iter().flatten());
        let waits = Waiting::Admission { operations, resources, failure };
        to_service(webhook.client_config.service.as_ref(), waits)
    });
    let calls = calls.collect();
    Ok(Caller { kind, namespace: None, name: name_of(&object.metadata)?, calls })
}

/// Operations and resources that rules name, each once.
fn ruled<'a>(
    rules: impl Iterator<Item = &'a RuleWithOperations>,
) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
    let (mut operations, mut resources) = (Vec::<Arc<str>>::new(), Vec::<Arc<str>>::new());
    for rule in rules {
        for operation in rule.operations.iter().flatten() {
            if !operations.iter().any(|known| **known == **operation) {
                operations.push(operation.as_str().into());
            }
        }
        for resource in rule.resources.iter().flatten() {
            let groups: Vec<&str> = rule.api_groups.iter().flatten().map(String::as_str).collect();
            for name in named(resource, &groups) {
                if !resources.iter().any(|known| **known == *name) {
                    resources.push(name.into());
                }
            }
        }
    }
    (operations, resources)
}

/// `pods`, `deployments.apps`, as `kubectl get` knows them.
fn named(resource: &str, groups: &[&str]) -> Vec<String> {
    let of = |group: &&str| match *group {
        "" | ANY => resource.to_owned(),
        group => format!("{resource}.{group}"),
    };
    match groups {
        [] => vec![resource.to_owned()],
        groups => groups.iter().map(of).collect(),
    }
}

fn to_service(service: Option<&ServiceReference>, waits: Waiting) -> Option<Call> {
    let ServiceReference { namespace, name, port } = service?;
    Some(Call::Service(ServiceCall {
        namespace: namespace.as_str().into(),
        name: name.as_str().into(),
        port: port.unwrap_or(DEFAULT_PORT),
        waits,
    }))
}

/// An `APIService`, as far as it is read.
#[derive(Debug, Deserialize)]
pub struct ApiService {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: ApiServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ApiServiceSpec {
    /// None: it is Kubernetes' own.
    service: Option<ServiceReference>,
    group: String,
    version: String,
}

/// Translates an `APIService`.
///
/// # Errors
/// It has no name.
pub fn api_service(object: &ApiService) -> Result<Caller, Problem> {
    let ApiServiceSpec { service, group, version } = &object.spec;
    let waits = Waiting::Api(format!("{group}/{version}").into());
    Ok(Caller {
        kind: CallerKind::ApiService,
        namespace: None,
        name: name_of(&object.metadata)?,
        calls: to_service(service.as_ref(), waits).into_iter().collect(),
    })
}

/// A `CustomResourceDefinition`, as far as it is read.
#[derive(Debug, Deserialize)]
pub struct Definition {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: DefinitionSpec,
}

#[derive(Debug, Default, Deserialize)]
struct DefinitionSpec {
    conversion: Option<Conversion>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Conversion {
    #[serde(default)]
    strategy: String,
    webhook: Option<ConversionWebhook>,
    /// In `v1beta1`.
    webhook_client_config: Option<ClientConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConversionWebhook {
    client_config: Option<ClientConfig>,
}

/// Translates a `CustomResourceDefinition`.
///
/// # Errors
/// It has no name.
pub fn definition(object: &Definition) -> Result<Caller, Problem> {
    let name = name_of(&object.metadata)?;
    let conversion = object.spec.conversion.as_ref().filter(|of| of.strategy == "Webhook");
    let client = conversion.and_then(|conversion| {
        let current =
            conversion.webhook.as_ref().and_then(|webhook| webhook.client_config.as_ref());
        current.or(conversion.webhook_client_config.as_ref())
    });
    let service = client.and_then(|client| client.service.as_ref());
    let calls = to_service(service, Waiting::Conversion(name.clone())).into_iter().collect();
    Ok(Caller { kind: CallerKind::CustomResourceDefinition, namespace: None, name, calls })
}

/// A `PodMonitor` or a `ServiceMonitor`, as far as it is read.
#[derive(Debug, Deserialize)]
pub struct Monitor {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: MonitorSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MonitorSpec {
    selector: LabelSelector,
    namespace_selector: NamespaceSelector,
    /// A `PodMonitor`'s.
    pod_metrics_endpoints: Option<Vec<MonitorEndpoint>>,
    /// A `ServiceMonitor`'s.
    endpoints: Option<Vec<MonitorEndpoint>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct NamespaceSelector {
    any: bool,
    match_names: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct MonitorEndpoint {
    port: Option<String>,
    port_number: Option<u16>,
    target_port: Option<NumberOrName>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum NumberOrName {
    Number(u16),
    Name(String),
}

/// Translates a `PodMonitor` or a `ServiceMonitor`.
///
/// # Errors
/// The first field that cannot be read.
pub fn monitor(kind: CallerKind, object: &Monitor) -> Result<Caller, Problem> {
    let MonitorSpec { selector, namespace_selector, pod_metrics_endpoints, endpoints } =
        &object.spec;
    let namespace = namespace_of(&object.metadata);
    let names: Vec<Arc<str>> =
        namespace_selector.match_names.iter().flatten().map(|name| name.as_str().into()).collect();
    let namespaces = match (namespace_selector.any, names.is_empty()) {
        (true, _) => None,
        (false, true) => Some(vec![namespace.clone()]),
        (false, false) => Some(names),
    };
    let endpoints = pod_metrics_endpoints.iter().chain(endpoints).flatten();
    let scrape = Scrape {
        namespaces,
        selector: Selector::lower(selector, &FieldPath::root("spec").field("selector"))?,
        ports: endpoints.filter_map(|endpoint| scraped(kind, endpoint)).collect(),
    };
    Ok(Caller {
        kind,
        namespace: Some(namespace),
        name: name_of(&object.metadata)?,
        calls: vec![Call::Scrape(scrape)],
    })
}

fn scraped(kind: CallerKind, endpoint: &MonitorEndpoint) -> Option<ScrapedPort> {
    let MonitorEndpoint { port, port_number, target_port } = endpoint;
    let name = port.as_deref().filter(|name| !name.is_empty());
    match (name, port_number, target_port) {
        (Some(name), _, _) if kind == CallerKind::ServiceMonitor => {
            Some(ScrapedPort::OfService(name.into()))
        }
        (Some(name), _, _) => Some(ScrapedPort::Named(name.into())),
        (None, Some(number), _) | (None, None, Some(NumberOrName::Number(number))) => {
            Some(ScrapedPort::Number(*number))
        }
        (None, None, Some(NumberOrName::Name(name))) => {
            Some(ScrapedPort::Named(name.as_str().into()))
        }
        (None, None, None) => None,
    }
}
