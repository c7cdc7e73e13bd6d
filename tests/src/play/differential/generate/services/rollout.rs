//! The same cluster after every pod was replaced: heirs under names of their own, each at the address that
//! another one of its node had before.

use std::{collections::BTreeMap, net::Ipv4Addr};

use serde_json::Value;

use super::{NODES, Served};

/// What the names of heirs end in.
const HEIR: &str = "-heir";

impl Served {
    /// The cluster after a rollout of all its pods. Labels, ports, policies and Services are as before.
    #[must_use]
    pub fn rolled(&self) -> Self {
        let mut rolled = self.clone();
        let heirs = self.heirs();
        for (pod, placed) in rolled.case.pods.iter_mut().zip(&mut rolled.pods) {
            pod.name.push_str(HEIR);
            pod.manifest["metadata"]["name"] = pod.name.clone().into();
            placed.address = heirs[&placed.address];
        }
        for service in &mut rolled.services {
            for behind in &mut service.behind {
                behind.address = heirs.get(&behind.address).copied().unwrap_or(behind.address);
            }
            let endpoints = service.slices.iter_mut().map(|slice| &mut slice["endpoints"]);
            for endpoint in endpoints.flat_map(items) {
                inherit(&heirs, &mut endpoint["addresses"][0]);
                if let Some(Value::String(name)) = endpoint.pointer_mut("/targetRef/name") {
                    name.push_str(HEIR);
                }
            }
            let written = service.endpoints.iter_mut().flat_map(|own| items(&mut own["subsets"]));
            for subset in written {
                for field in ["addresses", "notReadyAddresses"] {
                    let addresses = subset.get_mut(field).into_iter().flat_map(items);
                    addresses.for_each(|address| inherit(&heirs, &mut address["ip"]));
                }
            }
        }
        rolled
    }

    /// For each pod's address, the one of its heir: that of the pod after it on its node.
    fn heirs(&self) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
        let of_node = |name: &str| -> Vec<Ipv4Addr> {
            let own = self.pods.iter().filter(|placed| placed.node.name == name);
            own.map(|placed| placed.address).collect()
        };
        let pairs = NODES.iter().flat_map(|node| {
            let own = of_node(node.name);
            let mut heirs = own.clone();
            heirs.rotate_left(1.min(own.len()));
            own.into_iter().zip(heirs)
        });
        pairs.collect()
    }
}

fn items(value: &mut Value) -> impl Iterator<Item = &mut Value> {
    value.as_array_mut().into_iter().flatten()
}

fn inherit(heirs: &BTreeMap<Ipv4Addr, Ipv4Addr>, address: &mut Value) {
    let parsed: Option<Ipv4Addr> = address.as_str().and_then(|text| text.parse().ok());
    if let Some(heir) = parsed.and_then(|address| heirs.get(&address)) {
        *address = heir.to_string().into();
    }
}
