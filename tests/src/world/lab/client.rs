//! Who asks in a scenario, and what is seen of the attempt.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

use super::{Origin, packet, server::raw};
use crate::play::scenario::{Gets, Transport};

/// How long a client waits for a connection: until after a retransmission of its SYN, or two from Linux
/// 6.5 on, and before the next, which comes 3 s after the first everywhere.
pub const CONNECT_WAIT: Duration = Duration::from_millis(2500);
/// How long a resolver or an SCTP sender waits before it sends again.
const RESEND_WAIT: Duration = Duration::from_secs(1);
/// How often a resolver or an SCTP sender sends.
const SENDS: u32 = 3;

/// Opens a connection and makes an HTTP request.
pub fn http(origin: Origin<'_>, to: SocketAddr) -> Result<Gets> {
    origin.namespace.enter(|| {
        let mut stream = match connect(origin, to) {
            Ok(stream) => stream,
            Err(error) => return outcome(&error),
        };
        write!(stream, "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(|| format!("answer of {to}"))?;
        match answer.split_whitespace().nth(1) {
            Some("200") => Ok(Gets::Answer),
            _ => bail!("{to} answered {answer:?}"),
        }
    })
}

/// Asks a DNS server for a name, as a resolver with `timeout:1 attempts:3` does.
pub fn dns(origin: Origin<'_>, to: SocketAddr, name: &str, over: Transport) -> Result<Gets> {
    origin.namespace.enter(|| match over {
        Transport::Udp => ask(to, name).map_or_else(|error| outcome(&error), |()| Ok(Gets::Answer)),
        Transport::Tcp => {
            let mut stream = match connect(origin, to) {
                Ok(stream) => stream,
                Err(error) => return outcome(&error),
            };
            let query = query(name, stream.local_addr()?.port());
            stream.write_all(&u16::try_from(query.len())?.to_be_bytes())?;
            stream.write_all(&query)?;
            transfer(&mut stream)?;
            Ok(Gets::Answer)
        }
    })
}

/// Asks a DNS server for a name over UDP, from the network namespace of the calling thread.
///
/// # Errors
/// That nobody answered, or what the network said.
pub fn ask(to: SocketAddr, name: &str) -> std::io::Result<()> {
    resolve(to, name).map(drop)
}

/// The same; how many answers there are.
///
/// # Errors
/// As above.
pub fn resolve(to: SocketAddr, name: &str) -> std::io::Result<u16> {
    let socket = UdpSocket::bind(any(to))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(RESEND_WAIT))?;
    let query = query(name, socket.local_addr()?.port());
    for _ in 0..SENDS {
        socket.send(&query)?;
        let mut answer = [0; 512];
        match socket.recv(&mut answer) {
            Ok(length) => return Ok(answers(&answer[..length])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// The same over TCP.
///
/// # Errors
/// That nobody answered, or what the network said.
pub fn resolve_over_tcp(to: SocketAddr, name: &str) -> std::io::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&to, CONNECT_WAIT)?;
    stream.set_read_timeout(Some(CONNECT_WAIT))?;
    let query = query(name, stream.local_addr()?.port());
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&query)?;
    let answer = transfer(&mut stream).map_err(std::io::Error::other)?;
    Ok(answers(&answer[2..]))
}

/// How many answers a DNS message has (RFC 1035, 4.1.1).
fn answers(message: &[u8]) -> u16 {
    message.get(6..8).map_or(0, |count| u16::from_be_bytes([count[0], count[1]]))
}

/// Connects from an address of this network namespace's, or from the one that the kernel takes.
///
/// # Errors
/// That nobody answered, or what the network said.
pub fn connects(source: Option<IpAddr>, to: SocketAddr) -> std::io::Result<()> {
    connect_from(source, to).map(drop)
}

/// Sends an SCTP INIT and waits for the INIT-ACK.
pub fn sctp(origin: Origin<'_>, to: SocketAddr) -> Result<Gets> {
    origin.namespace.enter(|| {
        let socket = raw(packet::SCTP)?;
        let port = free_port()?;
        let init = packet::init(port, to.port(), u32::from(port) << 8);
        again(|| {
            socket.send_to(&init, &SocketAddr::new(to.ip(), 0).into())?;
            let deadline = Instant::now() + RESEND_WAIT;
            let mut answer = [0; 512];
            loop {
                // A raw socket gets every packet of the protocol: wait for ours.
                let left = deadline.saturating_duration_since(Instant::now());
                socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
                let length = (&socket).read(&mut answer)?;
                if packet::is_init_ack(&answer[..length], port) {
                    return Ok(length);
                }
            }
        })
    })
}

/// Sends one SYN that bears the address `source`; nothing waits for an answer.
pub fn spoof(origin: Origin<'_>, source: IpAddr, to: SocketAddr) -> Result<()> {
    origin.namespace.enter(|| {
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, to.ip()) else {
            bail!("only IPv4 is forged");
        };
        let port = free_port()?;
        let syn = packet::syn((source, port), (destination, to.port()), u32::from(port) << 8);
        raw(packet::WHOLE)?.send_to(&syn, &SocketAddr::new(to.ip(), 0).into())?;
        Ok(())
    })
}

/// Reads one DNS message with the two bytes of length before it.
pub fn transfer(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; 2 + usize::from(u16::from_be_bytes(length))];
    message[..2].copy_from_slice(&length);
    stream.read_exact(&mut message[2..])?;
    Ok(message)
}

fn connect(origin: Origin<'_>, to: SocketAddr) -> std::io::Result<TcpStream> {
    connect_from(origin.source, to)
}

fn connect_from(source: Option<IpAddr>, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    socket.connect_timeout(&to.into(), CONNECT_WAIT)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(CONNECT_WAIT))?;
    Ok(stream)
}

/// Sends up to [`SENDS`] times, until something comes back.
fn again(mut attempt: impl FnMut() -> std::io::Result<usize>) -> Result<Gets> {
    for _ in 0..SENDS {
        match attempt().map_err(|error| outcome(&error)) {
            Ok(_) => return Ok(Gets::Answer),
            Err(Ok(Gets::Timeout)) => {}
            Err(other) => return other,
        }
    }
    Ok(Gets::Timeout)
}

/// What an error means to the client; an error that is no outcome stays one.
fn outcome(error: &std::io::Error) -> Result<Gets> {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Ok(Gets::Timeout),
        ErrorKind::ConnectionRefused
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::PermissionDenied => Ok(Gets::Refusal),
        _ => bail!("{error} ({:?})", error.kind()),
    }
}

/// A port that no socket of this namespace has: of a socket that is closed again at once.
fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind("0.0.0.0:0")?.local_addr()?.port())
}

fn any(like: SocketAddr) -> SocketAddr {
    if like.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() }
}

/// A query for the A record of a name (RFC 1035, 4.1).
fn query(name: &str, id: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]); // recursion desired; one question
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).unwrap_or_default());
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]); // root; type A, class IN
    message
}
