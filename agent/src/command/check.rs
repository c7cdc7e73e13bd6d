//! `whydrop check`: policy unit tests. Many flows with their expected verdicts.

use std::{fmt::Write as _, fs, io, path::PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::Args as ClapArgs;
use serde::{Deserialize, Serialize};
use whydrop_core::{answer::Effective, diagnosis::Diagnosis};

use super::{
    Outcome, Output,
    ends::{NamedEnd, Port},
    judge::{AddressArgs, Judged, judge},
    print,
    source::ClusterArgs,
};
use crate::{
    cluster::manifests,
    report::{
        self, cause_of,
        escape::{self, escape},
        verdict_of,
    },
};

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

/// A flow with its expected verdict, as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectation {
    from: String,
    to: String,
    port: u16,
    #[serde(default = "tcp")]
    protocol: String,
    expect: Expect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Expect {
    Allow,
    Deny,
    Some,
}

impl Expect {
    const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Some => "some",
        }
    }

    /// Whether it is so. What only some packets get through of is as good as denied: one connection in
    /// two hangs.
    const fn is_met(self, effective: Effective) -> bool {
        match self {
            Self::Allow => matches!(effective, Effective::Allow),
            Self::Deny => matches!(effective, Effective::Deny | Effective::Some),
            Self::Some => matches!(effective, Effective::Some),
        }
    }
}

fn tcp() -> String {
    "TCP".to_owned()
}

/// One line of JSON output.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    from: &'a str,
    to: &'a str,
    port: u16,
    protocol: &'a str,
    expect: Expect,
    effective: Effective,
    verdict: report::Verdict,
    cause: report::Cause,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let source = args.cluster.open()?;
    let expectations = read(&args.flows)?;
    let place = |index: usize| format!("{}, flow {}", args.flows.display(), index + 1);
    let mut flows = Vec::new();
    for (index, expectation) in expectations.iter().enumerate() {
        flows.push(expectation.parse(source.namespace()).with_context(|| place(index))?);
    }
    let snapshot = source.snapshot(flows.iter().flat_map(|(from, to, _)| [from, to]))?;
    let mut judged: Vec<(&Expectation, Judged)> = Vec::new();
    for (index, (expectation, (from, to, port))) in expectations.iter().zip(&flows).enumerate() {
        let answer =
            judge(&snapshot, from, to, *port, args.address).with_context(|| place(index))?;
        judged.push((expectation, answer));
    }
    let mut text = String::new();
    let mut differing = 0;
    for (expectation, Judged { answer, diagnosis, .. }) in &judged {
        let effective = answer.effective();
        let differs = !expectation.expect.is_met(effective);
        differing += usize::from(differs);
        let line = match args.output {
            Output::Json => json(expectation, effective, diagnosis)?,
            Output::Text => {
                let Expectation { from, to, port, protocol, .. } = expectation;
                let cause = &diagnosis.cause.text;
                let of = match answer.denied_part() {
                    Some((denied, all)) => format!(" ({} of {all})", denied.join(", ")),
                    None => String::new(),
                };
                let besides =
                    answer.beside().map(|text| format!("; besides, {text}")).unwrap_or_default();
                let mark = if differs { "DIFFERS" } else { "ok     " };
                let expected = match differs {
                    true => format!(", expected {}", expectation.expect.name()),
                    false => String::new(),
                };
                let flow = format!("{from} -> {to}:{port}/{protocol}");
                escape(&format!("{mark} {flow}  {effective}{of}{expected}: {cause}{besides}"))
                    .into_owned()
            }
        };
        writeln!(text, "{line}").context("writing to memory")?;
    }
    if args.output == Output::Text {
        let count = judged.len();
        writeln!(text, "{count} flows, {differing} differ").context("writing to memory")?;
    }
    print(&text)?;
    Ok(if differing == 0 { Outcome::Done } else { Outcome::No })
}

fn json(
    expectation: &Expectation,
    effective: Effective,
    diagnosis: &Diagnosis,
) -> anyhow::Result<String> {
    let Expectation { from, to, port, protocol, expect } = expectation;
    Ok(escape::json(&Checked {
        from,
        to,
        port: *port,
        protocol,
        expect: *expect,
        effective,
        verdict: verdict_of(&diagnosis.verdict),
        cause: cause_of(&diagnosis.cause, None),
    })?)
}

impl Expectation {
    fn parse(&self, namespace: Option<&str>) -> anyhow::Result<(NamedEnd, NamedEnd, Port)> {
        if self.port == 0 {
            bail!("port: expected 1 to 65535, found 0");
        }
        let protocol = self.protocol.parse().map_err(|error| anyhow!("protocol: {error}"))?;
        let port = Port { number: self.port, protocol };
        let from = NamedEnd::parse(&self.from, namespace).context("from")?;
        let to = NamedEnd::parse(&self.to, namespace).context("to")?;
        Ok((from, to, port))
    }
}

fn read(path: &PathBuf) -> anyhow::Result<Vec<Expectation>> {
    let name = path.display();
    let text = match path.as_os_str() == "-" {
        true => io::read_to_string(io::stdin()),
        false => fs::read_to_string(path),
    };
    let text = text.with_context(|| name.to_string())?;
    let value = manifests::yaml(&text, 1).map_err(|error| anyhow!("{name}: {error}"))?;
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = error.path().to_string();
        anyhow!("{name}: {field}: {}", error.inner())
    })
}
