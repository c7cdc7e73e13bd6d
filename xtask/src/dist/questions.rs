//! What each program is asked: one question for each command of the client, over files that are there.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{root, target_folder};

/// A command of the client, with what it must come to.
struct Question {
    arguments: &'static [&'static str],
    /// Standard input.
    input: &'static str,
    exit_code: i32,
    /// What it prints among other things.
    says: &'static str,
}

const MANIFESTS: &str = "tests/scenarios/clusterip/manifests";
const RECORDS: &str = "tests/records/restrict-backend-ingress.jsonl";

const QUESTIONS: &[Question] = &[
    Question {
        arguments: &["--version"],
        input: "",
        exit_code: 0,
        says: concat!("whydrop ", env!("CARGO_PKG_VERSION")),
    },
    Question {
        arguments: &[
            "explain",
            "-f",
            MANIFESTS,
            "--from",
            "frontend/pod-a",
            "--to",
            "backend/svc/pod-b",
            "--port",
            "80",
        ],
        input: "",
        exit_code: 1,
        says: "ingress of backend/pod-b: denied",
    },
    Question {
        arguments: &["check", "-f", MANIFESTS, "--flows", "-"],
        input: "[{from: frontend/pod-a, to: backend/svc/pod-b, port: 80, expect: deny}]",
        exit_code: 0,
        says: "frontend/pod-a",
    },
    Question {
        arguments: &[
            "fix",
            "-f",
            MANIFESTS,
            "--from",
            "frontend/pod-a",
            "--to",
            "backend/svc/pod-b",
            "--port",
            "80",
        ],
        input: "",
        exit_code: 0,
        says: "kind: NetworkPolicy",
    },
    Question { arguments: &["view", RECORDS], input: "", exit_code: 0, says: "restrict-backend" },
    Question { arguments: &["report", RECORDS], input: "", exit_code: 0, says: "<!DOCTYPE html>" },
    Question { arguments: &["schema"], input: "", exit_code: 0, says: "whydrop/v1" },
];

/// What wine is to be: silent, without what it would fetch, and not in anybody's home.
const WINE: [(&str, &str); 2] = [("WINEDEBUG", "-all"), ("WINEDLLOVERRIDES", "mscoree=;mshtml=")];

/// wine's exit code where a library is missing: what a byte has room for of `STATUS_DLL_NOT_FOUND`,
/// 0xC0000135.
const LIBRARY_NOT_FOUND: i32 = 0x35;

/// The line of a remedy that says when it was asked for, which differs from one run to the next.
const TIME: &str = "whydrop.io/time:";

/// What a program printed for a question, without when it was asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer(String);

/// The questions, by their commands.
pub(super) fn names() -> String {
    let names: Vec<&str> = QUESTIONS.iter().map(|question| question.arguments[0]).collect();
    names.join(", ")
}

/// Asks a program, which is run by way of `before`, every question.
///
/// # Errors
/// It does not run, or an answer is not what it must be.
pub(super) fn ask(before: &[String], program: &Path) -> Result<Vec<Answer>> {
    QUESTIONS.iter().map(|question| question.ask(before, program)).collect()
}

/// Holds a program's answers against another's.
pub(super) fn compare(expected: &[Answer], found: &[Answer]) -> Result<()> {
    for ((question, expected), found) in QUESTIONS.iter().zip(expected).zip(found) {
        let name = question.arguments[0];
        ensure!(expected == found, "{name}: expected\n{}\nfound\n{}", expected.0, found.0);
    }
    Ok(())
}

/// Whether a program cannot start because wine lacks a library that it is linked to.
pub(super) fn lacks_library(before: &[String], program: &Path) -> Result<bool> {
    let mut command = QUESTIONS[0].command(before, program)?;
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    Ok(output.status.code() == Some(LIBRARY_NOT_FOUND))
}

impl Question {
    fn command(&self, before: &[String], program: &Path) -> Result<Command> {
        let words = before.iter().map(AsRef::as_ref).chain([program.as_os_str()]);
        let words: Vec<_> = words.chain(self.arguments.iter().map(AsRef::as_ref)).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(root());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(WINE).env("WINEPREFIX", target_folder()?.join("wine"));
        Ok(command)
    }

    fn ask(&self, before: &[String], program: &Path) -> Result<Answer> {
        let mut command = self.command(before, program)?;
        let mut child = command.spawn().with_context(|| format!("run {command:?}"))?;
        // One that reads nothing is no failure.
        let _ = child.stdin.take().context("standard input")?.write_all(self.input.as_bytes());
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.code() == Some(self.exit_code) && text.contains(self.says),
            "{command:?}: expected exit code {} and \"{}\"; it ended with {}:\n{text}{}",
            self.exit_code,
            self.says,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let lines = text.lines().filter(|line| !line.trim_start().starts_with(TIME));
        Ok(Answer(lines.collect::<Vec<_>>().join("\n")))
    }
}
