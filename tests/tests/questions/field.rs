//! The clusters of `field/`, and every packet that comes of what is asked about them.

use std::{fs, path::Path};

use serde_json::Value;
use whydrop::command::Asked;

use crate::dump::{Dump, Packet};

/// Every dump of every case that is files as they are; those that are written otherwise hold the same.
pub(crate) fn dumps() -> Vec<Dump> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("field");
    let folders = fs::read_dir(&root).expect("the cases are part of the project");
    let mut folders: Vec<_> = folders.map(|entry| entry.expect("an entry").path()).collect();
    folders.retain(|folder| folder.join("case.yaml").is_file());
    folders.sort();
    folders.iter().flat_map(|folder| of_case(folder)).collect()
}

fn of_case(folder: &Path) -> Vec<Dump> {
    let text = fs::read_to_string(folder.join("case.yaml")).expect("a case");
    let case: Value = serde_saphyr::from_str(&text).expect("YAML");
    let asks = case["asks"].as_array().expect("asks");
    let mut engines: Vec<Option<String>> = asks.iter().map(|ask| flag(ask, "--engine")).collect();
    engines.sort();
    engines.dedup();
    let mut dumps = Vec::new();
    for files in files(&case) {
        for engine in &engines {
            let of_engine = asks.iter().filter(|ask| flag(ask, "--engine") == *engine);
            let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
            let mut dump = Dump {
                name: format!("{name} {}", files.join(" ")),
                paths: files.iter().map(|file| folder.join(file)).collect(),
                objects: Vec::new(),
                engine: engine.clone(),
                packets: Vec::new(),
            };
            let snapshot = dump.snapshot(&[]);
            for ask in of_engine.flat_map(asked) {
                // That a question is wrong is an answer of the case's.
                let Ok(answer) = ask.answer(&snapshot) else { continue };
                let questions = answer.questions().cloned();
                dump.packets.extend(questions.map(|question| Packet { question }));
            }
            dumps.push(dump);
        }
    }
    dumps
}

/// The files of each dump.
fn files(case: &Value) -> Vec<Vec<String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let Some(dumps) = case["dumps"].as_array() else {
        return vec![vec!["cluster.yaml".to_owned()]];
    };
    let files = dumps.iter().map(|dump| match dump {
        Value::Array(several) => several.iter().filter_map(text).collect(),
        one => text(one).into_iter().collect::<Vec<_>>(),
    });
    files.filter(|files| !files.is_empty()).collect()
}

fn flag(ask: &Value, name: &str) -> Option<String> {
    let args = ask["args"].as_array()?;
    let at = args.iter().position(|arg| arg == name)?;
    args.get(at + 1)?.as_str().map(str::to_owned)
}

/// A question for each of its ports.
fn asked(ask: &Value) -> Vec<Asked> {
    let text = |field: &str| ask[field].as_str().expect("text").to_owned();
    let protocol = ask["protocol"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
    let port = |value: &Value| match value {
        Value::Null => None,
        Value::Number(number) => Some(format!("{number}{protocol}")),
        other => Some(format!("{}{protocol}", other.as_str().expect("a port"))),
    };
    let ports = match &ask["port"] {
        Value::Array(several) => several.iter().map(port).collect(),
        one => vec![port(one)],
    };
    let as_is = ask["args"].as_array().is_some_and(|args| args.iter().any(|arg| arg == "--as-is"));
    let namespace = flag(ask, "-n");
    let asked = |port| Asked {
        from: text("from"),
        to: text("to"),
        port,
        namespace: namespace.clone(),
        as_is,
    };
    ports.into_iter().map(asked).collect()
}
