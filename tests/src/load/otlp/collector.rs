//! A real OpenTelemetry Collector, built from `tests/kube/collector`.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use super::events::{Event, read};
use crate::kube::{
    daemon::{Daemon, Lifetime, Place, Spawner},
    parts::COLLECTOR,
    ports,
    wait::{Look, until},
};

/// How long it may take to listen, on a busy machine.
const START_WAIT: Duration = Duration::from_secs(30);

/// Where it writes what it is sent, in its folder.
pub const OUT: &str = "out.json";

/// What a collector is to do, but for where it listens.
///
/// In its text `{grpc}` and `{http}` stand for addresses to listen at, and `{folder}` for a folder
/// of its own. With a rotation the file exporter writes through: without one, what it has
/// acknowledged waits in memory, and is gone when it is killed.
pub const TO_FILE: &str = "
receivers:
  otlp:
    protocols:
      grpc: {endpoint: '{grpc}'}
      http: {endpoint: '{http}'}
exporters:
  file: {path: '{folder}/out.json', rotation: {max_megabytes: 1000}}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    logs: {receivers: [otlp], exporters: [file]}
";

/// A collector that can be stopped and started again where it was.
#[derive(Debug)]
pub struct Collector {
    /// Where it listens for gRPC.
    pub grpc: SocketAddr,
    /// Where it listens for HTTP.
    pub http: SocketAddr,
    folder: TempDir,
    spawner: Spawner,
    environment: Vec<(String, String)>,
    daemon: Option<Daemon>,
}

impl Collector {
    /// One that runs, and listens.
    pub fn start(config: &str) -> Result<Self> {
        let mut collector = Self::new(Place::Here)?;
        collector.run(config)?;
        Ok(collector)
    }

    /// One that does not run yet, in a place.
    pub fn new(place: Place) -> Result<Self> {
        let [grpc, http, _] = ports::free(&place)?;
        Ok(Self {
            grpc: ([127, 0, 0, 1], grpc).into(),
            http: ([127, 0, 0, 1], http).into(),
            folder: tempfile::tempdir()?,
            spawner: Spawner::new(place, Lifetime::Owner)?,
            environment: Vec::new(),
            daemon: None,
        })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Sets a variable of its environment.
    pub fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Runs it with this configuration, and waits until it listens for gRPC.
    pub fn run(&mut self, config: &str) -> Result<()> {
        let path = self.folder().join("config.yaml");
        let folder = self.folder().display().to_string();
        let config = config
            .replace("{grpc}", &self.grpc.to_string())
            .replace("{http}", &self.http.to_string())
            .replace("{folder}", &folder);
        fs::write(&path, config)?;
        let mut command = self.spawner.serving(COLLECTOR.program()?);
        command.arg("--config").arg(&path).envs(self.environment.iter().cloned());
        let daemon = Daemon::start(&self.spawner, self.folder.path(), "otelcol", command)?;
        let daemon = self.daemon.insert(daemon);
        let spawner = self.spawner.clone();
        let grpc = self.grpc;
        until("a listening collector", START_WAIT, || {
            daemon.check()?;
            Ok(match spawner.place().visit(move || Ok(TcpStream::connect(grpc)))? {
                Ok(_) => Look::Seen(()),
                Err(error) => Look::NotYet(format!("{error}\n{}", daemon.tail())),
            })
        })
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("the collector does not run")?.pid())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid()?)?), signal)?)
    }

    /// Kills it.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("the collector does not run")?.stop()
    }

    /// What it said last.
    pub fn tail(&self) -> String {
        self.daemon.as_ref().map(Daemon::tail).unwrap_or_default()
    }

    /// The file with what it was sent.
    pub fn out(&self) -> PathBuf {
        self.folder().join(OUT)
    }

    /// What it was sent, in its order; a line that it was killed in is left out.
    pub fn events(&self) -> Result<Vec<Event>> {
        read(&fs::read_to_string(self.out()).unwrap_or_default())
    }

    /// Waits until it was sent what is looked for.
    pub fn wait<T>(
        &self,
        what: &str,
        patience: Duration,
        look: impl Fn(&[Event]) -> Option<T>,
    ) -> Result<T> {
        until(what, patience, || {
            let events = self.events()?;
            Ok(match look(&events) {
                Some(found) => Look::Seen(found),
                None => Look::NotYet(format!("{} events\n{}", events.len(), self.tail())),
            })
        })
    }
}
