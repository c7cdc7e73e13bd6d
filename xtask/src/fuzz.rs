//! `cargo xtask fuzz`: libFuzzer on what whydrop reads from others, by the targets of `tests/fuzz`.
//!
//! Our own crates are compiled with LLVM's counters by `tests/fuzz/instrument.sh`, on the pinned toolchain;
//! what they build on is that of every other build.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    cargo::{cargo, program, root, target_folder},
    plan::{Plan, say},
    setup::{Need, prepare, require_root},
    toolchain,
};

/// How long the build takes on two cores: libFuzzer itself, and our crates with counters.
const BUILD_SECONDS: u64 = 240;
/// Miri's own standard library, and what the crates that it interprets build on.
const MIRI_SECONDS: u64 = 300;

/// An input has no more bytes: objects and records that say something fit.
const INPUT_BYTES_MAX: usize = 4096;
/// An input that takes longer is a fault. None takes a second, on a machine that has other things to do.
const INPUT_SECONDS_MAX: usize = 20;
/// More memory than an agent may have, and than any input takes (MiB).
const MEMORY_MAX: usize = 2048;

/// What Miri interprets of `whydrop-probe`, which has all unsafe code of the agent: what makes no system call.
const MIRI_TESTS: &[&str] = &["decode::", "observations::"];

/// How many cases Miri plays of each property, a thousandth as fast as a processor.
const MIRI_CASES: &str = "16";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long in all; each target has an equal part.
    #[arg(long, default_value_t = 7)]
    minutes: u64,
    /// Puts what reaches most into the committed corpus, as few inputs as do, when all is over.
    #[arg(long)]
    keep: bool,
    /// Has Miri interpret the tests of the code that makes values of the kernel's bytes, instead.
    #[arg(long)]
    miri: bool,
    /// Which; all unless named. The folders of `tests/fuzz/corpus` are named so.
    targets: Vec<String>,
}

/// Sets up, builds and fuzzes; says of each target what came of it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if arguments.miri {
        return interpret();
    }
    let corpora = root().join("tests/fuzz/corpus");
    let targets = chosen(&corpora, &arguments.targets)?;
    require_root("running eBPF programs on packets")?;
    let mut plan = Plan::default();
    prepare(&mut plan, &[Need::Fuzz])?;
    let mut build =
        cargo(["build", "--quiet", "--package", "whydrop-fuzz", "--bin", "whydrop-fuzz"]);
    build.args(["--features", "engine"]);
    build.env("RUSTC_WORKSPACE_WRAPPER", root().join("tests/fuzz/instrument.sh"));
    plan.add("building the fuzzer", build, BUILD_SECONDS);
    plan.run()?;

    let seconds = (60 * arguments.minutes / targets.len() as u64).max(1);
    say(&format!("each of {} targets for {seconds} s", targets.len()));
    let mut is_good = true;
    for name in &targets {
        let mut fuzzer = Fuzzer::new(name, &corpora)?;
        let outcome = fuzzer.run(seconds)?;
        is_good &= outcome.crashes.is_empty() && outcome.is_over;
        say(&outcome.line(name));
        if !outcome.is_over && outcome.crashes.is_empty() {
            say(&format!("  it did not run to its end: {}", fuzzer.log().display()));
        }
        for crash in &outcome.crashes {
            say(&format!("  {}\n  see it again: {}", crash.display(), fuzzer.replay(crash)?));
            say(&format!("  once it is mended: cp it into {}", fuzzer.corpus.display()));
        }
        if arguments.keep && outcome.crashes.is_empty() {
            fuzzer.keep()?;
        }
    }
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The targets by their names, each of which has its corpus.
fn chosen(corpora: &Path, named: &[String]) -> Result<Vec<String>> {
    let folders = fs::read_dir(corpora).with_context(|| corpora.display().to_string())?;
    let mut all = Vec::new();
    for folder in folders {
        all.push(folder?.file_name().to_string_lossy().into_owned());
    }
    all.sort();
    for name in named {
        ensure!(all.contains(name), "{name}: expected one of {}", all.join(", "));
    }
    Ok(if named.is_empty() { all } else { named.to_owned() })
}

/// libFuzzer on one target.
struct Fuzzer {
    name: String,
    /// What is committed.
    corpus: PathBuf,
    /// What is kept from run to run, beneath the target folder.
    folder: PathBuf,
}

impl Fuzzer {
    fn new(name: &str, corpora: &Path) -> Result<Self> {
        let folder = target_folder()?.join("fuzz-inputs").join(name);
        for kept in ["found", "crashes"] {
            fs::create_dir_all(folder.join(kept)).context("make a folder for inputs")?;
        }
        Ok(Self { name: name.to_owned(), corpus: corpora.join(name), folder })
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn found(&self) -> PathBuf {
        self.folder.join("found")
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(program("whydrop-fuzz")?);
        command.current_dir(root()).env("WHYDROP_FUZZ_TARGET", &self.name);
        Ok(command)
    }

    fn replay(&self, input: &Path) -> Result<String> {
        let program = program("whydrop-fuzz")?;
        let (name, program, input) = (&self.name, program.display(), input.display());
        Ok(format!("WHYDROP_FUZZ_TARGET={name} {program} {input}"))
    }

    /// Fuzzes for so long, or up to the first crash.
    fn run(&mut self, seconds: u64) -> Result<Outcome> {
        let crashes = self.folder.join("crashes");
        let before = files(&crashes)?;
        let mut command = self.command()?;
        command.arg(self.found()).arg(&self.corpus);
        command.arg(format!("-artifact_prefix={}/", crashes.display()));
        command.arg(format!("-max_total_time={seconds}"));
        command.arg(format!("-max_len={INPUT_BYTES_MAX}"));
        command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        command.arg(format!("-rss_limit_mb={MEMORY_MAX}")).arg("-print_final_stats=1");
        let log = fs::File::create(self.log()).context("make the log")?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let status = command.status().context("run the fuzzer")?;
        let text = fs::read(self.log()).context("read the log")?;
        let crashes = files(&crashes)?.into_iter().filter(|file| !before.contains(file)).collect();
        Ok(Outcome {
            is_over: status.success(),
            crashes,
            ..of_log(&String::from_utf8_lossy(&text))
        })
    }

    /// Replaces the corpus by as few inputs as reach what it and the found ones reach, and the inputs that
    /// have a name, which are of faults that were found.
    fn keep(&self) -> Result<()> {
        let least = self.folder.join("least");
        let _ = fs::remove_dir_all(&least);
        fs::create_dir_all(&least)?;
        let mut merge = self.command()?;
        merge.arg("-set_cover_merge=1").arg(format!("-max_len={INPUT_BYTES_MAX}"));
        merge.arg(&least).arg(&self.corpus).arg(self.found());
        let output = merge.output().context("run the fuzzer")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let is_hash = |file: &Path| {
            file.file_name().is_some_and(|name| {
                name.len() == 40 && name.to_string_lossy().bytes().all(|b| b.is_ascii_hexdigit())
            })
        };
        for file in files(&self.corpus)?.into_iter().filter(|file| is_hash(file)) {
            fs::remove_file(file)?;
        }
        for file in files(&least)? {
            fs::copy(&file, self.corpus.join(file.file_name().unwrap_or_default()))?;
        }
        Ok(())
    }
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for file in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        files.push(file?.path());
    }
    files.sort();
    Ok(files)
}

/// What came of a run.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    is_over: bool,
    crashes: Vec<PathBuf>,
    runs: u64,
    runs_per_second: u64,
    /// Inputs that reached what none before did.
    new: u64,
    /// Branches that were reached.
    branches: u64,
}

impl Outcome {
    fn line(&self, name: &str) -> String {
        let Self { runs, runs_per_second, new, branches, crashes, .. } = self;
        let crashes = crashes.len();
        format!(
            "{name}: {runs} runs, {runs_per_second} a second, {new} new inputs, {branches} branches, \
             {crashes} crashes"
        )
    }
}

/// What libFuzzer says at the end, and beside each new input.
fn of_log(log: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in log.lines() {
        let stat = |name: &str| {
            let rest = line.strip_prefix("stat::")?.strip_prefix(name)?;
            rest.trim_start_matches(':').trim().parse().ok()
        };
        let Outcome { runs, runs_per_second, new, branches, .. } = &mut outcome;
        *runs = stat("number_of_executed_units").unwrap_or(*runs);
        *runs_per_second = stat("average_exec_per_sec").unwrap_or(*runs_per_second);
        *new = stat("new_units_added").unwrap_or(*new);
        let cover = line.split_once(" cov: ").filter(|_| line.starts_with('#'));
        let cover = cover.and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        *branches = cover.unwrap_or(*branches);
    }
    outcome
}

/// Miri on the tests of the code that makes values of the kernel's bytes.
fn interpret() -> Result<ExitCode> {
    let mut plan = Plan::default();
    prepare(&mut plan, &[Need::Fuzz])?;
    toolchain::prepare_miri(&mut plan);
    plan.run()?;
    say(&format!("building takes up to {MIRI_SECONDS} s"));
    let mut miri = toolchain::miri();
    miri.current_dir(root()).args(["test", "--ignore-rust-version", "--package", "whydrop-probe"]);
    miri.args(["--lib", "--"]).args(MIRI_TESTS);
    // Properties read the clock and the environment.
    miri.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", MIRI_CASES);
    miri.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "true");
    let status = miri.status().context("run cargo miri")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_says_is_read() {
        let log = "\
INFO: Running with entropic power schedule (0xFF, 100).
#2\tINITED cov: 12 ft: 13 corp: 1/1b exec/s: 0 rss: 61Mb
#4096\tpulse  cov: 1822 ft: 2672 corp: 105/5424b lim: 87 exec/s: 512 rss: 65Mb
#5000\tDONE   cov: 1830 ft: 2680 corp: 106/5424b lim: 87 exec/s: 512 rss: 65Mb
stat::number_of_executed_units: 5000
stat::average_exec_per_sec:     512
stat::new_units_added:          31
stat::slowest_unit_time_sec:    0
";
        let expected = Outcome {
            runs: 5000,
            runs_per_second: 512,
            new: 31,
            branches: 1830,
            ..Outcome::default()
        };
        assert_eq!(of_log(log), expected);
    }

    #[test]
    fn targets_have_their_folders() {
        let corpora = root().join("tests/fuzz/corpus");
        let all = chosen(&corpora, &[]).expect("the corpora");
        assert!(all.contains(&"packets".to_owned()), "{all:?}");
        let one = chosen(&corpora, &["logs".to_owned()]).expect("one of them");
        assert_eq!(one, ["logs"]);
        let why = chosen(&corpora, &["rumours".to_owned()]).expect_err("none").to_string();
        assert!(why.starts_with("rumours: expected one of "), "{why}");
    }
}
