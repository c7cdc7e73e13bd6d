//! Which networks a pod has beside the cluster's own, by the annotation in which plugins for several
//! networks (Multus, OVN-Kubernetes) report them.
//!
//! Kubernetes Network Custom Resource Definition De-facto Standard, version 1.3, section 4.1.2.2
//! <https://github.com/k8snetworkplumbingwg/multi-net-spec>.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::address::address_or_network;
use crate::cluster::object::SecondNetwork;

/// The annotation, and its name in older versions of Multus.
const ANNOTATIONS: [&str; 2] =
    ["k8s.v1.cni.cncf.io/network-status", "k8s.v1.cni.cncf.io/networks-status"];

/// How many networks of a pod are read: it has some interfaces, not hundreds.
const NETWORKS_MAX: usize = 64;

#[derive(Debug, Deserialize)]
struct Network {
    #[serde(default)]
    name: String,
    #[serde(default)]
    ips: Vec<String>,
    /// Whether it is the one of the pod's default route and Services.
    #[serde(default)]
    default: bool,
}

/// Reads the networks of a pod. `own`: its `status.podIPs`, to which an address is added that the
/// annotation says to be on the default network: with a primary network of a user's own,
/// OVN-Kubernetes' policies go by that one.
///
/// What cannot be read is passed over, as no API server looks at it.
pub(super) fn read(metadata: &ObjectMeta, own: &mut Vec<IpAddr>) -> Vec<SecondNetwork> {
    let annotations = metadata.annotations.as_ref();
    let written = ANNOTATIONS.iter().find_map(|name| annotations?.get(*name));
    let networks: Vec<Network> =
        written.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let is_over = own.is_empty();
    let mut second = Vec::new();
    for Network { name, ips, default } in networks.into_iter().take(NETWORKS_MAX) {
        let addresses = ips.iter().filter_map(|text| address_or_network(text));
        let addresses: Vec<IpAddr> = addresses.map(|network| network.addr()).collect();
        let others = addresses.into_iter().filter(|address| !own.contains(address));
        let others: Vec<IpAddr> = others.collect();
        if is_over || others.is_empty() {
            continue;
        }
        match default {
            true => own.extend(others),
            false => second.push(SecondNetwork { name: name.as_str().into(), addresses: others }),
        }
    }
    second
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(annotation: &str, text: &str, own: &[&str]) -> (Vec<IpAddr>, Vec<SecondNetwork>) {
        let annotations = Some([(annotation.to_owned(), text.to_owned())].into());
        let mut own = own.iter().map(|text| text.parse().unwrap()).collect();
        let metadata = ObjectMeta { annotations, ..ObjectMeta::default() };
        let second = read(&metadata, &mut own);
        (own, second)
    }

    const STATUS: &str = r#"[
        { "name": "cbr0", "interface": "eth0", "ips": ["10.42.1.7"], "default": true, "dns": {} },
        { "name": "plant/machines", "interface": "net1", "mac": "aa", "ips": ["192.0.2.40", "2001:db8::40"] }
    ]"#;

    #[test]
    fn what_is_not_the_default_network_is_a_second_one() {
        for annotation in ANNOTATIONS {
            let (own, second) = read_of(annotation, STATUS, &["10.42.1.7"]);
            assert_eq!(own.len(), 1);
            assert_eq!(second.len(), 1);
            assert_eq!(&*second[0].name, "plant/machines");
            assert_eq!(second[0].addresses.len(), 2);
        }
    }

    #[test]
    fn the_pods_own_address_is_on_no_second_network_whatever_the_annotation_leaves_out() {
        let unmarked = r#"[{ "name": "", "ips": ["10.42.1.7"] }]"#;
        let (own, second) = read_of(ANNOTATIONS[0], unmarked, &["10.42.1.7"]);
        assert_eq!((own.len(), second.len()), (1, 0));
    }

    #[test]
    fn a_primary_network_of_a_users_own_is_governed() {
        let primary = r#"[
            { "name": "ovn-kubernetes", "ips": ["10.128.0.7"] },
            { "name": "blue/own", "ips": ["10.20.0.7"], "default": true }
        ]"#;
        let (own, second) = read_of(ANNOTATIONS[0], primary, &["10.128.0.7"]);
        assert_eq!((own.len(), second.len()), (2, 0));
    }

    #[test]
    fn what_is_no_annotation_of_this_kind_is_passed_over() {
        for text in ["", "{}", "[1]", "null", r#"[{ "ips": ["x"] }]"#] {
            assert_eq!(read_of(ANNOTATIONS[0], text, &["10.42.1.7"]).1, []);
        }
        // Pods that are over hold none.
        assert_eq!(read_of(ANNOTATIONS[0], STATUS, &[]).1, []);
    }
}
