//! A flow: the first packet of a connection attempt, as policies see it.

use std::{fmt, net::IpAddr, str::FromStr};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use strum::Display;

/// The transport protocols that a `NetworkPolicy` port can name.
///
/// <https://kubernetes.io/docs/reference/kubernetes-api/policy-resources/network-policy-v1/>
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Display,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[strum(serialize_all = "UPPERCASE")]
#[serde(rename_all = "UPPERCASE")]
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

/// A protocol that no policy port can name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected TCP, UDP or SCTP, found {0:?}")]
pub struct UnknownProtocol(String);

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    /// Reads the spelling of the Kubernetes API, `TCP`, `UDP` or `SCTP`, which is case-sensitive.
    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        match text {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            _ => Err(UnknownProtocol(text.to_owned())),
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

impl Flow {
    /// The same to another address and port: as it was dialled, where it was translated.
    #[must_use]
    pub const fn to(self, (destination, port): (IpAddr, u16)) -> Self {
        Self { destination, port, ..self }
    }
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

/// Which of a flow's connections were seen to be answered. Of DNS, each query is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worked {
    /// When the first of them was, as far as is known.
    pub first: Timestamp,
    /// When the last one was.
    pub last: Timestamp,
    /// How many there were, at least.
    pub connections: u64,
}

impl Worked {
    /// One connection.
    pub const fn once(at: Timestamp) -> Self {
        Self { first: at, last: at, connections: 1 }
    }

    /// What two say that may have seen the same connections: two agents, or the addresses of one
    /// connection before and after translation.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            first: self.first.min(other.first),
            last: self.last.max(other.last),
            connections: self.connections.max(other.connections),
        }
    }
}

/// What an answer speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This path for certain: it came from there.
    OfPath,
    /// Whatever is behind the address that was dialled: this path, or another one.
    AsDialled {
        /// There is no other one, as it is now.
        is_only: bool,
        /// How many of them in a row show that this path passes as well, each being picked by chance;
        /// `None`: no number of them does.
        picks: Option<u32>,
    },
}

/// A policy direction, as seen from the pod that the policy selects.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Display,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[strum(serialize_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Out of the source pod.
    Egress,
    /// Into the destination pod.
    Ingress,
}
