//! A port by its number or its name.

use std::{collections::BTreeMap, fmt};

use anyhow::{anyhow, bail};
use whydrop_core::{
    cluster::{
        Snapshot,
        object::Service,
        resolve::{Endpoint, Holder},
    },
    flow::Protocol,
};

use super::{
    find::Found,
    written::{NumberOrName, WrittenPort},
};

/// A port with its protocol: `8080/TCP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::command) struct Port {
    /// Number.
    pub(in crate::command) number: u16,
    /// Protocol.
    pub(in crate::command) protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl WrittenPort {
    /// The port as a number: a name is the destination's to give.
    ///
    /// # Errors
    /// A name that the destination does not have, and those that it has.
    pub(in crate::command) fn of(
        &self,
        snapshot: &Snapshot,
        destination: &Found,
    ) -> anyhow::Result<Port> {
        let name = match &self.port {
            NumberOrName::Number(number) => {
                let protocol = self.protocol.unwrap_or(Protocol::Tcp);
                return Ok(Port { number: *number, protocol });
            }
            NumberOrName::Name(name) => name,
        };
        let given = match destination {
            Found::Service(service) => of_service(service),
            Found::Ends(ends) => of_ends(ends)?,
            Found::Address(address) => {
                let end = snapshot.resolve(*address, None);
                match &end.holder {
                    Holder::Service(service) => of_service(service),
                    _ => of_ends(std::slice::from_ref(&end))?,
                }
            }
        };
        let named = given.iter().filter(|given| given.name == *name);
        let named: Vec<_> =
            named.filter(|given| self.protocol.is_none_or(|p| p == given.port.protocol)).collect();
        // DNS has both; TCP is what is asked about unless it is said.
        let tcp = named.iter().find(|given| given.port.protocol == Protocol::Tcp);
        match (tcp.or(named.first()), named.as_slice()) {
            (Some(only), several) if several.iter().all(|one| is_same(one, only)) => Ok(only.port),
            (Some(_), several) => {
                let several: Vec<_> = several.iter().map(ToString::to_string).collect();
                bail!("port {name} is {}: name its number", several.join(" and "))
            }
            (None, _) => bail!("no port is named {name}{}", there_are(&given)),
        }
    }
}

/// One port, or DNS' two of one number.
fn is_same(one: &Given, other: &Given) -> bool {
    one.port.number == other.port.number
}

/// A port, the name that it has, and who gives it.
struct Given {
    name: String,
    port: Port,
    by: String,
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.port, self.by)
    }
}

fn of_service(service: &Service) -> Vec<Given> {
    let by = format!("Service {}/{}", service.namespace, service.name);
    let ports = service.ports.iter().map(|port| Given {
        name: port.name.to_string(),
        port: Port { number: port.port, protocol: port.protocol },
        by: by.clone(),
    });
    ports.collect()
}

/// The ports of pods, each once.
fn of_ends(ends: &[Endpoint]) -> anyhow::Result<Vec<Given>> {
    let mut given: BTreeMap<(String, u16, Protocol), Given> = BTreeMap::new();
    for end in ends {
        let pod = match &end.holder {
            Holder::Pod(pod) => pod,
            Holder::Hidden(hidden) => bail!("{}: name the number of the port", hidden.why),
            _ => {
                return Err(anyhow!(
                    "{end} gives no names to ports, as a pod or a Service does: name its number"
                ));
            }
        };
        for port in &pod.ports {
            let key = (port.name.to_string(), port.number, port.protocol);
            given.entry(key).or_insert_with(|| Given {
                name: port.name.to_string(),
                port: Port { number: port.number, protocol: port.protocol },
                by: end.to_string(),
            });
        }
    }
    Ok(given.into_values().collect())
}

/// `; there are: http (80/TCP)`.
fn there_are(given: &[Given]) -> String {
    let named = given.iter().filter(|given| !given.name.is_empty());
    let named: Vec<_> = named.map(|given| format!("{} ({})", given.name, given.port)).collect();
    match (named.as_slice(), given.is_empty()) {
        ([], true) => "; there are none".to_owned(),
        ([], false) => {
            let numbers: Vec<_> = given.iter().map(|given| given.port.to_string()).collect();
            format!("; it has {}, without a name", numbers.join(", "))
        }
        (named, _) => format!("; there are: {}", named.join(", ")),
    }
}
