//! `whydrop explain`: the policies' verdict of one flow, rule by rule.

use clap::Args as ClapArgs;
use whydrop_core::answer::Effective;

use super::{
    Outcome, Output,
    ends::{Between, FlowArgs},
    judge::{AddressArgs, Judged, judge},
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
    #[command(flatten)]
    address: AddressArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let cluster = args.cluster.open()?;
    let Between { from, to, port } = args.flow.read(cluster.namespace())?;
    let snapshot = cluster.snapshot([&from, &to])?;
    let Judged { answer, diagnosis, remarks, by_address } =
        judge(&snapshot, &from, &to, port, args.address)?;
    let remedy = answer.remedy(&snapshot);
    let explanation = Explanation::new(&answer, &diagnosis, remedy.as_ref(), &remarks, by_address);
    match args.output {
        Output::Text => print(&text(&explanation))?,
        Output::Json => print(&(escape::json(&explanation)? + "\n"))?,
    };
    Ok(if explanation.effective == Effective::Allow { Outcome::Done } else { Outcome::No })
}
