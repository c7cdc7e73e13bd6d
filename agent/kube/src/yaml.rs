//! YAML as kubectl reads it: the events of libyaml, composed to values that JSON can hold.

mod scalar;
mod spaced;

use std::{
    collections::HashMap,
    io::{self, BufRead},
};

use libyaml_safer::{Error, ErrorKind, Event, EventData, Mark, Parser, ScalarStyle};
use serde_json::{Map, Value};

use self::spaced::{Added, Spaced};
use crate::sections::Sections;

/// How deep lists and maps may be in each other: the same that JSON may here. What the API serves is at
/// some 60, in the schemas of custom resources.
pub(crate) const DEPTH_MAX: usize = 128;

/// How much of a document what anchors name may be, and how much aliases may add to it, as text: far more
/// than people repeat, and far less than what a few lines can blow up to.
const ANCHORED_BYTES_MAX: usize = 1 << 20;
pub(crate) const ALIASED_BYTES_MAX: usize = 16 << 20;

/// A fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    /// It is known where.
    #[error("line {line}, column {column}: not YAML: {message}")]
    At {
        /// 1-based line.
        line: usize,
        /// 1-based column.
        column: u64,
        /// What the parser says.
        message: String,
    },
    /// An object whose YAML is in order, and which no object of the API can be.
    #[error("line {line}: {message}")]
    Object {
        /// 1-based line.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// It is not.
    #[error("not YAML: {0}")]
    Somewhere(String),
}

/// Why a document ends early.
#[derive(Debug)]
pub(crate) enum Broken {
    /// It is no YAML.
    Syntax(YamlError),
    /// What it is read from fails, or says that it is too long.
    Read(io::Error),
}

/// A value, or what is wrong with it, where the rest can be read still.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) value: Result<Value, YamlError>,
    /// A key that is in one of its maps twice.
    pub(crate) repeated: Option<Repeated>,
    /// 1-based line where it begins.
    pub(crate) line: usize,
}

/// A key that is in a map twice: the last one counts, as for kubectl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Repeated {
    /// The key.
    pub key: String,
    /// 1-based line of the second.
    pub line: usize,
}

/// What comes next at the top of a document.
pub(crate) enum Top {
    /// A document begins.
    Begin {
        /// 1-based line.
        line: usize,
    },
    /// A field of an object.
    Field(String, Node),
    /// Fields that are taken in.
    Merged(Node),
    /// An item of the field `items`.
    Item(Node),
    /// The document is a value that is no object.
    Root(Node),
    /// It is complete.
    End,
}

/// Reads YAML one event after the other.
pub(crate) struct Reader<R> {
    parser: Parser<Spaced<R>>,
    added: Added,
    /// 1-based line where the input begins.
    first_line: usize,
    place: At,
    anchors: HashMap<String, (Value, usize)>,
    anchored_bytes: usize,
    aliased_bytes: usize,
    /// What is wrong with the node that is composed.
    fault: Option<YamlError>,
    repeated: Option<Repeated>,
}

/// Where the reader is.
#[derive(Clone, Copy)]
enum At {
    Stream,
    Document,
    Fields,
    Items,
}

/// A key of a map.
enum Key {
    Named(String),
    /// `<<`
    Merge,
    /// Neither.
    Unusable,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(input: R, first_line: usize) -> Self {
        let mut parser = Parser::new();
        // What it was written in is read as UTF-8 already. Left to find out, the parser takes a first
        // letter of some scripts for a mark.
        parser.set_encoding(libyaml_safer::Encoding::Utf8);
        let (spaced, added) = Spaced::new(input);
        parser.set_input(spaced);
        Self {
            parser,
            added,
            first_line,
            place: At::Stream,
            anchors: HashMap::new(),
            anchored_bytes: 0,
            aliased_bytes: 0,
            fault: None,
            repeated: None,
        }
    }

    /// The first document as it is; nothing, if there is none.
    fn one(&mut self) -> Result<Result<Value, YamlError>, Broken> {
        loop {
            let event = self.event()?;
            match event.data {
                EventData::StreamEnd => return Ok(Ok(Value::Null)),
                EventData::StreamStart { .. } | EventData::DocumentStart { .. } => {}
                data => {
                    let line = self.line(event.start_mark);
                    return self.whole(data, line).map(|node| node.value);
                }
            }
        }
    }

    /// What comes next; `None`: the input is over.
    pub(crate) fn next_top(&mut self) -> Result<Option<Top>, Broken> {
        loop {
            let event = self.event()?;
            let line = self.line(event.start_mark);
            match (self.place, event.data) {
                (_, EventData::StreamEnd) => return Ok(None),
                (At::Stream, EventData::DocumentStart { .. }) => {
                    self.place = At::Document;
                    return Ok(Some(Top::Begin { line }));
                }
                (At::Document, EventData::MappingStart { anchor: None, .. }) => {
                    self.place = At::Fields;
                }
                (At::Document, EventData::DocumentEnd { .. }) => {
                    self.place = At::Stream;
                    self.anchors.clear();
                    self.anchored_bytes = 0;
                    self.aliased_bytes = 0;
                    return Ok(Some(Top::End));
                }
                (At::Fields, EventData::MappingEnd) => self.place = At::Document,
                (At::Items, EventData::SequenceEnd) => self.place = At::Fields,
                (At::Stream, _) => {}
                (At::Document, data) => return self.whole(data, line).map(|n| Some(Top::Root(n))),
                (At::Items, data) => return self.whole(data, line).map(|n| Some(Top::Item(n))),
                (At::Fields, data) => {
                    if let Some(top) = self.field(data, line)? {
                        return Ok(Some(top));
                    }
                }
            }
        }
    }

    /// A field of the document; `None`: its items begin.
    fn field(&mut self, key: EventData, line: usize) -> Result<Option<Top>, Broken> {
        self.begin();
        let key = self.key(key, line)?;
        let event = self.event()?;
        let is_list = matches!(event.data, EventData::SequenceStart { anchor: None, .. });
        match key {
            Key::Named(name) if name == "items" && is_list => {
                self.place = At::Items;
                Ok(None)
            }
            Key::Named(name) => {
                let value = self.node(event, 1)?;
                Ok(Some(Top::Field(name, self.finish(value, line))))
            }
            Key::Merge => {
                let value = self.node(event, 1)?;
                let mut map = Map::new();
                self.merge(&mut map, value, line);
                Ok(Some(Top::Merged(self.finish(Value::Object(map), line))))
            }
            Key::Unusable => {
                let value = self.node(event, 1)?;
                self.fault(line, "expected a key that is a word");
                Ok(Some(Top::Merged(self.finish(value, line))))
            }
        }
    }

    /// A node with all below it.
    fn whole(&mut self, data: EventData, line: usize) -> Result<Node, Broken> {
        self.begin();
        let value = self.data(data, line, 1)?;
        Ok(self.finish(value, line))
    }

    fn begin(&mut self) {
        self.fault = None;
        self.repeated = None;
    }

    fn finish(&mut self, value: Value, line: usize) -> Node {
        let value = self.fault.take().map_or(Ok(value), Err);
        Node { value, repeated: self.repeated.take(), line }
    }

    fn fault(&mut self, line: usize, message: &str) {
        if self.fault.is_none() {
            self.fault = Some(YamlError::Object { line, message: message.to_owned() });
        }
    }

    fn event(&mut self) -> Result<Event, Broken> {
        let mut event = self.parser.parse().map_err(|error| self.broken(error))?;
        if let EventData::Scalar { value, .. } = &mut event.data {
            *value = self.added.taken_out_of(std::mem::take(value));
        }
        Ok(event)
    }

    fn line(&self, mark: Mark) -> usize {
        self.first_line + usize::try_from(mark.line).unwrap_or(0)
    }

    fn broken(&self, error: Error) -> Broken {
        if error.kind() == ErrorKind::Io {
            return Broken::Read(error.try_into().unwrap_or_else(io::Error::other));
        }
        let message = match (error.context(), error.problem()) {
            (Some(context), problem) => format!("{problem} {context}"),
            (None, problem) => problem.to_owned(),
        };
        Broken::Syntax(match error.problem_mark() {
            Some(mark) => YamlError::At { line: self.line(mark), column: mark.column + 1, message },
            None => YamlError::Somewhere(message),
        })
    }

    fn node(&mut self, event: Event, depth: usize) -> Result<Value, Broken> {
        let line = self.line(event.start_mark);
        self.data(event.data, line, depth)
    }

    /// What an event begins. Events are taken up to its end, whatever is wrong with it.
    fn data(&mut self, data: EventData, line: usize, depth: usize) -> Result<Value, Broken> {
        if depth > DEPTH_MAX {
            return Err(too_deep(line));
        }
        let (value, anchor) = match data {
            EventData::Scalar { anchor, tag, value, plain_implicit, style, .. } => {
                let is_plain = plain_implicit && style == ScalarStyle::Plain;
                (scalar::value(value, tag.as_deref(), is_plain), anchor)
            }
            EventData::SequenceStart { anchor, .. } => (self.sequence(depth)?, anchor),
            EventData::MappingStart { anchor, .. } => (self.mapping(depth)?, anchor),
            EventData::Alias { anchor } => return Ok(self.alias(&anchor, line)),
            _ => return Ok(Value::Null),
        };
        if let Some(anchor) = anchor {
            self.anchor(anchor, &value, line);
        }
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value, Broken> {
        let mut items = Vec::new();
        loop {
            let event = self.event()?;
            if matches!(event.data, EventData::SequenceEnd) {
                return Ok(Value::Array(items));
            }
            items.push(self.node(event, depth + 1)?);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Value, Broken> {
        let mut map = Map::new();
        loop {
            let event = self.event()?;
            let line = self.line(event.start_mark);
            if matches!(event.data, EventData::MappingEnd) {
                return Ok(Value::Object(map));
            }
            let key = self.key(event.data, line)?;
            let event = self.event()?;
            let value = self.node(event, depth + 1)?;
            match key {
                Key::Named(name) => {
                    if map.contains_key(&name) && self.repeated.is_none() {
                        self.repeated = Some(Repeated { key: name.clone(), line });
                    }
                    map.insert(name, value);
                }
                Key::Merge => self.merge(&mut map, value, line),
                Key::Unusable => self.fault(line, "expected a key that is a word"),
            }
        }
    }

    /// What `<<` names comes into the map, in the place of what it has so far; of several maps the first
    /// counts.
    fn merge(&mut self, map: &mut Map<String, Value>, value: Value, line: usize) {
        match value {
            Value::Object(fields) => map.extend(fields),
            Value::Array(several) if several.iter().all(Value::is_object) => {
                for value in several.into_iter().rev() {
                    self.merge(map, value, line);
                }
            }
            _ => self.fault(line, "expected a map, or a list of maps, after <<"),
        }
    }

    fn key(&mut self, data: EventData, line: usize) -> Result<Key, Broken> {
        let value = match data {
            EventData::Scalar { anchor, tag, value, plain_implicit, style, .. } => {
                let is_plain = plain_implicit && style == ScalarStyle::Plain;
                if scalar::is_merge(&value, tag.as_deref(), is_plain) {
                    return Ok(Key::Merge);
                }
                let value = scalar::value(value, tag.as_deref(), is_plain);
                if let Some(anchor) = anchor {
                    self.anchor(anchor, &value, line);
                }
                value
            }
            EventData::Alias { anchor } => self.alias(&anchor, line),
            other => {
                self.pass_over(&other)?;
                return Ok(Key::Unusable);
            }
        };
        Ok(scalar::key(value).map_or(Key::Unusable, Key::Named))
    }

    fn anchor(&mut self, name: String, value: &Value, line: usize) {
        let bytes = bytes(value);
        self.anchored_bytes += bytes;
        if self.anchored_bytes > ANCHORED_BYTES_MAX {
            let most = ANCHORED_BYTES_MAX >> 20;
            self.fault(line, &format!("expected anchors for {most} MiB at most"));
            return;
        }
        self.anchors.insert(name, (value.clone(), bytes));
    }

    fn alias(&mut self, name: &str, line: usize) -> Value {
        // What is not complete yet has no anchor: nothing can hold itself.
        let Some((value, bytes)) = self.anchors.get(name) else {
            self.fault(line, &format!("expected the name of an anchor before it, found *{name}"));
            return Value::Null;
        };
        self.aliased_bytes += bytes;
        if self.aliased_bytes > ALIASED_BYTES_MAX {
            let most = ALIASED_BYTES_MAX >> 20;
            self.fault(line, &format!("expected aliases that add {most} MiB at most"));
            return Value::Null;
        }
        value.clone()
    }

    /// Takes the events up to the end of what this one begins.
    fn pass_over(&mut self, data: &EventData) -> Result<(), Broken> {
        let mut depth = usize::from(opens(data));
        while depth > 0 {
            let event = self.event()?;
            match event.data {
                data if opens(&data) => depth += 1,
                EventData::SequenceEnd | EventData::MappingEnd => depth -= 1,
                _ => {}
            }
            if depth > DEPTH_MAX {
                return Err(too_deep(self.line(event.start_mark)));
            }
        }
        Ok(())
    }
}

fn opens(data: &EventData) -> bool {
    matches!(data, EventData::SequenceStart { .. } | EventData::MappingStart { .. })
}

/// Nothing after it is read: what the parser does takes longer with each level.
fn too_deep(line: usize) -> Broken {
    let message = format!("expected lists and maps {DEPTH_MAX} deep at most");
    Broken::Syntax(YamlError::Object { line, message })
}

/// About as many as the text of a value has.
fn bytes(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => 8 + text.len(),
        Value::Array(items) => 8 + items.iter().map(bytes).sum::<usize>(),
        Value::Object(map) => 8 + map.iter().map(|(k, v)| k.len() + bytes(v)).sum::<usize>(),
    }
}

/// Reads one YAML (or JSON) document; line numbers in errors count from `first_line`.
///
/// # Errors
/// Where it is not YAML, and in which line and column.
pub fn value(document: &str, first_line: usize) -> Result<Value, YamlError> {
    let mut reader = Reader::new(Sections::new(document.as_bytes()), first_line);
    let read = |broken| match broken {
        Broken::Syntax(error) => error,
        Broken::Read(error) => YamlError::Somewhere(error.to_string()),
    };
    reader.one().map_err(read)?
}
