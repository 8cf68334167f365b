//! The slug by which everything here calls a server.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::travels_as_string;

/// The most characters of a [`ServerName`].
pub const SERVER_NAME_CHARS_MAX: usize = 63;

/// The name of the server that is part of every node.
pub const BUILTIN_SERVER: &str = "troupe";

/// A server's name on this cluster: `^[a-z0-9][a-z0-9._-]{0,62}$`, without `__`.
///
/// Unique, part of URLs, and the prefix of its tools (`name__tool`), so two underscores in a row are not allowed.
/// Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName(Arc<str>);

/// Text that cannot name a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a server name: {0:?} (expected 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit, without \"__\")"
)]
pub struct InvalidServerName(pub String);

impl crate::error::Coded for InvalidServerName {
    fn code(&self) -> crate::error::Code {
        crate::error::Code::InvalidServerName
    }
}

impl ServerName {
    /// The name in these characters.
    ///
    /// # Errors
    /// [`InvalidServerName`] with the text, cut to 80 characters.
    pub fn new(text: &str) -> Result<Self, InvalidServerName> {
        let first_fits = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let fits = first_fits
            && text.len() <= SERVER_NAME_CHARS_MAX
            && text.bytes().all(is_name_byte)
            && !text.contains("__");
        if !fits {
            return Err(InvalidServerName(text.chars().take(80).collect()));
        }
        Ok(Self(text.into()))
    }

    /// The nearest name to any text (`My Server!` becomes `my-server`), if anything of it can be kept.
    pub fn from_any(text: &str) -> Option<Self> {
        let mut slug = String::with_capacity(text.len().min(SERVER_NAME_CHARS_MAX));
        for character in text.chars().flat_map(char::to_lowercase) {
            let next = if character.is_ascii() && is_name_byte(character as u8) {
                character
            } else {
                '-'
            };
            let repeats_separator = matches!(next, '-' | '_') && slug.ends_with(next);
            let begins_with_punctuation = slug.is_empty() && !next.is_ascii_alphanumeric();
            if !repeats_separator && !begins_with_punctuation && slug.len() < SERVER_NAME_CHARS_MAX {
                slug.push(next);
            }
        }
        Self::new(slug.trim_end_matches(['-', '_', '.'])).ok()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the server that is part of every node.
    pub fn is_builtin(&self) -> bool {
        self.as_str() == BUILTIN_SERVER
    }
}

fn is_name_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServerName {
    type Err = InvalidServerName;
    fn from_str(text: &str) -> Result<Self, InvalidServerName> {
        Self::new(text)
    }
}

impl AsRef<str> for ServerName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ServerName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

travels_as_string!(ServerName);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_name_is_a_slug() {
        for right in ["a", "time", "0", "my-server.v2_x", &"x".repeat(63)] {
            assert_eq!(ServerName::new(right).unwrap().as_str(), right);
        }
        for wrong in ["", "-a", ".a", "A", "a b", "a/b", "ä", "a__b", &"x".repeat(64)] {
            assert!(ServerName::new(wrong).is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn any_text_becomes_the_nearest_name() {
        let nearest = |text: &str| ServerName::from_any(text).map(|name| name.to_string());
        assert_eq!(nearest("My Server!").as_deref(), Some("my-server"));
        assert_eq!(
            nearest("@upstash/context7-mcp").as_deref(),
            Some("upstash-context7-mcp")
        );
        assert_eq!(nearest("a__b").as_deref(), Some("a_b"));
        assert_eq!(nearest(&"x".repeat(99)).unwrap().len(), 63);
        assert_eq!(nearest("天气"), None);
    }
}
