//! The program as a person runs it.

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
    thread,
};

/// Runs whydrop with this on standard input.
pub(crate) fn whydrop(arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    let input = input.as_ref();
    let mut child = Command::new(env!("CARGO_BIN_EXE_whydrop"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("whydrop runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    thread::scope(|scope| {
        // It may have ended without reading, over a wrong flag; and may write while it reads.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().expect("whydrop ends")
    })
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}
