//! The grammar of the text line, as `docs/records.md` gives it.

use std::collections::BTreeMap;

use regex::Regex;

const DOCUMENT: &str = include_str!("../../../docs/records.md");

/// The rule of this name, with those that it names put in their places.
fn expanded(name: &str, rules: &BTreeMap<&str, &str>) -> String {
    let rule = rules.get(name).unwrap_or_else(|| panic!("no rule {name}"));
    let mentions = Regex::new("<([a-z]+)>").expect("an expression");
    let put = |found: &regex::Captures<'_>| format!("(?:{})", expanded(&found[1], rules));
    mentions.replace_all(rule, put).into_owned()
}

/// What any line looks like.
pub(crate) fn line() -> Regex {
    let (_, rest) = DOCUMENT.split_once("```grammar\n").expect("a grammar");
    let (block, _) = rest.split_once("\n```").expect("its end");
    let rules = block.lines().filter(|line| !line.is_empty());
    let rules = rules.map(|line| {
        let (name, rule) = line.split_once(" = ").unwrap_or_else(|| panic!("no rule: {line}"));
        (name.trim(), rule)
    });
    Regex::new(&format!("^(?:{})$", expanded("line", &rules.collect()))).expect("an expression")
}

/// Panics over a line that is none of the grammar's.
pub(crate) fn assert_lines<'l>(lines: impl IntoIterator<Item = &'l str>) {
    let grammar = line();
    for line in lines {
        assert!(grammar.is_match(line), "{line}");
    }
}
