//! The name of a legacy session. Who knows it, and has the key of its owner, can act in the session.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// A session's unguessable name, as it stands in `Mcp-Session-Id`: 32 characters of URL-safe base64.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Arc<str>);

impl SessionId {
    const BYTES: usize = 24;

    /// A new name from the operating system's random numbers.
    ///
    /// # Errors
    /// If the operating system has none.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; Self::BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(URL_SAFE_NO_PAD.encode(bytes).into()))
    }

    /// The name as it travels.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name that was made before.
    pub(super) fn known(text: &str) -> Self {
        Self(text.into())
    }

    #[cfg(test)]
    pub(super) fn for_test(text: &str) -> Self {
        Self(text.into())
    }
}

impl std::borrow::Borrow<str> for SessionId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Who knows the whole name can act in the session, so only its beginning is shown.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({}…)", self.0.get(..6).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_long_random_and_not_shown_whole() {
        let (one, other) = (SessionId::random().unwrap(), SessionId::random().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.as_str().len(), 32);
        assert!(!format!("{one:?}").contains(one.as_str()));
    }
}
