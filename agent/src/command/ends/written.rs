//! Ends of a flow as people write them: as `kubectl` spells objects, names of DNS, addresses, URLs.

use std::{fmt, net::IpAddr, str::FromStr};

use anyhow::{anyhow, bail, ensure};
use whydrop_core::{cluster::object::WorkloadKind, flow::Protocol};

use super::dns::{self, DnsName};

/// What is expected of an end, for a person.
const EXPECTED: &str = "expected [NAMESPACE/]POD, [NAMESPACE/]KIND/NAME (svc, deploy, sts, ds, job, \
                        cronjob, pod), node/NAME, a name of the cluster's DNS, or an address";

/// How long a name of a port may be: that of a Service's is a label of DNS.
const PORT_NAME_MAX: usize = 63;

/// An object of a namespaced kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::command) struct Place {
    /// Its namespace; `None`: nobody has said which.
    pub(in crate::command) namespace: Option<String>,
    /// Its name.
    pub(in crate::command) name: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "")
    }
}

impl Place {
    /// With what it is before its name: `shop/deploy/web`.
    fn write(&self, f: &mut fmt::Formatter<'_>, kind: &str) -> fmt::Result {
        let before = if kind.is_empty() { "" } else { "/" };
        match &self.namespace {
            Some(namespace) => write!(f, "{namespace}/{kind}{before}{}", self.name),
            None => write!(f, "{kind}{before}{}", self.name),
        }
    }
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::command) enum NamedEnd {
    /// A pod.
    Pod(Place),
    /// The pods of a workload, those to come where it has none.
    Workload(WorkloadKind, Place),
    /// A Service.
    Service(Place),
    /// A name with dots, which may be one of DNS or, as a whole, that of a pod in this namespace.
    Dotted {
        /// As it is written.
        text: String,
        /// What it is if it is one of DNS.
        dns: DnsName,
        /// The namespace of what is given without one.
        namespace: Option<String>,
    },
    /// A node.
    Node(String),
    /// An address, as a packet carries it.
    Address(IpAddr),
}

impl fmt::Display for NamedEnd {
    /// As it can be written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(place) => write!(f, "{place}"),
            Self::Workload(kind, place) => place.write(f, kind.short()),
            Self::Service(place) => place.write(f, "svc"),
            Self::Dotted { text, .. } => f.write_str(text),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// A port as it is written: `8080`, `53/UDP`, `http`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::command) struct WrittenPort {
    /// Which.
    pub(in crate::command) port: NumberOrName,
    /// Of which protocol, if that is said.
    pub(in crate::command) protocol: Option<Protocol>,
}

/// A port's number, or its name: of a Service's port, or of a container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::command) enum NumberOrName {
    /// Number.
    Number(u16),
    /// Name.
    Name(String),
}

impl fmt::Display for NumberOrName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for WrittenPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.port)?;
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

impl WrittenPort {
    /// With its protocol: that of a number without one is TCP, that of a name is its giver's to say.
    pub(super) fn in_full(&self) -> String {
        match (&self.port, self.protocol) {
            (NumberOrName::Number(number), None) => format!("{number}/{}", Protocol::Tcp),
            _ => self.to_string(),
        }
    }
}

impl FromStr for WrittenPort {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (port, protocol) = match text.split_once('/') {
            Some((port, protocol)) => (port, Some(protocol)),
            None => (text, None),
        };
        let protocol = protocol
            .map(|text| text.to_uppercase().parse().map_err(|error| anyhow!("{error}")))
            .transpose()?;
        Ok(Self { port: port.parse()?, protocol })
    }
}

impl FromStr for NumberOrName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Ok(number) = text.parse()
            && number > 0
        {
            return Ok(Self::Number(number));
        }
        let is_of_name =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let is_name = text.bytes().all(is_of_name)
            && text.bytes().any(|byte| byte.is_ascii_lowercase())
            && text.len() <= PORT_NAME_MAX;
        ensure!(is_name, "expected a port from 1 to 65535 or its name, found {text:?}");
        Ok(Self::Name(text.to_owned()))
    }
}

/// An end, and the port that is written with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::command) struct WrittenEnd {
    /// The end.
    pub(in crate::command) end: NamedEnd,
    /// The port behind it: `page.pulp.svc:80`.
    pub(in crate::command) port: Option<WrittenPort>,
}

impl WrittenEnd {
    /// Reads an end. What names no namespace is in `namespace`, if that is known.
    ///
    /// # Errors
    /// What was expected.
    pub(in crate::command) fn read(text: &str, namespace: Option<&str>) -> anyhow::Result<Self> {
        let unreadable = || anyhow!("{EXPECTED}, found {text:?}");
        let url = Url::read(text);
        let (host, port) = split_port(url.as_ref().map_or(text, |url| url.authority));
        let mut port = port.map(str::parse::<NumberOrName>).transpose()?;
        let mut protocol = url.as_ref().and_then(|url| url.protocol);
        let place =
            |name: &str| Place { namespace: namespace.map(str::to_owned), name: name.to_owned() };
        let end = if let Ok(address) = host.parse::<IpAddr>() {
            NamedEnd::Address(address.to_canonical())
        } else if host.contains('/') {
            end_with_kind(host, namespace)?
        } else if host == "localhost" {
            NamedEnd::Address(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST))
        } else if !is_name(host) {
            return Err(unreadable());
        } else if host.contains('.') {
            let (dns, of_name) = dns::read(host)?;
            let mut text = host;
            if let Some((name, of)) = of_name {
                port = port.or(Some(NumberOrName::Name(name)));
                protocol = protocol.or(Some(of));
                text = text.splitn(3, '.').nth(2).unwrap_or(host);
            }
            match (dns, namespace) {
                (DnsName::Address(address), _) => NamedEnd::Address(address),
                (dns, namespace) => NamedEnd::Dotted {
                    text: text.to_owned(),
                    dns,
                    namespace: namespace.map(str::to_owned),
                },
            }
        } else {
            NamedEnd::Pod(place(host))
        };
        let of_scheme = url.and_then(|url| url.port).map(NumberOrName::Number);
        let port = port.or(of_scheme).map(|port| WrittenPort { port, protocol });
        Ok(Self { end, port })
    }
}

impl NamedEnd {
    /// Reads an end of a record, where what has a namespace and a name is a pod.
    ///
    /// # Errors
    /// What was expected.
    pub(in crate::command) fn of_record(text: &str) -> anyhow::Result<Self> {
        match text.split('/').collect::<Vec<_>>().as_slice() {
            [namespace, name] if *namespace != "node" && is_name(namespace) && is_name(name) => {
                let (namespace, name) = (Some((*namespace).to_owned()), (*name).to_owned());
                Ok(Self::Pod(Place { namespace, name }))
            }
            _ => WrittenEnd::read(text, None).map(|written| written.end),
        }
    }
}

/// `NAMESPACE/POD`, `KIND/NAME`, `NAMESPACE/KIND/NAME`.
fn end_with_kind(text: &str, namespace: Option<&str>) -> anyhow::Result<NamedEnd> {
    let parts: Vec<&str> = text.split('/').collect();
    if !parts.iter().all(|part| is_name(part)) {
        bail!("{EXPECTED}, found {text:?}");
    }
    let place = |namespace: Option<&str>, name: &str| Place {
        namespace: namespace.map(str::to_owned),
        name: name.to_owned(),
    };
    match parts.as_slice() {
        [kind, name] => Ok(match WrittenKind::read(kind) {
            Some(kind) => kind.of(place(namespace, name)),
            None => NamedEnd::Pod(place(Some(kind), name)),
        }),
        [namespace, kind, name] => match WrittenKind::read(kind) {
            Some(WrittenKind::Node) => bail!("a node is in no namespace: write node/{name}"),
            Some(kind) => Ok(kind.of(place(Some(namespace), name))),
            None => bail!(
                "expected a kind such as pod, svc, deploy, sts, ds, job or cronjob between the \
                 namespace and the name, found {kind:?}"
            ),
        },
        _ => bail!("{EXPECTED}, found {text:?}"),
    }
}

/// Whether this can be a name of an object: a subdomain of DNS.
fn is_name(text: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !text.is_empty() && text.bytes().all(is_of_name)
}

/// Whether a namespace of this name would be taken for a kind.
pub(super) fn is_kind(name: &str) -> bool {
    WrittenKind::read(name).is_some()
}

/// A kind that an end can be of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WrittenKind {
    Pod,
    Service,
    Node,
    Workload(WorkloadKind),
}

/// How `kubectl` spells kinds: in full, in the plural and for short.
const SPELLINGS: [(WrittenKind, &[&str]); 11] = [
    (WrittenKind::Pod, &["pod", "pods", "po"]),
    (WrittenKind::Service, &["service", "services", "svc"]),
    (WrittenKind::Node, &["node", "nodes", "no"]),
    (WrittenKind::Workload(WorkloadKind::Deployment), &["deployment", "deployments", "deploy"]),
    (WrittenKind::Workload(WorkloadKind::StatefulSet), &["statefulset", "statefulsets", "sts"]),
    (WrittenKind::Workload(WorkloadKind::DaemonSet), &["daemonset", "daemonsets", "ds"]),
    (WrittenKind::Workload(WorkloadKind::ReplicaSet), &["replicaset", "replicasets", "rs"]),
    (WrittenKind::Workload(WorkloadKind::Job), &["job", "jobs"]),
    (WrittenKind::Workload(WorkloadKind::CronJob), &["cronjob", "cronjobs", "cj"]),
    (
        WrittenKind::Workload(WorkloadKind::ReplicationController),
        &["replicationcontroller", "replicationcontrollers", "rc"],
    ),
    (
        WrittenKind::Workload(WorkloadKind::DeploymentConfig),
        &["deploymentconfig", "deploymentconfigs", "dc"],
    ),
];

/// The groups that `kubectl` prints behind a kind, as in `deployment.apps/web`.
const GROUPS: [&str; 3] = ["apps", "batch", "apps.openshift.io"];

impl WrittenKind {
    fn read(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let kind = match text.split_once('.') {
            Some((kind, group)) => {
                // `deployments.v1.apps`, with the version between.
                let without = group.split_once('.').map_or("", |(_, rest)| rest);
                (GROUPS.contains(&group) || GROUPS.contains(&without)).then_some(kind)?
            }
            None => &text,
        };
        let spelt = SPELLINGS.iter().find(|(_, spellings)| spellings.contains(&kind));
        spelt.map(|(kind, _)| *kind)
    }

    fn of(self, place: Place) -> NamedEnd {
        match self {
            Self::Pod => NamedEnd::Pod(place),
            Self::Service => NamedEnd::Service(place),
            Self::Node => NamedEnd::Node(place.name),
            Self::Workload(kind) => NamedEnd::Workload(kind, place),
        }
    }
}

/// `[v6]:port`, `host:port`; an address of IPv6 has colons of its own.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some(rest) = text.strip_prefix('[')
        && let Some((address, rest)) = rest.split_once(']')
    {
        return (address, rest.strip_prefix(':'));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

/// What a URL says of an end.
struct Url<'a> {
    /// Host and port.
    authority: &'a str,
    /// The port that its scheme has unless it names one.
    port: Option<u16>,
    /// The protocol that its scheme is.
    protocol: Option<Protocol>,
}

impl<'a> Url<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let authority = &rest[..end];
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let port = match scheme {
            "http" | "ws" => Some(80),
            "https" | "wss" => Some(443),
            _ => None,
        };
        let protocol = match scheme {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            _ => None,
        };
        Some(Self { authority, port, protocol })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match WrittenEnd::read(text, Some("pulp")) {
            Ok(WrittenEnd { end, port: None }) => format!("{end}"),
            Ok(WrittenEnd { end, port: Some(port) }) => {
                let protocol = port.protocol.map(|p| format!("/{p}")).unwrap_or_default();
                format!("{end} {}{protocol}", port.port)
            }
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn ends_are_read_as_people_write_them() {
        for (written, expected) in [
            ("ask-0", "pulp/ask-0"),
            ("other/ask-0", "other/ask-0"),
            ("pod/ask-0", "pulp/ask-0"),
            ("po/ask-0", "pulp/ask-0"),
            ("other/pods/ask-0", "other/ask-0"),
            ("svc/page", "pulp/svc/page"),
            ("service/page:http", "pulp/svc/page http"),
            ("deployment.apps/page", "pulp/deploy/page"),
            ("deployments.v1.apps/page", "pulp/deploy/page"),
            ("Deployment/page", "pulp/deploy/page"),
            ("other/sts/db", "other/sts/db"),
            ("cronjob.batch/nightly", "pulp/cronjob/nightly"),
            ("cj/nightly", "pulp/cronjob/nightly"),
            ("node/n1", "node/n1"),
            (
                "nodes/ip-10-0-0-1.eu-west-1.compute.internal",
                "node/ip-10-0-0-1.eu-west-1.compute.internal",
            ),
            ("10.96.1.12:80", "10.96.1.12 80"),
            ("10.96.1.12", "10.96.1.12"),
            ("fd00::1", "fd00::1"),
            ("[fd00::1]:443", "fd00::1 443"),
            ("[fd00::1]", "fd00::1"),
            ("localhost:80", "127.0.0.1 80"),
            ("page.pulp.svc:8443", "page.pulp.svc 8443"),
            ("https://page.pulp:8443/x?y=1", "page.pulp 8443"),
            ("https://page.pulp/x", "page.pulp 443"),
            ("http://user:secret@10.96.1.12", "10.96.1.12 80"),
            ("postgres://u:p@db.pulp.svc:5432/x", "db.pulp.svc 5432"),
            ("udp://10.96.0.10:53", "10.96.0.10 53/UDP"),
            ("10-1-0-20.pulp.pod.cluster.local", "10.1.0.20"),
            ("_http._tcp.page.pulp.svc.cluster.local", "page.pulp.svc.cluster.local http/TCP"),
        ] {
            assert_eq!(read(written), expected, "{written}");
        }
    }

    #[test]
    fn what_is_no_end_is_refused_with_what_is_expected() {
        for (written, expected) in [
            ("", "expected [NAMESPACE/]POD"),
            ("a//b", "expected [NAMESPACE/]POD"),
            ("a/b/c/d", "expected [NAMESPACE/]POD"),
            ("two words", "expected [NAMESPACE/]POD"),
            ("pulp/ing/page", "found \"ing\""),
            ("pulp/node/n1", "write node/n1"),
            ("10.96.1.12:0", "expected a port from 1 to 65535 or its name, found \"0\""),
            ("page:99999", "expected a port from 1 to 65535 or its name, found \"99999\""),
            ("1:2:3", "expected [NAMESPACE/]POD"),
        ] {
            let error = read(written);
            assert!(error.contains(expected), "{written}: {error}");
        }
    }

    #[test]
    fn ports_are_numbers_or_names() {
        let port = |text: &str| text.parse::<WrittenPort>();
        let number =
            |number, protocol| WrittenPort { port: NumberOrName::Number(number), protocol };
        assert_eq!(port("8080").ok(), Some(number(8080, None)));
        assert_eq!(port("53/udp").ok(), Some(number(53, Some(Protocol::Udp))));
        let name = WrittenPort { port: NumberOrName::Name("http-alt".into()), protocol: None };
        assert_eq!(port("http-alt").ok(), Some(name));
        for wrong in ["0", "65536", "", "-", "80/ICMP", "HTTP", "a b"] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
    }
}
