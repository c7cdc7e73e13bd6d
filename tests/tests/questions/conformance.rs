//! The clusters of `conformance/`, and their probes.

use std::{fs, net::IpAddr, path::Path};

use serde_json::Value;
use whydrop_core::{cluster::Snapshot, verdict::Question};

use crate::dump::{Dump, Packet};

/// The clusters of a file, each with all of its probes.
pub(crate) fn dumps(file: &str) -> Vec<Dump> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance").join(file);
    let text = fs::read_to_string(&path).expect("the cases are part of the project");
    text.lines().map(|line| dump(&serde_json::from_str(line).expect("a case"))).collect()
}

fn dump(case: &Value) -> Dump {
    let mut dump = Dump {
        name: case["id"].as_str().expect("an id").to_owned(),
        paths: Vec::new(),
        objects: case["objects"].as_array().expect("objects").clone(),
        engine: None,
        packets: Vec::new(),
    };
    let snapshot = dump.snapshot(&[]);
    let probes = case["probes"].as_array().expect("probes");
    dump.packets = probes.iter().map(|probe| packet(&snapshot, probe)).collect();
    dump
}

fn packet(snapshot: &Snapshot, probe: &Value) -> Packet {
    let end = |field: &str| {
        let address: Option<IpAddr> = probe[field].as_str().and_then(|text| text.parse().ok());
        snapshot.resolve(address.expect("an address"), None)
    };
    let port = probe["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
    let protocol = probe["protocol"].as_str().and_then(|text| text.parse().ok());
    let protocol = protocol.expect("a protocol");
    Packet { question: Question::new(end("src_ip"), end("dst_ip"), port, protocol) }
}
