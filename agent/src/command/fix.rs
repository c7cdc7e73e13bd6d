//! `whydrop fix`: the verified remedy as YAML, or as a change to existing policies.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::File,
    io::{self, BufRead, BufReader, stdin},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args as ClapArgs;
use jiff::Timestamp;
use serde_json::json;
use whydrop_core::{
    answer::Effective,
    cluster::{Snapshot, object::Kind},
    diagnosis::{Class, Diagnosis},
    kinds,
    remedy::{
        NoRemedy, Remedy,
        choices::{Choice, ChoiceKind},
        gain::GainedPath,
        mark::Mark,
    },
    service::words,
    verdict::PolicyTrace,
};

use super::{
    Outcome, Output,
    ends::{Between, FlowArgs},
    judge::{AddressArgs, Judged, judge},
    messages::complain,
    print,
    source::{ClusterArgs, NoCluster, OpenCluster},
};
use crate::{
    cluster::{
        decode::{Decoded, decode},
        manifests,
    },
    records::{
        flow_search::{FlowSearch, Found, Recorded},
        lines::{Next, next},
    },
    report::{
        Direction,
        escape::{self, escape},
        explanation::cost,
        patch::{Edit, edits_of},
        paths_of, remedy_of,
        text::{self, FlowQuery, fix_by_id},
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
    newly_allowed_paths: Vec<GainedPath>,
    /// Other ways, each with what it newly allows.
    choices: Vec<Choice>,
    /// What is to be known first.
    notes: Vec<String>,
    /// Kube-proxy refuses the flow by itself.
    is_for_later: bool,
    what: FixForm,
}

enum FixForm {
    Policies(Remedy),
    Edits(Vec<Edit>),
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    // Before the cluster: what a file of records does not have is not there, whatever a cluster says.
    let in_file = args.in_file()?;
    match judged(args, in_file.as_ref()) {
        Err(error) if error.downcast_ref::<NoCluster>().is_some() => match in_file {
            Some(found) if !args.patch => as_recorded(&found.recorded, &error, args.output),
            _ => Err(error),
        },
        outcome => outcome,
    }
}

/// The fixes of flows as they are judged now.
fn judged(args: &Args, in_file: Option<&Found>) -> anyhow::Result<Outcome> {
    let source = args.cluster.open()?;
    let in_logs = match (&args.id, in_file) {
        (Some(id), None) => Some(args.in_logs(id, &source)?),
        _ => None,
    };
    let found = in_file.or(in_logs.as_ref());
    let flows = match (found, &args.flow) {
        (Some(found), _) => of_records(&found.flows)?,
        (None, Some(flow)) => vec![flow.read(source.namespace())?],
        (None, None) => bail!("expected an ID, or --from, --to and --port"),
    };
    let not_policy = found.and_then(|found| found.not_policy.as_ref());
    let note = not_policy.map(what_policies_would_do);
    let mut snapshot = source.snapshot(&flows)?;
    let mut fixes = Vec::new();
    let (mut refusals, mut absent) = (Vec::new(), Vec::new());
    for flow in &flows {
        let judged = match judge(&snapshot, flow, args.address) {
            Ok(judged) => judged,
            // Of an incident, pods that have gone since need no fix.
            Err(error) if flows.len() > 1 => {
                absent.push(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let judged = if_policed(&snapshot, judged);
        let fix = if args.patch { more_rules } else { new_policies };
        match fix(&snapshot, &judged) {
            Ok((mut fix, after)) => {
                snapshot = after;
                if fixes.is_empty() {
                    fix.notes.splice(..0, note.clone());
                }
                fixes.push(fix);
            }
            // What was found so far fixes this flow as well.
            Err(_) if !fixes.is_empty() && passes(&judged) => {}
            Err(why) => refusals.push(why),
        }
    }
    refusals.dedup();
    if fixes.is_empty()
        && let Some(text) = not_policy
    {
        complain(&format!("policies did not drop it: {text}"));
    }
    for why in &refusals {
        complain(&why.to_string());
    }
    if let Some(found) = found.filter(|_| !fixes.is_empty()) {
        warn_of_several(&found.flows);
    }
    match (fixes.is_empty(), absent.into_iter().next()) {
        (false, _) => show(&fixes, &args.mark(&flows), args.output),
        (true, Some(error)) if refusals.is_empty() => Err(error),
        (true, _) => Ok(Outcome::No),
    }
}

/// Says so where an id stands for clients of several namespaces: an incident is one cause at one
/// workload, and anyone who dials what it denies becomes part of it.
fn warn_of_several(flows: &[FlowQuery]) {
    let of = |flow: &FlowQuery| Some(flow.from.split_once('/')?.0.to_owned());
    let namespaces: BTreeSet<String> =
        flows.iter().filter_map(of).filter(|name| name != "node").collect();
    if namespaces.len() > 1 {
        let names = namespaces.into_iter().collect::<Vec<_>>().join(", ");
        complain(&format!(
            "it has clients of several namespaces, each with a rule of its own: {names}. Use only the \
             rules of those that you mean to let in"
        ));
    }
}

/// What a fix is for where no policy dropped it, but this.
fn what_policies_would_do(text: &impl std::fmt::Display) -> String {
    format!(
        "Policies did not drop it: {text}. What is here only removes what policies would do next."
    )
}

impl Args {
    /// What created objects carry: the command that gives this again.
    fn mark(&self, flows: &[Between]) -> Mark {
        let command = match &self.id {
            Some(id) => Some(fix_by_id(id)),
            None => flows.first().map(|flow| self.address.fix_command(flow, &self.cluster)),
        };
        Mark { incident: None, at: Some(Timestamp::now()), command }
    }

    /// What an id names in the agents' logs.
    fn in_logs(&self, id: &str, source: &OpenCluster) -> anyhow::Result<Found> {
        let mut named = FlowSearch::new(id)?;
        for line in &source.agents_lines(&self.agents)? {
            named.search(&line.text);
        }
        Ok(named.named()?)
    }

    /// What an id names in the file of records, if there is one.
    fn in_file(&self) -> anyhow::Result<Option<Found>> {
        let (Some(id), Some(path)) = (&self.id, &self.records) else { return Ok(None) };
        let mut named = FlowSearch::new(id)?;
        let from_stdin = path.as_os_str() == "-";
        if from_stdin && self.cluster.reads_stdin() {
            bail!("--records and --filename: only one of them can be standard input");
        }
        let searched = match from_stdin {
            true => search(stdin().lock(), &mut named),
            false => File::open(path).and_then(|file| search(BufReader::new(file), &mut named)),
        };
        searched.with_context(|| Path::new(path).display().to_string())?;
        Ok(Some(named.named()?))
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

fn of_records(flows: &[FlowQuery]) -> anyhow::Result<Vec<Between>> {
    flows.iter().map(|flow| Between::of_record(&flow.from, &flow.to, &flow.port)).collect()
}

/// Prints what the agents said helps, where there is no cluster to judge the flow in again.
fn as_recorded(
    recorded: &[Recorded],
    no_cluster: &anyhow::Error,
    output: Output,
) -> anyhow::Result<Outcome> {
    ensure!(
        !recorded.is_empty(),
        "{no_cluster:#}; and the records hold no remedy to print instead"
    );
    complain(&format!("{no_cluster:#}; printing the remedy as it was recorded"));
    let mut text = String::new();
    for Recorded { at, remedies } in recorded {
        for remedy in remedies {
            ensure!(
                is_of_policies(&remedy.manifest),
                "what the record holds for a remedy is something else than policies"
            );
            if output == Output::Json {
                writeln!(text, "{}", escape::json(&json!({ "at": at, "remedy": remedy }))?)?;
                continue;
            }
            if !text.is_empty() {
                writeln!(text, "---")?;
            }
            writeln!(text, "# {}", escape(&remedy.summary))?;
            writeln!(
                text,
                "# As judged at {}; not checked against the cluster as it is now. {}",
                at.seconds(),
                cost(remedy.newly_allowed, &remedy.newly_allowed_paths)
            )?;
            text.push_str(&remedy.manifest);
        }
    }
    print(&text)
}

/// Whether a manifest holds policies that a remedy may be, and nothing else: it is for `kubectl apply`,
/// and a file of records may be anybody's.
fn is_of_policies(manifest: &str) -> bool {
    // What an agent writes has nothing to escape, comments included.
    let is_plain = manifest.split('\n').all(|line| escape(line) == line);
    let objects = manifests::objects(manifest).filter(|objects| is_plain && !objects.is_empty());
    objects.is_some_and(|objects| {
        objects.into_iter().all(|object| {
            let Ok(Decoded::Object(object)) = decode(object) else { return false };
            matches!(object.key().kind, Kind::Policy(kind) if kinds::of_policy(kind).is_remedy)
        })
    })
}

/// What is printed for a flow as it is judged, in a cluster that has been read.
///
/// # Errors
/// Why nothing fixes it.
pub(super) fn text_of(snapshot: &Snapshot, judged: Judged, mark: &Mark) -> Result<String, NoFix> {
    let (fix, _) = new_policies(snapshot, &if_policed(snapshot, judged))?;
    let mut text = String::new();
    // A String takes all that is written to it.
    let _ = write_text(&mut text, &fix, mark);
    Ok(text)
}

fn passes(judged: &Judged) -> bool {
    judged.answer.effective() == Effective::Allow && !judged.diagnosis.cause.class.is_denial()
}

/// Who asks for the fix of what the specification exempts says that it does not pass: by what policies
/// alone say of it.
fn if_policed(snapshot: &Snapshot, judged: Judged) -> Judged {
    // What a Service refuses does not pass by any policy.
    if judged.diagnosis.verdict.exempt.is_none() || judged.answer.effective() != Effective::Allow {
        return judged;
    }
    let answer = judged.answer.policed(snapshot);
    // Of several packets that are exempt, policies may let the first pass.
    let diagnosis = answer.first_denial().cloned();
    let diagnosis = diagnosis.unwrap_or_else(|| judged.diagnosis.policed(snapshot));
    Judged { answer, diagnosis, ..judged }
}

/// Why nothing fixes a flow.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFix {
    /// It passes.
    #[error("nothing to fix: {flow} passes: {why}")]
    Passes {
        /// Between whom.
        flow: String,
        /// What lets it pass.
        why: String,
    },
    /// A rule denies it by name, which no other rule outweighs.
    #[error("{cause}: only the policy's owner can change that")]
    ExplicitDeny {
        /// The sentence of the diagnosis.
        cause: String,
    },
    /// No policy stops it.
    #[error("no policy is what stops this flow: {cause}")]
    NotPolicy {
        /// The sentence of the diagnosis.
        cause: String,
    },
    /// No rule was found that lets it pass.
    #[error("{cause}; {why}")]
    NoRule {
        /// The sentence of the diagnosis.
        cause: String,
        /// Why there is none.
        why: NoRemedy,
    },
    /// No policy was found that one more rule in lets it pass.
    #[error("cannot find an existing policy that is proved to fix it with one more rule: {cause}")]
    NoPolicy {
        /// The sentence of the diagnosis.
        cause: String,
    },
}

/// New policies that fix a flow, and the cluster with them.
fn new_policies(snapshot: &Snapshot, judged: &Judged) -> Result<(Fix, Snapshot), NoFix> {
    let remedy = judged.answer.remedy(snapshot).map_err(|why| no_rule(judged, why))?;
    let after = remedy.applied(snapshot);
    let fix = Fix {
        summary: remedy.summary.clone(),
        newly_allowed: remedy.newly_allowed,
        newly_allowed_paths: remedy.newly_allowed_paths.clone(),
        choices: judged.answer.choices(snapshot),
        notes: notes(judged),
        is_for_later: remedy.is_for_later,
        what: FixForm::Policies(remedy),
    };
    Ok((fix, after))
}

/// What is to be known before a fix is used.
fn notes(judged: &Judged) -> Vec<String> {
    let Diagnosis { cause, verdict, .. } = &judged.diagnosis;
    let refused = cause.kube_proxy.as_ref().and_then(|own| words::fate(&own.course));
    let refused = refused.map(|why| format!("This alone does not let it pass. {why}."));
    let exempt =
        "It passes by the specification. This is for a network plugin that filters it anyway.";
    let exempt = verdict.exempt.filter(|_| refused.is_none()).map(|_| exempt.to_owned());
    refused.or(exempt).into_iter().collect()
}

/// Why a flow passes: what admits it, and since when that is so.
fn why_it_passes(diagnosis: &Diagnosis) -> String {
    let Diagnosis { verdict, cause, .. } = diagnosis;
    if cause.class == Class::NotEnforced {
        return cause.text.clone();
    }
    let admits = |direction: Direction| {
        let verdict = verdict.direction(direction);
        let rule = verdict.allowed_by.first()?;
        let is_it = |trace: &&PolicyTrace| trace.policy.reference == rule.policy;
        let policy = verdict.trace.iter().find(is_it).map(|trace| &trace.policy);
        let since = policy.and_then(|policy| policy.written.max(policy.created));
        let since = since.map(|at| format!(", as it is since {at:.0}")).unwrap_or_default();
        let (kind, policy) = (rule.policy.kind, &rule.policy);
        Some(format!("{direction} is allowed by {kind} {policy} rule {}{since}", rule.rule))
    };
    let admitted: Vec<_> =
        [Direction::Egress, Direction::Ingress].into_iter().filter_map(admits).collect();
    match (verdict.exempt, admitted.is_empty()) {
        (Some(exemption), _) => format!("by the specification {}", text::exemption(exemption)),
        (None, true) => "no policy denies it".to_owned(),
        (None, false) => admitted.join(", "),
    }
}

/// Why there is no remedy.
fn no_rule(judged: &Judged, why: NoRemedy) -> NoFix {
    let cause = judged.diagnosis.cause.text.clone();
    match (why, judged.diagnosis.cause.class) {
        _ if passes(judged) => NoFix::Passes {
            flow: judged.diagnosis.question.to_string(),
            why: why_it_passes(&judged.diagnosis),
        },
        (NoRemedy::DeniedByRule(_), Class::ExplicitDeny) => NoFix::ExplicitDeny { cause },
        (NoRemedy::NotPolicy, _) | (_, Class::NotPolicy) => NoFix::NotPolicy { cause },
        (why, _) => NoFix::NoRule { cause, why },
    }
}

/// Rules in existing policies that fix a flow, and the cluster with them.
fn more_rules(snapshot: &Snapshot, judged: &Judged) -> Result<(Fix, Snapshot), NoFix> {
    let remedy = judged.answer.remedy(snapshot).map_err(|why| no_rule(judged, why))?;
    let cause = || judged.diagnosis.cause.text.clone();
    let patch =
        judged.answer.patch(snapshot, &remedy).ok_or_else(|| NoFix::NoPolicy { cause: cause() })?;
    let mut hosts: Vec<String> =
        patch.edits.iter().map(|edit| format!("{} {}", edit.policy.kind, edit.policy)).collect();
    hosts.dedup();
    let fix = Fix {
        summary: format!("{}: one more rule in {}", remedy.purpose, hosts.join(" and ")),
        newly_allowed: patch.newly_allowed,
        newly_allowed_paths: patch.newly_allowed_paths.clone(),
        choices: Vec::new(),
        notes: notes(judged),
        is_for_later: remedy.is_for_later,
        what: FixForm::Edits(edits_of(&patch)),
    };
    Ok((fix, patch.after))
}

fn show(fixes: &[Fix], mark: &Mark, output: Output) -> anyhow::Result<Outcome> {
    let mut text = String::new();
    for fix in fixes {
        match output {
            Output::Json => writeln!(text, "{}", json_of(fix, mark)?)?,
            Output::Text => write_text(&mut text, fix, mark)?,
        }
    }
    print(&text)
}

fn json_of(fix: &Fix, mark: &Mark) -> serde_json::Result<String> {
    let Fix { summary, newly_allowed, newly_allowed_paths, what, .. } = fix;
    match what {
        FixForm::Policies(remedy) => escape::json(&remedy_of(remedy, mark)),
        FixForm::Edits(edits) => escape::json(&json!({
            "summary": summary, "edits": edits, "verified": true, "newly_allowed": newly_allowed,
            "newly_allowed_paths": paths_of(newly_allowed_paths),
        })),
    }
}

fn write_text(text: &mut String, fix: &Fix, mark: &Mark) -> std::fmt::Result {
    let is_first = text.is_empty();
    if let (FixForm::Policies(_), false) = (&fix.what, is_first) {
        writeln!(text, "---")?;
    }
    for note in &fix.notes {
        writeln!(text, "# {}", escape(note))?;
    }
    let is_intended = |choice: &&Choice| matches!(choice.action, ChoiceKind::LabelPods(_));
    for choice in fix.choices.iter().filter(is_intended) {
        writeln!(text, "# Perhaps intended: {}", escape(&choice.to_string()))?;
    }
    writeln!(text, "# {}", escape(&fix.summary))?;
    let cost = cost(fix.newly_allowed, &paths_of(&fix.newly_allowed_paths));
    let verified = match fix.is_for_later {
        true => {
            "with it policies let the flow pass once kube-proxy sends it, tried with what is behind the \
             Service as if it were ready"
        }
        false => "with it the flow passes",
    };
    writeln!(text, "# Verified: {verified}. {cost}")?;
    for choice in fix.choices.iter().filter(|choice| !is_intended(choice)) {
        writeln!(text, "# Or {}", escape(&choice.to_string()))?;
    }
    match &fix.what {
        FixForm::Policies(remedy) => text.push_str(&yaml::documents(&remedy.marked(mark))),
        FixForm::Edits(edits) => {
            writeln!(
                text,
                "# Where Argo CD, Flux or another tool keeps these policies, change them there: it \
                 takes back\n# what kubectl patch does."
            )?;
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
