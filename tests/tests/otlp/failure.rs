//! What fails, under load: nothing is lost unseen. Sent is received, or counted as shed, by id.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use whydrop::sink::{
    Sink as _,
    otlp::{DeliveryStats, Otlp},
};
use whydrop_tests::{
    kube::{
        daemon::Place,
        wait::{Look, until},
    },
    load::otlp::{
        collector::{Collector, TO_FILE},
        endpoint::{Endpoint, Request},
        events::{Event, distinct, take},
        load::{Records, Said, drain, drive, incident_id, settings, sink},
    },
    world::agent::beside,
};

use crate::ARRIVAL;

/// How long an answer is waited for, here: a test has less patience than an agent.
const TIMEOUT: &str = "1000";

fn open(
    address: impl std::fmt::Display,
    protocol: &str,
    folder: Option<&Path>,
    bytes: Option<u64>,
) -> Result<Otlp> {
    let endpoint = format!("http://{address}");
    let settings = settings(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", TIMEOUT),
    ])?;
    sink("worker-1", settings, folder.map(Path::to_owned), bytes)
}

fn number(event: &Event) -> u64 {
    u64::from_str_radix(event.get("whydrop.drop.id"), 16).expect("a number")
}

/// The numbers of the drops that arrived; that copies are known by their uid, and by nothing else;
/// and that each incident's drops came in their order.
fn arrived(events: &[Event]) -> Result<BTreeSet<u64>> {
    let mut uids = BTreeMap::new();
    for event in events {
        let known = uids.insert(event.uid().to_owned(), number(event));
        ensure!(known.is_none_or(|known| known == number(event)), "{} stands for two", event.uid());
    }
    let distinct = distinct(events);
    let numbers: BTreeSet<u64> = distinct.iter().map(|event| number(event)).collect();
    ensure!(numbers.len() == distinct.len(), "one record has two uids");
    for incident in 0..whydrop_tests::load::otlp::load::INCIDENTS {
        let of_it: Vec<u64> = distinct
            .iter()
            .filter(|event| event.get("whydrop.incident.id") == incident_id(incident))
            .map(|event| number(event))
            .collect();
        ensure!(of_it.is_sorted(), "incident {incident} came out of order: {of_it:?}");
    }
    Ok(numbers)
}

/// Waits until this holds of the sink.
fn wait(sink: &Otlp, what: &str, is_so: impl Fn(&DeliveryStats) -> bool) -> Result<DeliveryStats> {
    until(what, ARRIVAL, || {
        let stats = sink.stats();
        Ok(if is_so(&stats) { Look::Seen(stats) } else { Look::NotYet(format!("{stats:?}")) })
    })
}

#[test]
fn a_collector_that_is_killed_and_stopped_under_load_gets_every_record() -> Result<()> {
    const RECORDS: u64 = 1500;
    const PER_SECOND: f64 = 500.0;
    for protocol in ["grpc", "http/protobuf"] {
        let mut collector = Collector::start(TO_FILE)?;
        let folder = tempfile::tempdir()?;
        let address = if protocol == "grpc" { collector.grpc } else { collector.http };
        let sink = Arc::new(open(address, protocol, Some(folder.path()), None)?);
        let driven = sink.clone();
        let load = std::thread::spawn(move || {
            drive(&driven, &Records::of("worker-1"), 0..RECORDS, PER_SECOND, |_| {});
        });
        wait(&sink, "some that have arrived", |stats| stats.sent > 200)?;
        collector.kill()?;
        let stats =
            wait(&sink, "some that wait", |stats| stats.retries > 1 && stats.waiting > 300)?;
        collector.run(TO_FILE)?;
        wait(&sink, "more that have arrived", |now| now.sent > stats.sent + 200)?;

        collector.signal(Signal::SIGSTOP)?;
        let stopped = sink.stats();
        wait(&sink, "no answer", |stats| stats.retries > stopped.retries && stats.waiting > 200)?;
        collector.signal(Signal::SIGCONT)?;
        load.join().expect("the load");
        let said = drain(&sink, RECORDS, ARRIVAL, |_| {})?;

        assert_eq!((said.kept, said.full, said.refused), (RECORDS, 0, 0), "{said:?}");
        let events = collector.events()?;
        assert_eq!(arrived(&events)?, (0..RECORDS).collect(), "{protocol}");
        assert_eq!(said.sent, RECORDS);
    }
    Ok(())
}

/// `whydrop-otlp-load`, and the last that it said.
struct Load {
    child: Child,
    said: std::sync::mpsc::Receiver<Said>,
    last: Said,
}

impl Load {
    fn start(collector: &Collector, folder: &Path, first: u64, records: u64) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(beside("whydrop-otlp-load")?);
        command.args(["--endpoint", &format!("http://{}", collector.grpc), "--protocol", "grpc"]);
        command.args(["--node", "worker-1", "--rate", "1000", "--folder"]).arg(folder);
        command.args(["--first", &first.to_string(), "--records", &records.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("its standard output")?;
        let (sender, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Ok(said) = serde_json::from_str(&line) {
                    let _ = sender.send(said);
                }
            }
        });
        Ok(Self { child, said, last: Said::default() })
    }

    fn wait(&mut self, what: &str, is_so: impl Fn(&Said) -> bool) -> Result<()> {
        let deadline = Instant::now() + ARRIVAL;
        while !is_so(&self.last) {
            let left = deadline.saturating_duration_since(Instant::now());
            self.last = self
                .said
                .recv_timeout(left)
                .with_context(|| format!("{what}; it said last: {:?}", self.last))?;
        }
        Ok(())
    }

    /// SIGKILL; returns the last that it managed to say.
    fn kill(mut self) -> Result<Said> {
        self.child.kill()?;
        self.child.wait()?;
        // To the end of what is in the pipe.
        while let Ok(said) = self.said.recv_timeout(ARRIVAL) {
            self.last = said;
        }
        Ok(self.last)
    }
}

#[test]
fn a_sender_that_is_killed_under_load_loses_nothing_that_its_outbox_had() -> Result<()> {
    const PIECE: u64 = 1500;
    let mut collector = Collector::start(TO_FILE)?;
    let folder = tempfile::tempdir()?;
    let mut kept = BTreeSet::new();
    let mut handed = BTreeSet::new();
    // Killed while the collector takes records, while it is gone, and while it is back.
    for round in 0..3 {
        let first = round * PIECE;
        let mut load = Load::start(&collector, folder.path(), first, PIECE)?;
        load.wait("some are kept", |said| said.kept > 300)?;
        match round {
            0 => load.wait("some are sent", |said| said.sent > 200)?,
            1 => {
                collector.kill()?;
                load.wait("more are kept", |said| said.kept > 500)?;
            }
            _ => {
                collector.run(TO_FILE)?;
                load.wait("some are sent", |said| said.sent > 500)?;
            }
        }
        let said = load.kill()?;
        kept.extend(first..first + said.kept);
        // Records that were handed over, or were about to be; not kept, as far as was said.
        let queue = whydrop::sink::otlp::QUEUE_MAX as u64;
        handed.extend(first..(first + said.kept + queue).min(first + PIECE));
    }
    let mut load = Load::start(&collector, folder.path(), 3 * PIECE, 1)?;
    load.wait("all are sent", |said| said.done && said.handed == 1)?;
    kept.insert(3 * PIECE);
    handed.insert(3 * PIECE);
    assert!(load.child.wait()?.success());

    let numbers = arrived(&collector.events()?)?;
    let lost: Vec<_> = kept.difference(&numbers).collect();
    assert!(lost.is_empty(), "{} of {} on disk are lost: {lost:?}", lost.len(), kept.len());
    let strange: Vec<_> = numbers.difference(&handed).collect();
    assert!(strange.is_empty(), "nobody sent {strange:?}");
    Ok(())
}

#[test]
fn what_a_full_outbox_sheds_is_counted_and_its_numbers_are_missing() -> Result<()> {
    const RECORDS: u64 = 1500;
    const BYTES: u64 = 2 << 20;
    let mut collector = Collector::new(Place::Here)?;
    let folder = tempfile::tempdir()?;
    let sink = open(collector.http, "http/protobuf", Some(folder.path()), Some(BYTES))?;
    drive(&sink, &Records::of("worker-1"), 0..RECORDS, 5000.0, |_| {});
    let full = wait(&sink, "all kept or shed", |stats| stats.kept == RECORDS)?;
    assert!(full.full > 100 && full.waiting_bytes <= BYTES, "{full:?}");
    let file = folder.path().join("otlp-outbox.redb").metadata()?.len();
    // The store rounds events up to pages, and keeps a transaction's old pages until it is done.
    assert!(file < 8 * BYTES, "{BYTES} bytes of records are a file of {file}");

    collector.run(TO_FILE)?;
    let said = drain(&sink, RECORDS, ARRIVAL, |_| {})?;
    let events = collector.events()?;
    let numbers = arrived(&events)?;
    assert_eq!(said.full, full.full, "nothing is shed while there is room");
    assert_eq!(numbers.len() as u64 + said.full, RECORDS, "received + shed = sent");
    // The oldest, but for what was under way: the newest explain what is the case now.
    let missing: Vec<_> = (0..RECORDS).filter(|number| !numbers.contains(number)).collect();
    assert_eq!(missing.len() as u64, said.full);
    assert!(missing.last() < Some(&(RECORDS - 100)), "{:?}", missing.last());
    // The receiver can see it too.
    let sequences: BTreeSet<u64> =
        events.iter().map(|event| event.sequence().expect("a number")).collect();
    let last = sequences.last().context("some")? + 1;
    assert_eq!(last - sequences.len() as u64, said.full);
    Ok(())
}

/// A memory limit that is always reached: the limiter refuses everything, for now.
const REFUSING: &str = "
receivers:
  otlp:
    protocols:
      grpc: {endpoint: '{grpc}'}
      http: {endpoint: '{http}'}
processors:
  memory_limiter: {check_interval: 100ms, limit_mib: 1}
exporters:
  file: {path: '{folder}/out.json', rotation: {max_megabytes: 1000}}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    logs: {receivers: [otlp], processors: [memory_limiter], exporters: [file]}
";

#[test]
fn a_collector_out_of_memory_is_asked_again_until_it_takes_them() -> Result<()> {
    for protocol in ["grpc", "http/protobuf"] {
        let mut collector = Collector::start(REFUSING)?;
        // It looks at its memory from time to time: before the first look it takes records.
        let address = if protocol == "grpc" { collector.grpc } else { collector.http };
        let sink = open(address, protocol, None, None)?;
        let records = Records::of("worker-1");
        let mut count = 0;
        until("a refusal", ARRIVAL, || {
            sink.write(&records.drop(count).into());
            count += 1;
            let stats = sink.stats();
            Ok(if stats.retries > 1 { Look::Seen(()) } else { Look::NotYet(format!("{stats:?}")) })
        })?;
        assert_eq!(sink.stats().refused, 0, "{protocol}");
        collector.kill()?;
        collector.run(TO_FILE)?;
        let said = drain(&sink, count, ARRIVAL, |_| {})?;
        assert_eq!((said.sent, said.full, said.refused), (count, 0, 0));
        assert_eq!(arrived(&collector.events()?)?, (0..count).collect());
    }
    Ok(())
}

/// A collector that acknowledges only what a backend has acknowledged.
const FORWARDING: &str = "
receivers:
  otlp:
    protocols:
      grpc: {endpoint: '{grpc}'}
      http: {endpoint: '{http}'}
exporters:
  otlp_http:
    endpoint: http://{backend}
    encoding: json
    compression: none
    sending_queue: {enabled: false}
    retry_on_failure: {enabled: false}
service:
  telemetry: {metrics: {level: none}}
  pipelines:
    logs: {receivers: [otlp], exporters: [otlp_http]}
";

#[test]
fn a_slow_collector_gets_every_record_and_holds_up_nobody() -> Result<()> {
    const RECORDS: u64 = 400;
    // The collector's backend is ours: what makes a real one slow is not at hand. While it is slow
    // it answers later than is waited for, so that the collector has what the sender sends again.
    let is_slow = Arc::new(AtomicBool::new(true));
    let (slow, gate) = (is_slow.clone(), std::sync::Mutex::new(()));
    let backend = Endpoint::start(move |_, _| {
        let _one_at_a_time = gate.lock();
        if slow.load(Ordering::Relaxed) {
            std::thread::park_timeout(Duration::from_millis(1500));
        }
        ("200 OK", "content-type: application/json\r\n", b"{}".to_vec())
    })?;
    let collector =
        Collector::start(&FORWARDING.replace("{backend}", &backend.address.to_string()))?;
    let sink = open(collector.grpc, "grpc", None, None)?;
    let records = Records::of("worker-1");
    let started = Instant::now();
    (0..RECORDS).for_each(|number| sink.write(&records.drop(number).into()));
    assert!(started.elapsed() < Duration::from_secs(1), "the writer does not wait");
    wait(&sink, "answers that come too late", |stats| stats.retries > 1)?;
    is_slow.store(false, Ordering::Relaxed);
    let said = drain(&sink, RECORDS, ARRIVAL, |_| {})?;
    assert_eq!((said.sent, said.full, said.refused), (RECORDS, 0, 0));
    let mut events = Vec::new();
    for Request { body, .. } in backend.requests() {
        take(&serde_json::from_slice(&body)?, &mut events)?;
    }
    assert!(events.len() as u64 > RECORDS, "copies came of what was sent again");
    assert_eq!(arrived(&events)?, (0..RECORDS).collect());
    Ok(())
}

/// No configuration makes the collector give these answers: they are other receivers'.
#[test]
fn answers_mean_what_the_specification_says() -> Result<()> {
    use opentelemetry_proto::tonic::collector::logs::v1::{
        ExportLogsPartialSuccess, ExportLogsServiceResponse,
    };
    use prost::Message as _;

    let partial = ExportLogsServiceResponse {
        partial_success: Some(ExportLogsPartialSuccess {
            rejected_log_records: 2,
            error_message: "too old".to_owned(),
        }),
    };
    let partial = partial.encode_to_vec();
    let endpoint = Endpoint::start(move |number, _| match number {
        0 => ("429 Too Many Requests", "Retry-After: 2\r\n", Vec::new()),
        1 => ("503 Service Unavailable", "", Vec::new()),
        2 => ("200 OK", "", partial.clone()),
        3 => ("400 Bad Request", "", b"no".to_vec()),
        _ => ("200 OK", "", Vec::new()),
    })?;
    let sink = open(endpoint.address, "http/protobuf", None, None)?;
    let records = Records::of("worker-1");
    (0..5).for_each(|number| sink.write(&records.drop(number).into()));
    let stats = wait(&sink, "the partial success", |stats| stats.sent > 0)?;
    assert_eq!((stats.sent, stats.refused, stats.retries, stats.waiting), (3, 2, 2, 0));
    sink.write(&records.drop(5).into());
    let stats = wait(&sink, "the refusal", |stats| stats.refused > 2)?;
    assert_eq!((stats.sent, stats.refused, stats.waiting), (3, 3, 0), "it is not sent again");
    sink.write(&records.drop(6).into());
    wait(&sink, "the last", |stats| stats.sent == 4)?;

    let requests = endpoint.requests();
    assert_eq!(requests.len(), 5);
    let pause = requests[1].at - requests[0].at;
    assert!(pause >= Duration::from_secs(2), "it asked for 2 s, and was asked after {pause:?}");
    assert_eq!(requests[0].body, requests[1].body, "the same again");
    assert_eq!(requests[1].body, requests[2].body);
    assert_eq!(requests[0].path, "/v1/logs");
    let header = |name: &str| {
        let found = requests[0].headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(header("content-type"), Some("application/x-protobuf"));
    assert!(header("user-agent").is_some_and(|agent| agent.starts_with("whydrop/")));
    Ok(())
}
