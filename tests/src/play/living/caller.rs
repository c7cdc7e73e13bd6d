//! Clients that connect again and again, and keep account of it: what truly happened.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

use crate::world::namespace::Network;

/// What came of a connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Somebody answered.
    Answered,
    /// Somebody said no.
    Refused,
    /// Nobody said anything in all the time that the client waited.
    Silent,
    /// It could not be tried: the client's own network is gone, or has no route.
    Untried,
}

/// A connect.
#[derive(Debug, Clone, Copy)]
pub struct Try {
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub took: SignedDuration,
    /// What came of it.
    pub outcome: Outcome,
}

/// How often a client connects, and how long it waits for an answer.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// From the end of a connect to the next one.
    pub every: Duration,
    /// How long it waits.
    pub patience: Duration,
}

/// A client in a network that connects until it is stopped.
#[derive(Debug)]
pub struct Caller {
    tries: Arc<Mutex<Vec<Try>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Caller {
    /// Begins to connect from a network.
    pub fn start(network: &Network, to: SocketAddr, pace: Pace) -> Self {
        let tries = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        let (network, account, over) = (network.clone(), tries.clone(), is_over.clone());
        let work = move || {
            // One thread for all: what enters a network stays there.
            let entered = network.enter(|| {
                while !over.load(Ordering::Relaxed) {
                    let connect = connect(to, pace.patience);
                    account.lock().unwrap_or_else(PoisonError::into_inner).push(connect);
                    thread::park_timeout(pace.every);
                }
                Ok(())
            });
            // A network that is gone by now has nobody who connects.
            drop(entered);
        };
        Self { tries, is_over, thread: Some(thread::spawn(work)) }
    }

    /// What came of its connects so far.
    pub fn tries(&self) -> MutexGuard<'_, Vec<Try>> {
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of its connects since then came to this.
    pub fn count(&self, outcome: Outcome, since: Timestamp) -> usize {
        let is_it = |one: &&Try| one.outcome == outcome && one.at >= since;
        self.tries().iter().filter(is_it).count()
    }

    /// Ends it; what came of all of its connects.
    pub fn stop(mut self) -> Vec<Try> {
        self.end();
        std::mem::take(&mut *self.tries())
    }

    fn end(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has no result, and a panic of it was reported.
            let _ = thread.join();
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.end();
    }
}

fn connect(to: SocketAddr, patience: Duration) -> Try {
    use std::io::ErrorKind;

    let (at, began) = (Timestamp::now(), Instant::now());
    let outcome = match TcpStream::connect_timeout(&to, patience) {
        Ok(_) => Outcome::Answered,
        Err(error) => match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Outcome::Silent,
            ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::HostUnreachable
            | ErrorKind::PermissionDenied => Outcome::Refused,
            _ => Outcome::Untried,
        },
    };
    let took = SignedDuration::try_from(began.elapsed()).unwrap_or(SignedDuration::MAX);
    Try { at, took, outcome }
}
