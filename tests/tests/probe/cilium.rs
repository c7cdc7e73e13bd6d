//! Beside Cilium's programs on the same veths: ours see what they are to see, change nothing of it,
//! and are there again whenever Cilium has attached its own once more.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    ops::Range,
};

use serde_json::json;
use whydrop::probe::Attach;
use whydrop_core::observation::{Fact, Observation};
use whydrop_tests::{
    kube::{
        node::{
            NAME,
            cilium::{Cilium, Delivery},
        },
        wait::{Look, until},
    },
    world::{Pod, World as _, manifest},
};

use crate::{
    IN_VAIN,
    watch::{DEADLINE, Watch},
};

/// Tried two at a time, so that each is a flow of its own: one that is allowed, and the next.
const PORTS: Range<u16> = 8000..8020;

#[test]
fn programs_share_veths_with_ciliums() {
    share(Delivery::Redirected);
}

#[test]
fn programs_share_veths_with_ciliums_and_endpoint_routes() {
    share(Delivery::Routed);
}

fn share(delivery: Delivery) {
    let mut cilium = Cilium::start(delivery).unwrap();
    let allowed: Vec<_> = PORTS.step_by(2).map(|port| json!({ "port": port })).collect();
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "every-other-port", "namespace": "default" },
        "spec": { "podSelector": {}, "ingress": [{ "ports": allowed }] },
    });
    cilium.kubectl().unwrap().apply(&policy.to_string()).unwrap();
    let (client, server) = (pod(&mut cilium, "client"), pod(&mut cilium, "server"));
    let listen = |port| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?);
    let _listeners: Vec<_> = server.enter(|| PORTS.map(listen).collect()).unwrap();
    cilium.wait_in_sync().unwrap();
    let mut ports = PORTS.step_by(2);
    for attach in [Attach::Tcx, Attach::Clsact] {
        let watch = Watch::start_in(cilium.network(NAME).unwrap().file(), attach);
        let mut both_see = |cilium: &Cilium, client: &Pod| {
            if attach == Attach::Clsact {
                wait_in_front(cilium, client);
                wait_in_front(cilium, &server);
            }
            see(&watch, delivery, client, &server, ports.next().unwrap());
        };
        both_see(&cilium, &client);
        for pod in [&client, &server] {
            cilium.reattach(&pod.key).unwrap();
        }
        both_see(&cilium, &client);
        // On a veth that we see come, we are first to attach.
        let late = pod(&mut cilium, &format!("late-{attach}"));
        cilium.wait_in_sync().unwrap();
        both_see(&cilium, &late);
        cilium.remove(&late.key).unwrap();
        if attach == Attach::Clsact {
            cilium.stop_agent().unwrap();
            both_see(&cilium, &client);
            cilium.start_agent().unwrap();
            cilium.wait_in_sync().unwrap();
            both_see(&cilium, &client);
        }
        drop(watch);
        // Ours are gone, and of Cilium's nothing is.
        for pod in [&client, &server] {
            let [from_pod, to_pod] = cilium.filters(&pod.key).unwrap();
            assert!(from_pod.iter().all(|name| name.starts_with("cil_from_container")));
            assert_eq!(from_pod.len(), 1, "{from_pod:?}");
            let routed = usize::from(delivery == Delivery::Routed);
            assert_eq!(to_pod.len(), routed, "{to_pod:?}");
        }
    }
}

/// What may pass does and is seen to, and what may not is seen from its veth on until it is dropped.
fn see(watch: &Watch, delivery: Delivery, from: &Pod, to: &Pod, port: u16) {
    let connect = |port| {
        let to = SocketAddr::new(to.addresses[0], port);
        from.enter(|| Ok(TcpStream::connect_timeout(&to, IN_VAIN).is_ok())).unwrap()
    };
    assert!(connect(port), "{port} is allowed");
    assert!(!connect(port + 1), "{} is not", port + 1);
    let of =
        |seen: &Observation, port| (seen.flow.source, seen.flow.port) == (from.addresses[0], port);
    let answered =
        watch.observed("answer", |seen| of(seen, port) && seen.fact == Fact::AnsweredFirst);
    assert!(answered.entered.is_some() && answered.delivered, "{answered:?}");
    let dropped = watch.observed("drop", |seen| {
        of(seen, port + 1) && matches!(seen.fact, Fact::KernelDrop { .. })
    });
    assert_eq!(dropped.entered, answered.entered, "{dropped:?}");
    // With endpoint routes it is dropped behind us, at the veth that it was handed to.
    assert_eq!(dropped.delivered, delivery == Delivery::Routed, "{dropped:?}");
}

/// Waits until our filters are before all others of a pod's.
fn wait_in_front(cilium: &Cilium, pod: &Pod) {
    let in_front = until("filters in front", DEADLINE, || {
        let filters = cilium.filters(&pod.key)?;
        let first = |names: &Vec<String>| names.first().is_some_and(|n| n.starts_with("whydrop"));
        Ok(if filters.iter().all(first) {
            Look::Seen(())
        } else {
            Look::NotYet(format!("{filters:?}"))
        })
    });
    in_front.unwrap();
}

fn pod(cilium: &mut Cilium, name: &str) -> Pod {
    cilium.run(&manifest::pod(&format!("default/{name}"))).unwrap()
}
