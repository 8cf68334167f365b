//! The bytes of a record: a header with schema version and checksum, then the JSON payload.
//!
//! ```text
//! byte 0   1   2         3..5             5..9              9..
//!      'T' 'R' 1         schema version   CRC-32            payload
//!              envelope  u16, little end  u32, little end   JSON
//! ```
//! The checksum (CRC-32/ISO-HDLC) covers the tree's name, the key, the schema version and the payload; so it also tells a
//! record that turned up in another place. It finds every burst of up to 32 bits and every 3 flipped bits up to 11 KiB
//! (Koopman, "32-bit cyclic redundancy codes for Internet applications", 2002). It is no protection against intent.

use thiserror::Error;

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 9;

const MAGIC: [u8; 2] = *b"TR";
const ENVELOPE_VERSION: u8 = 1;

/// What is wrong with a record's envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum EnvelopeError {
    #[error("it is {0} bytes long, shorter than a record's header")]
    TooShort(usize),
    #[error("it does not begin as a record does")]
    NoRecord,
    #[error("its envelope has version {0}, this troupe knows version {ENVELOPE_VERSION}")]
    UnknownVersion(u8),
    #[error("its checksum is {found:08x} where {written:08x} was written")]
    Checksum { written: u32, found: u32 },
}

/// Where a record is: part of what the checksum covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) tree: &'a str,
    pub(super) key: &'a [u8],
}

/// A record whose checksum is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opened<'a> {
    pub(super) schema: u16,
    pub(super) payload: &'a [u8],
}

/// Wraps a payload.
pub(super) fn seal(place: Place<'_>, schema: u16, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER_BYTES + payload.len());
    record.extend_from_slice(&MAGIC);
    record.push(ENVELOPE_VERSION);
    record.extend_from_slice(&schema.to_le_bytes());
    record.extend_from_slice(&checksum(place, schema, payload).to_le_bytes());
    record.extend_from_slice(payload);
    record
}

/// Checks a record and unwraps it.
pub(super) fn open<'a>(place: Place<'_>, record: &'a [u8]) -> Result<Opened<'a>, EnvelopeError> {
    let Some((&[m0, m1, version, s0, s1, c0, c1, c2, c3], payload)) =
        record.split_first_chunk::<HEADER_BYTES>()
    else {
        return Err(EnvelopeError::TooShort(record.len()));
    };
    if [m0, m1] != MAGIC {
        return Err(EnvelopeError::NoRecord);
    }
    if version != ENVELOPE_VERSION {
        return Err(EnvelopeError::UnknownVersion(version));
    }
    let schema = u16::from_le_bytes([s0, s1]);
    let written = u32::from_le_bytes([c0, c1, c2, c3]);
    let found = checksum(place, schema, payload);
    if written != found {
        return Err(EnvelopeError::Checksum { written, found });
    }
    Ok(Opened { schema, payload })
}

fn checksum(place: Place<'_>, schema: u16, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    // A length before each part, so that no two places run into the same bytes.
    hasher.update(&(place.tree.len() as u64).to_le_bytes());
    hasher.update(place.tree.as_bytes());
    hasher.update(&(place.key.len() as u64).to_le_bytes());
    hasher.update(place.key);
    hasher.update(&schema.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const PLACE: Place<'static> = Place {
        tree: "servers",
        key: b"time",
    };

    #[test]
    fn a_record_opens_to_what_was_sealed() {
        let record = seal(PLACE, 3, br#"{"a":1}"#);
        assert_eq!(
            open(PLACE, &record).unwrap(),
            Opened {
                schema: 3,
                payload: br#"{"a":1}"#
            }
        );
        insta::assert_snapshot!(hex::encode(&record));
    }

    #[test]
    fn a_record_in_another_place_is_refused() {
        let record = seal(PLACE, 1, b"{}");
        for place in [
            Place {
                tree: "server",
                key: b"stime",
            },
            Place {
                tree: "servers",
                key: b"tim",
            },
        ] {
            assert!(matches!(
                open(place, &record),
                Err(EnvelopeError::Checksum { .. })
            ));
        }
    }

    #[test]
    fn every_single_flipped_bit_is_found() {
        let record = seal(PLACE, 1, br#"{"name":"time","enabled":true}"#);
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open(PLACE, &damaged).is_err(), "bit {bit} was flipped unnoticed");
        }
    }

    proptest! {
        #[test]
        fn up_to_three_flipped_bits_are_found(
            payload in proptest::collection::vec(any::<u8>(), 0..8192),
            schema in any::<u16>(),
            flips in proptest::collection::vec(any::<proptest::sample::Index>(), 1..=3),
        ) {
            let record = seal(PLACE, schema, &payload);
            let bits: std::collections::BTreeSet<usize> = flips.iter().map(|flip| flip.index(record.len() * 8)).collect();
            let mut damaged = record.clone();
            for bit in bits {
                damaged[bit / 8] ^= 1 << (bit % 8);
            }
            prop_assert!(open(PLACE, &damaged).is_err());
        }

        #[test]
        fn any_cut_or_padding_is_found(payload in proptest::collection::vec(any::<u8>(), 1..512), cut in any::<proptest::sample::Index>()) {
            let record = seal(PLACE, 1, &payload);
            prop_assert!(open(PLACE, &record[..cut.index(record.len())]).is_err());
            prop_assert!(open(PLACE, &[record.as_slice(), b"\0"].concat()).is_err());
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = open(PLACE, &bytes);
        }

        #[test]
        fn what_is_sealed_opens(tree in "[a-z]{1,20}", key in proptest::collection::vec(any::<u8>(), 1..64), schema in any::<u16>(), payload in proptest::collection::vec(any::<u8>(), 0..512)) {
            let place = Place { tree: &tree, key: &key };
            let record = seal(place, schema, &payload);
            prop_assert_eq!(open(place, &record).unwrap(), Opened { schema, payload: &payload });
        }
    }
}
