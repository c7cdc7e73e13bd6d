//! The documents keep to the words of CONTRIBUTING: what its table says that we do not use is in none
//! of them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The heading above the table, and its first row.
const TABLE: &str = "| not | but |";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The first column of the table. What has brackets is about a use of a word, and cannot be looked
/// for.
fn unused_words(contributing: &str) -> Vec<String> {
    let (_, table) = contributing.split_once(TABLE).expect("the table of words that we do not use");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let words = cells.filter(|cell| !cell.contains('(')).flat_map(|cell| cell.split(','));
    words.map(|word| word.trim().to_owned()).collect()
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
            lines.push((number + 1, outside.join(" ").to_lowercase()));
        }
    }
    lines
}

/// Whether the words are in the line as words of their own.
fn holds(line: &str, words: &str) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    line.match_indices(words).any(|(at, _)| {
        let (before, after) =
            (line[..at].chars().next_back(), line[at + words.len()..].chars().next());
        !is_letter(before) && !is_letter(after)
    })
}

/// Where one of the words stands, by line.
fn found(text: &str, unused: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        // A class of cause, quoted.
        let line = line.replace("cannot tell", "").replace("cannot-tell", "");
        let words = unused.iter().filter(|words| holds(&line, words));
        found.extend(words.map(|words| format!("{number}: {words}")));
    }
    found
}

#[test]
fn documents_use_the_words_that_we_agreed_on() {
    let unused = unused_words(&read(&root().join("CONTRIBUTING.md")));
    assert!(unused.len() > 10, "{unused:?}");
    let mut documents: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
            .map(|name| root().join(name))
            .into();
    for entry in fs::read_dir(root().join("docs")).expect("docs") {
        let path = entry.expect("a file of docs").path();
        documents.extend(path.extension().is_some_and(|end| end == "md").then_some(path));
    }
    let mut faults = Vec::new();
    for document in documents {
        let found = found(&read(&document), &unused);
        faults.extend(found.into_iter().map(|fault| format!("{}:{fault}", document.display())));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_word_is_found_in_prose_and_not_in_code() {
    let unused = vec!["told".to_owned(), "for want of room".to_owned()];
    let text = "It is Told.\n`told`\n```\ntold\n```\nuntold\nlost for want of room\n";
    assert_eq!(found(text, &unused), ["1: told", "7: for want of room"]);
}
