//! The texts in a source file: what may be logged, reported or shown. Comments and what is compiled
//! for tests alone are left out.

use proc_macro2::{TokenStream, TokenTree};

/// A string in the source, without what is filled into it, and its line, counted from 1.
pub(crate) type Text = (usize, String);

/// The strings of a file.
///
/// # Errors
/// It is not made of Rust's tokens.
pub(crate) fn texts(source: &str) -> Result<Vec<Text>, String> {
    let tokens: TokenStream = source.parse().map_err(|error| format!("{error}"))?;
    let mut texts = Vec::new();
    scan(tokens, &mut texts);
    Ok(texts)
}

fn scan(tokens: TokenStream, texts: &mut Vec<Text>) {
    let mut is_after_hash = false;
    let mut is_for_tests = false;
    for token in tokens {
        let is_hash =
            matches!(&token, TokenTree::Punct(punct) if matches!(punct.as_char(), '#' | '!'));
        match token {
            // An attribute. A comment is one, too: `#[doc = "…"]`.
            TokenTree::Group(group) if is_after_hash => {
                let attribute = group.stream().to_string().replace(' ', "");
                is_for_tests |= attribute == "cfg(test)";
                if !attribute.starts_with("doc=") {
                    scan(group.stream(), texts);
                }
            }
            // The item that the attribute is of ends with its body.
            TokenTree::Group(group) => {
                if !is_for_tests {
                    scan(group.stream(), texts);
                }
                is_for_tests &= group.delimiter() != proc_macro2::Delimiter::Brace;
            }
            TokenTree::Literal(literal) => {
                let written = literal.to_string();
                if let (Some(from), Some(to)) = (written.find('"'), written.rfind('"'))
                    && !is_for_tests
                    && from < to
                {
                    texts.push((literal.span().start().line, plain(&written[from + 1..to])));
                }
            }
            TokenTree::Punct(punct) => is_for_tests &= punct.as_char() != ';',
            TokenTree::Ident(_) => {}
        }
        is_after_hash = is_hash;
    }
}

/// The text in one line, without line ends that are escaped and without placeholders.
fn plain(written: &str) -> String {
    let mut text = String::new();
    let mut depth = 0_u32;
    let joined = written.replace("\\\n", " ").replace("\\n", " ");
    for c in joined.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ if depth == 0 => text.push(c),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
