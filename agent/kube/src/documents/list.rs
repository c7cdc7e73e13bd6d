//! A document as its fields come: the items of a list are handed on one by one.

use serde_json::{Map, Value};

use super::{Content, Piece, Place};
use crate::{decode::TypeMeta, yaml::Repeated};

/// How many items of a list are kept that do not say their type, where the list says it after them: they
/// are kept as they are read, which takes some 10 KB each. An API server says it before them.
const KEPT_ITEMS_MAX: usize = 10_000;

/// One document.
pub(super) struct Document<'a> {
    take: &'a mut dyn FnMut(Piece),
    place: Place,
    /// Its fields, but for the items.
    head: Map<String, Value>,
    /// Items that do not say their type, until the list does.
    kept: Vec<(Place, Value)>,
    items: usize,
    /// Whether anything was handed on.
    has_given: bool,
    repeated: Option<Repeated>,
    /// What is wrong with a field.
    fault: Option<Content>,
}

impl<'a> Document<'a> {
    pub(super) fn new(place: Place, take: &'a mut dyn FnMut(Piece)) -> Self {
        Self {
            take,
            place,
            head: Map::new(),
            kept: Vec::new(),
            items: 0,
            has_given: false,
            repeated: None,
            fault: None,
        }
    }

    pub(super) fn has_given(&self) -> bool {
        self.has_given
    }

    /// A field of the document other than items.
    pub(super) fn field(&mut self, key: String, value: Value, line: usize) {
        if self.head.contains_key(&key) {
            self.repeats(Some(Repeated { key: key.clone(), line }));
        }
        self.head.insert(key, value);
    }

    /// A field that is taken in from elsewhere.
    pub(super) fn merged(&mut self, key: String, value: Value) {
        self.head.insert(key, value);
    }

    /// A field cannot be read.
    pub(super) fn fails(&mut self, fault: Content) {
        self.fault = self.fault.take().or(Some(fault));
    }

    /// Something in it is there twice.
    pub(super) fn repeats(&mut self, repeated: Option<Repeated>) {
        self.repeated = self.repeated.take().or(repeated);
    }

    /// The next item, or what is wrong with it.
    pub(super) fn item(&mut self, line: usize, content: Content) {
        self.items += 1;
        let place = Place { item: Some(self.items), line, ..self.place };
        let Content::Object(value, repeated) = content else {
            return self.give(place, content);
        };
        let is_typed = |value: &Value| TypeMeta::of(value).is_ok();
        match self.list_type() {
            _ if is_typed(&value) => self.give(place, Content::Object(value, repeated)),
            Some(of) => self.give(place, Content::Object(typed(value, &of), repeated)),
            None if self.kept.len() < KEPT_ITEMS_MAX => {
                self.repeats(repeated);
                self.kept.push((place, value));
            }
            None => self.give(place, Content::Object(value, repeated)),
        }
    }

    /// It is complete.
    pub(super) fn end(mut self) {
        let of = self.list_type();
        let kept = std::mem::take(&mut self.kept);
        match of {
            Some(of) => {
                for (place, item) in kept {
                    self.give(place, Content::Object(typed(item, &of), None));
                }
            }
            // No list: the items are a field like others.
            None if !kept.is_empty() && self.items == kept.len() => {
                let items = kept.into_iter().map(|(_, item)| item).collect();
                self.head.insert("items".to_owned(), Value::Array(items));
                self.items = 0;
            }
            None => {
                for (place, item) in kept {
                    self.give(place, Content::Object(item, None));
                }
            }
        }
        let head = std::mem::take(&mut self.head);
        let is_cut_off = self.items > 0 && !head.contains_key("kind");
        if let Some(fault) = self.fault.take() {
            let of = TypeMeta::of(&Value::Object(head)).unwrap_or_default();
            let fault = match fault {
                Content::Fault(fault, _) => Content::Fault(fault, of),
                other => other,
            };
            self.give(self.place, fault);
        } else if self.items == 0 {
            let repeated = self.repeated.take();
            self.give(self.place, Content::Object(Value::Object(head), repeated));
        } else if is_cut_off {
            self.give(self.place, Content::CutOff);
        }
    }

    /// It is no object, or all of it comes at once.
    pub(super) fn root(&mut self, content: Content) {
        self.give(self.place, content);
    }

    /// It could be read up to here.
    pub(super) fn broken(mut self, content: impl FnOnce(TypeMeta) -> Content) {
        let head = Value::Object(std::mem::take(&mut self.head));
        // Items that were kept are as unreadable as what says what they are.
        let known = if self.items == 0 { TypeMeta::of(&head).ok() } else { None };
        self.give(self.place, content(known.unwrap_or_default()));
    }

    fn give(&mut self, place: Place, content: Content) {
        self.has_given = true;
        (self.take)(Piece { place, content });
    }

    /// What the items are, if the document has said that it is a list.
    fn list_type(&self) -> Option<TypeMeta> {
        let text = |name: &str| self.head.get(name)?.as_str();
        let (api_version, kind) = (text("apiVersion")?, text("kind")?.strip_suffix("List")?);
        Some(TypeMeta { api_version: api_version.to_owned(), kind: kind.to_owned() })
    }
}

/// An item of a `PodList` and its like need not say that it is a Pod.
fn typed(mut item: Value, of: &TypeMeta) -> Value {
    if let Some(fields) = item.as_object_mut().filter(|_| !of.kind.is_empty()) {
        fields.entry("apiVersion").or_insert_with(|| of.api_version.clone().into());
        fields.entry("kind").or_insert_with(|| of.kind.clone().into());
    }
    item
}
