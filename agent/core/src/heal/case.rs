//! What is healed as one: an incident between two namespaces.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use crate::{flow::Protocol, incident::IncidentId};

/// The namespaces of the pods at both ends of a flow. An end that is no pod, such as a node, has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Between {
    /// That of who connects.
    pub client: Option<Arc<str>>,
    /// That of who is connected to.
    pub server: Option<Arc<str>>,
}

impl Between {
    /// Both, or the one that there is.
    pub fn namespaces(&self) -> BTreeSet<Arc<str>> {
        [&self.client, &self.server].into_iter().flatten().cloned().collect()
    }
}

impl fmt::Display for Between {
    /// `CLIENT/SERVER`: a slash is in no namespace's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |of: &Option<Arc<str>>| of.clone().unwrap_or_default();
        write!(f, "{}/{}", name(&self.client), name(&self.server))
    }
}

/// What is no `CLIENT/SERVER`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected CLIENT/SERVER, two namespaces, found {0:?}")]
pub struct NotBetween(String);

impl FromStr for Between {
    type Err = NotBetween;

    fn from_str(text: &str) -> Result<Self, NotBetween> {
        let not = || NotBetween(text.to_owned());
        let (client, server) = text.split_once('/').ok_or_else(not)?;
        let name = |name: &str| (!name.is_empty()).then(|| name.into());
        Ok(Self { client: name(client), server: name(server) })
    }
}

/// Names what is healed as one. An incident is one cause at one workload, and may have drops of
/// several tenants: what one of them does counts for its own namespace alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CaseId {
    /// The incident.
    pub incident: IncidentId,
    /// Between whom.
    pub between: Between,
}

/// A path as records name it: from whom to whom, on what port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathName {
    /// Who connects: `NAMESPACE/WORKLOAD`, `NAMESPACE/POD` or `node NAME`.
    pub source: Arc<str>,
    /// Who is connected to.
    pub destination: Arc<str>,
    /// Destination port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}
