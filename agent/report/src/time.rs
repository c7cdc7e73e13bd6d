//! A moment, as records write it.

use std::{borrow::Cow, fmt};

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A moment to the microsecond: in JSON a string of RFC 3339 in UTC, with six digits of a fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(Timestamp);

impl Time {
    /// The moment.
    pub const fn timestamp(self) -> Timestamp {
        self.0
    }

    /// `2026-01-02T03:04:05Z`: for a line of text.
    pub fn seconds(self) -> String {
        self.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

impl From<Timestamp> for Time {
    /// Without what is finer than a microsecond, so that a record is read back as it was written.
    fn from(at: Timestamp) -> Self {
        Self(Timestamp::from_microsecond(at.as_microsecond()).unwrap_or(at))
    }
}

impl From<Time> for Timestamp {
    fn from(time: Time) -> Self {
        time.0
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.strftime("%Y-%m-%dT%H:%M:%S.%6fZ"))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        let expected = || D::Error::custom(format!("expected a time in RFC 3339, found {text}"));
        text.parse::<Timestamp>().map(Self::from).map_err(|_| expected())
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "A time in RFC 3339, in UTC."
        })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// Writes a time without a fraction.
pub(crate) fn in_seconds<S: Serializer>(time: &Time, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.seconds())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_to_the_microsecond_and_read_back_as_it_was() {
        let time = Time::from("2026-01-02T03:04:05.6789019Z".parse::<Timestamp>().expect("a time"));
        let json = serde_json::to_string(&time).expect("JSON");
        assert_eq!(json, r#""2026-01-02T03:04:05.678901Z""#);
        assert_eq!(serde_json::from_str::<Time>(&json).expect("a time"), time);
        assert_eq!(time.seconds(), "2026-01-02T03:04:05Z");
        // Of any zone and precision.
        let other: Time = serde_json::from_str(r#""2026-01-02T05:04:05+02:00""#).expect("a time");
        assert_eq!(other.to_string(), "2026-01-02T03:04:05.000000Z");
        let error = serde_json::from_str::<Time>(r#""today""#).expect_err("no time");
        assert!(
            error.to_string().starts_with("expected a time in RFC 3339, found today"),
            "{error}"
        );
    }
}
