//! The random texts that prove something: keys, login codes, session tokens. Only their hashes are kept.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::AccessError;

const RANDOM_BYTES: usize = 32;
const RANDOM_CHARS: usize = 43;
/// Characters of the random part that a hint shows: 24 of 256 bits.
const HINT_CHARS: usize = 4;

/// What a token proves. Its prefix tells people and secret scanners what they have found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Key,
    LoginCode,
    Session,
}

impl TokenKind {
    fn prefix(self) -> &'static str {
        match self {
            Self::Key => "trp_",
            Self::LoginCode => "trl_",
            Self::Session => "trs_",
        }
    }
}

/// A token in clear: shown once, then only its hash remains.
pub(super) struct Token(SecretString);

impl Token {
    pub(super) fn generate(kind: TokenKind) -> Result<Self, AccessError> {
        let mut bytes = Zeroizing::new([0; RANDOM_BYTES]);
        getrandom::fill(bytes.as_mut_slice()).map_err(|error| AccessError::Random {
            reason: error.to_string(),
        })?;
        let random = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
        Ok(Self(format!("{}{}", kind.prefix(), *random).into()))
    }

    /// A token that was written down, if it has the form of one.
    pub(super) fn parse(kind: TokenKind, text: &str) -> Option<Self> {
        let random = text.strip_prefix(kind.prefix())?;
        let is_random =
            random.len() == RANDOM_CHARS && URL_SAFE_NO_PAD.decode(random).map(Zeroizing::new).is_ok();
        is_random.then(|| Self(text.into()))
    }

    pub(super) fn hash(&self) -> TokenHash {
        TokenHash::of(self.0.expose_secret())
    }

    /// Its first characters and no more.
    pub(super) fn hint(&self) -> String {
        let text = self.0.expose_secret();
        let shown: String = text
            .chars()
            .take(TokenKind::Key.prefix().len() + HINT_CHARS)
            .collect();
        format!("{shown}…")
    }

    pub(super) fn into_secret(self) -> SecretString {
        self.0
    }
}

/// The SHA-256 of a token. A token has 256 random bits, so it needs no salt and no slow hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of what was presented, whatever it is.
    pub(super) fn of(presented: &str) -> Self {
        Self(Sha256::digest(presented.as_bytes()).into())
    }

    /// In a time that does not depend on where they differ.
    pub(super) fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    pub(super) fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    pub(super) fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).ok_or_else(|| serde::de::Error::custom("expected 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_has_its_prefix_256_random_bits_and_a_short_hint() {
        let token = Token::generate(TokenKind::Key).unwrap();
        let hint = token.hint();
        let text = token.into_secret();
        let text = text.expose_secret();
        assert!(text.starts_with("trp_") && text.len() == 47, "{text}");
        assert_eq!(hint.chars().count(), 9);
        assert!(Token::parse(TokenKind::Key, text).is_some());
        assert!(Token::parse(TokenKind::Session, text).is_none());
        assert!(Token::parse(TokenKind::Key, &text[..46]).is_none());
        assert_ne!(
            Token::generate(TokenKind::Key).unwrap().hash(),
            TokenHash::of(text)
        );
    }
}
