//! Ports that stay free while a server is stopped and started again.

use std::{
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result};

use super::daemon::Place;

/// Below the ports that the kernel gives to clients (from 32768 on, `ip_local_port_range`): a
/// server's port must not become a client's while the server is restarted. Also below those of
/// `NodePort` Services.
const RANGE: Range<u16> = 10_240..30_000;
/// How many ports one cluster takes.
const EACH: u16 = 3;

/// Loopback ports that nobody listens on in this place.
pub(crate) fn free(place: &Place) -> Result<[u16; EACH as usize]> {
    /// Numbers the clusters of one process.
    static TAKEN: AtomicU16 = AtomicU16::new(0);

    // Tests start side by side, each in a process of its own. Where they begin to look depends on
    // their process ids, so that two do not find the same ports free at the same moment.
    let groups = u32::from((RANGE.end - RANGE.start) / EACH);
    let own = std::process::id().wrapping_mul(GROUPS_EACH);
    place.visit(move || {
        for _ in 0..groups {
            let group = (own + u32::from(TAKEN.fetch_add(1, Ordering::Relaxed))) % groups;
            let first = RANGE.start + u16::try_from(group)? * EACH;
            let ports = [first, first + 1, first + 2];
            let listen = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
            if ports.map(listen).iter().all(Result::is_ok) {
                return Ok(ports);
            }
        }
        None.context("no three free ports on loopback")
    })
}

/// How many clusters a process may have before it looks where its neighbour does.
const GROUPS_EACH: u32 = 8;
