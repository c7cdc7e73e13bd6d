//! Who leads: one healer of all that run, by a Lease of `coordination.k8s.io`.
//!
//! Of our own, because the Lease holds more than who leads: the [`Ledger`] of what was done is written
//! into it before anything is done, by the same conditional write that shows that nobody else has
//! taken the lead. The libraries that there are renew a Lease and let nothing else be written with it.
//! The protocol is that of client-go's `leaderelection`: the one that holds it renews it; the others
//! wait until it has not changed for its duration by their own clock, and take it by a write that
//! fails where it has changed.

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Duration, Instant, MissedTickBehavior, interval},
};
use whydrop_core::heal::Ledger;

use crate::cluster::api_error::{ApiError, answered};

/// How long a Lease is valid without being renewed, as client-go's users commonly have it.
const DURATION: Duration = Duration::from_secs(15);
/// How long a leader that cannot renew it continues.
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

/// Why this one does not lead, or not certainly.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LeaseError {
    /// It does not hold the Lease.
    #[error("another leads")]
    NotHeld,
    /// The Lease is not what this one wrote.
    #[error("somebody else has written it: they lead")]
    Taken,
    /// What was done before is unknown, and without knowing it nothing is done.
    #[error("annotation {LEDGER_ANNOTATION}: {0}")]
    Ledger(String),
    /// The API server did not write or read it: the next try may succeed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Nobody seeks it any more.
    #[error("the task that holds the Lease has ended")]
    Ended,
}

/// A Lease that is sought, or held.
#[derive(Debug)]
pub(super) struct Leadership {
    /// The ledger as it was found, of the healer that leads; `None` for others.
    pub(super) leads: watch::Receiver<Option<Ledger>>,
    writes: mpsc::Sender<Write>,
}

/// A ledger to be written, and who waits for it.
struct Write(Option<Ledger>, oneshot::Sender<Result<(), LeaseError>>);

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
            complaint: None,
        };
        tokio::spawn(seeker.run(commands));
        Self { leads: receiver, writes }
    }

    /// Writes the ledger, which shows that this one leads still.
    ///
    /// # Errors
    /// That it does not, or that the API server does not answer.
    pub(super) async fn write(&self, ledger: Ledger) -> Result<(), LeaseError> {
        self.send(Some(ledger)).await
    }

    /// Lets others lead at once.
    pub(super) async fn release(self) {
        // An error means that it was not held.
        let _ = self.send(None).await;
    }

    async fn send(&self, ledger: Option<Ledger>) -> Result<(), LeaseError> {
        let (sender, answer) = oneshot::channel();
        self.writes.send(Write(ledger, sender)).await.map_err(|_| LeaseError::Ended)?;
        answer.await.map_err(|_| LeaseError::Ended)?
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
    complaint: Option<LeaseError>,
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
            && self.complaint.as_ref() != Some(&why)
        {
            tracing::warn!("Lease {}: {why}", self.name);
            self.complaint = Some(why);
        }
    }

    /// Renews the Lease that is held, with another ledger if there is one.
    async fn hold(&mut self, ledger: Option<&Ledger>) -> Result<(), LeaseError> {
        let Some(mut lease) = self.held.clone() else { return Err(LeaseError::NotHeld) };
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
            Err(why) => {
                if why == LeaseError::Taken || self.renewed.elapsed() >= DEADLINE {
                    self.lose();
                }
                Err(why)
            }
        }
    }

    /// Takes the Lease, if nobody holds it.
    async fn take(&mut self) -> Result<(), LeaseError> {
        let found = answered(PATIENCE, self.api.get_opt(&self.name)).await?;
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
            Err(LeaseError::Taken) => Ok(()),
            Err(why) => Err(why),
        }
    }

    async fn create(&mut self) -> Result<(), LeaseError> {
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
        let parameters = PostParams::default();
        match answered(PATIENCE, self.api.create(&parameters, &lease)).await {
            Ok(lease) => self.lead(lease),
            Err(error) if error.is_conflict() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn lead(&mut self, lease: Lease) -> Result<(), LeaseError> {
        let ledger = read_ledger(&lease);
        self.held = Some(lease);
        self.renewed = Instant::now();
        self.seen = None;
        self.complaint = None;
        let ledger = ledger.map_err(|error| LeaseError::Ledger(error.to_string()))?;
        tracing::info!("{} leads, by Lease {}", self.identity, self.name);
        self.leads.send_replace(Some(ledger));
        Ok(())
    }

    fn lose(&mut self) {
        tracing::warn!("{} does not lead any more", self.identity);
        self.held = None;
        self.leads.send_replace(None);
    }

    async fn release(&mut self) -> Result<(), LeaseError> {
        let Some(mut lease) = self.held.take() else { return Ok(()) };
        self.leads.send_replace(None);
        lease.spec.get_or_insert_default().holder_identity = None;
        self.replace(&lease).await?;
        Ok(())
    }

    /// Writes the Lease, if it is what it was.
    async fn replace(&self, lease: &Lease) -> Result<Lease, LeaseError> {
        let parameters = PostParams::default();
        let replaced = self.api.replace(&self.name, &parameters, lease);
        answered(PATIENCE, replaced).await.map_err(|error| match error.is_conflict() {
            true => LeaseError::Taken,
            false => error.into(),
        })
    }
}

fn write_ledger(lease: &mut Lease, ledger: &Ledger) {
    // Strings and numbers: JSON has all of them.
    let text = serde_json::to_string(ledger).unwrap_or_default();
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.insert(LEDGER_ANNOTATION.to_owned(), text);
}

fn read_ledger(lease: &Lease) -> serde_json::Result<Ledger> {
    let annotations = lease.metadata.annotations.as_ref();
    match annotations.and_then(|annotations| annotations.get(LEDGER_ANNOTATION)) {
        Some(text) => serde_json::from_str(text),
        None => Ok(Ledger::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the version before wrote is read, and what is written is the same: it reads that again, and
    /// refuses fields that it does not know.
    #[test]
    fn the_version_before_may_have_it_again() {
        const BEFORE: &str = include_str!("../../../tests/upgrades/0.1.0-ca53cf1/lease.json");
        let before: Lease = serde_json::from_str(BEFORE).unwrap();
        let ledger = read_ledger(&before).unwrap();
        assert_ne!(ledger, Ledger::default());
        let mut written = before.clone();
        write_ledger(&mut written, &ledger);
        assert_eq!(written, before);
    }

    #[test]
    fn a_ledger_that_is_not_understood_is_none() {
        let mut lease = Lease::default();
        assert_eq!(read_ledger(&lease).unwrap(), Ledger::default());
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.insert("whydrop.io/healed".to_owned(), r#"[{"later":1}]"#.to_owned());
        read_ledger(&lease).unwrap_err();
    }
}
