//! Traps of the trade where they are: the API server's own Service and a webhook that it calls, `CoreDNS` on a
//! node-local address, the port of an ambient mesh, node ports. Each is named, and its remedy, applied,
//! lets the real flow pass.

use whydrop_tests::{
    play::{
        stage::Stage,
        trap::{play_all, traps},
    },
    world::{
        fleet::{Fleet, Settings},
        manifest::documents,
    },
};

use crate::TWO_NODES;

#[test]
fn each_trap_is_named_and_its_remedy_opens_it() {
    let traps = traps().expect("traps");
    let before = documents(traps.values().flat_map(|trap| &trap.before));
    // Felix knows all pods before any of them connects.
    let manifests = format!("{TWO_NODES}\n---\n{before}");
    let settings = Settings { services: true, ..Settings::default() };
    let mut stage = Stage::new(Fleet::start(settings, &manifests).expect("a fleet"));
    play_all(&mut stage, &traps).unwrap_or_else(|error| panic!("{error:?}"));
}
