//! What was found once: every input of the corpus, without an engine. The packets' need root, and fail
//! without.

use std::{fs, panic::catch_unwind};

use whydrop_fuzz::{TARGETS, Target, corpus, target};

/// A corpus is what an engine begins with, read in a review and played in every test run.
const FILES_MAX: usize = 64;
const FILE_BYTES_MAX: usize = 16 * 1024;

fn replay(name: &str) {
    let target = target(name).unwrap_or_else(|| panic!("no target {name}"));
    let mut broken = Vec::new();
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "no inputs in {}", corpus(target).display());
    assert!(inputs.len() <= FILES_MAX, "{} inputs: {FILES_MAX} at most", inputs.len());
    for (file, bytes) in inputs {
        assert!(bytes.len() <= FILE_BYTES_MAX, "{file}: {FILE_BYTES_MAX} bytes at most");
        if catch_unwind(|| (target.run)(&bytes)).is_err() {
            broken.push(file);
        }
    }
    assert!(broken.is_empty(), "{name}: {broken:?}");
}

fn inputs(target: &Target) -> Vec<(String, Vec<u8>)> {
    let folder = corpus(target);
    let files =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|file| (file.display().to_string(), fs::read(&file).expect("read")))
        .collect()
}

#[test]
fn kernel_records() {
    replay("kernel-records");
}

#[test]
fn packets() {
    replay("packets");
}

#[test]
fn manifests() {
    replay("manifests");
}

#[test]
fn selectors() {
    replay("selectors");
}

#[test]
fn logs() {
    replay("logs");
}

#[test]
fn commands() {
    replay("commands");
}

#[test]
fn otlp_answers() {
    replay("otlp-answers");
}

#[test]
fn each_folder_is_a_target_s() {
    let mut known: Vec<_> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    let folder = corpus(&TARGETS[0]).join("..");
    let found = fs::read_dir(folder).expect("the corpus");
    let mut found: Vec<_> =
        found.map(|f| f.expect("a folder").file_name().to_string_lossy().into_owned()).collect();
    known.sort();
    found.sort();
    assert_eq!(found, known);
}
