//! A flow: the first packet of a connection attempt, as policies see it.

use std::{fmt, net::IpAddr, str::FromStr};

/// The transport protocols that a `NetworkPolicy` port can name.
///
/// <https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/>
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, seen as SYN and SYN-ACK.
    Tcp,
    /// UDP, seen as DNS request and response.
    Udp,
    /// SCTP, seen as INIT and INIT-ACK.
    Sctp,
}

impl Protocol {
    /// The IP protocol number (IANA).
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with this IP protocol number, if it is one of ours.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl FromStr for Protocol {
    type Err = String;

    /// Reads the spelling of the Kubernetes API, `TCP`, `UDP` or `SCTP`, which is case-sensitive.
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            _ => Err(format!("expected TCP, UDP or SCTP, found {text:?}")),
        }
    }
}

/// The first packet of a connection attempt. Source ports take no part in policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// Who connects.
    pub source: IpAddr,
    /// Who is connected to.
    pub destination: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, destination, port, protocol } = self;
        match destination {
            IpAddr::V4(_) => write!(f, "{source} -> {destination}:{port}/{protocol}"),
            IpAddr::V6(_) => write!(f, "{source} -> [{destination}]:{port}/{protocol}"),
        }
    }
}

/// A policy direction, always told from the pod that the policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Out of the source pod.
    Egress,
    /// Into the destination pod.
    Ingress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
        })
    }
}
