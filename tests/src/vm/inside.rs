//! The guest's side: plays scenarios on the kernel that it runs on, and prints what came of each.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;
use whydrop::probe::{self, Config};

use super::{
    kernel::numbers,
    line::{Case, Hook, LeftOut, Line, Ready, Walked},
};
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
/// Tests of what older kernels have not, by what is in their names; since which release, and what it is.
const SINCE: &[(&str, [u64; 2], &str)] = &[("_at_tcx_", [6, 6], "tcx")];

/// Plays all, and prints a line for each.
pub fn run(names: &[String], tests: &[PathBuf]) -> Result<()> {
    if let Err(error) = all(names, tests) {
        say(&Line::Broke(format!("{error:#}")))?;
    }
    say(&Line::End)
}

fn all(names: &[String], tests: &[PathBuf]) -> Result<()> {
    let release = nix::sys::utsname::uname().context("uname")?;
    let release = release.release().to_string_lossy().into_owned();
    say(&Line::Release(release.clone()))?;
    for walked in probe::walk(&Config::default())? {
        let (instructions, time, refusal) = match walked.result {
            Ok(walked) => (Some(walked.instructions), walked.time, None),
            Err(refusal) => (None, Duration::ZERO, Some(refusal)),
        };
        let program = walked.program.to_owned();
        say(&Line::Walked(Walked { program, instructions, time, refusal }))?;
    }
    let first = names.first().context("nothing to play")?;
    say(&Line::Ready(ready(&Scenario::read(&scenarios().join(first))?)?))?;
    for name in names {
        say(&Line::Case(case(name)))?;
    }
    tests.iter().try_for_each(|program| run_tests(program, &release))
}

/// Runs a program of tests, and prints a line for each of them.
fn run_tests(program: &Path, release: &str) -> Result<()> {
    let file = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let of_program = file.split('-').next().unwrap_or_default();
    let named = |name: &str| format!("{of_program}::{name}");
    let mut skipped = SKIPPED.to_vec();
    let newer = SINCE.iter().filter(|(_, since, _)| numbers(release)[..] < since[..]);
    for (part, [major, minor], what) in newer {
        skipped.push(part);
        for name in names(program, part)? {
            let why = format!("no {what} before Linux {major}.{minor}");
            say(&Line::LeftOut(LeftOut { name: named(&name), why }))?;
        }
    }
    let mut command = Command::new(program);
    command.args(["--test-threads", "1"]);
    command.args(skipped.iter().flat_map(|name| ["--skip", name]));
    let mut running = command.stdout(Stdio::piped()).spawn().context("run tests")?;
    let out = running.stdout.take().context("standard output")?;
    let (mut started, mut failed, mut rest) = (Instant::now(), Vec::new(), String::new());
    for line in BufReader::new(out).lines().map_while(Result::ok) {
        let result = line.strip_prefix("test ").and_then(|line| line.split_once(" ... "));
        let took = started.elapsed();
        match result {
            Some((name, "ok")) => {
                say(&Line::Case(Case { name: named(name), took, failure: None, drop: None }))?;
                started = Instant::now();
            }
            Some((name, _)) => {
                failed.push((named(name), took));
                started = Instant::now();
            }
            None => rest = rest + &line + "\n",
        }
    }
    let status = running.wait()?;
    // Why is printed at the end, for all of them.
    if failed.is_empty() && !status.success() {
        failed.push((named("end"), started.elapsed()));
    }
    for (name, took) in failed {
        say(&Line::Case(Case { name, took, failure: Some(rest.clone()), drop: None }))?;
    }
    Ok(())
}

/// The tests of a program that have this in their names.
fn names(program: &Path, part: &str) -> Result<Vec<String>> {
    let listed = checked(Command::new(program).args(["--list", "--format", "terse", part]))?;
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.map(str::to_owned).collect())
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
