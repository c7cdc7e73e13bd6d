//! Real connections to Services, and who answers them.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Result;
use socket2::{Domain, Socket, Type};

use super::{Expectation, Probe};
use crate::{
    play::differential::{
        CONNECT_WAIT, DNS, PORTS,
        generate::services::{Client, OUTSIDE},
    },
    world::{
        lab::{client, server::Server},
        namespace::Network,
    },
};

/// How many connections of a probe are made first, side by side.
pub(super) const FIRST_DIALS: usize = 2;
/// How many are made at once where an outcome is still to come, or a client is to be seen to stay.
const MORE_DIALS: usize = 8;
/// How often that is done: of six endpoints one is missed once in twenty thousand million times.
const ROUNDS: usize = 16;
/// How long a client waits where the answer allows that nobody answers: one SYN, since the second one
/// may be sent to another endpoint, where what dropped the first was the client's own node.
const ONE_SYN: Duration = Duration::from_millis(900);
/// How long who answers may take to say so.
const NAME_WAIT: Duration = Duration::from_secs(5);

/// What came of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// This endpoint answered; over UDP any.
    Answered(Option<SocketAddr>),
    /// Nobody did.
    Silent,
    /// It was rejected (ICMP: port unreachable).
    Rejected,
    /// Nobody has the address (ICMP: network or host unreachable).
    Unreachable,
    /// Something else, which nothing here gives.
    Failed(ErrorKind),
}

/// What answers on a pod's ports, until dropped.
#[derive(Debug)]
pub struct Speaking {
    _servers: Vec<Server>,
}

/// Answers at this address on every port of [`PORTS`] with its address and port, and on [`DNS`] as a
/// resolver, in the network namespace of the calling thread.
pub fn speak(at: IpAddr) -> Result<Speaking> {
    let speaker = |port: &u16| {
        let at = SocketAddr::new(at, *port);
        Server::http(at, at.to_string())
    };
    let mut servers: Vec<Server> = PORTS.iter().map(speaker).collect::<Result<_>>()?;
    servers.push(Server::dns((at, DNS).into())?);
    Ok(Speaking { _servers: servers })
}

/// Dials each probe until every outcome has come that must, or often enough that it would have.
///
/// # Errors
///
/// A namespace that cannot be entered.
pub fn dial_all(
    networks: &BTreeMap<Client, Network>,
    probes: &[Probe],
    expected: &[Expectation],
) -> Result<Vec<Vec<Outcome>>> {
    let all: Vec<(usize, Dial)> =
        probes.iter().map(|probe| Dial::new(*probe, CONNECT_WAIT)).enumerate().collect();
    let mut outcomes = vec![Vec::new(); probes.len()];
    dial_round(networks, &all, FIRST_DIALS, &mut outcomes)?;
    for round in 0..ROUNDS {
        let is_wanted = |number: usize| {
            let Expectation { must, is_sticky, .. } = &expected[number];
            let is_unseen = must.iter().any(|outcome| !outcomes[number].contains(outcome));
            is_unseen || (*is_sticky && round == 0)
        };
        let again: Vec<(usize, Dial)> = (0..probes.len())
            .filter(|number| is_wanted(*number))
            .map(|number| {
                let may_be_silent = expected[number].may.contains(&Outcome::Silent);
                let patience = if may_be_silent { ONE_SYN } else { CONNECT_WAIT };
                (number, Dial::new(probes[number], patience))
            })
            .collect();
        if again.is_empty() {
            break;
        }
        dial_round(networks, &again, MORE_DIALS, &mut outcomes)?;
    }
    Ok(outcomes)
}

/// One connection that is to be made.
#[derive(Clone, Copy)]
struct Dial {
    client: Client,
    to: SocketAddr,
    is_udp: bool,
    patience: Duration,
}

impl Dial {
    const fn new(probe: Probe, patience: Duration) -> Self {
        let Probe { client, frontend } = probe;
        Self { client, to: frontend.to, is_udp: frontend.is_udp, patience }
    }

    /// Dials, from the network namespace of the calling thread.
    fn dial(&self) -> Outcome {
        let answered = if self.is_udp {
            client::ask(self.to, "example.com").map(|()| None)
        } else {
            self.connect().and_then(named)
        };
        match answered {
            Ok(by) => Outcome::Answered(by),
            Err(error) => match error.kind() {
                ErrorKind::TimedOut => Outcome::Silent,
                ErrorKind::ConnectionRefused => Outcome::Rejected,
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Outcome::Unreachable,
                kind => Outcome::Failed(kind),
            },
        }
    }
}

impl Dial {
    /// Somebody outside has an address for each node besides, which nobody else knows.
    fn connect(&self) -> std::io::Result<TcpStream> {
        let Client::Outside = self.client else {
            return TcpStream::connect_timeout(&self.to, self.patience);
        };
        let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((OUTSIDE, 0)).into())?;
        socket.connect_timeout(&self.to.into(), self.patience)?;
        Ok(socket.into())
    }
}

/// Who has answered.
fn named(mut stream: TcpStream) -> std::io::Result<Option<SocketAddr>> {
    stream.set_read_timeout(Some(NAME_WAIT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    // Silence after a connection is something else than one of a connection.
    let read = stream.read_to_string(&mut answer);
    read.map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))?;
    let name = answer.split_whitespace().last().and_then(|name| name.parse().ok());
    name.map(Some).ok_or_else(|| ErrorKind::InvalidData.into())
}

/// Makes so many connections of each of these probes, by their numbers, all at once.
fn dial_round(
    networks: &BTreeMap<Client, Network>,
    dials: &[(usize, Dial)],
    times: usize,
    outcomes: &mut [Vec<Outcome>],
) -> Result<()> {
    let found = std::thread::scope(|scope| {
        let of_client = |(client, network): (&Client, &Network)| {
            let own: Vec<(usize, Dial)> = dials
                .iter()
                .filter(|(_, dial)| dial.client == *client)
                .flat_map(|dial| std::iter::repeat_n(*dial, times))
                .collect();
            let network = network.clone();
            scope.spawn(move || network.enter(|| Ok(dial_at_once(&own))))
        };
        let threads: Vec<_> = networks.iter().map(of_client).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<_>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    for (number, outcome) in found.into_iter().flatten() {
        outcomes[number].push(outcome);
    }
    Ok(())
}

fn dial_at_once(dials: &[(usize, Dial)]) -> Vec<(usize, Outcome)> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = dials
            .iter()
            .map(|(number, dial)| (*number, scope.spawn(move || dial.dial())))
            .collect();
        let failed = Outcome::Failed(ErrorKind::Other);
        let outcomes = threads.into_iter();
        outcomes.map(|(number, thread)| (number, thread.join().unwrap_or(failed))).collect()
    })
}
