//! The words that we do not use, as CONTRIBUTING lists them, and how they are looked for. Shared with
//! the test of `--help`, which knows the commands.

use std::{fs, path::Path};

/// The heading above the table, and its first row.
pub(crate) const TABLE: &str = "| not | but |";

/// Names of interfaces that hold such a word: they stay, because users depend on them.
const NAMES: [&str; 4] = ["cannot tell", "cannot-tell", "still-dying", "affected_untold"];

/// The words of the table in CONTRIBUTING, in the folder above the crate's `manifest` folder.
pub(crate) fn unused_words(manifest: &str) -> Vec<String> {
    let path = Path::new(manifest).join("../CONTRIBUTING.md");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let words = first_column(&text);
    assert!(words.len() > 10, "{words:?}");
    words
}

/// The first column of the table. What has brackets is about a use of a word, and cannot be looked
/// for.
fn first_column(contributing: &str) -> Vec<String> {
    let (_, table) = contributing.split_once(TABLE).expect("the table of words that we do not use");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let words = cells.filter(|cell| !cell.contains('(')).flat_map(|cell| cell.split(','));
    words.map(|word| word.trim().to_owned()).collect()
}

/// Which of the words the text holds, each as a word of its own.
pub(crate) fn found<'w>(text: &str, unused: &'w [String]) -> Vec<&'w str> {
    let text = NAMES.iter().fold(text.to_lowercase(), |text, name| text.replace(name, " "));
    let is_letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let holds = |words: &&String| {
        text.match_indices(words.as_str()).any(|(at, _)| {
            let (before, after) = (&text[..at], &text[at + words.len()..]);
            !is_letter(before.chars().next_back()) && !is_letter(after.chars().next())
        })
    };
    unused.iter().filter(holds).map(String::as_str).collect()
}
