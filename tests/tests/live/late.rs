//! Answered late is answered: connects that the network holds up for seconds, on either way and over both
//! families, are no drops. What is dropped beside them is reported as early as ever.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use whydrop_tests::world::{
    RECORD_WAIT,
    slow::{Slow, Way},
};

use crate::fixture::{PORT, dropped, enforce, frontend_to_backend, node, start_agent, to};

/// How long the packets wait: until after the first retransmission, the second and the third.
const DELAYS: [(Way, u64); 5] = [
    (Way::There, 1_200),
    (Way::There, 2_500),
    (Way::Back, 1_400),
    (Way::Back, 3_500),
    (Way::Back, 7_500),
];

/// How long a client waits: all of its SYNs up to 15 s after the first, and a way back.
const PATIENCE: Duration = Duration::from_secs(25);

/// How early a drop is reported: after its second SYN, and the time that policies have to come.
const REPORTED_WITHIN: Duration = Duration::from_secs(8);

#[test]
fn what_is_answered_late_is_no_drop() {
    let mut node = node(3);
    frontend_to_backend(&mut node);
    let folder = tempfile::tempdir().expect("a folder");
    let port = |place: usize| 9_000 + u16::try_from(place).expect("a few");
    let slow: Vec<Slow> = DELAYS
        .iter()
        .enumerate()
        .map(|(place, (way, delay))| {
            let delay = Duration::from_millis(*delay);
            Slow::start(node.namespace(), folder.path(), port(place), *way, delay).expect("slow")
        })
        .collect();
    // Nobody says anything of pod 2: no policy is about it.
    let (client, server) = (&node.nth(0).network, node.nth(2));
    let ends: Vec<SocketAddr> = (0..DELAYS.len())
        .flat_map(|place| {
            let both: [IpAddr; 2] = [server.ip.into(), server.ip6.into()];
            both.map(|address| SocketAddr::new(address, port(place)))
        })
        .collect();
    let listen = || Ok(ends.iter().map(TcpListener::bind).collect::<std::io::Result<Vec<_>>>()?);
    let listeners = server.network.enter(listen).expect("servers");
    enforce(&node, 1);
    let mut agent = start_agent(&node);

    thread::scope(|scope| {
        let connect = |end: &SocketAddr| {
            let end = *end;
            scope.spawn(move || {
                client.enter(|| Ok(TcpStream::connect_timeout(&end, PATIENCE).map(drop)?))
            })
        };
        let connects: Vec<_> = ends.iter().map(connect).collect();
        let began = Instant::now();
        dropped(&node, "frontend/pod-a", to(&node, 1));
        let is_denied = |record: &Value| {
            record["kind"] == "drop" && record["flow"]["destination"]["port"] == PORT
        };
        let denied = agent.record("drop", RECORD_WAIT, is_denied).expect("the denial");
        assert!(began.elapsed() < REPORTED_WITHIN, "{:?}: {denied}", began.elapsed());
        for (connect, end) in connects.into_iter().zip(&ends) {
            let connected = connect.join().expect("no panic");
            connected.unwrap_or_else(|error| panic!("{end}: {error:#}"));
        }
    });
    drop((listeners, slow));
    let records = agent.stop_and_read().expect("it ends");
    let is_late = |record: &&Value| {
        let port = record["flow"]["destination"]["port"].as_u64();
        record["kind"] == "drop" && port.is_some_and(|port| (9_000..9_100).contains(&port))
    };
    let late: Vec<&Value> = records.iter().filter(is_late).collect();
    assert!(late.is_empty(), "{late:#?}");
}
