//! Documents, messages, metrics, manifests and scenarios keep to the words of CONTRIBUTING: what its
//! table says that we do not use is in none of them. `agent/tests/words.rs` holds `--help` to it.

mod literals;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use table::{TABLE, found, unused_words};

const MANIFEST: &str = env!("CARGO_MANIFEST_DIR");

fn root() -> PathBuf {
    Path::new(MANIFEST).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files below a folder whose names end so.
fn files(folder: &str, ends: &[&str]) -> Vec<PathBuf> {
    let mut folders = vec![root().join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| ends.iter().any(|known| end == *known)) {
                files.push(path);
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has none of {ends:?}");
    files
}

/// Fails with every place at which one of the words stands.
fn expect_none(faults: &[String]) {
    assert!(faults.is_empty(), "{} places:\n{}", faults.len(), faults.join("\n"));
}

/// The words of the table, read once.
static UNUSED: LazyLock<Vec<String>> = LazyLock::new(|| unused_words(MANIFEST));

/// Where words stand in lines: the line's number, and the word.
fn places(lines: impl IntoIterator<Item = (usize, String)>, unused: &[String]) -> Vec<String> {
    let mut places = Vec::new();
    for (number, line) in lines {
        places.extend(found(&line, unused).iter().map(|word| format!("{number}: {word}")));
    }
    places
}

/// Where one of the words stands in a file.
fn faults(path: &Path, lines: impl IntoIterator<Item = (usize, String)>) -> Vec<String> {
    let places = places(lines, &UNUSED).into_iter();
    places.map(|place| format!("{}:{place}", path.display())).collect()
}

fn numbered(text: &str) -> Vec<(usize, String)> {
    (1..).zip(text.lines().map(ToOwned::to_owned)).collect()
}

/// Prose alone: no code, whose words are names, nothing quoted, and not the table itself.
fn prose(text: &str) -> Vec<(usize, String)> {
    let (mut is_code, mut is_table) = (false, false);
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        is_table = line == TABLE || (is_table && line.starts_with('|'));
        let is_quoted = line.starts_with('>');
        if !is_code && !is_fence && !is_table && !is_quoted {
            let outside: Vec<&str> = line.split('`').step_by(2).collect();
            lines.push((number + 1, outside.join(" ")));
        }
    }
    lines
}

#[test]
fn documents_use_the_words_that_we_agreed_on() {
    let mut documents = files("docs", &["md"]);
    documents.extend(
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
            .map(|name| root().join(name)),
    );
    let faults = documents.iter().flat_map(|path| faults(path, prose(&read(path))));
    expect_none(&faults.collect::<Vec<_>>());
}

#[test]
fn messages_metrics_and_records_use_them() {
    let sources = files("agent", &["rs"]).into_iter();
    let sources = sources.filter(|path| path.components().all(|part| part.as_os_str() != "tests"));
    let faults = sources.flat_map(|path| {
        let texts = literals::texts(&read(&path));
        faults(&path, texts.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    });
    expect_none(&faults.collect::<Vec<_>>());
}

#[test]
fn what_is_deployed_uses_them() {
    let files = files("deploy", &["yaml", "json", "tpl", "txt", "jq"]);
    let faults = files.iter().flat_map(|path| faults(path, numbered(&read(path))));
    expect_none(&faults.collect::<Vec<_>>());
}

#[test]
fn scenarios_and_stories_use_them() {
    let folders = ["scenarios", "changes", "node", "fleet", "monitoring"];
    let files = folders.into_iter().flat_map(|name| files(&format!("tests/{name}"), &["yaml"]));
    let faults = files.flat_map(|path| faults(&path, numbered(&read(&path))));
    expect_none(&faults.collect::<Vec<_>>());
}

fn made_up(lines: Vec<(usize, String)>) -> Vec<String> {
    places(lines, &["told", "for want of room"].map(str::to_owned))
}

#[test]
fn a_word_is_found_in_prose_and_not_in_code() {
    let text = "It is Told.\n`told`\n```\ntold\n```\nuntold\nlost for want of room\n";
    assert_eq!(made_up(prose(text)), ["1: told", "7: for want of room"]);
}

#[test]
fn a_word_is_found_in_a_message_and_not_in_a_comment_a_placeholder_or_a_test() {
    let source = r##"
        /// Told.
        #[error("told {0}")]
        enum Error {}

        fn f(told: &str) {
            // told
            let told = format!("{told:?} and {told}, affected_untold");
            warn!(told, "lost for want \
                of room");
            print(r#"a "told" b"#);
        }

        #[cfg(test)]
        mod tests {
            const A: &str = "told";
        }

        const B: &str = "told";
    "##;
    let texts = literals::texts(source).expect("tokens");
    assert_eq!(made_up(texts), ["3: told", "9: for want of room", "11: told", "19: told"]);
}
