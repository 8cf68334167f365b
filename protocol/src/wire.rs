//! The binary encoding of messages between nodes: the one place that uses bincode.
//!
//! bincode 2.0.1 is no longer maintained (RUSTSEC-2025-0141); keeping it behind these two functions makes it
//! replaceable.

use serde::Serialize;
use serde::de::DeserializeOwned;

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
    fn bytes_after_the_message_are_refused() {
        let mut bytes = encode(&7u64).unwrap();
        bytes.push(0);
        assert!(matches!(
            decode::<u64>(&bytes),
            Err(WireError::Trailing { bytes: 1 })
        ));
    }
}
