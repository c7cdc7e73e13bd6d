//! kubectl, for one identity at one API server.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::{daemon::Spawner, parts};

/// kubectl with a kubeconfig, run where the cluster's processes run.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    config: PathBuf,
    spawner: Spawner,
}

impl Kubectl {
    /// The kubectl of the cluster's own version.
    pub fn new(spawner: &Spawner, config: &Path) -> Result<Self> {
        let program = parts::KUBECTL.program()?;
        Ok(Self { program, config: config.to_owned(), spawner: spawner.clone() })
    }

    /// The command; its standard output and error are piped.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = self.spawner.command(&self.program);
        command.args(arguments).env("KUBECONFIG", &self.config);
        // Nothing of the user's: neither what kubectl remembers of servers, nor their preferences.
        let home = self.config.with_extension("home");
        command.env("KUBECACHEDIR", home.join("cache")).env("HOME", home).env("KUBERC", "off");
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts it, for what goes on: `get --watch`, `port-forward`.
    pub fn spawn<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Child> {
        self.spawner.spawn(self.command(arguments))
    }

    /// Runs it to its end, whatever that is.
    pub fn output<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Output> {
        Ok(self.spawn(arguments)?.wait_with_output()?)
    }

    /// Runs it to its end; returns what it printed, or fails with its words.
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let arguments: Vec<&str> = arguments.into_iter().collect();
        printed(&arguments, &self.output(arguments.iter().copied())?)
    }

    /// Runs it and reads what it printed as JSON; `arguments` ask for that.
    pub fn json<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Value> {
        let text = self.run(arguments)?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Applies manifests, and returns a line for each object.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.apply_with(&[], manifests)
    }

    /// The same, with flags.
    pub fn apply_with(&self, flags: &[&str], manifests: &str) -> Result<String> {
        self.fed(&[&["apply", "-f", "-"], flags].concat(), manifests)
    }

    /// Runs it with something on its standard input; returns what it printed, or fails with its words.
    pub fn fed(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = self.command(arguments.iter().copied());
        command.stdin(Stdio::piped());
        let mut child = self.spawner.spawn(command)?;
        let stdin = child.stdin.take();
        // It may print while it reads. Where it ended early the write fails, and its own words say more.
        let (written, output) = thread::scope(|scope| {
            let writes = scope
                .spawn(move || stdin.map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes())));
            let output = child.wait_with_output();
            (writes.join(), output)
        });
        let printed = printed(arguments, &output?)?;
        written.map_err(|_| anyhow!("the thread that writes panicked"))??;
        Ok(printed)
    }
}

fn printed(arguments: &[&str], output: &Output) -> Result<String> {
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(
        output.status.success(),
        "kubectl {}: {}\n{out}{err}",
        arguments.join(" "),
        output.status
    );
    Ok(out.into_owned())
}
