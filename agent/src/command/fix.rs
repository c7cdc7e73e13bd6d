//! `whydrop fix`: the verified remedy as YAML, or as a change to existing policies.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, BufRead, BufReader, stdin},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args as ClapArgs;
use serde_json::json;
use whydrop_core::{
    answer::Effective,
    cluster::Snapshot,
    diagnosis::Class,
    remedy::{Remedy, patch::patch, remedy},
    verdict::Question,
};

use super::{
    Outcome, Output,
    ends::{Between, FlowArgs, NamedEnd},
    judge::{AddressArgs, Judged, judge},
    messages::complain,
    print,
    source::{ClusterArgs, OpenCluster},
};
use crate::{
    records::{
        flow_search::FlowSearch,
        lines::{Next, next},
    },
    report::{
        Direction,
        escape::{self, escape},
        explanation::cost,
        patch::{Edit, edits_of},
        remedy_of,
        text::FlowQuery,
        yaml,
    },
};

/// Flags of `fix`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Id of the drop or incident to fix, or the beginning of it
    #[arg(required_unless_present = "FlowArgs", conflicts_with = "FlowArgs")]
    id: Option<String>,
    /// File of the agents' records that the id is searched in; `-` is standard input [default: the
    /// logs of the agents' pods]
    #[arg(short, long, value_name = "FILE", requires = "id")]
    records: Option<PathBuf>,
    /// Namespace of the agents whose logs are searched for the id
    #[arg(long, value_name = "NAMESPACE", default_value = "whydrop", requires = "id")]
    agents: String,
    #[command(flatten)]
    flow: Option<FlowArgs>,
    #[command(flatten)]
    address: AddressArgs,
    /// Print commands that add a rule to existing policies, instead of new policies
    #[arg(long)]
    patch: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// Output format; text is YAML for `kubectl apply -f -`, or the commands of --patch
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// What fixes one flow.
struct Fix {
    summary: String,
    newly_allowed: usize,
    what: FixForm,
}

enum FixForm {
    Policies(Remedy),
    Edits(Vec<Edit>),
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let source = args.cluster.open()?;
    let asked = args.id.as_deref().map(|id| args.named(id, &source)).transpose()?;
    let flows = match (&asked, &args.flow) {
        (Some(asked), _) => asked.iter().map(read).collect::<anyhow::Result<Vec<_>>>()?,
        (None, Some(flow)) => vec![flow.read(source.namespace())?],
        (None, None) => bail!("expected an ID, or --from, --to and --port"),
    };
    let mut snapshot = source.snapshot(flows.iter().flat_map(|flow| [&flow.from, &flow.to]))?;
    let mut fixes = Vec::new();
    let (mut refusals, mut absent) = (Vec::new(), Vec::new());
    for Between { from, to, port } in &flows {
        let judged = match judge(&snapshot, from, to, *port, args.address) {
            Ok(judged) => judged,
            // Of an incident, pods that have gone since need no fix.
            Err(error) if flows.len() > 1 => {
                absent.push(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let fix = if args.patch { more_rules } else { new_policies };
        match fix(&snapshot, &judged) {
            Ok((fix, after)) => {
                snapshot = after;
                fixes.push(fix);
            }
            // What was found so far fixes this flow as well.
            Err(_) if !fixes.is_empty() && passes(&judged) => {}
            Err(why) => refusals.push(why),
        }
    }
    refusals.dedup();
    for why in &refusals {
        complain(&why.to_string());
    }
    match (fixes.is_empty(), absent.into_iter().next()) {
        (false, _) => show(&fixes, args.output),
        (true, Some(error)) if refusals.is_empty() => Err(error),
        (true, _) => Ok(Outcome::No),
    }
}

impl Args {
    /// The flows that an id names.
    fn named(&self, id: &str, source: &OpenCluster) -> anyhow::Result<Vec<FlowQuery>> {
        let mut named = FlowSearch::new(id)?;
        let Some(path) = &self.records else {
            let lines = source.agents_lines(&self.agents)?;
            for line in &lines {
                named.search(&line.text);
            }
            return Ok(named.flows()?);
        };
        let from_stdin = path.as_os_str() == "-";
        if from_stdin && self.cluster.reads_stdin() {
            bail!("--records and --filename: only one of them can be standard input");
        }
        let searched = match from_stdin {
            true => search(stdin().lock(), &mut named),
            false => File::open(path).and_then(|file| search(BufReader::new(file), &mut named)),
        };
        searched.with_context(|| Path::new(path).display().to_string())?;
        Ok(named.flows()?)
    }
}

fn search(mut log: impl BufRead, named: &mut FlowSearch) -> io::Result<()> {
    let mut line = String::new();
    loop {
        match next(&mut log, &mut line)? {
            Next::Line => named.search(&line),
            Next::TooLong => {}
            Next::End => return Ok(()),
        }
    }
}

fn read(asked: &FlowQuery) -> anyhow::Result<Between> {
    let end = |text: &str| NamedEnd::parse(text, None).context("in the record");
    let port = asked.port.parse().context("in the record")?;
    Ok(Between { from: end(&asked.from)?, to: end(&asked.to)?, port })
}

fn passes(judged: &Judged) -> bool {
    judged.answer.effective() == Effective::Allow
}

/// Why nothing fixes a flow.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum NoFix {
    /// It passes.
    #[error("nothing to fix: no policy denies this flow")]
    Passes,
    /// A rule denies it by name, which no other rule outweighs.
    #[error("{cause}: only the policy's owner can change that")]
    ExplicitDeny { cause: String },
    /// No policy stops it.
    #[error("no policy is what stops this flow: {cause}")]
    NotPolicy { cause: String },
    /// No rule was found that lets it pass.
    #[error("cannot find a rule that is proved to fix it: {cause}")]
    NoRule { cause: String },
    /// No policy was found that one more rule in lets it pass.
    #[error("cannot find an existing policy that is proved to fix it with one more rule: {cause}")]
    NoPolicy { cause: String },
}

/// New policies that fix a flow, and the cluster with them.
fn new_policies(snapshot: &Snapshot, judged: &Judged) -> Result<(Fix, Snapshot), NoFix> {
    let remedy = judged.answer.remedy(snapshot).ok_or_else(|| no_rule(judged))?;
    let after = remedy.applied(snapshot);
    let (summary, newly_allowed) = (remedy.summary.clone(), remedy.newly_allowed);
    Ok((Fix { summary, newly_allowed, what: FixForm::Policies(remedy) }, after))
}

/// Why there is no remedy.
fn no_rule(judged: &Judged) -> NoFix {
    let cause = judged.diagnosis.cause.text.clone();
    match judged.diagnosis.cause.class {
        _ if passes(judged) => NoFix::Passes,
        Class::ExplicitDeny => NoFix::ExplicitDeny { cause },
        Class::NotPolicy => NoFix::NotPolicy { cause },
        _ => NoFix::NoRule { cause },
    }
}

/// Rules in existing policies that fix a flow, and the cluster with them.
fn more_rules(snapshot: &Snapshot, judged: &Judged) -> Result<(Fix, Snapshot), NoFix> {
    if judged.answer.remedy(snapshot).is_none() {
        return Err(no_rule(judged));
    }
    let (mut edits, mut summaries, mut newly_allowed) = (Vec::new(), Vec::new(), 0);
    let after = judged.answer.opened(snapshot, |with, denial| {
        let patch = patch(with, denial, &remedy(with, denial)?)?;
        let Question { source, destination, port, protocol, .. } = &denial.question;
        let hosts = patch.edits.iter().map(|edit| format!("{} {}", edit.policy.kind, edit.policy));
        let hosts = hosts.collect::<Vec<_>>().join(" and ");
        summaries.push(format!(
            "allow {source} to reach {destination} on {port}/{protocol}: one more rule in {hosts}"
        ));
        newly_allowed += patch.newly_allowed;
        edits.extend(edits_of(&patch));
        Some(patch.after)
    });
    let cause = || judged.diagnosis.cause.text.clone();
    let after = after.ok_or_else(|| NoFix::NoPolicy { cause: cause() })?;
    let (summary, what) = (summaries.join("; "), FixForm::Edits(edits));
    Ok((Fix { summary, newly_allowed, what }, after))
}

fn show(fixes: &[Fix], output: Output) -> anyhow::Result<Outcome> {
    let mut text = String::new();
    for fix in fixes {
        match output {
            Output::Json => writeln!(text, "{}", json_of(fix)?)?,
            Output::Text => write_text(&mut text, fix)?,
        }
    }
    print(&text)
}

fn json_of(fix: &Fix) -> serde_json::Result<String> {
    let Fix { summary, newly_allowed, what } = fix;
    match what {
        FixForm::Policies(remedy) => escape::json(&remedy_of(remedy)),
        FixForm::Edits(edits) => escape::json(&json!({
            "summary": summary, "edits": edits, "verified": true, "newly_allowed": newly_allowed,
        })),
    }
}

fn write_text(text: &mut String, fix: &Fix) -> std::fmt::Result {
    let is_first = text.is_empty();
    if let (FixForm::Policies(_), false) = (&fix.what, is_first) {
        writeln!(text, "---")?;
    }
    writeln!(text, "# {}", escape(&fix.summary))?;
    writeln!(text, "# Verified: with it the flow passes. {}", cost(fix.newly_allowed))?;
    match &fix.what {
        FixForm::Policies(remedy) => text.push_str(&yaml::documents(&remedy.policies)),
        FixForm::Edits(edits) => {
            for Edit { rule, command, direction, .. } in edits {
                let direction = match direction {
                    Direction::Egress => "egress",
                    Direction::Ingress => "ingress",
                };
                write!(text, "# The {direction} rule:\n{}", yaml::commented(rule))?;
                writeln!(text, "{command}")?;
            }
        }
    }
    Ok(())
}
