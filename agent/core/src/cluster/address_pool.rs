//! Calico's pools of addresses, which say how packets go to the pods of other nodes.

use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use crate::{
    policy::metadata::name_of,
    problem::{FieldPath, Problem},
};

/// A pool that pods have their addresses from.
///
/// <https://docs.tigera.io/calico/latest/reference/resources/ippool>
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPool {
    /// Its name.
    pub name: Arc<str>,
    /// The addresses.
    pub network: IpNet,
    /// Whether a tunnel leads to them.
    pub tunnel: Tunnelled,
}

/// When packets to a pool's addresses go by a tunnel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tunnelled {
    /// Never: by the nodes' own network.
    #[default]
    Never,
    /// To nodes of another subnet than the sender's.
    AcrossSubnets,
    /// Always.
    Always,
}

/// An `IPPool`, as far as it is read.
#[derive(Debug, Deserialize)]
pub struct IpPool {
    #[serde(default)]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: IpPoolSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct IpPoolSpec {
    cidr: String,
    ipip_mode: Option<String>,
    vxlan_mode: Option<String>,
}

/// Translates an `IPPool`.
///
/// # Errors
/// The first field that cannot be read.
pub fn address_pool(pool: &IpPool) -> Result<AddressPool, Problem> {
    let path = FieldPath::root("spec");
    let IpPoolSpec { cidr, ipip_mode, vxlan_mode } = &pool.spec;
    let network = cidr.parse().map_err(|_| {
        path.field("cidr").expected("a CIDR such as 10.244.0.0/16", format!("{cidr:?}"))
    })?;
    let mode = |mode: &Option<String>, field: &str| match mode.as_deref() {
        None | Some("" | "Never") => Ok(Tunnelled::Never),
        Some("CrossSubnet") => Ok(Tunnelled::AcrossSubnets),
        Some("Always") => Ok(Tunnelled::Always),
        Some(other) => {
            let expected = "Always, CrossSubnet or Never";
            Err(path.field(field).expected(expected, format!("{other:?}")))
        }
    };
    // Calico refuses a pool that has both.
    let tunnel = mode(ipip_mode, "ipipMode")?.max(mode(vxlan_mode, "vxlanMode")?);
    Ok(AddressPool { name: name_of(&pool.metadata)?, network, tunnel })
}
