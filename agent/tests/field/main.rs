//! What people report: every case of `tests/field/`, asked as they would ask, one test each.
//!
//! `tests/field/README.md` says what a case holds. What is known not to hold yet is in
//! `tests/field/known.yaml`, whose entries must fail.

#[path = "../client/mod.rs"]
mod client;

mod answer;
mod case;
mod dump;

use std::{collections::BTreeSet, path::Path};

use case::{Case, Known, read};

datatest_stable::harness! {
    { test = field, root = "../tests/field", pattern = r"^[^/]+/case\.yaml$" },
    { test = known, root = "../tests/field", pattern = r"^known\.yaml$" },
}

/// Asks all that a case asks, of each of its dumps.
fn field(file: &Path) -> datatest_stable::Result<()> {
    let folder = file.parent().ok_or("a file in a folder")?;
    let name = folder.file_name().and_then(|name| name.to_str()).ok_or("a name")?;
    let case: Case = read(file)?;
    let list = folder.with_file_name("known.yaml");
    let mut known = read::<Known>(&list)?.remove(name).unwrap_or_default();
    let mut faults = Vec::new();
    let mut names = BTreeSet::new();
    for (ask, dump) in case.questions() {
        let question = case.name(ask, dump);
        let wrong = answer::faults(ask, &dump.inputs(folder)?);
        match (known.remove(&question), wrong.is_empty()) {
            (None, true) | (Some(_), false) => {}
            (None, false) => faults.push(format!("{question}\n  {}", wrong.join("\n  "))),
            (Some(_), true) => {
                faults.push(format!("{question}\n  holds by now: take it out of known.yaml"));
            }
        }
        if !names.insert(question.clone()) {
            faults.push(format!("{question}\n  is asked twice"));
        }
    }
    faults.extend(known.into_keys().map(|ask| format!("known.yaml, {name}: no such ask: {ask}")));
    if faults.is_empty() {
        return Ok(());
    }
    print(&format!("{name}:\n{}", faults.join("\n")));
    Err(format!("{} of {} answers are not as expected; see above", faults.len(), names.len())
        .into())
}

/// Every entry is of a case that there is.
fn known(file: &Path) -> datatest_stable::Result<()> {
    let is_absent = |name: &&String| !file.with_file_name(name).join("case.yaml").is_file();
    let known = read::<Known>(file)?;
    match known.keys().find(is_absent) {
        Some(name) => Err(format!("known.yaml: there is no case {name}").into()),
        None => Ok(()),
    }
}

#[expect(clippy::print_stderr, reason = "the harness prints an error on one line, escaped")]
fn print(text: &str) {
    eprintln!("{text}");
}
