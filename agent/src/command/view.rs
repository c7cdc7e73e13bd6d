//! `whydrop view`: the agents' records in a terminal.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use clap::Args as ClapArgs;

use super::{Outcome, print};
use crate::{
    records::board::Board,
    view::{self, Input, News},
};

/// Flags of `view`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// File of the agents' records, as `whydrop agent --log-format json` writes them, of any number
    /// of nodes; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let is_stdin = args.file.as_os_str() == "-";
    if is_stdin && io::stdin().is_terminal() {
        bail!(
            "nothing to view: expected a FILE, or records on standard input, as in kubectl logs \
             -f -l app.kubernetes.io/name=whydrop --prefix=false | whydrop view"
        );
    }
    let name = args.file.display().to_string();
    let reader: Box<dyn Read + Send> = if is_stdin {
        Box::new(io::stdin())
    } else {
        let file = File::open(&args.file).with_context(|| name.clone())?;
        if file.metadata().with_context(|| name.clone())?.is_dir() {
            bail!("{name}: expected a file of records, found a folder");
        }
        Box::new(file)
    };
    if io::stdout().is_terminal() {
        view::run(reader, is_stdin)?;
        return Ok(Outcome::Done);
    }
    summarise(reader, &name)
}

/// Without a terminal: everything is read, then summarised as text.
fn summarise(reader: Box<dyn Read + Send>, name: &str) -> anyhow::Result<Outcome> {
    let (input, mut board) = (Input::start(reader), Board::default());
    while let Some(news) = input.wait() {
        match news {
            News::Lines(lines) => {
                for line in lines {
                    board.add(line);
                }
            }
            News::Ended => break,
            News::Failed(why) => bail!("{name}: {why}"),
        }
    }
    let read = board.lines();
    let lines = read.others + read.unreadable;
    if read.records == 0 && lines > 0 {
        let why = read.examples.back().map(|why| format!(", such as: {why}")).unwrap_or_default();
        let lines = if lines == 1 { "1 line".to_owned() } else { format!("{lines} lines") };
        bail!("{name}: expected records of --log-format json, found none in {lines}{why}");
    }
    print(&view::summary(&board))
}
