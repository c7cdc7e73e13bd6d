//! The documents of a text: YAML or JSON, in UTF-8 or UTF-16, one after the other, and the items of lists
//! one by one, so that no more than one object is held as text.

mod json;
mod list;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    io::{self, BufRead as _, Read},
};

use encoding_rs_io::DecodeReaderBytesBuilder;
use serde_json::Value;

use self::{json::Outcome, list::Document};
use crate::{
    decode::TypeMeta,
    sections::{Sections, TooLong},
    yaml::{Broken, Reader, Repeated, Top, YamlError},
};

/// How far ahead is looked for what a text begins with.
const LOOK_AHEAD_BYTES: usize = 4096;

/// Where in a text an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// 1-based number of the document.
    pub document: usize,
    /// 1-based number of the item, if the document is a list.
    pub item: Option<usize>,
    /// 1-based line.
    pub line: usize,
}

/// Something that was read.
#[derive(Debug)]
pub(crate) struct Piece {
    pub place: Place,
    pub content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    /// A document or an item; and what is in it twice.
    Object(Value, Option<Repeated>),
    /// What cannot be read, as far as it says what it is.
    Fault(Fault, TypeMeta),
    /// The same, where it holds `{{`: not YAML but a template of it.
    Template,
    /// A list that ends without saying that it is one, which kubectl writes last.
    CutOff,
}

/// Why something cannot be read.
#[derive(Debug)]
pub(crate) enum Fault {
    Yaml(YamlError),
    /// It is not JSON; what its reader says.
    Json(String),
    /// The source fails.
    Read(io::Error),
}

impl Fault {
    fn of_json(error: serde_json::Error, line: usize) -> Self {
        if error.is_io() {
            return Self::of_io(error.into(), line);
        }
        Self::Json(error.to_string())
    }

    fn of_io(error: io::Error, line: usize) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<TooLong>()) {
            Some(long) => Self::Yaml(YamlError::Object { line, message: long.to_string() }),
            None => Self::Read(error),
        }
    }
}

/// Reads a text, and hands on what is in it, in order. `is_json`: it claims to be JSON.
pub(crate) fn read(input: impl Read, is_json: bool, take: &mut dyn FnMut(Piece)) {
    let mut document = 0;
    let mut sections = match decoded(input) {
        Ok(decoded) => Sections::new(decoded),
        Err(error) => return take(unreadable(1, 1, error)),
    };
    loop {
        let is_next = sections.next_section().and_then(|is_next| {
            if is_next {
                part(&mut sections, is_json, &mut document, take)?;
            }
            Ok(is_next)
        });
        match is_next {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return take(unreadable(document + 1, sections.line(), error)),
        }
    }
}

fn unreadable(document: usize, line: usize, error: io::Error) -> Piece {
    let place = Place { document, item: None, line };
    Piece { place, content: Content::Fault(Fault::Read(error), TypeMeta::default()) }
}

/// As UTF-8, by the mark that it begins with, as kubectl goes by it. Without one, a first character of two
/// bytes of which one is nought is UTF-16 as well.
fn decoded<R: Read>(mut input: R) -> io::Result<impl Read> {
    let mut first = Vec::with_capacity(2);
    input.by_ref().take(2).read_to_end(&mut first)?;
    let encoding = match first.as_slice() {
        [0, low] if *low != 0 => Some(encoding_rs::UTF_16BE),
        [low, 0] if *low != 0 => Some(encoding_rs::UTF_16LE),
        _ => None,
    };
    let mut decoder = DecodeReaderBytesBuilder::new();
    decoder.encoding(encoding).utf8_passthru(true).strip_bom(true);
    Ok(decoder.build(io::Cursor::new(first).chain(input)))
}

/// One part, as JSON or as YAML.
fn part<R: Read>(
    sections: &mut Sections<R>,
    is_json: bool,
    document: &mut usize,
    take: &mut dyn FnMut(Piece),
) -> io::Result<()> {
    let looks = looks(sections)?;
    if looks != Looks::Yaml || is_json {
        match json::read(sections, document, take) {
            Outcome::Json => return sections.skip_rest(),
            Outcome::Not(fault) if is_json || !sections.rewind() => {
                *document += 1;
                sections.skip_rest()?;
                take(fault);
                return Ok(());
            }
            // A brace may begin YAML as well, with keys that need no quotes.
            Outcome::Not(_) => {}
        }
    }
    yaml(sections, document, take)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    Json,
    Yaml,
}

/// What the first character makes of it; lines of directives, which kubectl does not know, are passed over.
fn looks<R: Read>(sections: &mut Sections<R>) -> io::Result<Looks> {
    loop {
        let next = sections.look_ahead(LOOK_AHEAD_BYTES)?;
        let line_end = next.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let first = next.iter().position(|byte| !byte.is_ascii_whitespace());
        match (next.first(), first.map(|at| next[at]), line_end) {
            (Some(b'%'), _, _) => sections.skip_line()?,
            (_, Some(b'{'), _) => return Ok(Looks::Json),
            // A line of blanks. How far the first line with something on it is to the right counts.
            (_, None, Some(line_end)) => sections.consume(line_end),
            (_, Some(_), Some(line_end)) if first >= Some(line_end) => sections.consume(line_end),
            _ => return Ok(Looks::Yaml),
        }
    }
}

/// The documents of a part that is YAML.
fn yaml<R: Read>(
    sections: &mut Sections<R>,
    document: &mut usize,
    take: &mut dyn FnMut(Piece),
) -> io::Result<()> {
    let (part_line, first_line) = (sections.first_line(), sections.line());
    let (object_bytes, has_braces) = (sections.object_bytes(), sections.has_braces());
    let mut reader = Reader::new(&mut *sections, first_line);
    let before = *document;
    let (broken, current) = loop {
        object_bytes.set(0);
        let begin = match reader.next_top() {
            Ok(None) => return sections.skip_rest(),
            Ok(Some(Top::Begin { line })) => line,
            Ok(Some(_)) => continue,
            Err(broken) => break (broken, None),
        };
        // A later part begins where its mark is.
        let line = if *document == before && part_line > 1 { part_line } else { begin };
        *document += 1;
        let place = Place { document: *document, item: None, line };
        let mut current = Document::new(place, &mut *take);
        match yaml_document(&mut reader, &mut current, &object_bytes, &has_braces) {
            Ok(true) => {}
            Ok(false) => current.end(),
            Err(broken) => break (broken, Some(current)),
        }
    };
    drop(reader);
    let unreadable = sections.unreadable();
    sections.skip_rest()?;
    let content = |of| match broken {
        _ if has_braces.get() => Content::Template,
        Broken::Syntax(error) => Content::Fault(Fault::Yaml(located(error, unreadable)), of),
        Broken::Read(error) => Content::Fault(Fault::of_io(error, first_line), of),
    };
    if let Some(current) = current {
        current.broken(content);
    } else {
        *document += 1;
        let place = Place { document: *document, item: None, line: part_line };
        take(Piece { place, content: content(TypeMeta::default()) });
    }
    Ok(())
}

/// Of what no text may hold the parser does not say where it is.
fn located(error: YamlError, unreadable: Option<(usize, &'static str)>) -> YamlError {
    match (error, unreadable) {
        (YamlError::Somewhere(_), Some((line, what))) => YamlError::Object {
            line,
            message: format!("expected text in UTF-8, or in UTF-16 with a mark, found {what}"),
        },
        (error, _) => error,
    }
}

/// One document, from its beginning to its end. Whether it is no object, and was handed on as it is.
fn yaml_document<R: Read>(
    reader: &mut Reader<&mut Sections<R>>,
    document: &mut Document<'_>,
    object_bytes: &Cell<usize>,
    has_braces: &Cell<bool>,
) -> Result<bool, Broken> {
    let fault = |error: YamlError| match has_braces.get() {
        true => Content::Template,
        false => Content::Fault(Fault::Yaml(error), TypeMeta::default()),
    };
    let mut is_root = false;
    loop {
        let Some(top) = reader.next_top()? else { return Ok(is_root) };
        match top {
            Top::Begin { .. } => {}
            Top::Field(name, node) => match node.value {
                Ok(value) => {
                    document.repeats(node.repeated);
                    document.field(name, value, node.line);
                }
                Err(error) => document.fails(fault(error)),
            },
            Top::Merged(node) => match node.value {
                Ok(Value::Object(fields)) => {
                    for (name, value) in fields {
                        document.merged(name, value);
                    }
                }
                Ok(_) => {}
                Err(error) => document.fails(fault(error)),
            },
            Top::Item(node) => {
                let content = match node.value {
                    Ok(value) => Content::Object(value, node.repeated),
                    Err(error) => fault(error),
                };
                document.item(node.line, content);
                object_bytes.set(0);
            }
            Top::Root(node) => {
                is_root = true;
                let content = match node.value {
                    Ok(value) => Content::Object(value, node.repeated),
                    Err(error) => fault(error),
                };
                document.root(content);
            }
            Top::End => return Ok(is_root),
        }
    }
}
