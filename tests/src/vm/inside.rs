//! The guest's side: plays scenarios on the kernel that it runs on, and prints what came of each.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result};
use serde_json::Value;
use whydrop::probe::{self, Config};

use super::line::{Case, Hook, Line, Ready, Walked};
use crate::{
    play::{
        Audience,
        narration::Narrator,
        player::{Watched, play},
        scenario::{Scenario, scenarios},
    },
    world::{World as _, agent::Agent, lab::Lab, namespace::checked},
};

/// Tests of a program that are not for a guest: they hold this kernel to others, or want Cilium.
const SKIPPED: &[&str] = &["older::", "cilium::"];

/// Plays all, and prints a line for each.
pub fn run(names: &[String], tests: &[PathBuf]) -> Result<()> {
    if let Err(error) = all(names, tests) {
        say(&Line::Broke(format!("{error:#}")))?;
    }
    say(&Line::End)
}

fn all(names: &[String], tests: &[PathBuf]) -> Result<()> {
    let release = nix::sys::utsname::uname().context("uname")?;
    say(&Line::Release(release.release().to_string_lossy().into_owned()))?;
    for walked in probe::walk(&Config::default())? {
        let (instructions, refusal) = match walked.result {
            Ok(instructions) => (Some(instructions), None),
            Err(refusal) => (None, Some(refusal)),
        };
        say(&Line::Walked(Walked { program: walked.program.to_owned(), instructions, refusal }))?;
    }
    let first = names.first().context("nothing to play")?;
    say(&Line::Ready(ready(&Scenario::read(&scenarios().join(first))?)?))?;
    for name in names {
        say(&Line::Case(case(name)))?;
    }
    tests.iter().try_for_each(|program| run_tests(program))
}

/// Runs a program of tests, and prints a line for each of them.
fn run_tests(program: &Path) -> Result<()> {
    let mut command = Command::new(program);
    command.args(["--test-threads", "1"]);
    command.args(SKIPPED.iter().flat_map(|name| ["--skip", name]));
    let mut running = command.stdout(Stdio::piped()).spawn().context("run tests")?;
    let out = running.stdout.take().context("standard output")?;
    let (mut started, mut failed, mut rest) = (Instant::now(), Vec::new(), String::new());
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let result = line.strip_prefix("test ").and_then(|line| line.split_once(" ... "));
        let took = started.elapsed();
        match result {
            Some((name, "ok")) => {
                let name = name.to_owned();
                say(&Line::Case(Case { name, took, failure: None, drop: None }))?;
                started = Instant::now();
            }
            Some((name, _)) => {
                failed.push((name.to_owned(), took));
                started = Instant::now();
            }
            None => rest = rest + &line + "\n",
        }
    }
    running.wait()?;
    // Why is printed at the end, for all of them.
    for (name, took) in failed {
        say(&Line::Case(Case { name, took, failure: Some(rest.clone()), drop: None }))?;
    }
    Ok(())
}

fn say(line: &Line) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(line)?)?;
    Ok(out.flush()?)
}

/// Starts an agent, and asks how it is attached.
fn ready(scenario: &Scenario) -> Result<Ready> {
    let lab = Lab::build(scenario)?;
    let started = Instant::now();
    let mut agent = lab.agent(&scenario.node)?;
    let after = started.elapsed();
    let said = agent.records().iter().find(|heard| heard.record["state"] == "ready");
    let record = said.context("the word that it is ready")?.record.clone();
    let cannot = record["cannot"].as_array().into_iter().flatten();
    let cannot = cannot.filter_map(Value::as_str).map(str::to_owned).collect();
    let hook = hook(&lab, &record)?;
    agent.catch_up()?;
    Agent::stop(agent)?;
    Ok(Ready { after, cannot, hook })
}

/// By which of the two the programs are attached to the first interface.
fn hook(lab: &Lab, ready: &Value) -> Result<Option<Hook>> {
    let Some(interface) = ready["interfaces"][0].as_str() else { return Ok(None) };
    let filters = ["filter", "show", "dev", interface, "ingress"];
    let filters = checked(lab.node.command("tc").args(filters))?;
    Ok(Some(if filters.contains("whydrop") { Hook::Clsact } else { Hook::Tcx }))
}

/// Plays one scenario.
fn case(name: &str) -> Case {
    let started = Instant::now();
    let mut audience = Drops { narrator: Narrator::plain(Vec::new()), first: None };
    let played = Scenario::read(&scenarios().join(name))
        .and_then(|scenario| play(&scenario, Watched::ByAgent, &mut audience));
    let said = String::from_utf8_lossy(&audience.narrator.into_inner()).into_owned();
    Case {
        name: name.to_owned(),
        took: started.elapsed(),
        failure: played.err().map(|error| format!("{error:#}\nwhat happened:\n{said}")),
        drop: audience.first,
    }
}

/// Keeps what the kernel said of the first drop.
struct Drops {
    narrator: Narrator<Vec<u8>>,
    first: Option<(Option<String>, Option<String>)>,
}

impl Audience for Drops {
    fn say(&mut self, words: &str) {
        self.narrator.say(words);
    }

    fn command(&mut self, who: &str, command: &str) {
        self.narrator.command(who, command);
    }

    fn output(&mut self, text: &str) {
        self.narrator.output(text);
    }

    fn file(&mut self, name: &str, text: &str) {
        self.narrator.file(name, text);
    }

    fn record(&mut self, record: &Value) {
        self.narrator.record(record);
        let text = |field: &str| record["evidence"][field].as_str().map(str::to_owned);
        self.first.get_or_insert_with(|| (text("reason"), text("location")));
    }
}
