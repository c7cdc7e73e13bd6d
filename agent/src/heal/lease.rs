//! Who leads: one healer of all that run, by a Lease of `coordination.k8s.io`.
//!
//! Of our own, since the Lease holds more than who leads: the [`Ledger`] of what was done is written
//! into it before anything is done, by the same conditional write that shows that nobody else has
//! taken the lead. The libraries that there are renew a Lease and let nothing else be written with it.
//! The protocol is that of client-go's `leaderelection`: whoever holds it renews it; whoever does not
//! waits until it has not changed for its duration by their own clock, and takes it by a write that
//! fails where it has changed.

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Duration, Instant, MissedTickBehavior, interval, timeout},
};
use whydrop_core::heal::Ledger;

use crate::cluster::chain::kube_chain;

/// How long a Lease stands without being renewed, as client-go's users commonly have it.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader that cannot renew it goes on.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often a leader renews it.
const RENEW: Duration = Duration::from_secs(5);
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// How long the API server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(4);

/// Where the ledger is, in the Lease.
const LEDGER_ANNOTATION: &str = "whydrop.io/healed";

/// How many writes wait: the healer does one thing after the other.
const WRITES_MAX: usize = 1;

/// A Lease that is sought, or held.
#[derive(Debug)]
pub(super) struct Leadership {
    /// The ledger as it was found, by whoever leads; `None` for others.
    pub(super) leads: watch::Receiver<Option<Ledger>>,
    writes: mpsc::Sender<Write>,
}

/// A ledger to be written, and who waits for it.
struct Write(Option<Ledger>, oneshot::Sender<Result<(), String>>);

impl Leadership {
    /// Begins to seek the Lease of this name for the healer of this name.
    pub(super) fn seek(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        let (leads, receiver) = watch::channel(None);
        let (writes, commands) = mpsc::channel(WRITES_MAX);
        let seeker = Seeker {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            held: None,
            renewed: Instant::now(),
            seen: None,
            leads,
            complaint: String::new(),
        };
        tokio::spawn(seeker.run(commands));
        Self { leads: receiver, writes }
    }

    /// Writes the ledger, which shows that this one leads still.
    ///
    /// # Errors
    /// That it does not, or that the API server does not answer.
    pub(super) async fn write(&self, ledger: Ledger) -> Result<(), String> {
        self.send(Some(ledger)).await
    }

    /// Lets others lead at once.
    pub(super) async fn release(self) {
        // An error means that it was not held.
        let _ = self.send(None).await;
    }

    async fn send(&self, ledger: Option<Ledger>) -> Result<(), String> {
        let (sender, answer) = oneshot::channel();
        let ended = |()| "the task that holds the Lease has ended".to_owned();
        self.writes.send(Write(ledger, sender)).await.map_err(|_| ended(()))?;
        answer.await.map_err(|_| ended(()))?
    }
}

struct Seeker {
    api: Api<Lease>,
    name: String,
    identity: String,
    /// The Lease as this one wrote it last, while it leads.
    held: Option<Lease>,
    renewed: Instant,
    /// Another's Lease: its version, and since when it is known by it.
    seen: Option<(Option<String>, Instant)>,
    leads: watch::Sender<Option<Ledger>>,
    complaint: String,
}

impl Seeker {
    async fn run(mut self, mut writes: mpsc::Receiver<Write>) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                write = writes.recv() => match write {
                    Some(Write(Some(ledger), answer)) => {
                        let _ = answer.send(self.hold(Some(&ledger)).await);
                    }
                    Some(Write(None, answer)) => {
                        let _ = answer.send(self.release().await);
                        return;
                    }
                    None => return,
                },
                _ = looks.tick() => self.look().await,
            }
        }
    }

    async fn look(&mut self) {
        let looked = match self.held {
            Some(_) if self.renewed.elapsed() < RENEW => Ok(()),
            Some(_) => self.hold(None).await,
            None => self.take().await,
        };
        if let Err(why) = looked
            && why != self.complaint
        {
            tracing::warn!("Lease {}: {why}", self.name);
            self.complaint = why;
        }
    }

    /// Renews the Lease that is held, with another ledger if there is one.
    async fn hold(&mut self, ledger: Option<&Ledger>) -> Result<(), String> {
        let Some(mut lease) = self.held.clone() else { return Err("another leads".to_owned()) };
        if let Some(ledger) = ledger {
            write_ledger(&mut lease, ledger);
        }
        let spec = lease.spec.get_or_insert_default();
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        match self.replace(&lease).await {
            Ok(lease) => {
                self.held = Some(lease);
                self.renewed = Instant::now();
                Ok(())
            }
            Err(Failure::Changed) => {
                self.lose();
                Err("somebody else has written it: they lead".to_owned())
            }
            Err(Failure::Other(why)) => {
                if self.renewed.elapsed() >= DEADLINE {
                    self.lose();
                }
                Err(why)
            }
        }
    }

    /// Takes the Lease, if nobody holds it.
    async fn take(&mut self) -> Result<(), String> {
        let found = timeout(PATIENCE, self.api.get_opt(&self.name)).await;
        let found = found.map_err(|_| no_answer())?.map_err(|error| kube_chain(&error))?;
        let Some(mut lease) = found else { return self.create().await };
        let version = lease.metadata.resource_version.clone();
        let spec = lease.spec.get_or_insert_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let secs = spec.lease_duration_seconds.and_then(|secs| u64::try_from(secs).ok());
        let duration = secs.map_or(DURATION, Duration::from_secs);
        if !holder.is_empty() && holder != self.identity {
            let since = match &self.seen {
                Some((seen, since)) if *seen == version => *since,
                _ => Instant::now(),
            };
            self.seen = Some((version, since));
            if since.elapsed() < duration {
                return Ok(());
            }
            tracing::info!("{holder} has not renewed Lease {} for {duration:?}", self.name);
        }
        let now = Some(MicroTime(Timestamp::now()));
        *spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: Some(spec.lease_transitions.unwrap_or(0).saturating_add(1)),
            ..LeaseSpec::default()
        };
        match self.replace(&lease).await {
            Ok(lease) => self.lead(lease),
            // Another was quicker.
            Err(Failure::Changed) => Ok(()),
            Err(Failure::Other(why)) => Err(why),
        }
    }

    async fn create(&mut self) -> Result<(), String> {
        let now = Some(MicroTime(Timestamp::now()));
        let lease = Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX)),
                acquire_time: now.clone(),
                renew_time: now,
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        let created = timeout(PATIENCE, self.api.create(&PostParams::default(), &lease)).await;
        match created.map_err(|_| no_answer())? {
            Ok(lease) => self.lead(lease),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(error) => Err(kube_chain(&error)),
        }
    }

    fn lead(&mut self, lease: Lease) -> Result<(), String> {
        let ledger = read_ledger(&lease);
        self.held = Some(lease);
        self.renewed = Instant::now();
        self.seen = None;
        self.complaint.clear();
        match ledger {
            Ok(ledger) => {
                tracing::info!("{} leads, by Lease {}", self.identity, self.name);
                self.leads.send_replace(Some(ledger));
                Ok(())
            }
            // Nothing is done by one who does not know what was done.
            Err(why) => Err(format!("annotation {LEDGER_ANNOTATION}: {why}")),
        }
    }

    fn lose(&mut self) {
        tracing::warn!("{} leads no longer", self.identity);
        self.held = None;
        self.leads.send_replace(None);
    }

    async fn release(&mut self) -> Result<(), String> {
        let Some(mut lease) = self.held.take() else { return Ok(()) };
        self.leads.send_replace(None);
        lease.spec.get_or_insert_default().holder_identity = None;
        self.replace(&lease).await.map(|_| ()).map_err(|failure| match failure {
            Failure::Changed => "somebody else has written it".to_owned(),
            Failure::Other(why) => why,
        })
    }

    /// Writes the Lease, if it is what it was.
    async fn replace(&self, lease: &Lease) -> Result<Lease, Failure> {
        let parameters = PostParams::default();
        let replaced = self.api.replace(&self.name, &parameters, lease);
        match timeout(PATIENCE, replaced).await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Err(Failure::Changed),
            Ok(Err(error)) => Err(Failure::Other(kube_chain(&error))),
            Err(_) => Err(Failure::Other(no_answer())),
        }
    }
}

/// Why the Lease was not written.
enum Failure {
    /// It is not what it was.
    Changed,
    /// Anything else: it may be written at the next try.
    Other(String),
}

fn no_answer() -> String {
    format!("the API server does not answer within {PATIENCE:?}")
}

fn write_ledger(lease: &mut Lease, ledger: &Ledger) {
    // Strings and numbers: JSON has all of them.
    let text = serde_json::to_string(ledger).unwrap_or_default();
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.insert(LEDGER_ANNOTATION.to_owned(), text);
}

fn read_ledger(lease: &Lease) -> Result<Ledger, String> {
    let annotations = lease.metadata.annotations.as_ref();
    match annotations.and_then(|annotations| annotations.get(LEDGER_ANNOTATION)) {
        Some(text) => serde_json::from_str(text).map_err(|error| error.to_string()),
        None => Ok(Ledger::default()),
    }
}
