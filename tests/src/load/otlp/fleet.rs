//! A fleet's worth of records through one collector: many sinks in one process, each with its own
//! resource, connection and outbox, as many agents have them.

use std::{
    collections::BTreeSet,
    fmt,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use whydrop::sink::{
    Sink as _,
    otlp::{DeliveryStats, Otlp, QUEUE_MAX},
};

use super::{
    collector::{Collector, TO_FILE},
    events::read,
    load::{INCIDENTS, Records, settings, sink},
};

/// How long all may take to arrive once the last is handed over.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Of each so many records one is an incident; the others are drops.
const INCIDENT_EACH: u64 = 10;
/// Open files of an agent: its connection, and what its runtime waits with. The collector has one.
const FILES_EACH: u64 = 8;

/// What to play.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Fleet {
    /// How many agents, each with a connection of its own.
    #[arg(long, default_value_t = 1000)]
    pub agents: u64,
    /// How many records each of them reports.
    #[arg(long, default_value_t = 20)]
    pub records: u64,
    /// Over how many seconds; 0: all at once.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// HTTP instead of gRPC.
    #[arg(long)]
    pub http: bool,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Report {
    /// What was played.
    pub fleet: Fleet,
    /// Records handed over, of all agents.
    pub handed: u64,
    /// Those that the collector wrote, each counted once.
    pub received: u64,
    /// Copies of these.
    pub copies: u64,
    /// Shed or refused.
    pub lost: u64,
    /// Requests that were sent again.
    pub retries: u64,
    /// From the first record to the last acknowledgement.
    pub took: Duration,
    /// The collector's processor time, and its largest resident memory in MiB.
    pub collector: (Duration, f64),
    /// The agents' processor time.
    pub agents: Duration,
    /// What the collector wrote, in bytes.
    pub bytes: u64,
}

impl fmt::Display for Report {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fleet { agents, records, seconds, http } = self.fleet;
        let protocol = if http { "HTTP" } else { "gRPC" };
        let over = if seconds == 0 { "at once".to_owned() } else { format!("over {seconds} s") };
        writeln!(out, "{agents} agents, {records} records each {over}, {protocol}")?;
        let rate = self.handed as f64 / self.took.as_secs_f64();
        let took = self.took.as_secs_f64();
        writeln!(out, "  {} records in {took:.1} s: {rate:.0} a second", self.handed)?;
        writeln!(
            out,
            "  received {} and {} copies, lost {}, {} requests sent again",
            self.received, self.copies, self.lost, self.retries
        )?;
        let (cpu, resident) = self.collector;
        let each = cpu.as_secs_f64() * 1e6 / self.received as f64;
        writeln!(
            out,
            "  collector: {:.1} s of CPU ({each:.0} µs a record), at most {resident:.0} MiB resident",
            cpu.as_secs_f64()
        )?;
        let each = self.agents.as_secs_f64() * 1e6 / self.handed as f64;
        writeln!(
            out,
            "  agents: {:.1} s of CPU ({each:.0} µs a record)",
            self.agents.as_secs_f64()
        )?;
        write!(out, "  written: {:.0} MB", self.bytes as f64 / 1e6)
    }
}

impl Fleet {
    /// Plays it against a collector of its own, and holds what arrived against what was sent.
    pub fn play(self) -> Result<Report> {
        allow_files(self.agents * FILES_EACH)?;
        let collector = Collector::start(TO_FILE)?;
        let sinks = self.sinks(&collector)?;
        let before = processor_time("self")?;
        let begun = Instant::now();
        self.hand_over(&sinks);
        let handed = self.agents * self.records;
        let deadline = Instant::now() + PATIENCE;
        let (lost, retries) = loop {
            let stats: Vec<_> = sinks.iter().map(|(sink, _)| sink.stats()).collect();
            let sum = |count: fn(&DeliveryStats) -> u64| stats.iter().map(count).sum();
            let (sent, lost): (u64, u64) =
                (sum(|stats| stats.sent), sum(|stats| stats.full + stats.old + stats.refused));
            if sent + lost == handed {
                break (lost, sum(|stats| stats.retries));
            }
            ensure!(Instant::now() < deadline, "{sent} of {handed} are sent after {PATIENCE:?}");
            std::thread::park_timeout(LOOK);
        };
        let took = begun.elapsed();
        let agents = processor_time("self")?.saturating_sub(before);
        let pid = collector.pid()?.to_string();
        let usage = (processor_time(&pid)?, peak_mib(&pid)?);
        let (mut received, mut copies) = (BTreeSet::new(), 0);
        for line in BufReader::new(File::open(collector.out())?).lines() {
            for event in read(&line?)? {
                copies += u64::from(!received.insert(event.uid().to_owned()));
            }
        }
        Ok(Report {
            fleet: self,
            handed,
            received: received.len() as u64,
            copies,
            lost,
            retries,
            took,
            collector: usage,
            agents,
            bytes: fs::metadata(collector.out())?.len(),
        })
    }

    fn sinks(self, collector: &Collector) -> Result<Vec<(Otlp, Records)>> {
        let (address, protocol) =
            if self.http { (collector.http, "http/protobuf") } else { (collector.grpc, "grpc") };
        let endpoint = format!("http://{address}");
        (0..self.agents)
            .map(|agent| {
                let settings = settings(&[
                    ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
                    ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
                ])?;
                let node = format!("worker-{agent}");
                // In memory: a thousand disks are not at hand.
                Ok((sink(&node, settings, None, None)?, Records::of(&node)))
            })
            .collect()
    }

    /// One record of each agent, then the next of each; in between it waits where it is early.
    #[expect(clippy::cast_precision_loss, reason = "some ten thousand records")]
    fn hand_over(self, sinks: &[(Otlp, Records)]) {
        let begun = Instant::now();
        let total = (self.agents * self.records) as f64;
        for number in 0..self.records {
            for (agent, (sink, records)) in (0..).zip(sinks) {
                let done = (number * self.agents + agent) as f64 / total;
                let due = Duration::from_secs_f64(self.seconds as f64 * done);
                while begun.elapsed() < due || sink.stats().queued >= QUEUE_MAX {
                    std::thread::park_timeout(due.saturating_sub(begun.elapsed()).max(LOOK / 50));
                }
                let record = if number % INCIDENT_EACH == INCIDENT_EACH - 1 {
                    records.incident(agent % INCIDENTS, number)
                } else {
                    records.drop(number)
                };
                sink.write(&record.into());
            }
        }
    }
}

/// Raises the bound on open files, for this process and the collector that it starts.
fn allow_files(count: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < count + 256 {
        let wanted = count + 256;
        setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard)?;
        ensure!(
            wanted <= hard,
            "{wanted} open files are needed, and {hard} allowed: see ulimit -n"
        );
    }
    Ok(())
}

/// What a process has used of the processors: user and system time, in the clock ticks of proc(5).
fn processor_time(pid: &str) -> Result<Duration> {
    /// `sysconf(_SC_CLK_TCK)` is this on all of Linux.
    const TICKS: u64 = 100;

    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after = stat.rfind(')').context("a name in parentheses")?;
    // Without pid and name the 14th and 15th fields are these.
    let mut fields = stat[after + 1..].split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    let (user, system) = next().zip(next()).context("times")?;
    Ok(Duration::from_millis((user + system) * 1000 / TICKS))
}

/// The largest resident memory that a process had, in MiB.
fn peak_mib(pid: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("VmHWM")? / 1024.0)
}
