//! `whydrop explain`: the policies' verdict of one flow, rule by rule.

use clap::Args as ClapArgs;
use whydrop_core::{answer::Effective, verdict::remarks};

use super::{
    Outcome, Output,
    ends::FlowArgs,
    judge::{AddressArgs, Judged, judge},
    print,
    source::ClusterArgs,
};
use crate::report::{
    escape,
    explanation::{Beside, Explanation, text},
};

/// Flags of `explain`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    flow: FlowArgs,
    #[command(flatten)]
    address: AddressArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let cluster = args.cluster.open()?;
    let flow = args.flow.read(cluster.namespace())?;
    let snapshot = cluster.snapshot([&flow])?;
    let Judged { answer, diagnosis, remarks, by_address, .. } =
        judge(&snapshot, &flow, args.address)?;
    let remedy = answer.remedy(&snapshot);
    let notes = remarks::remarks(&snapshot, &diagnosis.question);
    let choices = answer.choices(&snapshot);
    let beside = Beside {
        engine: snapshot.engine(),
        ends: &remarks,
        notes: &notes,
        choices: &choices,
        by_address,
        fix: &args.address.fix_command(&flow, &args.cluster),
    };
    let explanation = Explanation::new(&answer, &diagnosis, remedy.as_ref(), &beside);
    match args.output {
        Output::Text => print(&text(&explanation))?,
        Output::Json => print(&(escape::json(&explanation)? + "\n"))?,
    };
    Ok(if explanation.effective == Effective::Allow { Outcome::Done } else { Outcome::No })
}
