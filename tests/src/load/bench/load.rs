//! The loads: connections that work, and SYNs that are dropped.

use std::{
    fmt,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{MsgFlags, SockaddrIn, sendto};

use crate::world::{
    lab::{packet, server},
    netns::Node,
};

/// The comment of the rule that drops, by which its counter is found.
pub const RULE: &str = "bench";

/// Where SYNs go that are dropped: a network behind the second pod's veth that nobody answers from.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 0);

/// How many SYNs are dropped in a run.
pub const SYNS: u32 = 200_000;
/// How many connections work in a run. Each leaves a port waiting for a minute; with more of them the
/// search for a free one would be most of the load.
pub const CONNECTIONS: u32 = 10_000;
/// A request, and the response to it.
const MESSAGE: &[u8] = b"GET / HTTP/1.1\r\nHost: server.shop.svc.cluster.local\r\n\r\n";
/// How many flows a load of known flows has.
const FLOWS: u32 = 64;
/// The port that answers.
pub const PORT: u16 = 8080;
/// Ports that dropped SYNs go to, so that a new flow needs another one or another address.
const PORTS: u32 = 50_000;
const FIRST_PORT: u16 = 10_000;

/// A load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Connections with a request, a response and an end.
    Allowed,
    /// Dropped SYNs, each of another flow: another destination or port.
    NewFlows,
    /// Dropped SYNs of few flows, each a new attempt with a sequence number of its own.
    KnownFlows,
    /// Dropped SYNs of few flows, the same ones over and over.
    Repeated,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Allowed, Self::NewFlows, Self::KnownFlows, Self::Repeated];

    /// Whether its packets die.
    pub fn is_dropped(self) -> bool {
        self != Self::Allowed
    }

    /// Plays it once.
    ///
    /// # Errors
    /// Where a connection fails or a packet cannot be sent.
    pub fn play(self, node: &Node) -> Result<()> {
        match self {
            Self::Allowed => connect(node),
            Self::NewFlows | Self::KnownFlows | Self::Repeated => self.flood(node),
        }
    }

    fn flood(self, node: &Node) -> Result<()> {
        let source = node.nth(0).ip;
        node.nth(0).network.enter(|| {
            let socket = server::raw(packet::WHOLE)?;
            let mut syn = packet::syn((source, 40_000), (NOWHERE, FIRST_PORT), 7);
            for number in 0..SYNS {
                let (flow, sequence) = match self {
                    Self::NewFlows => (number, number),
                    Self::KnownFlows => (number % FLOWS, number),
                    _ => (number % FLOWS, number % FLOWS),
                };
                let destination = Ipv4Addr::from(u32::from(NOWHERE) + 1 + flow / PORTS);
                let port = FIRST_PORT + u16::try_from(flow % PORTS)?;
                // Only what differs; nobody on the way looks at the checksum of a forwarded SYN.
                syn[16..20].copy_from_slice(&destination.octets());
                syn[22..24].copy_from_slice(&port.to_be_bytes());
                syn[24..28].copy_from_slice(&(1_000_000 + sequence).to_be_bytes());
                let to = SockaddrIn::from(std::net::SocketAddrV4::new(destination, 0));
                sendto(socket.as_raw_fd(), &syn, &to, MsgFlags::empty()).context("send a SYN")?;
            }
            Ok(())
        })
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allowed => "10k short connections that work",
            Self::NewFlows => "200k SYNs, each a new flow",
            Self::KnownFlows => "200k SYNs over 64 flows, each a new attempt",
            Self::Repeated => "200k SYNs over 64 flows, the same 64 SYNs",
        })
    }
}

/// The rule that drops, and the route that leads SYNs to it through the node.
///
/// # Errors
/// Where nft or ip refuse.
pub fn prepare(node: &Node) -> Result<()> {
    node.nft(&format!(
        "table inet bench {{
           chain forward {{
             type filter hook forward priority filter; policy accept;
             ip daddr {NOWHERE}/16 counter drop comment \"{RULE}\"
           }}
         }}\n"
    ))?;
    node.nth(0).network.set(&[("ipv4/ip_local_port_range", "1024 65535")])?;
    node.namespace().ip(&format!("route add {NOWHERE}/16 dev {}\n", Node::veth(1)))
}

fn connect(node: &Node) -> Result<()> {
    let address = SocketAddr::from((node.nth(1).ip, PORT));
    let listener = node.nth(1).network.enter(|| Ok(TcpListener::bind(address)?))?;
    std::thread::scope(|scope| {
        let server = scope.spawn(move || -> Result<()> {
            let mut request = [0; MESSAGE.len()];
            for _ in 0..CONNECTIONS {
                let (mut stream, _) = listener.accept()?;
                stream.read_exact(&mut request)?;
                stream.write_all(&request)?;
            }
            Ok(())
        });
        node.nth(0).network.enter(|| {
            let mut response = Vec::with_capacity(MESSAGE.len());
            for _ in 0..CONNECTIONS {
                let mut stream = TcpStream::connect(address).context("it should work")?;
                stream.write_all(MESSAGE)?;
                response.clear();
                stream.read_to_end(&mut response)?;
            }
            Ok(())
        })?;
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))?
    })
}
