//! `whydrop fix`: the verified remedy as YAML.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::Args as ClapArgs;
use whydrop_core::{diagnosis::Class, remedy::remedy};

use super::{Outcome, Output, complain, ends::FlowArgs, print, source::ClusterArgs};
use crate::report::{explanation::cost, remedy_of, text::escape};

/// Flags of `fix`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    flow: FlowArgs,
    /// Output format: text is YAML for kubectl apply -f -
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let (snapshot, diagnosis) = args.flow.diagnose(&args.cluster)?;
    let Some(remedy) = remedy(&snapshot, &diagnosis) else {
        let cause = &diagnosis.cause;
        let why = match cause.class {
            Class::None => "nothing to fix: no policy denies it".to_owned(),
            Class::ExplicitDeny => format!("{}: that is for the policy's owner", cause.text),
            _ => format!("no additive rule can be proved to fix it: {}", cause.text),
        };
        complain(&escape(&why));
        return Ok(Outcome::No);
    };
    let remedy = remedy_of(&remedy);
    if args.output == Output::Json {
        return print(&(serde_json::to_string(&remedy)? + "\n"));
    }
    let mut text = String::new();
    writeln!(text, "# {}", escape(&remedy.summary)).context("writing to memory")?;
    writeln!(text, "# Verified: with it the flow passes. {}", cost(remedy.newly_allowed))
        .context("writing to memory")?;
    text += &remedy.manifest;
    print(&text)
}
