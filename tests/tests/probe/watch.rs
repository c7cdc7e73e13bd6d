//! A probe at work, and everything it has reported.

use std::{
    net::IpAddr,
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};
use tokio::sync::Notify;
use whydrop::probe::{Attach, Change, Config, Part, PartState, Probe, Totals};
use whydrop_core::{flow::Flow, observation::Observation};
use whydrop_tests::world::netns::Node;

use crate::kernel;

/// Longer than anything takes here; only a failure waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A probe that runs in a node's namespace, and all that it has reported.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
    stop: Notify,
    /// Whether what is attached stays when it stops.
    crashes: AtomicBool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) parts: Vec<Part>,
    pub(crate) observations: Vec<Observation>,
    pub(crate) changes: Vec<Change>,
    pub(crate) attached: Vec<String>,
    pub(crate) addresses: Vec<(String, Vec<IpAddr>)>,
    pub(crate) totals: Totals,
    pub(crate) successes: Vec<Flow>,
    /// How often all this was brought up to date.
    pub(crate) rounds: u64,
}

impl Watch {
    pub(crate) fn start(node: &Node, attach: Attach) -> Self {
        Self::start_in(format!("/run/netns/{}", node.namespace().name()), attach)
    }

    /// Starts it in the network namespace that is at this path.
    pub(crate) fn start_in(path: impl AsRef<Path>, attach: Attach) -> Self {
        let shared = Arc::new(Shared::default());
        let namespace = std::fs::File::open(path);
        let (namespace, theirs) = (namespace.expect("the node's namespace"), Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the node");
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(theirs.run(&Config { attach, ..Config::default() }));
        });
        let watch = Self { shared, thread: Some(thread) };
        let parts =
            watch.wait("the probe to start", |seen| (seen.rounds > 0).then(|| seen.parts.clone()));
        for part in parts {
            let is_active = part.state == PartState::Active;
            assert_eq!(is_active, kernel::has(part.name), "{}: {:?}", part.name, part.state);
        }
        watch
    }

    /// Ends it without detaching anything.
    pub(crate) fn crash(self) {
        self.shared.crashes.store(true, Ordering::Relaxed);
    }

    /// Waits until what was seen gives an answer.
    #[track_caller]
    pub(crate) fn wait<T>(&self, what: &str, mut find: impl FnMut(&Seen) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        let mut seen = self.shared.seen.lock().unwrap();
        loop {
            if let Some(found) = find(&seen) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}: {seen:#?}");
            assert!(
                !self.thread.as_ref().is_some_and(JoinHandle::is_finished),
                "the probe ended: {seen:#?}"
            );
            seen = self.shared.changed.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// Waits for an observation.
    #[track_caller]
    pub(crate) fn observed(&self, what: &str, is_it: impl Fn(&Observation) -> bool) -> Observation {
        self.wait(what, |seen| seen.observations.iter().find(|seen| is_it(seen)).cloned())
    }

    /// Waits for two more rounds, in which everything observed until now is reported, and returns it.
    pub(crate) fn settled(&self) -> Seen {
        let now = self.shared.seen.lock().unwrap().rounds;
        self.wait("two rounds", |seen| (seen.rounds > now + 2).then(|| seen.clone()))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.notify_one();
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().expect("the probe's thread");
        }
    }
}

impl Shared {
    async fn run(&self, config: &Config) {
        let probe = Probe::start(config).unwrap_or_else(|error| panic!("{error}: {error:?}"));
        let Probe { parts, mut observations, mut interfaces, successes, .. } = probe;
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            let (mut observed, mut changes, mut is_round) = (Vec::new(), Vec::new(), false);
            tokio::select! {
                batch = observations.next() => observed = batch.expect("observations"),
                batch = interfaces.next() => changes = batch.expect("interfaces"),
                _ = tick.tick() => {
                    is_round = true;
                    changes = interfaces.look();
                    observed = observations.turn().await.expect("counts");
                }
                () = self.stop.notified() => {
                    if self.crashes.load(Ordering::Relaxed) {
                        std::mem::forget(interfaces);
                    }
                    return;
                }
            }
            let mut seen = self.seen.lock().unwrap();
            seen.observations.extend(observed);
            seen.changes.extend(changes);
            seen.parts.clone_from(&parts);
            seen.totals = observations.totals().expect("totals");
            seen.rounds += u64::from(is_round);
            seen.attached = interfaces.attached().map(|(_, name)| name.to_owned()).collect();
            seen.addresses = interfaces
                .attached()
                .map(|(index, name)| {
                    (name.to_owned(), interfaces.topology().addresses(index).collect())
                })
                .collect();
            if is_round {
                let since = successes.since(jiff::Timestamp::UNIX_EPOCH).expect("successes");
                seen.successes = since.into_iter().map(|(flow, _)| flow).collect();
            }
            drop(seen);
            self.changed.notify_all();
        }
    }
}
