//! The program itself: it prints what is asked here in one process.

use std::{fs, process::Command};

use serde_json::{Value, json};
use whydrop::command::Asked;
use whydrop_core::remedy::mark::{COMMAND, Mark};
use whydrop_tests::world::agent::binary;

use crate::{
    conformance,
    forms::{self, Part, Variant},
};

/// Of each cluster about every how manieth denied packet is asked: the program reads it each time.
const EVERY: usize = 80;

/// What is printed, in comments and objects.
struct Text {
    comments: Vec<String>,
    objects: Vec<Value>,
    /// The command that gives it again, as its objects have it.
    command: Option<String>,
}

/// Reads what is printed without what says when it was, and by which command.
fn read(text: &str) -> Text {
    let comments = text.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect();
    let mut objects: Vec<Value> = serde_saphyr::from_multiple(text).expect("YAML");
    let mut command = None;
    for object in &mut objects {
        let Some(metadata) = object["metadata"].as_object_mut() else { continue };
        let annotations = metadata.remove("annotations").unwrap_or_default();
        command = annotations[COMMAND].as_str().map(str::to_owned);
    }
    Text { comments, objects, command }
}

#[test]
fn the_command_prints_the_same() {
    let (mut printed, mut refused) = (0, 0);
    for file in ["np.jsonl", "anp.jsonl", "traps.jsonl", "calico.jsonl"] {
        for dump in conformance::dumps(file).iter().take(4) {
            for variant in forms::all(dump, Part { first: 3, every: EVERY }) {
                let folder = tempfile::tempdir().expect("a folder");
                let objects = folder.path().join("cluster.json");
                let list = json!({"apiVersion": "v1", "kind": "List", "items": variant.objects});
                fs::write(&objects, list.to_string()).expect("written");
                for form in &variant.questions {
                    match prints(&variant, &objects.display().to_string(), &form.asked) {
                        true => printed += 1,
                        false => refused += 1,
                    }
                }
            }
        }
    }
    assert!(printed > 20 && refused > 0, "{printed} printed, {refused} refused");
}

/// Whether the command prints a remedy, which is the same as is found here.
fn prints(variant: &Variant, file: &str, asked: &Asked) -> bool {
    let Asked { from, to, port, as_is, .. } = asked;
    let port = port.as_deref().expect("a port");
    let mut arguments = vec!["fix", "--from", from, "--to", to, "--port", port];
    arguments.extend(as_is.then_some("--as-is"));
    let (code, text, said) = run(&arguments, file);
    match asked.fix(&variant.snapshot, &Mark::default()).expect("an answer") {
        Ok(expected) => {
            assert_eq!(code, Some(0), "{arguments:?}: {said}");
            let (text, expected) = (read(&text), read(&expected));
            assert_eq!(text.comments, expected.comments, "{arguments:?}");
            assert_eq!(text.objects, expected.objects, "{arguments:?}");
            // And so does the command that its objects carry.
            let command = text.command.expect("a command");
            let again: Vec<&str> = command.split(' ').skip(1).collect();
            let (_, again, said) = run(&again, file);
            assert_eq!(read(&again).objects, expected.objects, "{command}: {said}");
            true
        }
        Err(why) => {
            assert_eq!((code, text.as_str()), (Some(1), ""), "{arguments:?}");
            assert_eq!(said, format!("whydrop: {why}\n"), "{arguments:?}");
            false
        }
    }
}

fn run(arguments: &[&str], file: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary().expect("whydrop is built"));
    let output = command.args(arguments).args(["-f", file]).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}
