//! `whydrop explain`: the policies' verdict of one flow, rule by rule.

use clap::Args as ClapArgs;
use whydrop_core::{cluster::history::History, judgement::Judgement, verdict::remarks::remarks};

use super::{
    Outcome, Output,
    ends::{Between, FlowArgs, effective, judge},
    print,
    source::ClusterArgs,
};
use crate::report::{
    escape,
    explanation::{Explanation, text},
};

/// Flags of `explain`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    flow: FlowArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let cluster = args.cluster.open()?;
    let Between { from, to, port } = args.flow.read(cluster.namespace())?;
    let snapshot = cluster.snapshot([&from, &to])?;
    let diagnosis = judge(&snapshot, &from, &to, port)?;
    let effective = effective(&diagnosis);
    let judgement = Judgement::of_diagnosis(&snapshot, &History::default(), diagnosis);
    let remarks = remarks(&snapshot, &judgement.diagnosis.question);
    let explanation = Explanation::new(&judgement, effective, snapshot.engine(), &remarks);
    match args.output {
        Output::Text => print(&text(&explanation))?,
        Output::Json => print(&(escape::json(&explanation)? + "\n"))?,
    };
    Ok(if explanation.effective == "allow" { Outcome::Done } else { Outcome::No })
}
