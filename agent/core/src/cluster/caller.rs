//! Objects that make something connect to pods: the API server to webhooks and aggregated APIs,
//! Prometheus to what it scrapes. They decide nothing of a flow; they say what it is for.

use std::sync::Arc;

use strum::{Display, IntoStaticStr, VariantArray};

use crate::policy::selector::Selector;

/// An object that makes something connect to pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its kind.
    pub kind: CallerKind,
    /// Its namespace; the API server's are in none.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
    /// To whom something connects because of it.
    pub calls: Vec<Call>,
}

/// The kinds of such objects, as they spell themselves.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Display, IntoStaticStr, VariantArray,
)]
pub enum CallerKind {
    /// `admissionregistration.k8s.io`.
    ValidatingWebhookConfiguration,
    /// `admissionregistration.k8s.io`.
    MutatingWebhookConfiguration,
    /// `apiregistration.k8s.io`: an API that another server than Kubernetes' own has.
    #[strum(serialize = "APIService")]
    ApiService,
    /// `apiextensions.k8s.io`, with a webhook that converts its objects.
    CustomResourceDefinition,
    /// `monitoring.coreos.com`: what Prometheus' operator makes scrapes of.
    PodMonitor,
    /// `monitoring.coreos.com`.
    ServiceMonitor,
}

impl CallerKind {
    /// Its name.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// Who is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A Service, by the API server.
    Service(ServiceCall),
    /// Pods, by Prometheus.
    Scrape(Scrape),
}

/// A Service that the API server connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCall {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// The port that is dialled.
    pub port: u16,
    /// What waits for the answer.
    pub waits: Waiting,
}

/// What waits for an answer to the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Requests for objects.
    Admission {
        /// `CREATE`, `UPDATE`, …, or `*`.
        operations: Vec<Arc<str>>,
        /// `pods`, `deployments.apps`, …
        resources: Vec<Arc<str>>,
        /// What becomes of them without an answer.
        failure: Failure,
    },
    /// Requests for anything in this group and version of the API.
    Api(Arc<str>),
    /// Requests for objects of this resource in another version than the stored one.
    Conversion(Arc<str>),
}

/// `failurePolicy` of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request fails.
    Fail,
    /// The request passes as if there were no webhook.
    Ignore,
}

/// Pods that Prometheus scrapes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrape {
    /// The namespaces in which they are; `None`: all.
    pub namespaces: Option<Vec<Arc<str>>>,
    /// The labels of the pods or Services.
    pub selector: Selector,
    /// The ports that are scraped.
    pub ports: Vec<ScrapedPort>,
}

/// A port that is scraped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScrapedPort {
    /// The pods' port of this number.
    Number(u16),
    /// The pods' port of this name.
    Named(Arc<str>),
    /// The port of this name of the Service that they are behind.
    OfService(Arc<str>),
}
