//! `whydrop report`: the agents' records as one page, for a post-mortem.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, stdin},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Args as ClapArgs;

use super::{Outcome, print};
use crate::{
    page,
    records::{
        board::{Board, Incident},
        lines::{Next, next},
        read_line, too_long,
    },
};

/// Flags of `report`.
#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Files of the agents' records, as `kubectl logs` prints them with --log-format json; `-` is
    /// standard input
    #[arg(value_name = "FILE", default_value = "-")]
    files: Vec<PathBuf>,
    /// File to write the page to [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Id of the only incident to show, or the beginning of it
    #[arg(long, value_name = "ID")]
    incident: Option<String>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Outcome> {
    let mut board = Board::default();
    for path in &args.files {
        let collected = match path.as_os_str() == "-" {
            true => collect(stdin().lock(), &mut board),
            false => File::open(path)
                .map_err(Into::into)
                .and_then(|file| collect(BufReader::new(file), &mut board)),
        };
        collected.with_context(|| named(path))?;
    }
    let log = board.lines();
    if log.records == 0 {
        let files: Vec<String> = args.files.iter().map(|path| named(path)).collect();
        let why = log.examples.back().map(|why| format!("; of the last: {why}"));
        let lines = match log.others + log.unreadable {
            1 => "1 line".to_owned(),
            lines => format!("{lines} lines"),
        };
        bail!(
            "{}: expected records of `whydrop agent --log-format json`, found none in {lines}, {} of \
             them unreadable records{}",
            files.join(", "),
            log.unreadable,
            why.unwrap_or_default()
        );
    }
    let page = match &args.incident {
        Some(id) => page::page_of(&board, find(&board, id)?),
        None => page::page(&board),
    };
    match &args.output {
        Some(path) => {
            fs::write(path, page).with_context(|| path.display().to_string())?;
            Ok(Outcome::Done)
        }
        None => print(&page),
    }
}

/// Line by line: a log may hold anything.
fn collect(mut log: impl BufRead, board: &mut Board) -> anyhow::Result<()> {
    let mut line = String::new();
    loop {
        match next(&mut log, &mut line)? {
            Next::Line => board.add(read_line(&line)),
            Next::TooLong => board.add(too_long()),
            Next::End => return Ok(()),
        }
    }
}

fn find<'a>(board: &'a Board, id: &str) -> anyhow::Result<&'a Incident> {
    let found: Vec<&Incident> =
        board.incidents().filter(|incident| incident.id().starts_with(id)).collect();
    let ids = |incidents: &[&Incident]| {
        incidents.iter().map(|incident| incident.id()).collect::<Vec<_>>().join(", ")
    };
    match found.as_slice() {
        [incident] => Ok(incident),
        [] => bail!(
            "--incident: no incident {id} in the records; there are: {}",
            ids(&board.by_urgency())
        ),
        several => bail!("--incident: {id} may be any of {}", ids(several)),
    }
}

fn named(path: &Path) -> String {
    match path.as_os_str() == "-" {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}
