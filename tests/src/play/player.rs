//! Plays a scenario: builds its lab, starts the agent, takes the steps, compares what is reported.

mod traffic;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, bail, ensure};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::{
    Audience,
    expect::{self, Pairing},
    hint, marker,
    said::Said,
    scenario::{Remedy, Scenario, Step, Whydrop},
};
use crate::world::{
    World as _,
    agent::{Agent, Heard, binary},
    cluster::Cluster,
    lab::{Lab, filter::Enforcement, server::Server},
    namespace::checked,
    slow::Slow,
};

/// How long a record may take: its drop is reported within 2 s, the rest is for a busy machine, or an
/// emulated one.
const REPORT_WAIT: Duration = Duration::from_secs(30);
/// How often at most the same flow is reported again while it goes on.
const REPEAT_MIN: Duration = Duration::from_secs(60);
/// Seconds after which a command that should have ended is killed.
const COMMAND_SECONDS: &str = "20";
/// Where a person puts what `whydrop fix` prints; the lab reads it anyway.
const FIXED: &str = " | tee remedy.yaml";
/// Between two looks at what was said.
const LOOK: Duration = Duration::from_millis(20);
/// The marker's first destination port; each marker has one of its own.
const MARKER_PORT: u16 = 40_001;

/// Whether an agent runs while a scenario is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    /// Yes, and what it reports is compared.
    ByAgent,
    /// No: only the traffic is played, and only what the clients see is compared.
    Not,
}

/// Plays a scenario to its end; the error says what differs and what was seen.
pub fn play(scenario: &Scenario, watched: Watched, audience: &mut dyn Audience) -> Result<()> {
    let mut player = Player::new(scenario, watched)?;
    match player.play(audience) {
        Ok(()) => player.end(),
        Err(error) => Err(player.explain(&error)),
    }
}

/// Everything that one scenario needs while it is played.
struct Player<'s> {
    scenario: &'s Scenario,
    /// None where the scenario is not watched.
    agent: Option<Agent>,
    _servers: Vec<Server>,
    enforcement: Enforcement,
    slow: Vec<Slow>,
    /// For the locks of iptables.
    locks: TempDir,
    lab: Lab,
    /// What the kernel says of drops, once the agent has said what it can do.
    said: Said,
    /// How many records earlier steps have dealt with.
    seen: usize,
    /// What the last `report` step was content with, in the order of its expectations.
    reported: Vec<Value>,
    next_marker: u16,
}

impl<'s> Player<'s> {
    fn new(scenario: &'s Scenario, watched: Watched) -> Result<Self> {
        let lab = Lab::build(scenario)?;
        lab.node.nft(marker::FILTER)?;
        let mut enforcement = Enforcement::new(&scenario.folder)?;
        if let Some(filter) = &scenario.filter {
            enforcement.switch(&lab, &filter.rules)?;
        }
        let servers = scenario.servers.iter().map(|server| Server::start(&lab, server));
        let servers = servers.collect::<Result<_>>()?;
        let agent = match watched {
            Watched::ByAgent => {
                let mut command = lab.agent_command(&scenario.node)?;
                if let Some(file) = &scenario.mute {
                    command.arg("--mute").arg(scenario.folder.join(file));
                }
                Some(Agent::spawn(&mut command)?)
            }
            Watched::Not => None,
        };
        Ok(Self {
            scenario,
            agent,
            _servers: servers,
            enforcement,
            slow: Vec::new(),
            locks: tempfile::tempdir()?,
            lab,
            said: Said::default(),
            seen: 0,
            reported: Vec::new(),
            next_marker: MARKER_PORT,
        })
    }

    fn play(&mut self, audience: &mut dyn Audience) -> Result<()> {
        if let Some(agent) = &mut self.agent {
            agent.wait_ready()?;
            self.said = Said::of(agent.records().iter().map(|heard| &heard.record));
        }
        for (index, step) in self.scenario.steps.iter().enumerate() {
            self.take(step, audience).with_context(|| format!("step {}", index + 1))?;
        }
        Ok(())
    }

    /// Stops the agent, and looks at the last that it says.
    fn end(self) -> Result<()> {
        let Some(agent) = self.agent else { return Ok(()) };
        let records = agent.stop_and_read()?;
        for expected in &self.scenario.stops_with {
            let is_reported = records.iter().any(|record| expect::matches(expected, record));
            ensure!(is_reported, "it did not stop with {expected}:\n{records:#?}");
        }
        Ok(())
    }

    fn take(&mut self, step: &Step, audience: &mut dyn Audience) -> Result<()> {
        match step {
            Step::Say(words) => audience.say(words.trim()),
            Step::Apply(file) => {
                let name = file.file_name().context("a file in later/")?;
                let text = fs::read_to_string(self.scenario.folder.join("later").join(file))?;
                audience.file(&file.display().to_string(), &text);
                // What cannot be read has no pods.
                self.lab.follow(Cluster::parse(&text).unwrap_or_default())?;
                self.lab.put(&name.to_string_lossy(), &text)?;
            }
            Step::Remove(file) => self.lab.take_away(file)?,
            Step::Unplug(pod) => self.lab.unplug(pod)?,
            Step::Slow(slow) => {
                let delay = Duration::from_millis(slow.milliseconds);
                let folder = self.locks.path();
                let path = Slow::start(&self.lab.node, folder, slow.port, slow.way, delay)?;
                self.slow.push(path);
            }
            Step::Filter(rules) => self.enforcement.switch(&self.lab, rules)?,
            Step::Remedy(remedy) => self.remedy(remedy, audience)?,
            Step::Complains(words) => self.complains(words)?,
            Step::Report(expected) => self.report(expected, audience)?,
            Step::Whydrop(whydrop) => self.whydrop(whydrop, audience)?,
            Step::Together(steps) => traffic::run(&self.lab, steps, audience)?,
            traffic => traffic::run(&self.lab, std::slice::from_ref(traffic), audience)?,
        }
        Ok(())
    }

    /// Waits for what is expected, then makes sure that nothing else is reported.
    fn report(&mut self, expected: &[Value], audience: &mut dyn Audience) -> Result<()> {
        let Some(agent) = &mut self.agent else { return Ok(()) };
        let expected: &[Value] =
            &expected.iter().map(|want| self.said.expect(want)).collect::<Vec<_>>();
        let seen = self.seen;
        let complete =
            |records: &[Heard]| Pairing::of(expected, &reported(records, seen)).missing.is_empty();
        // What is missing is said below, with what there is instead.
        let _ = agent.wait_for(REPORT_WAIT, complete);
        settle(agent, &self.lab, &mut self.next_marker)?;
        let got = reported(agent.records(), seen);
        self.seen = agent.records().len();
        let pairing = Pairing::of(expected, &got);
        if !pairing.missing.is_empty() || !pairing.extra.is_empty() {
            bail!(difference(expected, &got, &pairing));
        }
        let mut paired: Vec<_> = pairing.pairs.into_iter().zip(got).collect();
        paired.sort_by_key(|(want, _)| *want);
        self.reported = paired.into_iter().map(|(_, record)| record).collect();
        self.reported.iter().for_each(|record| audience.record(record));
        Ok(())
    }

    /// Applies the remedy that was reported last, got as the log line says, and has the CNI follow.
    fn remedy(&mut self, remedy: &Remedy, audience: &mut dyn Audience) -> Result<()> {
        if self.agent.is_some() {
            let remedied = |record: &&Value| record["remedy"]["manifest"].is_string();
            let record =
                self.reported.iter().rev().find(remedied).context("no record with a remedy")?;
            let (_, words) = self.run(&hint::of_record(record)?, FIXED, audience)?;
            audience.output(&words);
            let fixed: Value = serde_saphyr::from_str(&words).context("the remedy's manifest")?;
            let of_record = record["remedy"]["manifest"].as_str().unwrap_or_default();
            let of_record: Value = serde_saphyr::from_str(of_record).context("its manifest")?;
            // They say who made them, when and how, each its own way.
            let unmarked = |remedy: &Value| {
                let mut remedy = remedy.clone();
                if let Some(metadata) = remedy["metadata"].as_object_mut() {
                    metadata.remove("annotations");
                }
                remedy
            };
            ensure!(
                unmarked(&fixed) == unmarked(&of_record),
                "the record has another remedy:\n{of_record}\nthan:\n{fixed}"
            );
            let differences = expect::differences(&remedy.like, &fixed);
            ensure!(
                differences.is_empty(),
                "the remedy is another than the scenario has rules for:\n{}\nit is:\n{words}",
                differences.join("\n")
            );
            audience.command("", "cp remedy.yaml manifests/");
            self.lab.put("remedy.yaml", &words)?;
        }
        self.enforcement.switch(&self.lab, &remedy.rules)
    }

    /// Waits until the agent has said these words on standard error.
    fn complains(&self, words: &[String]) -> Result<()> {
        let Some(agent) = &self.agent else { return Ok(()) };
        let deadline = Instant::now() + REPORT_WAIT;
        loop {
            let said = agent.stderr();
            let Some(missing) = words.iter().find(|word| !said.contains(*word)) else {
                return Ok(());
            };
            ensure!(Instant::now() < deadline, "the agent did not say {missing:?}");
            std::thread::park_timeout(LOOK);
        }
    }

    /// Runs another command of whydrop over the same manifests, and compares what it prints.
    fn whydrop(&self, whydrop: &Whydrop, audience: &mut dyn Audience) -> Result<()> {
        if self.agent.is_none() {
            return Ok(());
        }
        let (code, out) = self.run(&whydrop.run, "", audience)?;
        if whydrop.prints.is_none() {
            audience.output(&out);
        }
        ensure!(code == whydrop.exit, "exit code {code} instead of {}:\n{out}", whydrop.exit);
        if let Some(expected) = &whydrop.prints {
            let got: Value = serde_saphyr::from_str(&out).with_context(|| out.clone())?;
            let differences = expect::differences(expected, &got);
            ensure!(differences.is_empty(), "{}\nin:\n{out}", differences.join("\n"));
        }
        Ok(())
    }

    /// Runs whydrop with these words and the manifests; returns its exit code and what it printed.
    fn run(
        &self,
        words: &[String],
        into: &str,
        audience: &mut dyn Audience,
    ) -> Result<(i32, String)> {
        let typed = format!("whydrop {} -f manifests{into}", words.join(" "));
        audience.command("", &typed);
        let mut command = Command::new("timeout");
        command.arg(COMMAND_SECONDS).arg(binary()?).args(words).arg("-f");
        let output = command.arg(self.lab.manifests()).output()?;
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let code = output.status.code().with_context(|| format!("{typed}: {}", output.status))?;
        ensure!(code < 2, "{typed}: exit code {code}\n{err}");
        Ok((code, out.into_owned()))
    }

    /// All there is to know about a failure.
    fn explain(&mut self, error: &Error) -> Error {
        // What is still on its way helps, too; nothing waits for it.
        let mut text = format!("{error:#}\n\nscenario {}\n", self.scenario.name());
        if let Some(agent) = &mut self.agent {
            let _ = agent.catch_up();
            let _ = writeln!(text, "\nrecords, but for the marker's:");
            for Heard { record, .. } in agent.records().iter().filter(|h| !is_marker(&h.record)) {
                let _ = writeln!(text, "{record}");
            }
            let _ = writeln!(text, "\nstderr of the agent:\n{}", agent.stderr());
        }
        let _ = writeln!(text, "filters:\n{}", self.enforcement.counters(&self.lab));
        let links = checked(self.lab.node.command("ip").args(["-s", "-brief", "link"]));
        let _ = writeln!(text, "links of the node:\n{}", links.unwrap_or_default());
        Error::msg(text)
    }
}

/// Sends two markers, one after the other, and waits for the report of each.
fn settle(agent: &mut Agent, lab: &Lab, next_marker: &mut u16) -> Result<()> {
    for _ in 0..2 {
        let port = *next_marker;
        *next_marker += 1;
        let origin = lab.origin(marker::CLIENT)?;
        let _open = origin.namespace.enter(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            // It is under way, and the kernel goes on with it while the socket is open.
            let _ = socket.connect(&SocketAddr::from((marker::SERVER_ADDRESS, port)).into());
            Ok(socket)
        })?;
        let marked = |heard: &Heard| {
            is_marker(&heard.record) && heard.record["flow"]["destination"]["port"] == port
        };
        agent
            .wait_for(REPORT_WAIT, |records| records.iter().any(marked))
            .context("the marker's own drop was not reported")?;
    }
    Ok(())
}

/// The records from number `seen` on that a scenario has to expect: all but the marker's, the word
/// that the agent is ready, incidents, and what is reported again in its time.
fn reported(records: &[Heard], seen: usize) -> Vec<Value> {
    let counts = |(index, heard): &(usize, &Heard)| {
        let ready = heard.record["kind"] == "agent" && heard.record["state"] == "ready";
        // What a scenario's drops come to is reported when they have gone on for a while.
        let incident = heard.record["kind"] == "incident";
        !ready && !incident && !is_marker(&heard.record) && !is_repeat(heard, &records[..*index])
    };
    let new = records.iter().enumerate().skip(seen).filter(counts);
    new.map(|(_, heard)| heard.record.clone()).collect()
}

fn is_marker(record: &Value) -> bool {
    record["flow"]["source"]["namespace"] == marker::NAMESPACE
}

/// The same flow again with more attempts, after its time or because it is answered by now: where the
/// machine is slow, that comes after more SYNs than were reported.
fn is_repeat(heard: &Heard, earlier: &[Heard]) -> bool {
    let last = earlier.iter().rev().find(|other| heard.id().is_some() && other.id() == heard.id());
    let evidence = &heard.record["evidence"];
    // Of one form, so that they are in the order of their letters.
    let is_answered = evidence["last_success"].as_str() > evidence["last"].as_str();
    last.is_some_and(|last| {
        heard.attempts() > last.attempts() && (is_answered || heard.at >= last.at + REPEAT_MIN)
    })
}

/// Which expectations nothing met, which records nobody expected, and how near they come.
fn difference(expected: &[Value], got: &[Value], pairing: &Pairing) -> String {
    let mut text = String::from("what was reported is not what was expected\n");
    let mut shown = BTreeSet::new();
    for &index in &pairing.missing {
        let _ = writeln!(text, "\nmissing: {}", expected[index]);
        let nearest = pairing
            .extra
            .iter()
            .map(|&extra| (extra, expect::differences(&expected[index], &got[extra])))
            .min_by_key(|(_, differences)| differences.len());
        if let Some((extra, differences)) = nearest {
            shown.insert(extra);
            let _ = writeln!(text, "  nearest: {}", got[extra]);
            for difference in differences {
                let _ = writeln!(text, "    {difference}");
            }
        }
    }
    for &index in pairing.extra.iter().filter(|index| !shown.contains(index)) {
        let _ = writeln!(text, "\nnot expected: {}", got[index]);
    }
    text
}
