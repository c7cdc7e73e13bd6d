//! Traps of the trade on real parts: flows that policies drop and that need another rule than they seem to.
//! Data, one file each in `tests/fleet/traps/`; all are played at the same time, in the same steps.
//!
//! Each passes, is dropped, is reported as what it is, and passes again with what `whydrop fix` prints;
//! what only looks alike is dropped and reported as nothing of the kind.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    thread,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    expect::{differences, matches},
    stage::Stage,
    story::Fix,
};
use crate::{
    kube::wait::{Look, until},
    repository,
    world::{
        ENFORCED_WAIT, RECORD_WAIT, World as _,
        fleet::Fleet,
        lab::{client, server::Server},
        manifest::documents,
        namespace::Network,
    },
};

/// One file of `tests/fleet/traps/`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Trap {
    /// One line.
    pub title: String,
    /// Its namespaces, pods and whatever else is there before policies are.
    pub before: Vec<Value>,
    /// Who listens.
    #[serde(default)]
    servers: Vec<Serves>,
    /// What passes without the policies, and is dropped with them.
    attempt: Attempt,
    /// The policies.
    deny: Vec<Value>,
    /// What passes in spite of them.
    #[serde(default)]
    still: Vec<Attempt>,
    /// What the drop's record is like.
    drop: Value,
    /// The flags of the `whydrop fix` whose policies let it pass; empty: the incident's id.
    #[serde(default)]
    fix: Vec<String>,
    /// What is dropped as well, and is no such thing.
    look_alikes: Vec<LookAlike>,
}

impl Trap {
    fn attempts(&self) -> Vec<&Attempt> {
        vec![&self.attempt]
    }

    fn still(&self) -> Vec<&Attempt> {
        self.still.iter().collect()
    }

    fn alike(&self) -> Vec<&Attempt> {
        self.look_alikes.iter().map(|other| &other.attempt).collect()
    }
}

/// Who listens.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum Serves {
    /// Answers HTTP, at `namespace/pod:port` or at an address outside of the nodes.
    Http(String),
    /// Sends back what it gets, at `namespace/pod:port`.
    Echo(String),
    /// `CoreDNS` on a node, at the address of node-local caches.
    Names(String),
}

/// An attempt.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
enum Attempt {
    /// To connect.
    Connect {
        /// `namespace/pod`, `node/NAME`, or `outside` of the nodes.
        from: String,
        /// An address of the client's that it connects from; it is given it.
        source: Option<IpAddr>,
        /// `namespace/pod:port` or `address:port`.
        to: String,
    },
    /// To resolve a name, over UDP and over TCP.
    Resolve {
        /// As above.
        from: String,
        /// The server.
        at: SocketAddr,
        /// The name, which it knows.
        name: String,
    },
    /// To have the API server create an object, which it asks somebody about.
    Create(Value),
}

/// What only looks like the trap.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LookAlike {
    attempt: Attempt,
    drop: Value,
}

/// What came of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Somebody answered.
    Passes,
    /// Nobody did.
    Dropped,
    /// Something else happened.
    Otherwise(String),
}

/// All of them, by the names of their files.
pub fn traps() -> Result<BTreeMap<String, Trap>> {
    let folder = repository("tests/fleet/traps");
    let files = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    files.map(|file| read(&file?.path())).collect()
}

fn read(path: &Path) -> Result<(String, Trap)> {
    let place = || path.display().to_string();
    let text = fs::read_to_string(path).with_context(place)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, serde_saphyr::from_str(&text).with_context(place)?))
}

/// Plays all of them on nodes that have what they need before.
///
/// # Errors
/// What was not as a trap expects.
pub fn play_all(stage: &mut Stage<Fleet>, traps: &BTreeMap<String, Trap>) -> Result<()> {
    let mut serving = Vec::new();
    for serves in traps.values().flat_map(|trap| &trap.servers) {
        serving.extend(serve(&mut stage.world, serves)?);
    }
    // Before there is an agent: what fails while Services are programmed is no drop of policies.
    wait_all(&stage.world, traps, Trap::attempts, &Outcome::Passes)?;
    stage.watch()?;
    let deny = traps.values().flat_map(|trap| &trap.deny);
    stage.world.kubectl()?.apply(&documents(deny))?;
    wait_all(&stage.world, traps, Trap::attempts, &Outcome::Dropped)?;
    wait_all(&stage.world, traps, Trap::still, &Outcome::Passes)?;
    each(traps, |name, trap| {
        let drop = reported(stage, name, &trap.drop)?;
        fix(stage, trap, &drop).with_context(|| format!("the fix of {drop}"))
    })?;
    wait_all(&stage.world, traps, Trap::attempts, &Outcome::Passes)?;
    wait_all(&stage.world, traps, Trap::alike, &Outcome::Dropped)?;
    each(traps, |name, trap| {
        let mut others = trap.look_alikes.iter();
        others.try_for_each(|other| reported(stage, name, &other.drop).map(drop))
    })
}

/// Does something for each; the error has what went wrong of all of them.
fn each(
    traps: &BTreeMap<String, Trap>,
    mut work: impl FnMut(&str, &Trap) -> Result<()>,
) -> Result<()> {
    let mut wrong = Vec::new();
    for (name, trap) in traps {
        if let Err(error) = work(name, trap) {
            wrong.push(format!("{name}: {error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}

/// The drop's record of a flow, which is as it should be.
fn reported(stage: &mut Stage<Fleet>, name: &str, expected: &Value) -> Result<Value> {
    let of_flow = json!({ "kind": "drop", "primary": true, "flow": expected["flow"] });
    let is_of_flow = |record: &Value| matches(&of_flow, record);
    let drop = stage.record(&format!("drop of {name}"), RECORD_WAIT, is_of_flow)?;
    let wrong = differences(expected, &drop);
    ensure!(wrong.is_empty(), "{name}: {wrong:?}\n{drop}");
    Ok(drop)
}

/// Applies what `whydrop fix` prints.
fn fix(stage: &mut Stage<Fleet>, trap: &Trap, drop: &Value) -> Result<()> {
    if trap.fix.is_empty() {
        return stage.fix(drop["incident"].as_str().context("an incident")?, Fix::New);
    }
    let flags = trap.fix.iter().map(String::as_str);
    let arguments: Vec<&str> = ["fix"].into_iter().chain(flags).collect();
    let fixed = stage.world.whydrop("worker-1", &arguments)?;
    let text = String::from_utf8_lossy(&fixed.stdout).into_owned();
    ensure!(fixed.status.success(), "{text}{}", String::from_utf8_lossy(&fixed.stderr));
    stage.world.apply(&text)
}

/// Waits until every attempt has come to this, all at the same time.
fn wait_all<'t>(
    fleet: &Fleet,
    traps: &'t BTreeMap<String, Trap>,
    attempts: impl Fn(&'t Trap) -> Vec<&'t Attempt>,
    wanted: &Outcome,
) -> Result<()> {
    let all = traps.iter().flat_map(|(name, trap)| {
        attempts(trap).into_iter().map(move |attempt| (name, attempt)).collect::<Vec<_>>()
    });
    thread::scope(|scope| {
        let wait = |(name, attempt): (&'t String, &'t Attempt)| {
            scope.spawn(move || {
                until(&format!("{wanted:?} of {name}, {attempt:?}"), ENFORCED_WAIT, || {
                    let outcome = outcome(fleet, attempt)?;
                    let is_it = outcome == *wanted;
                    Ok(if is_it { Look::Seen(()) } else { Look::NotYet(format!("{outcome:?}")) })
                })
            })
        };
        let threads: Vec<_> = all.map(wait).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, Result<()>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().try_for_each(join)
    })
}

fn outcome(fleet: &Fleet, attempt: &Attempt) -> Result<Outcome> {
    Ok(match attempt {
        Attempt::Connect { from, source, to } => {
            let (network, to) = (network(fleet, from)?, target(fleet, to)?);
            if let Some(source) = source {
                network.ip(&format!("address replace {source}/32 dev lo\n"))?;
            }
            of_error(network.enter(|| Ok(client::connects(*source, to)))?)
        }
        Attempt::Resolve { from, at, name } => {
            let resolve = || Ok((client::resolve(*at, name), client::resolve_over_tcp(*at, name)));
            match network(fleet, from)?.enter(resolve)? {
                (Ok(0), _) | (_, Ok(0)) => Outcome::Otherwise("no address for the name".to_owned()),
                (Ok(_), Ok(_)) => Outcome::Passes,
                (Err(error), Err(_)) => of_error(Err(error)),
                // As where the policies came into force between the two.
                (Ok(_), Err(error)) => Outcome::Otherwise(format!("TCP alone: {error}")),
                (Err(error), Ok(_)) => Outcome::Otherwise(format!("UDP alone: {error}")),
            }
        }
        Attempt::Create(object) => {
            let flags = ["--dry-run=server"];
            match fleet.kubectl()?.apply_with(&flags, &object.to_string()) {
                Ok(text) => Outcome::Otherwise(format!("nobody was asked: {text}")),
                Err(error) => of_refusal(&format!("{error:#}")),
            }
        }
    })
}

fn of_error(result: std::io::Result<()>) -> Outcome {
    use std::io::ErrorKind;

    match result {
        Ok(()) => Outcome::Passes,
        Err(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
            Outcome::Dropped
        }
        Err(error) => Outcome::Otherwise(error.to_string()),
    }
}

/// What the API server says of a webhook: what it got was no TLS, or nothing came.
fn of_refusal(text: &str) -> Outcome {
    if text.contains("failed calling webhook") && text.contains("tls: ") {
        return Outcome::Passes;
    }
    match text.contains("context deadline exceeded") || text.contains("i/o timeout") {
        true => Outcome::Dropped,
        false => Outcome::Otherwise(text.to_owned()),
    }
}

fn network(fleet: &Fleet, who: &str) -> Result<Network> {
    match who.split_once('/') {
        Some(("node", name)) => fleet.network(name),
        Some(_) => Ok(fleet.pod(who)?.network),
        None => {
            ensure!(who == "outside", "{who} is neither a pod nor a node");
            Ok(fleet.outside().clone())
        }
    }
}

fn target(fleet: &Fleet, to: &str) -> Result<SocketAddr> {
    if let Ok(address) = to.parse() {
        return Ok(address);
    }
    let (pod, port) = to.rsplit_once(':').with_context(|| format!("{to} names no port"))?;
    fleet.address(pod, port.parse().with_context(|| format!("the port of {to}"))?)
}

fn serve(fleet: &mut Fleet, serves: &Serves) -> Result<Option<Server>> {
    let place = |to: &str| -> Result<(Network, SocketAddr)> {
        let address = target(fleet, to)?;
        match to.rsplit_once(':') {
            Some((pod, _)) if pod.contains('/') => Ok((fleet.pod(pod)?.network, address)),
            _ => {
                let outside = fleet.outside();
                outside.ip(&format!("address replace {}/32 dev lo\n", address.ip()))?;
                Ok((outside.clone(), address))
            }
        }
    };
    Ok(Some(match serves {
        Serves::Http(at) => {
            let (network, address) = place(at)?;
            network.enter(|| Server::http(address, at.clone()))?
        }
        Serves::Echo(at) => {
            let (network, address) = place(at)?;
            network.enter(|| Server::echo(address))?
        }
        Serves::Names(node) => {
            fleet.resolve_names(node)?;
            return Ok(None);
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_trap_with_something_that_looks_alike() {
        let traps = traps().expect("all of them");
        assert!(traps.len() >= 8, "{:?}", traps.keys());
        for (name, trap) in traps {
            assert!(!trap.look_alikes.is_empty(), "{name}");
            let situation = &trap.drop["cause"]["situation"];
            for other in &trap.look_alikes {
                assert_ne!(&other.drop["cause"]["situation"], situation, "{name}");
            }
        }
    }
}
