//! `whydrop check`: policy unit tests. Many flows with their expected verdicts.

mod flows;

use std::{fmt::Write as _, path::PathBuf};

use anyhow::Context as _;
use clap::Args as ClapArgs;
use serde::Serialize;
use serde_json::Value;
use whydrop_core::answer::Effective;

use super::{
    Outcome, Output,
    judge::{AddressArgs, Judged, judge},
    messages::complain,
    print,
    source::ClusterArgs,
};
use crate::report::{
    self, cause_of,
    escape::{self, escape},
    verdict_of,
};
use flows::{Expect, Expectation, WrittenFlow};

/// Flags of `check`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// File of flows, a YAML or JSON list of {from, to, port, protocol, expect: allow|deny|some}; `-`
    /// is standard input
    #[arg(long, value_name = "FILE")]
    flows: PathBuf,
    #[command(flatten)]
    address: AddressArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// One line of JSON output: the fields as they are written, and what the flow comes to, or why that
/// cannot be said.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<&'a Value>,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    expect: Option<Expect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effective: Option<Effective>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<report::Verdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<report::Cause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// How many flows came to what.
#[derive(Debug, Default)]
struct Tally {
    flows: usize,
    differing: usize,
    errors: usize,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let source = args.cluster.open()?;
    let flows = flows::read(&args.flows, source.namespace())?;
    let readable = flows.iter().filter_map(|written| written.read.as_ref().ok());
    let snapshot = source.snapshot(readable.map(|expectation| &expectation.flow))?;
    let mut text = String::new();
    let mut tally = Tally { flows: flows.len(), ..Tally::default() };
    for written in flows {
        let judged = match &written.read {
            Ok(Expectation { flow, expect }) => {
                judge(&snapshot, flow, args.address).map(|judged| (*expect, judged))
            }
            Err(error) => Err(anyhow::anyhow!("{error:#}")),
        };
        match &judged {
            Ok((expect, judged)) => {
                tally.differing += usize::from(!expect.is_met(judged.answer.effective()));
            }
            Err(error) => {
                tally.errors += 1;
                complain(&format!("{}: {error:#}", written.place));
            }
        }
        let line = match args.output {
            Output::Json => json(&written, &judged)?,
            Output::Text => line(&written, &judged),
        };
        writeln!(text, "{line}").context("writing to memory")?;
    }
    let Tally { flows, differing, errors } = tally;
    if args.output == Output::Text {
        let failed = match errors {
            0 => String::new(),
            errors => format!(", {errors} cannot be judged"),
        };
        writeln!(text, "{flows} flows, {differing} differ{failed}").context("writing to memory")?;
    }
    print(&text)?;
    Ok(match (errors, differing) {
        (0, 0) => Outcome::Done,
        (0, _) => Outcome::No,
        _ => Outcome::Wrong,
    })
}

fn line(written: &WrittenFlow, judged: &anyhow::Result<(Expect, Judged)>) -> String {
    let port = judged.as_ref().ok().map(|(_, judged)| judged.port);
    let flow = written.shown(port.map(|port| port.protocol));
    let text = match judged {
        Ok((expect, Judged { answer, diagnosis, .. })) => {
            let effective = answer.effective();
            let cause = &diagnosis.cause.text;
            let besides =
                answer.beside().map(|text| format!("; besides, {text}")).unwrap_or_default();
            let (mark, expected) = match expect.is_met(effective) {
                true => ("ok     ", String::new()),
                false => ("DIFFERS", format!(", expected {}", expect.name())),
            };
            let of = match answer.denied_part() {
                Some((denied, all)) => format!(" ({} of {all})", denied.join(", ")),
                None => String::new(),
            };
            format!("{mark} {flow}  {effective}{of}{expected}: {cause}{besides}")
        }
        Err(error) => format!("ERROR   {flow}  {error:#}"),
    };
    escape(&text).into_owned()
}

fn json(
    written: &WrittenFlow,
    judged: &anyhow::Result<(Expect, Judged)>,
) -> anyhow::Result<String> {
    let field = |name: &str| written.written.get(name).filter(|value| !value.is_null());
    let asked = judged.as_ref().ok().map(|(_, judged)| judged.port.protocol.to_string());
    let protocol = asked.or_else(|| Some(field("protocol")?.as_str()?.to_owned()));
    let (expect, judged) = match judged {
        Ok((expect, judged)) => (Some(*expect), Ok(judged)),
        Err(error) => (None, Err(error)),
    };
    Ok(escape::json(&Checked {
        from: field("from"),
        to: field("to"),
        port: field("port"),
        protocol: protocol.unwrap_or_else(|| "TCP".to_owned()),
        expect,
        effective: judged.ok().map(|judged| judged.answer.effective()),
        verdict: judged.ok().map(|judged| verdict_of(&judged.diagnosis.verdict)),
        cause: judged.ok().map(|judged| cause_of(&judged.diagnosis.cause, None)),
        error: judged.err().map(|error| format!("{error:#}")),
    })?)
}
