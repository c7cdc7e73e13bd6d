//! The cluster that a developer leaves running: `cargo xtask lab up`.

use std::{fs, path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};

use super::{
    api::{Api, Settings},
    cache,
    daemon::{Entry, Lifetime, Place, Spawner, end_all, started_in},
    kubectl::Kubectl,
    parts::Part,
};

/// What a cluster consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// An API server with its etcd and controllers, and no node.
    Api,
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

    /// Builds what is not there, and tells of each program.
    pub fn build(parts: &[Part], mut say: impl FnMut(&str)) -> Result<()> {
        for part in parts {
            if part.program().is_err() {
                say(&format!(
                    "building {}: about {} s if nothing is cached",
                    part.name, part.seconds
                ));
            }
            match part.build()? {
                Some(time) => say(&format!("{} built in {:.0} s", part.name, time.as_secs_f64())),
                None => say(&format!("{} is built", part.name)),
            }
        }
        Ok(())
    }

    /// Starts the cluster; it goes on when this process ends.
    pub fn up(&self, shape: Shape, mut say: impl FnMut(&str)) -> Result<()> {
        ensure!(!self.is_up(), "the lab is up already; `cargo xtask lab down` ends it");
        // What a start that failed has left.
        self.down()?;
        let started = Instant::now();
        let settings = Settings {
            lifetime: Lifetime::Detached,
            folder: Some(self.folder.clone()),
            controllers: true,
            ..Settings::default()
        };
        let begun = match shape {
            Shape::Api => Api::start(settings),
        };
        let cluster = match begun {
            Ok(cluster) => cluster,
            Err(error) => {
                end_all(&self.folder)?;
                return Err(error);
            }
        };
        say(&format!(
            "{} is ready after {:.1} s; export KUBECONFIG={}",
            cluster.server(),
            started.elapsed().as_secs_f64(),
            cluster.kubeconfig().display(),
        ));
        Ok(())
    }

    /// Ends the cluster and removes its state; nothing where there is none.
    pub fn down(&self) -> Result<()> {
        end_all(&self.folder)?;
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
            |entry: &Entry| format!("{:26}{:9}pid {}", entry.name, state(entry.runs()), entry.pid);
        started_in(&self.folder).iter().map(line).collect()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        ensure!(self.is_up(), "the lab is not up; `cargo xtask lab up` starts it");
        Ok(self.folder.join("admin.kubeconfig"))
    }

    /// kubectl as its administrator.
    pub fn kubectl(&self) -> Result<Kubectl> {
        let spawner = Spawner::new(Place::Here, Lifetime::Owner)?;
        Kubectl::new(&spawner, &self.kubeconfig()?)
    }
}
