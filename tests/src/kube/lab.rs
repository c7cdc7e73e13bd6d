//! The cluster that a developer leaves running: `cargo xtask lab up`.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitStatus, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use super::{
    api::{self, Api},
    cache, calico,
    daemon::{Entry, Lifetime, Place, Spawner, end_all, started_in},
    debian,
    kubectl::Kubectl,
    node::{self, Node},
    parts::{self, Part},
};
use crate::{
    load::otlp::kafka,
    vm::kernel::{Series, TESTED},
};

/// What a cluster consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// An API server with its etcd and controllers, and no node.
    Api,
    /// A whole cluster of one node, with Calico.
    Node,
}

/// What is built at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Built {
    /// What an API server for tests needs.
    Api,
    /// What a node needs besides.
    Node,
    /// What a node needs whose pods Cilium connects, besides an API server.
    Cilium,
    /// What the tests of `deploy/` run besides.
    Deploy,
    /// The kernels that tests boot.
    Kernels,
    /// What takes and stores what agents send: a collector, and Kafka.
    Otlp,
}

/// The one cluster that is left running, known by its folder.
#[derive(Debug)]
pub struct Lab {
    folder: PathBuf,
}

impl Lab {
    /// The lab of this cache.
    pub fn of_cache() -> Result<Self> {
        Ok(Self { folder: cache::folder()?.join("run/lab") })
    }

    /// Builds what is not there, and reports each program.
    pub fn build(built: Built, mut say: impl FnMut(&str)) -> Result<()> {
        let parts = match built {
            Built::Api => parts::API,
            Built::Node => parts::NODE,
            Built::Cilium => parts::CILIUM_NODE,
            Built::Deploy => parts::DEPLOY,
            Built::Otlp => parts::OTLP,
            Built::Kernels => &[],
        };
        build_all(parts, &mut say)?;
        match built {
            Built::Api => {}
            Built::Node => {
                if debian::NODE.unpack()? {
                    say("containerd, runc and busybox unpacked from Debian's packages");
                }
                calico::provide_definitions()?;
            }
            Built::Kernels => {
                debian::SHELL.unpack()?;
                for name in TESTED {
                    let kernel = Series::named(name)?.fetch()?;
                    say(&format!("Linux {} fetched from Debian's archive", kernel.release()?));
                }
            }
            Built::Cilium => node::cilium::provide_sources()?,
            Built::Otlp => {
                if kafka::provide()? {
                    say("Kafka fetched from Maven's repository");
                }
            }
            Built::Deploy => {
                if debian::PROMETHEUS.unpack()? {
                    say("Prometheus unpacked from Debian's package");
                }
            }
        }
        say("everything is built");
        Ok(())
    }

    /// Starts the cluster; it goes on when this process ends.
    pub fn up(&self, shape: Shape, mut say: impl FnMut(&str)) -> Result<()> {
        ensure!(!self.is_up(), "the lab is up already; `cargo xtask lab down` ends it");
        // What a start that failed has left.
        self.down()?;
        let started = Instant::now();
        let begun = match shape {
            Shape::Api => self.up_api(),
            Shape::Node => self.up_node(&mut say),
        };
        if let Err(error) = begun {
            end_all(&self.folder)?;
            return Err(error);
        }
        say(&format!("ready after {:.1} s", started.elapsed().as_secs_f64()));
        say("`cargo xtask lab kubectl ...` asks it, `cargo xtask lab down` ends it");
        Ok(())
    }

    fn up_api(&self) -> Result<()> {
        Api::start(api::Settings {
            lifetime: Lifetime::Detached,
            folder: Some(self.folder.clone()),
            controllers: true,
            ..api::Settings::default()
        })?;
        Ok(())
    }

    fn up_node(&self, say: &mut impl FnMut(&str)) -> Result<()> {
        let settings = node::Settings {
            lifetime: Lifetime::Detached,
            folder: Some(self.folder.clone()),
            ..node::Settings::default()
        };
        Node::start_reporting(&settings, |what, after| {
            say(&format!("{:5.1} s  {what}", after.as_secs_f64()));
        })?;
        Ok(())
    }

    /// Ends the cluster and removes its state; nothing where there is none.
    pub fn down(&self) -> Result<()> {
        end_all(&self.folder)?;
        node::remove_detached()?;
        match fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| self.folder.display().to_string())
            }
            _ => Ok(()),
        }
    }

    /// Whether anything of it runs.
    pub fn is_up(&self) -> bool {
        started_in(&self.folder).iter().any(Entry::runs)
    }

    /// A line for each process that was started.
    pub fn status(&self) -> Vec<String> {
        let state = |runs| if runs { "runs" } else { "has ended" };
        let line =
            |entry: &Entry| format!("{:26}{:10}pid {}", entry.name, state(entry.runs()), entry.pid);
        started_in(&self.folder).iter().map(line).collect()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        ensure!(self.is_up(), "the lab is not up; `cargo xtask lab up` starts it");
        Ok(self.folder.join("admin.kubeconfig"))
    }

    /// kubectl as its administrator.
    pub fn kubectl(&self) -> Result<Kubectl> {
        Kubectl::new(&self.spawner()?, &self.kubeconfig()?)
    }

    /// Runs a program where the cluster runs: on the node, where there is one.
    pub fn run(&self, program: &str, arguments: &[String]) -> Result<ExitStatus> {
        ensure!(self.is_up(), "the lab is not up; `cargo xtask lab up` starts it");
        let spawner = self.spawner()?;
        let mut command = spawner.command(program);
        command.args(arguments);
        attached(&spawner, command)
    }

    /// Runs kubectl on the caller's terminal.
    pub fn run_kubectl(&self, arguments: &[String]) -> Result<ExitStatus> {
        let command = self.kubectl()?.command(arguments.iter().map(String::as_str));
        attached(&self.spawner()?, command)
    }

    fn spawner(&self) -> Result<Spawner> {
        let processes = started_in(&self.folder);
        let place = processes
            .iter()
            .find(|entry| entry.name == node::FIRST)
            .map_or(Place::Here, |entry| Place::Process(entry.pid));
        Spawner::new(place, Lifetime::Owner)
    }
}

/// Runs a command with the caller's standard streams.
fn attached(spawner: &Spawner, mut command: Command) -> Result<ExitStatus> {
    command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    Ok(spawner.spawn(command)?.wait()?)
}

fn build_all(parts: &[Part], say: &mut impl FnMut(&str)) -> Result<()> {
    for part in parts.iter().filter(|part| part.program().is_err()) {
        say(&format!("building {}: about {} s if nothing is cached", part.name, part.seconds));
        if let Some(time) = part.build()? {
            say(&format!("{} built in {:.0} s", part.name, time.as_secs_f64()));
        }
    }
    Ok(())
}
