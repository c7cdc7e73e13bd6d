//! What a source file says of modules: which it declares, which names it takes in, which paths it
//! uses. Read from its tokens, so that comments and strings say nothing.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path as written, such as `super::words::several`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    /// Its segments; a glob ends in `*`.
    pub(crate) segments: Vec<String>,
    /// The name that it has here, of those taken in by `use`.
    pub(crate) name: Option<String>,
    /// The line that it begins in, counted from 1.
    pub(crate) line: usize,
}

/// What a file says. Modules written in the file itself are part of it.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// `mod x;`.
    pub(crate) modules: Vec<String>,
    /// Every path that leads out of the file.
    pub(crate) paths: Vec<Path>,
}

/// Reads a file's text.
///
/// # Errors
/// It is not made of Rust's tokens.
pub(crate) fn read(text: &str) -> Result<Source, String> {
    let tokens: TokenStream = text.parse().map_err(|error| format!("{error}"))?;
    let mut source = Source::default();
    scan(tokens, 0, &mut source);
    Ok(source)
}

/// `depth`: in how many modules of the file itself the tokens are.
fn scan(tokens: TokenStream, depth: usize, source: &mut Source) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    let mut is_for_tests = false;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(word) if word == "use" => {
                let end = tokens[at..].iter().position(is(';')).map_or(tokens.len(), |n| at + n);
                let line = word.span().start().line;
                names(&tokens[at + 1..end], &[], line, &mut |path| add(source, path, depth));
                at = end;
            }
            TokenTree::Ident(word) if word == "mod" => {
                match (tokens.get(at + 1), tokens.get(at + 2)) {
                    (Some(TokenTree::Ident(_)), Some(TokenTree::Group(body))) => {
                        // What tests use does not ship.
                        if !is_for_tests {
                            scan(body.stream(), depth + 1, source);
                        }
                        at += 2;
                    }
                    (Some(TokenTree::Ident(name)), _) => source.modules.push(name.to_string()),
                    _ => {}
                }
            }
            TokenTree::Ident(word) if begins_path(&tokens, at) => {
                let mut segments = vec![word.to_string()];
                let line = word.span().start().line;
                while let [TokenTree::Punct(a), TokenTree::Punct(b), TokenTree::Ident(next), ..] =
                    &tokens[at + 1..]
                    && a.as_char() == ':'
                    && b.as_char() == ':'
                {
                    segments.push(next.to_string());
                    at += 3;
                }
                add(source, Path { segments, name: None, line }, depth);
            }
            TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => {
                let is_attribute = at > 0 && is('#')(&tokens[at - 1]);
                if is_attribute && group.stream().to_string().replace(' ', "") == "cfg(test)" {
                    is_for_tests = true;
                    at += 1;
                    continue;
                }
                scan(group.stream(), depth, source);
            }
            TokenTree::Group(group) => scan(group.stream(), depth, source),
            _ => {}
        }
        is_for_tests &= is('#')(&tokens[at.min(tokens.len() - 1)]);
        at += 1;
    }
}

fn is(punctuation: char) -> impl Fn(&TokenTree) -> bool {
    move |token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == punctuation)
}

/// Whether a path begins here that names a module by where it is, rather than by a name that was
/// taken in: `crate::…`, `super::…`, or another crate of the house.
fn begins_path(tokens: &[TokenTree], at: usize) -> bool {
    let TokenTree::Ident(word) = &tokens[at] else { return false };
    let word = word.to_string();
    let continues =
        tokens.get(at + 1).is_some_and(is(':')) && tokens.get(at + 2).is_some_and(is(':'));
    let is_first = at == 0 || !is(':')(&tokens[at - 1]) || at == 1 || !is(':')(&tokens[at - 2]);
    let is_known = ["crate", "super", "self"].contains(&&*word) || word.starts_with("whydrop");
    continues && is_first && is_known
}

/// The paths of what is written between `use` and `;`.
fn names(tokens: &[TokenTree], before: &[String], line: usize, add: &mut impl FnMut(Path)) {
    for tree in tokens.split(is(',')) {
        let mut segments = before.to_vec();
        let mut name = None;
        let mut rest = tree.iter();
        while let Some(token) = rest.next() {
            match token {
                TokenTree::Ident(word) if word == "as" => {
                    name = rest.next().map(ToString::to_string);
                }
                TokenTree::Ident(word) => segments.push(word.to_string()),
                TokenTree::Punct(punct) if punct.as_char() == '*' => segments.push("*".into()),
                TokenTree::Group(group) => {
                    let inner: Vec<_> = group.stream().into_iter().collect();
                    names(&inner, &segments, line, add);
                    segments.clear();
                }
                _ => {}
            }
        }
        if segments.len() > before.len() {
            // `use super::x::{self}` takes in `x`.
            if segments.len() > 1 {
                segments.pop_if(|last| last == "self");
            }
            let name = name.or_else(|| segments.last().cloned());
            add(Path { segments, name, line });
        }
    }
}

/// Adds a path as the file itself would write it; one that stays in it says nothing.
fn add(source: &mut Source, mut path: Path, depth: usize) {
    for _ in 0..depth {
        match path.segments.first().map(String::as_str) {
            Some("super") => {
                path.segments.remove(0);
            }
            Some("self") | None => return,
            _ => break,
        }
        if path.segments.first().is_none_or(|first| first != "super") {
            return;
        }
    }
    source.paths.push(path);
}
