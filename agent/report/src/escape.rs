//! What objects say, made harmless where it is written: for a line, a terminal, a shell, JSON, YAML.
//!
//! Names, labels, annotations, selectors and error messages come from anyone who may write objects.
//! In no output can they end a line, move a cursor, turn the direction of reading, or look like what
//! the agent itself writes.

use std::{borrow::Cow, fmt::Write as _, ops::RangeInclusive};

use serde::Serialize;
use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

/// What comes before the command that fixes a drop in a line of text.
pub const FIX: &str = "; fix: ";

/// What comes before the incident's id at the end of a line of text.
pub const INCIDENT: &str = "  [incident ";

/// What only the agent itself may write, and how it is written where it comes from an object.
const MARKS: [(&str, &str); 2] = [("; fix:", r"\u{3b} fix:"), ("[incident", r"\u{5b}incident")];

/// Control characters, and those that take no width, turn the reading direction or break lines, as
/// `\u{..}`: names and labels come from users.
pub fn escape(text: &str) -> Cow<'_, str> {
    escaped(text, is_harmful, rust)
}

/// A sentence within a line of text: [`escape`]d, and without what marks the agent's own fields.
pub fn words(text: &str) -> Cow<'_, str> {
    MARKS.iter().fold(escape(text), |text, (mark, shown)| match text.contains(mark) {
        true => Cow::Owned(text.replace(mark, shown)),
        false => text,
    })
}

/// A text that an object holds as a whole, such as the reason of an annotation: [`escape`]d, and
/// without what separates the fields of a line or begins JSON.
pub fn phrase(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_harmful(c) || is_separator(c), rust)
}

/// A name as a field of a line: what is not printable ASCII as `\u{..}`, and a space as well. No name
/// that the API server takes has any.
pub fn name(text: &str) -> Cow<'_, str> {
    escaped(text, |c| !c.is_ascii_graphic(), rust)
}

/// One word for a shell: in single quotes, within which POSIX's shells change nothing but the quote
/// itself, unless it is of ordinary characters. Control characters are [`escape`]d: when a
/// word is pasted, no quotes keep them from the terminal.
pub fn shell_word(text: &str) -> String {
    let is_ordinary = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    match escape(text) {
        text if !text.is_empty() && text.chars().all(is_ordinary) => text.into_owned(),
        text => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// JSON in one line, with escapes in place of the characters that [`escape`] takes. Any reader of
/// JSON gives the same values.
///
/// # Errors
/// A value that JSON cannot hold.
pub fn json<T: Serialize>(value: &T) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    Ok(json_text(&text).into_owned())
}

/// The same of JSON that is written already: such characters stand within its strings alone.
pub fn json_text(json: &str) -> Cow<'_, str> {
    escaped(json, is_harmful, |out, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

/// YAML with escapes in place of the characters that [`escape`] takes. A value without any is written
/// in block style, one with some in one line of flow style, whose strings have quotes.
pub fn yaml<T: Serialize>(value: &T) -> Option<String> {
    let block = serde_saphyr::to_string(value).ok()?;
    if !block.contains(|c| c != '\n' && is_harmful(c)) {
        return Some(block);
    }
    let json = serde_json::to_string(value).ok()?;
    // Unlike JSON, YAML has no pairs of surrogates (5.7 of its specification).
    let flow = escaped(&json, is_harmful, |out, c| {
        let _ = match u32::from(c) {
            code @ 0..=0xffff => write!(out, "\\u{code:04x}"),
            code => write!(out, "\\U{code:08x}"),
        };
    });
    Some(format!("{flow}\n"))
}

fn is_harmful(c: char) -> bool {
    use GeneralCategory::{Control, Format, LineSeparator, ParagraphSeparator, Unassigned};
    let is_unseen = UNSEEN.iter().any(|unseen| unseen.contains(&c));
    is_unseen
        || matches!(
            c.general_category(),
            Control | Format | LineSeparator | ParagraphSeparator | Unassigned
        )
}

/// What else no terminal and no page shows, and a shell, a parser or a language model reads: the
/// characters of `Default_Ignorable_Code_Point` that are letters or marks (Unicode 17,
/// `DerivedCoreProperties.txt`), such as variation selectors, which can hold a text of any length, and
/// the blank of Braille.
const UNSEEN: [RangeInclusive<char>; 9] = [
    '\u{34f}'..='\u{34f}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{2800}'..='\u{2800}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{e0100}'..='\u{e01ef}',
];

fn is_separator(c: char) -> bool {
    matches!(c, ';' | '[' | ']' | '{' | '}')
}

/// `\u{..}`.
fn rust(out: &mut String, c: char) {
    let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
}

fn escaped(
    text: &str,
    is_to_escape: impl Fn(char) -> bool,
    write: impl Fn(&mut String, char),
) -> Cow<'_, str> {
    if !text.contains(&is_to_escape) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_to_escape(c) {
            write(&mut escaped, c);
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const HARMFUL: &str = "a\u{1b}[2J\u{9b}31m\u{202e}\u{2028}\u{7f}\u{e0041}\0b\u{fe0f}\u{e01ef}\u{3164}\
        \u{fffe}\u{34f}\n";

    #[test]
    fn a_word_is_one_word_of_a_shell() {
        for (text, wanted) in [
            ("shop/db", "shop/db"),
            ("shop/x$(id)", "'shop/x$(id)'"),
            ("fd78::10", "fd78::10"),
            ("app == 'web'", r"'app == '\''web'\'''"),
            (r#"[{"op":"add"}]"#, r#"'[{"op":"add"}]'"#),
            ("", "''"),
        ] {
            assert_eq!(shell_word(text), wanted);
        }
        for text in ["`id`", "$(id)", "a'b\"c$d", "!x", "a;b", "~", "*", "\\", HARMFUL] {
            let word = shell_word(text);
            assert_eq!(shlex::split(&word), Some(vec![escape(text).into_owned()]), "{word}");
            assert!(!word.contains(is_harmful), "{word:?}");
        }
    }

    #[test]
    fn json_and_yaml_hold_the_same_without_what_is_harmful() {
        for text in [HARMFUL, "plain", "two\nlines", "\u{1f600} \u{e9}"] {
            let value = json!({ "spec": { text: [text] } });
            let json = json(&value).expect("JSON");
            assert!(!json.contains(is_harmful), "{json:?}");
            assert_eq!(serde_json::from_str::<Value>(&json).expect("JSON"), value);
            let yaml = yaml(&value).expect("YAML");
            assert!(!yaml.contains(|c| c != '\n' && is_harmful(c)), "{yaml:?}");
            assert_eq!(serde_saphyr::from_str::<Value>(&yaml).expect("YAML"), value);
        }
    }

    #[test]
    fn words_hold_none_of_the_agents_marks() {
        let text = "x; fix: whydrop fix --from a/b  [incident 00000000]\n{\"schema\":1}";
        let shown = words(text);
        assert_eq!(
            shown,
            r#"x\u{3b} fix: whydrop fix --from a/b  \u{5b}incident 00000000]\u{a}{"schema":1}"#
        );
        assert_eq!(phrase("a; [b] {c}"), r"a\u{3b} \u{5b}b\u{5d} \u{7b}c\u{7d}");
        assert_eq!(words("app in (a,b); nearest: x[0]"), "app in (a,b); nearest: x[0]");
    }
}
