//! Seeing to it that a node has one agent: two would report everything twice.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

use anyhow::{Context as _, bail};

/// An abstract socket address, which belongs to the network namespace whose packets are watched and
/// goes with the process that holds it (unix(7)).
const NAME: &str = "whydrop-agent";

/// Claims the node's network for this process, until the claim is dropped.
///
/// # Errors
/// Where another agent has it.
pub(super) fn claim() -> anyhow::Result<UnixListener> {
    let address = SocketAddr::from_abstract_name(NAME)?;
    match UnixListener::bind_addr(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => bail!(
            "another whydrop agent watches this network namespace already (it holds the abstract \
             socket @{NAME}); end it first"
        ),
        claimed => claimed.context("cannot see whether another agent runs here"),
    }
}
