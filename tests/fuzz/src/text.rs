//! What no output may hold, by a list of its own.

/// Characters that end lines, move cursors, turn the direction of reading, or that nobody sees.
pub(crate) fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

/// One line, and nothing harmful in it.
pub(crate) fn assert_harmless(text: &str) {
    assert!(!text.contains(is_harmful), "{text:?}");
}

/// The same of several lines.
pub(crate) fn assert_harmless_lines(text: &str) {
    let found = text.lines().find(|line| line.contains(is_harmful));
    assert!(found.is_none(), "{found:?}");
}

/// The words that a shell makes of a command.
pub(crate) fn words(command: &str) -> Vec<String> {
    assert_harmless(command);
    // What the crate takes for quotes is what POSIX has; anything else that a shell acts upon must be in
    // quotes, which this looks for beside it.
    let (mut quoted, mut escaped) = (false, false);
    for c in command.chars() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match c {
            '\'' => quoted = !quoted,
            '\\' => escaped = !quoted,
            '$' | '`' | ';' | '&' | '|' | '<' | '>' | '(' | ')' | '*' | '?' | '~' | '#' | '!'
            | '"' | '{' | '}' | '[' | ']' => assert!(quoted, "{c} is for the shell: {command}"),
            _ => {}
        }
    }
    shlex::split(command).unwrap_or_else(|| panic!("no words: {command}"))
}
