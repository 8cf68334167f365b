//! Identifiers as newtypes, so that one kind is never passed for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ulid::Ulid;

/// Text that is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a {kind}: {text:?} (expected {expected})")]
pub struct InvalidId {
    /// Which identifier was wanted.
    pub kind: &'static str,
    /// What was given, cut to 80 characters.
    pub text: String,
    /// What would have been right.
    pub expected: &'static str,
}

impl InvalidId {
    pub(crate) fn new(kind: &'static str, text: &str, expected: &'static str) -> Self {
        Self {
            kind,
            text: text.chars().take(80).collect(),
            expected,
        }
    }
}

/// Implements what every identifier that travels as a string needs: serde, TypeScript and OpenAPI as `string`.
macro_rules! travels_as_string {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl ts_rs::TS for $name {
            type WithoutGenerics = Self;
            type OptionInnerType = Self;
            fn name(_: &ts_rs::Config) -> String {
                "string".to_owned()
            }
            fn inline(config: &ts_rs::Config) -> String {
                <Self as ts_rs::TS>::name(config)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                <String as utoipa::PartialSchema>::schema()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
}
pub(crate) use travels_as_string;

/// Declares an identifier backed by a [`Ulid`]: 128 bits, sortable by the time it was made.
macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Ulid);

        impl $name {
            /// The identifier with these bits.
            pub fn from_ulid(ulid: Ulid) -> Self {
                Self(ulid)
            }

            /// The bits of the identifier.
            pub fn as_ulid(self) -> Ulid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Ulid::from_string(text)
                    .map(Self)
                    .map_err(|_| InvalidId::new($kind, text, "26 characters of Crockford base32 (a ULID)"))
            }
        }

        travels_as_string!($name);
    };
}

pub(crate) use ulid_id;

ulid_id!(
    /// A conversation.
    ConversationId,
    "conversation id"
);
ulid_id!(
    /// One question and its answer within a conversation.
    TurnId,
    "turn id"
);
ulid_id!(
    /// A node, kept in its data folder from the first start on.
    NodeId,
    "node id"
);

/// Follows one request through every actor it reaches: 128 bits, written as 32 hex digits.
///
/// The same width and spelling as the trace-id of W3C Trace Context, so that it can be taken from and given to a
/// `traceparent` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CorrelationId(pub u128);

impl fmt::Display for CorrelationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for CorrelationId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId::new("correlation id", text, "32 lower-case hex digits, not all zero");
        let well_formed = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let bits = u128::from_str_radix(text, 16).map_err(|_| invalid())?;
        if well_formed && bits != 0 {
            Ok(Self(bits))
        } else {
            Err(invalid())
        }
    }
}

travels_as_string!(CorrelationId);

/// One step of a trace: 64 bits, written as 16 hex digits (the parent-id of W3C Trace Context).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(pub u64);

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for SpanId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let invalid = || InvalidId::new("span id", text, "16 hex digits");
        if text.len() != 16 {
            return Err(invalid());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| invalid())
    }
}

travels_as_string!(SpanId);

/// Names one actor of a node for as long as the node runs; a restarted actor keeps it.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ts_rs::TS,
    utoipa::ToSchema,
)]
#[serde(transparent)]
#[ts(as = "u32")]
pub struct ActorId(pub u64);

impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ActorId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.parse()
            .map(Self)
            .map_err(|_| InvalidId::new("actor id", text, "a whole number"))
    }
}

/// Where an actor stands in the supervision tree, as `node/upstreams/everything`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorPath(std::sync::Arc<str>);

impl ActorPath {
    /// The path with this text. Empty segments are dropped, so the path is always well formed.
    pub fn new(text: impl AsRef<str>) -> Self {
        let segments: Vec<&str> = text
            .as_ref()
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        Self(segments.join("/").into())
    }

    /// The path of a child of this actor.
    pub fn child(&self, name: impl fmt::Display) -> Self {
        Self::new(format!("{}/{name}", self.0))
    }

    /// The path of the supervisor, or nothing for the root.
    pub fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.into()))
    }

    /// The last segment.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The whole path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ActorPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ActorPath {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let path = Self::new(text);
        if path.0.is_empty() {
            return Err(InvalidId::new(
                "actor path",
                text,
                "segments joined by slashes, as node/registry",
            ));
        }
        Ok(path)
    }
}

travels_as_string!(ActorPath);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_correlation_id_reads_what_it_writes_and_nothing_looser() {
        let id = CorrelationId(0xfeed);
        assert_eq!(id.to_string().parse::<CorrelationId>().unwrap(), id);
        for wrong in [
            "",
            "feed",
            "+000000000000000000000000000feed",
            &"0".repeat(32),
            &"F".repeat(32),
        ] {
            assert!(wrong.parse::<CorrelationId>().is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn an_actor_path_knows_its_family() {
        let path = ActorPath::new("node//upstreams/").child("everything");
        assert_eq!(path.as_str(), "node/upstreams/everything");
        assert_eq!(path.name(), "everything");
        assert_eq!(path.parent().unwrap().as_str(), "node/upstreams");
        assert_eq!(ActorPath::new("node").parent(), None);
    }
}
