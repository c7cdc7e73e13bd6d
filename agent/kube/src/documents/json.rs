//! JSON documents, one after the other.

use std::{cell::Cell, fmt, io::Read, rc::Rc};

use serde::{
    Deserialize as _,
    de::{
        DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
        value::MapAccessDeserializer,
    },
};
use serde_json::Value;

use super::{Content, Fault, Piece, Place, list::Document};
use crate::{decode::TypeMeta, sections::Sections};

/// How far a part is JSON.
pub(super) enum Outcome {
    /// All of it, or up to a fault that was handed on.
    Json,
    /// Nothing of it was handed on; this is what is wrong with it.
    Not(Piece),
}

/// Hands on the documents of this part.
pub(super) fn read<R: Read>(
    sections: &mut Sections<R>,
    document: &mut usize,
    take: &mut dyn FnMut(Piece),
) -> Outcome {
    let lines = Rc::new(Cell::new(sections.line()));
    let object_bytes = sections.object_bytes();
    let counted = Counted { sections, lines: lines.clone() };
    let mut json = serde_json::Deserializer::from_reader(counted);
    let mut has_given = false;
    // What follows a document and is no blank is the next one.
    while json.end().is_err() {
        *document += 1;
        object_bytes.set(0);
        let place = Place { document: *document, item: None, line: lines.get() };
        let mut current = Document::new(place, take);
        let seed = Whole { document: &mut current, lines: &lines, object_bytes: &object_bytes };
        match seed.deserialize(&mut json) {
            Ok(None) => current.end(),
            Ok(Some(root)) => current.root(Content::Object(root, None)),
            Err(error) => {
                let fault = Fault::of_json(error, lines.get());
                if has_given || current.has_given() {
                    current.broken(|of| Content::Fault(fault, of));
                    return Outcome::Json;
                }
                *document -= 1;
                return Outcome::Not(Piece {
                    place,
                    content: Content::Fault(fault, TypeMeta::default()),
                });
            }
        }
        has_given = true;
    }
    Outcome::Json
}

/// Counts the lines of what is read.
struct Counted<'a, R> {
    sections: &'a mut Sections<R>,
    lines: Rc<Cell<usize>>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let count = self.sections.read(into)?;
        self.lines.set(self.sections.line());
        Ok(count)
    }
}

/// A document, whose fields are handed on as they come. One that is no object is given back.
struct Whole<'a, 'b> {
    document: &'a mut Document<'b>,
    lines: &'a Cell<usize>,
    object_bytes: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Whole<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Whole<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an API object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Self { document, lines, object_bytes } = self;
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                let items = Items { document, lines, object_bytes };
                if let Some(other) = map.next_value_seed(items)? {
                    document.field(key, other, lines.get());
                }
            } else {
                let value = map.next_value::<Value>()?;
                document.field(key, value, lines.get());
            }
        }
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {
            self.object_bytes.set(0);
        }
        Ok(Some(Value::Array(Vec::new())))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Some(Value::Null))
    }
}

/// The items of a list; what is no list is given back.
struct Items<'a, 'b> {
    document: &'a mut Document<'b>,
    lines: &'a Cell<usize>,
    object_bytes: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Items<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        self.object_bytes.set(0);
        while let Some((line, item)) = seq.next_element_seed(Item { lines: self.lines })? {
            self.document.item(line, Content::Object(item, None));
            self.object_bytes.set(0);
        }
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Value::deserialize(MapAccessDeserializer::new(map)).map(Some)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Self::Value, E> {
        Ok(Some(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Some(Value::Null))
    }
}

/// An item, with the line where it begins: the reader has seen no more than its first character.
struct Item<'a> {
    lines: &'a Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = (usize, Value);

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        let line = self.lines.get();
        Ok((line, Value::deserialize(json)?))
    }
}
