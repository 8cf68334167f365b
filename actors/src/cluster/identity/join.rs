//! What an operator carries from a member to a newcomer.
//!
//! A join string says where members listen, by which authority they are known, and a token that works once. It is
//! base64url without padding of: version (1 byte), expiry (8 bytes, seconds since 1970), fingerprint (32), token (32),
//! addresses (each a length in 1 byte and the text), and the first 4 bytes of the SHA-256 of all that, which tells a
//! string that was cut or mistyped.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use troupe_protocol::error::{Code, Coded};
use zeroize::Zeroizing;

/// How long an invitation is valid.
pub const INVITATION_VALID_FOR: Duration = Duration::from_secs(3600);

const VERSION: u8 = 1;
const ADDRESSES_MAX: usize = 16;
const CHECK_BYTES: usize = 4;
const SECRET_BYTES: usize = 32;

/// An invitation. Whoever has it may join once: it has no `Debug`, and [`Display`](fmt::Display) is the string itself.
#[derive(Clone)]
pub struct JoinString {
    addresses: Vec<String>,
    fingerprint: [u8; SECRET_BYTES],
    token: Zeroizing<[u8; SECRET_BYTES]>,
    valid_until_s: i64,
}

/// The SHA-256 of an invitation's token: what the cluster keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash([u8; SECRET_BYTES]);

/// What is wrong with a join string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinStringError {
    /// Other text.
    #[error(
        "this is not a join string: expected the text that `troupe node invite` prints on a member of the cluster"
    )]
    Foreign,
    /// Cut or mistyped.
    #[error("the join string is damaged or cut: copy it whole, on one line")]
    Damaged,
    /// Made by a later version.
    #[error(
        "the join string has version {0}, this troupe knows version {VERSION}: use the same version of troupe"
    )]
    Version(u8),
    /// Too old.
    #[error("the join string expired {minutes} min ago: make a new one with `troupe node invite`")]
    Expired {
        /// How long ago.
        minutes: i64,
    },
    /// Cannot be written.
    #[error("an invitation has 1 to {ADDRESSES_MAX} addresses of up to 255 bytes, not {0}")]
    Addresses(usize),
}

impl Coded for JoinStringError {
    fn code(&self) -> Code {
        match self {
            Self::Foreign | Self::Damaged | Self::Version(_) | Self::Expired { .. } => Code::JoinRefused,
            Self::Addresses(_) => Code::InvalidField,
        }
    }
}

impl JoinString {
    pub(super) fn new(
        addresses: Vec<String>,
        fingerprint: [u8; SECRET_BYTES],
        token: [u8; SECRET_BYTES],
        now: jiff::Timestamp,
        valid_for: Duration,
    ) -> Result<Self, JoinStringError> {
        let are_short = addresses
            .iter()
            .all(|address| u8::try_from(address.len()).is_ok());
        if addresses.is_empty() || addresses.len() > ADDRESSES_MAX || !are_short {
            return Err(JoinStringError::Addresses(addresses.len()));
        }
        let valid_for_s = i64::try_from(valid_for.as_secs()).unwrap_or(i64::MAX);
        Ok(Self {
            addresses,
            fingerprint,
            token: Zeroizing::new(token),
            valid_until_s: now.as_second().saturating_add(valid_for_s),
        })
    }

    /// Where members listen, as `host:port`.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The SHA-256 of the authority's certificate.
    pub(super) fn fingerprint(&self) -> &[u8; SECRET_BYTES] {
        &self.fingerprint
    }

    pub(super) fn token(&self) -> &[u8; SECRET_BYTES] {
        &self.token
    }

    /// What the cluster keeps of the token.
    pub fn token_hash(&self) -> TokenHash {
        TokenHash::of(self.token.as_slice())
    }

    /// When it expires.
    pub fn valid_until(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_second(self.valid_until_s).unwrap_or(jiff::Timestamp::MAX)
    }

    /// Refuses one that is too old.
    ///
    /// # Errors
    /// [`JoinStringError::Expired`].
    pub fn check_time(&self, now: jiff::Timestamp) -> Result<(), JoinStringError> {
        match now.as_second() - self.valid_until_s {
            late_s if late_s > 0 => Err(JoinStringError::Expired { minutes: late_s / 60 }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for JoinString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Zeroizing::new(vec![VERSION]);
        bytes.extend_from_slice(&self.valid_until_s.to_be_bytes());
        bytes.extend_from_slice(&self.fingerprint);
        bytes.extend_from_slice(self.token.as_slice());
        for address in &self.addresses {
            bytes.push(u8::try_from(address.len()).unwrap_or(u8::MAX));
            bytes.extend_from_slice(address.as_bytes());
        }
        let check = Sha256::digest(bytes.as_slice());
        bytes.extend_from_slice(&check[..CHECK_BYTES]);
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes.as_slice()))
    }
}

impl FromStr for JoinString {
    type Err = JoinStringError;

    fn from_str(text: &str) -> Result<Self, JoinStringError> {
        let bytes = URL_SAFE_NO_PAD
            .decode(text.trim())
            .map(Zeroizing::new)
            .map_err(|_| JoinStringError::Foreign)?;
        let (content, check) = bytes
            .split_last_chunk::<CHECK_BYTES>()
            .ok_or(JoinStringError::Foreign)?;
        let is_whole = Sha256::digest(content)[..CHECK_BYTES] == check[..];
        let (version, rest) = content.split_first().ok_or(JoinStringError::Foreign)?;
        if !is_whole {
            // The first byte tells a cut join string from other text, of which one in 256 begins alike.
            return Err(match *version {
                VERSION => JoinStringError::Damaged,
                _ => JoinStringError::Foreign,
            });
        }
        if *version != VERSION {
            return Err(JoinStringError::Version(*version));
        }
        Self::read(rest).ok_or(JoinStringError::Damaged)
    }
}

impl JoinString {
    fn read(content: &[u8]) -> Option<Self> {
        let (valid_until_s, rest) = content.split_first_chunk()?;
        let (fingerprint, rest) = rest.split_first_chunk()?;
        let (token, mut rest) = rest.split_first_chunk()?;
        let mut addresses = Vec::new();
        while let Some((length, after)) = rest.split_first() {
            let (address, after) = after.split_at_checked(usize::from(*length))?;
            addresses.push(std::str::from_utf8(address).ok()?.to_owned());
            rest = after;
        }
        let is_counted = !addresses.is_empty() && addresses.len() <= ADDRESSES_MAX;
        is_counted.then_some(Self {
            addresses,
            fingerprint: *fingerprint,
            token: Zeroizing::new(*token),
            valid_until_s: i64::from_be_bytes(*valid_until_s),
        })
    }
}

impl TokenHash {
    pub(super) fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for TokenHash {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let bytes = hex::decode(&text).map_err(|error| error.to_string())?;
        let bytes = bytes.try_into();
        bytes
            .map(Self)
            .map_err(|_| format!("a token's hash has {SECRET_BYTES} bytes in hex"))
    }
}
