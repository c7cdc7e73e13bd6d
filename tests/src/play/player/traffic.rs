//! The steps that send packets, one at a time or several at once.

use std::{fmt::Write as _, fs, net::IpAddr};

use anyhow::{Context, Error, Result, bail, ensure};

use crate::{
    play::{
        Audience,
        scenario::{Connect, Curl, Gets, Step, Transport},
    },
    world::lab::{
        Lab,
        client::{self, CONNECT_WAIT},
    },
};

/// curl's exit codes for an attempt that nobody answered, and one that was refused.
const CURL_REFUSED: i32 = 7;
const CURL_TIMED_OUT: i32 = 28;

/// Takes steps at the same time, and checks that each client got what it should.
pub(super) fn run(lab: &Lab, steps: &[Step], audience: &mut dyn Audience) -> Result<()> {
    for step in steps {
        for (who, command) in announce(step) {
            audience.command(&who, &command);
        }
    }
    let outputs: Vec<Result<String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = steps.iter().map(|step| scope.spawn(|| perform(lab, step))).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    for output in outputs {
        audience.output(&output?);
    }
    Ok(())
}

/// Who does what in a step.
fn announce(step: &Step) -> Vec<(String, String)> {
    let each = |connect: &Connect, how: &str| {
        let to = connect.to.all().join(" ");
        connect.from.all().iter().map(|from| (from.clone(), format!("{how} {to}"))).collect()
    };
    match step {
        Step::Curl(curl) => vec![(curl.from.clone(), command(curl).join(" "))],
        Step::Connect(connect) => each(connect, "GET over TCP to"),
        Step::Sctp(connect) => each(connect, "SCTP INIT to"),
        Step::Dns(dns) => {
            let over = match dns.over {
                Transport::Udp => "UDP",
                Transport::Tcp => "TCP",
            };
            vec![(dns.from.clone(), format!("resolve {} over {over} at {}", dns.name, dns.to))]
        }
        Step::Spoof(spoof) => {
            vec![(spoof.from.clone(), format!("SYN to {} as if from {}", spoof.to, spoof.source))]
        }
        _ => Vec::new(),
    }
}

/// Sends what a step says and returns what came of it, in words.
fn perform(lab: &Lab, step: &Step) -> Result<String> {
    match step {
        Step::Curl(curl) => run_curl(lab, curl),
        Step::Connect(connect) => {
            each(connect, |from, to| client::http(lab.origin(from)?, lab.target(to)?))
        }
        Step::Sctp(connect) => {
            each(connect, |from, to| client::sctp(lab.origin(from)?, lab.target(to)?))
        }
        Step::Dns(dns) => {
            let (origin, to) = (lab.origin(&dns.from)?, lab.target(&dns.to)?);
            let got = client::dns(origin, to, &dns.name, dns.over)?;
            check(&format!("{} of {}", dns.name, dns.to), got, dns.gets)
        }
        Step::Spoof(spoof) => {
            client::spoof(lab.origin(&spoof.from)?, spoof.source, lab.target(&spoof.to)?)?;
            Ok(String::new())
        }
        other => bail!("not traffic: {other:?}"),
    }
}

/// Each client to each server, all at the same time.
fn each(connect: &Connect, attempt: impl Fn(&str, &str) -> Result<Gets> + Sync) -> Result<String> {
    let attempt = &attempt;
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for from in connect.from.all() {
            for to in connect.to.all() {
                threads.push(scope.spawn(move || {
                    let label = format!("{from} to {to}");
                    attempt(from, to)
                        .with_context(|| label.clone())
                        .and_then(|got| check(&label, got, connect.gets))
                }));
            }
        }
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<String, Error>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>>>().map(|lines| lines.join("\n"))
    })
}

fn check(label: &str, got: Gets, wanted: Gets) -> Result<String> {
    ensure!(got == wanted, "{label}: the client got {got:?}, not {wanted:?}");
    Ok(match got {
        Gets::Answer => format!("{label}: answered"),
        Gets::Timeout => format!("{label}: no answer"),
        Gets::Refusal => format!("{label}: refused"),
    })
}

/// What a person would type.
fn command(curl: &Curl) -> Vec<String> {
    let patience = CONNECT_WAIT.as_secs_f32().to_string();
    ["curl", "-i", "--connect-timeout", &patience, &curl.url].map(str::to_owned).to_vec()
}

/// Runs curl in a pod. What cluster DNS would resolve stands in a configuration file of curl's, so
/// that the command is the one that a person would type.
fn run_curl(lab: &Lab, curl: &Curl) -> Result<String> {
    let home = tempfile::tempdir()?;
    let mut config = "no-progress-meter\nnoproxy = \"*\"\n".to_owned();
    for entry in &curl.resolve {
        let (name, who) = entry.rsplit_once(':').with_context(|| format!("resolve: {entry}"))?;
        let address = who.parse::<IpAddr>().or_else(|_| lab.address(who))?;
        writeln!(config, "resolve = \"{name}:{address}\"")?;
    }
    fs::write(home.path().join(".curlrc"), config)?;
    let typed = command(curl);
    let mut process = lab.origin(&curl.from)?.namespace.command(&typed[0]);
    let output = process.args(&typed[1..]).env("CURL_HOME", home.path()).output()?;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let text = format!("{}{err}", out.replace('\r', ""));
    let got = match output.status.code() {
        Some(0) if out.starts_with("HTTP/1.1 200") => Gets::Answer,
        Some(CURL_TIMED_OUT) => Gets::Timeout,
        Some(CURL_REFUSED) => Gets::Refusal,
        _ => bail!("curl ended with {}:\n{text}", output.status),
    };
    ensure!(got == curl.gets, "curl got {got:?}, not {:?}:\n{text}", curl.gets);
    Ok(text)
}
