//! Who answers in a scenario.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};

use super::{Lab, client::transfer, packet};
use crate::play::scenario;

/// A client that connects and then says nothing for this long is left.
const REQUEST_WAIT: Duration = Duration::from_secs(2);
/// More than any request in a scenario.
const REQUEST_MAX: usize = 4096;

/// A server at work, until dropped.
#[derive(Debug)]
pub struct Server {
    /// Closed to have the thread end.
    stop: Option<UnixStream>,
    threads: Vec<JoinHandle<()>>,
    /// Sockets that are only to be held open.
    held: Vec<Socket>,
}

impl Server {
    /// Starts what a scenario asks for.
    pub fn start(lab: &Lab, server: &scenario::Server) -> Result<Self> {
        let (scenario::Server::Http(at)
        | scenario::Server::Dns(at)
        | scenario::Server::Sctp(at)
        | scenario::Server::Full(at)) = server;
        let (who, _) = at.rsplit_once(':').with_context(|| format!("{at} names no port"))?;
        let origin = lab.origin(who)?;
        let address = lab.target(at)?;
        let at = at.clone();
        origin.namespace.enter(move || {
            match server {
                scenario::Server::Http(_) => Self::http(address, at),
                scenario::Server::Dns(_) => Self::dns(address),
                scenario::Server::Sctp(_) => Self::sctp(),
                scenario::Server::Full(_) => Self::full(address),
            }
            .with_context(|| format!("serve at {address}"))
        })
    }

    /// Answers every request with 200 and its own name. To be called inside the namespace.
    pub fn http(address: SocketAddr, name: String) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        Self::none().with(listener, move |listener| {
            if let Ok((stream, _)) = listener.accept() {
                // A client that goes away is its own affair.
                let _ = answer_http(stream, &name);
            }
        })
    }

    /// Sends back what each connection brings, for as long as that lasts. To be called inside the
    /// namespace.
    pub fn echo(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)?;
        Self::none().with(listener, |listener| {
            if let Ok((stream, _)) = listener.accept() {
                // Ends with its connection, which a client that is done closes.
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        })
    }

    /// Answers each question over UDP and TCP, with nothing in it. To be called inside the namespace.
    pub fn dns(address: SocketAddr) -> Result<Self> {
        let datagrams = UdpSocket::bind(address)?;
        let listener = TcpListener::bind(address)?;
        Self::none()
            .with(datagrams, |socket| {
                let mut query = [0; REQUEST_MAX];
                if let Ok((length, client)) = socket.recv_from(&mut query)
                    && length > 2
                {
                    query[2] |= 0x80; // a response, with nothing in it but the question
                    let _ = socket.send_to(&query[..length], client);
                }
            })?
            .with(listener, |listener| {
                if let Ok((stream, _)) = listener.accept() {
                    let _ = answer_dns(stream);
                }
            })
    }

    fn sctp() -> Result<Self> {
        let socket = raw(packet::SCTP)?;
        Self::none().with(socket, |socket| {
            let mut bytes = [0; REQUEST_MAX];
            // Not `recv_from`: that wants uninitialised memory, and the source is in the packet.
            if let Ok(length) = (&*socket).read(&mut bytes)
                && let Some(answer) = packet::init_ack(&bytes[..length])
            {
                let source = [bytes[12], bytes[13], bytes[14], bytes[15]];
                let _ = socket.send_to(&answer, &SocketAddr::from((source, 0)).into());
            }
        })
    }

    /// Listens with room for one, gives that room to a connection of its own, and accepts nobody.
    fn full(address: SocketAddr) -> Result<Self> {
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        listener.bind(&address.into())?;
        listener.listen(0)?;
        let filler = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        filler.connect_timeout(&address.into(), REQUEST_WAIT)?;
        let mut server = Self::none();
        server.held = vec![listener, filler];
        Ok(server)
    }

    fn none() -> Self {
        Self { stop: None, threads: Vec::new(), held: Vec::new() }
    }

    /// Adds a thread that calls `serve` whenever `socket` has something.
    fn with<S: AsFd + Send + 'static>(
        mut self,
        socket: S,
        serve: impl Fn(&S) + Send + 'static,
    ) -> Result<Self> {
        let stopped = if let Some(stop) = &self.stop {
            // The far end, once more: it closes for all threads when `stop` does.
            stop.try_clone()?
        } else {
            let (stop, stopped) = UnixStream::pair()?;
            self.stop = Some(stop);
            stopped
        };
        self.threads.push(std::thread::spawn(move || {
            while ready(socket.as_fd(), stopped.as_fd()) {
                serve(&socket);
            }
        }));
        Ok(self)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Wakes the threads even where one of them still holds a copy of this end.
            let _ = stop.shutdown(std::net::Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Waits for something to do; false when it is to stop.
fn ready(socket: BorrowedFd<'_>, stopped: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::POLLIN), PollFd::new(stopped, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::NONE).is_ok() && !fds[1].any().unwrap_or(true)
}

fn answer_http(mut stream: TcpStream, name: &str) -> Result<()> {
    stream.set_read_timeout(Some(REQUEST_WAIT))?;
    let mut request = Vec::<u8>::new();
    let mut some = [0; REQUEST_MAX];
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        match stream.read(&mut some)? {
            0 => return Ok(()),
            length => request.extend(&some[..length]),
        }
    }
    let body = format!("hello from {name}\n");
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    Ok(())
}

fn answer_dns(mut stream: TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(REQUEST_WAIT))?;
    let mut query = transfer(&mut stream)?;
    if let Some(flags) = query.get_mut(4) {
        *flags |= 0x80;
    }
    stream.write_all(&query)?;
    Ok(())
}

/// A raw socket for one IP protocol.
pub fn raw(protocol: u8) -> Result<Socket> {
    Ok(Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(i32::from(protocol))))?)
}
