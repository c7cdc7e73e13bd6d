//! What `cargo xtask image`, `verify` and `reproduce` call; see there.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use whydrop_supply::{
    attach::{attach, revision},
    compare::differences,
    layout::{Layout, SIZE_MAX},
    provenance::{self, Inputs, Rust},
    sbom::{self, Contents, OBJECT},
    sign::{Private, Public},
    verify::verify,
};

#[derive(Parser)]
#[command(name = "whydrop-supply", about)]
enum Arguments {
    /// Puts SBOM and provenance beside the image in an archive, and with a key signs all three.
    Attach(Attach),
    /// Holds an archive against a public key.
    Verify {
        /// The archive.
        file: PathBuf,
        /// The public key, in PEM.
        #[arg(long)]
        key: PathBuf,
    },
    /// Says what differs between two archives.
    Compare {
        /// The first.
        first: PathBuf,
        /// The second.
        second: PathBuf,
    },
}

#[derive(clap::Args)]
struct Attach {
    /// The archive, which is changed.
    file: PathBuf,
    /// The repository.
    #[arg(long)]
    root: PathBuf,
    /// The program in the image.
    #[arg(long)]
    program: PathBuf,
    /// Where the build scripts of its build have written.
    #[arg(long)]
    scripts: PathBuf,
    /// What it was built for, as Rust calls it.
    #[arg(long)]
    target: String,
    /// The processor, as Go calls it.
    #[arg(long)]
    arch: String,
    /// The private key, in PEM.
    #[arg(long)]
    key: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Arguments::parse() {
        Arguments::Attach(arguments) => run_attach(&arguments),
        Arguments::Verify { file, key } => run_verify(&file, &key),
        Arguments::Compare { first, second } => run_compare(&first, &second),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            say(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run_attach(arguments: &Attach) -> Result<ExitCode> {
    let key = match &arguments.key {
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
            Some(Private::from_pem(&text).with_context(|| path.display().to_string())?)
        }
        None => None,
    };
    let mut layout = Layout::read(read(&arguments.file)?.as_slice())?;
    let program = read(&arguments.program)?;
    let object = object(&arguments.scripts, &program)?;
    let rust = Rust::ask()?;
    let sbom = sbom::write(&Contents {
        root: &arguments.root,
        target: &arguments.target,
        program: &program,
        object: &object,
        rust: &rust.release,
    })?;
    let (_, manifest) = layout.image()?;
    let provenance = provenance::predicate(&Inputs {
        root: &arguments.root,
        revision: revision(&manifest),
        architecture: &arguments.arch,
        target: &arguments.target,
        rust: &rust,
    })?;
    attach(&mut layout, &sbom, provenance, key.as_ref())?;
    let out = File::create(&arguments.file).map(BufWriter::new);
    layout.write(out.with_context(|| arguments.file.display().to_string())?)?;
    Ok(ExitCode::SUCCESS)
}

/// The eBPF object that is in a program: of several builds' in the folder, the one of this program.
fn object(scripts: &Path, program: &[u8]) -> Result<Vec<u8>> {
    for entry in fs::read_dir(scripts).with_context(|| scripts.display().to_string())? {
        let path = entry?.path().join("out").join(OBJECT);
        // Most build scripts write other things.
        let Ok(object) = fs::read(&path) else { continue };
        if !object.is_empty() && memchr::memmem::find(program, &object).is_some() {
            return Ok(object);
        }
    }
    bail!("no {OBJECT} below {} is in the program", scripts.display())
}

fn run_verify(file: &Path, key: &Path) -> Result<ExitCode> {
    let text = fs::read_to_string(key).with_context(|| key.display().to_string())?;
    let key = Public::from_pem(&text).with_context(|| key.display().to_string())?;
    match verify(&read(file)?, &key) {
        Ok(held) => {
            for line in held {
                say(&format!("holds  {line}"));
            }
            say("verified");
            Ok(ExitCode::SUCCESS)
        }
        Err(fault) => {
            say(&format!("wrong  {fault}"));
            say(&format!("not verified: do not run {}", file.display()));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn run_compare(first: &Path, second: &Path) -> Result<ExitCode> {
    let lines = differences(&read(first)?, &read(second)?)?;
    for line in &lines {
        say(&format!("differs  {line}"));
    }
    Ok(if lines.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads a file that may be as large as an archive.
fn read(path: &Path) -> Result<Vec<u8>> {
    let size = fs::metadata(path).with_context(|| path.display().to_string())?.len();
    anyhow::ensure!(
        size <= SIZE_MAX,
        "{}: {size} bytes, and no archive of ours has more than {SIZE_MAX}",
        path.display()
    );
    fs::read(path).with_context(|| path.display().to_string())
}

/// A line for anyone who watches; that standard output is closed is no failure.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
