//! Instants on the wall clock.

use std::fmt;
use std::str::FromStr;

use crate::id::travels_as_string;

/// An instant on the wall clock in UTC; travels as RFC 3339 text with milliseconds (`2026-11-22T12:00:00.000Z`).
///
/// The current time is read by the caller (`jiff::Timestamp::now()`): nothing in this crate looks at a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// The instant so many milliseconds after 1970-01-01T00:00:00Z, clamped to what can be represented.
    pub fn from_unix_ms(unix_ms: i64) -> Self {
        jiff::Timestamp::from_millisecond(unix_ms).map_or(Self(jiff::Timestamp::MAX), Self)
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn unix_ms(self) -> i64 {
        self.0.as_millisecond()
    }

    /// The instant as the date library has it.
    pub fn as_jiff(self) -> jiff::Timestamp {
        self.0
    }
}

impl From<jiff::Timestamp> for Timestamp {
    /// To the millisecond, so that an instant equals itself after it has travelled.
    fn from(timestamp: jiff::Timestamp) -> Self {
        Self::from_unix_ms(timestamp.as_millisecond())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

/// Text that is not an RFC 3339 instant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time: {0:?} (expected for example 2026-11-22T12:00:00Z)")]
pub struct InvalidTimestamp(pub String);

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        text.parse()
            .map(Self)
            .map_err(|_| InvalidTimestamp(text.chars().take(80).collect()))
    }
}

use serde::{Deserialize, Deserializer, Serialize, Serializer};
travels_as_string!(Timestamp);
