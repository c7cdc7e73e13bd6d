//! Makes sure that a node has one agent: two would report everything twice.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

/// An abstract socket address, which belongs to the network namespace whose packets are watched and
/// goes with the process that holds it (unix(7)).
const NAME: &str = "whydrop-agent";

/// Why this agent may not run.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClaimError {
    /// Another agent runs.
    #[error(
        "another whydrop agent already watches this network namespace (it holds the abstract socket \
         @{NAME}); stop it first"
    )]
    Taken,
    /// The socket cannot be used.
    #[error("cannot check whether another agent runs here")]
    Socket(#[from] io::Error),
}

/// Claims the node's network for this process, until the claim is dropped.
///
/// # Errors
/// Another agent has it, or sockets cannot be used.
pub(super) fn claim() -> Result<UnixListener, ClaimError> {
    let address = SocketAddr::from_abstract_name(NAME)?;
    match UnixListener::bind_addr(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(ClaimError::Taken),
        claimed => Ok(claimed?),
    }
}
