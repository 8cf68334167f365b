//! The binary encoding of messages between nodes: the one place that uses bincode.
//!
//! bincode 2.0.1 is no longer maintained (RUSTSEC-2025-0141); keeping it behind these two functions makes it
//! replaceable.

use serde::de::{DeserializeOwned, Error as _};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most that one message between nodes may take, in bytes. Larger data travels as blobs (see ARCHITECTURE.md).
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Why a message could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It is larger than [`MESSAGE_BYTES_MAX`].
    #[error("message of {bytes} bytes is over the limit of {MESSAGE_BYTES_MAX}: send large data as a blob")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Its type has no binary form.
    #[error("cannot encode message: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    /// The bytes are not such a message.
    #[error("cannot decode message: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    /// There is more than one message in the bytes.
    #[error("{bytes} bytes left over after the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
}

fn configuration() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MESSAGE_BYTES_MAX>()
}

/// The bytes of a message.
///
/// # Errors
/// [`WireError::TooLarge`] above [`MESSAGE_BYTES_MAX`], [`WireError::Encode`] for types without a binary form.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let bytes = bincode::serde::encode_to_vec(message, configuration())?;
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLarge { bytes: bytes.len() });
    }
    Ok(bytes)
}

/// The message in these bytes, which must hold nothing else.
///
/// # Errors
/// [`WireError::Decode`] for other bytes, [`WireError::Trailing`] for more bytes than one message has.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WireError> {
    let (message, read) = bincode::serde::decode_from_slice(bytes, configuration())?;
    match bytes.len() - read {
        0 => Ok(message),
        left => Err(WireError::Trailing { bytes: left }),
    }
}

/// A value that travels as its JSON text within a binary message: for types that leave members out or are told apart by
/// a member, which a binary form cannot do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AsJson<T>(pub T);

impl<T: Serialize> Serialize for AsJson<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = serde_json::to_string(&self.0).map_err(S::Error::custom)?;
        serializer.serialize_str(&text)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for AsJson<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        serde_json::from_str(&text).map(Self).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(message: (u64, String, Vec<Option<i32>>)) {
            prop_assert_eq!(decode::<(u64, String, Vec<Option<i32>>)>(&encode(&message).unwrap()).unwrap(), message);
        }

        #[test]
        fn foreign_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode::<(u64, String, Vec<Option<i32>>)>(&bytes);
        }
    }

    #[test]
    fn a_message_over_the_limit_is_refused() {
        assert!(matches!(
            encode(&vec![7u8; MESSAGE_BYTES_MAX + 1]),
            Err(WireError::TooLarge { .. })
        ));
    }

    #[test]
    fn what_leaves_members_out_travels_as_json() {
        let anonymous = AsJson(crate::access::Principal::anonymous());
        let bytes = encode(&(anonymous.clone(), 7u8)).unwrap();
        assert_eq!(decode::<(AsJson<_>, u8)>(&bytes).unwrap(), (anonymous, 7));
    }

    #[test]
    fn bytes_after_the_message_are_refused() {
        let mut bytes = encode(&7u64).unwrap();
        bytes.push(0);
        assert!(matches!(
            decode::<u64>(&bytes),
            Err(WireError::Trailing { bytes: 1 })
        ));
    }
}
