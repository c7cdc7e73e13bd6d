//! The rows of the table.

mod forms;
mod inside;
mod outside;

/// A row: what it is about, the Service, what is behind it, who dials what, what comes of it.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    /// Its spec, and its status' ingress; `NAME=VALUE` of labels before it.
    pub(crate) service: &'static str,
    /// `ADDRESS NODE [unready|terminating|gone] [zone=Z] [node=N]`; of port 8080. Empty: no slice.
    pub(crate) endpoints: &'static [&'static str],
    pub(crate) client: &'static str,
    /// `svc`, or an address.
    pub(crate) to: &'static str,
    pub(crate) port: u16,
    pub(crate) comes: &'static [&'static str],
}

const CLUSTER_IP: &str = r#"{"clusterIP": "10.96.0.7", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}"#;
const HEADLESS: &str = r#"{"clusterIP": "None", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}"#;
const BOTH: &[&str] = &["10.1.1.20 n1", "10.1.2.20 n2"];
const REMOTE: &[&str] = &["10.1.2.20 n2"];
const POD: &str = "10.1.1.10";
const NODE: &str = "192.0.2.1";
const OUTSIDE: &str = "203.0.113.5";

/// A balancer's Service, with more fields of its spec.
macro_rules! balancer {
    ($($more:literal)?) => {
        concat!(
            r#"{"type": "LoadBalancer", "clusterIP": "10.96.0.7", "externalIPs": ["198.51.100.7"], "#,
            $($more, ",",)?
            r#""ports": [{"port": 80, "targetPort": 8080, "nodePort": 30080}], "#,
            r#""ingress": [{"ip": "198.51.100.8"}, {"ip": "198.51.100.9", "ipMode": "Proxy"}]}"#
        )
    };
}
use balancer;

/// All rows.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    [inside::ROWS, outside::ROWS, forms::ROWS].into_iter().flatten()
}
