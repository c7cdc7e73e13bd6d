//! A real Kafka: one broker that is its own controller, from Maven's artifacts, which
//! `tests/kube/kafka/pom.xml` pins; and Kafka's own console consumer to read back with.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{
    kube::{
        cache,
        daemon::{Daemon, Lifetime, Place, Spawner},
        parts::module,
        ports,
        wait::{Look, until},
    },
    world::namespace::checked,
};

/// How long a broker may take to listen, on a busy machine.
const START_WAIT: Duration = Duration::from_secs(60);
/// How long the consumer waits for another message before it ends.
const CONSUMER_QUIET: Duration = Duration::from_secs(5);
/// A broker of one topic needs little; without a bound Java takes a quarter of the machine.
const HEAP: &str = "-Xmx384m";
/// Starts sooner, and never gets to run long enough to gain from more.
const QUICK: &[&str] = &["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"];

/// Fetches it, unless it is in the cache. Returns whether it had to be.
pub fn provide() -> Result<bool> {
    cache::provide(&libraries()?, |new| {
        let mut maven = Command::new("mvn");
        maven.args(["--batch-mode", "--quiet", "dependency:copy-dependencies"]);
        maven.args(["-DincludeScope=runtime", &format!("-DoutputDirectory={}", new.display())]);
        checked(maven.current_dir(module("kafka")))?;
        Ok(())
    })
    .context("fetch Kafka")
}

fn libraries() -> Result<PathBuf> {
    let pom = fs::read(module("kafka").join("pom.xml"))?;
    Ok(cache::folder()?.join("kafka").join(cache::key([pom.as_slice()])))
}

/// A call of a class of Kafka's.
fn java(folder: &Path, class: &str) -> Result<Command> {
    let libraries = libraries()?;
    ensure!(libraries.is_dir(), "Kafka is not fetched. `cargo xtask lab build otlp` does it, once");
    let mut command = Command::new("java");
    command.arg(HEAP).args(QUICK).arg("-cp").arg(libraries.join("*"));
    command.arg(format!("-Dkafka.logs.dir={}", folder.display())).arg(class);
    Ok(command)
}

/// A broker, and its storage.
#[derive(Debug)]
pub struct Kafka {
    /// Where clients connect.
    pub address: SocketAddr,
    folder: TempDir,
    spawner: Spawner,
    daemon: Option<Daemon>,
}

impl Kafka {
    /// One that runs.
    pub fn start() -> Result<Self> {
        let [broker, controller, _] = ports::free(&Place::Here)?;
        let address = SocketAddr::from(([127, 0, 0, 1], broker));
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let config = folder.path().join("server.properties");
        fs::write(
            &config,
            format!(
                "process.roles=broker,controller\n\
                 node.id=1\n\
                 controller.quorum.voters=1@127.0.0.1:{controller}\n\
                 listeners=PLAINTEXT://{address},CONTROLLER://127.0.0.1:{controller}\n\
                 advertised.listeners=PLAINTEXT://{address}\n\
                 controller.listener.names=CONTROLLER\n\
                 log.dirs={}\n\
                 auto.create.topics.enable=true\n\
                 offsets.topic.replication.factor=1\n\
                 offsets.topic.num.partitions=1\n\
                 group.initial.rebalance.delay.ms=0\n\
                 # A message is on disk before it is acknowledged.\n\
                 log.flush.interval.messages=1\n",
                data.display()
            ),
        )?;
        let mut format = java(folder.path(), "kafka.tools.StorageTool")?;
        // Any name does for a cluster of one.
        format.args(["format", "--cluster-id", "d2h5ZHJvcC10ZXN0cy0wMQ", "--config"]).arg(&config);
        checked(&mut format)?;
        let spawner = Spawner::new(Place::Here, Lifetime::Owner)?;
        let mut kafka = Self { address, folder, spawner, daemon: None };
        kafka.run()?;
        Ok(kafka)
    }

    /// Starts the broker over its storage.
    pub fn run(&mut self) -> Result<()> {
        let folder = self.folder.path();
        let call = java(folder, "kafka.Kafka")?;
        let mut command = self.spawner.serving(call.get_program());
        command.args(call.get_args()).arg(folder.join("server.properties"));
        let daemon = Daemon::start(&self.spawner, folder, "kafka", command)?;
        let daemon = self.daemon.insert(daemon);
        until("a listening broker", START_WAIT, || {
            daemon.check()?;
            Ok(match TcpStream::connect(self.address) {
                Ok(_) => Look::Seen(()),
                Err(error) => Look::NotYet(format!("{error}\n{}", daemon.tail())),
            })
        })
    }

    /// Kills the broker; its storage stays.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("the broker does not run")?.stop()
    }

    /// Its resident memory, in MiB.
    pub fn resident_mib(&self) -> Result<f64> {
        crate::world::agent::resident_mib(self.daemon.as_ref().context("it does not run")?.pid())
    }

    /// All messages of a topic, as the console consumer prints them: one a line.
    pub fn consume(&self, topic: &str) -> Result<String> {
        let mut consumer =
            java(self.folder.path(), "org.apache.kafka.tools.consumer.ConsoleConsumer")?;
        consumer.args(["--bootstrap-server", &self.address.to_string(), "--topic", topic]);
        consumer.args(["--from-beginning", "--timeout-ms"]);
        consumer.arg(CONSUMER_QUIET.as_millis().to_string());
        let output = consumer.output().context("run java")?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the consumer: {}\n{words}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }
}
