//! A word of a set that a newer agent may know more of.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{IntoDeserializer as _, value::Error},
};

/// A value of the core, or a word that only a newer agent knows. Such a record is read anyway,
/// and shown with the word.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Word<T> {
    /// It is known here.
    Known(T),
    /// It is not.
    Other(String),
}

impl<T> Word<T> {
    /// What it stands for, if it is known here.
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Other(_) => None,
        }
    }
}

impl<T> From<T> for Word<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: PartialEq> PartialEq<T> for Word<T> {
    fn eq(&self, other: &T) -> bool {
        self.known() == Some(other)
    }
}

impl<T: Serialize> fmt::Display for Word<T> {
    /// As in the record.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl<T: Serialize> Serialize for Word<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(value) => value.serialize(serializer),
            Self::Other(word) => serializer.serialize_str(word),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = Cow::<'de, str>::deserialize(deserializer)?;
        let known = T::deserialize((&*word).into_deserializer());
        Ok(known.map_or_else(|_: Error| Self::Other(word.into_owned()), Self::Known))
    }
}

impl<T> JsonSchema for Word<T> {
    fn schema_name() -> Cow<'static, str> {
        String::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use whydrop_core::diagnosis::Class;

    use super::*;

    #[test]
    fn a_word_of_a_newer_agent_is_kept_as_it_is() {
        for (json, word) in [
            (r#""port-mismatch""#, Word::Known(Class::PortMismatch)),
            (r#""solar-flare""#, Word::Other("solar-flare".to_owned())),
        ] {
            let read: Word<Class> = serde_json::from_str(json).expect("a word");
            assert_eq!(read, word);
            assert_eq!(serde_json::to_string(&read).expect("JSON"), json);
            assert_eq!(format!("\"{read}\""), json);
        }
        assert_eq!(Word::Known(Class::PortMismatch), Class::PortMismatch);
    }
}
