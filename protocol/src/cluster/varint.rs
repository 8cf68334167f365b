//! Integers that take as many bytes as they need: seven bits in each, the lowest first, the eighth says that more follow
//! (Protocol Buffers, "Base 128 Varints").

/// Why bytes do not begin with an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VarintError {
    /// They end in its middle.
    Cut,
    /// It has more than 64 bits.
    TooLarge,
}

/// Appends an integer.
pub fn put(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes an integer takes: 1 to 10.
pub fn encoded_bytes(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

/// The integer with which bytes begin, and what follows it.
///
/// # Errors
/// [`VarintError`].
pub fn read(bytes: &[u8]) -> Result<(u64, &[u8]), VarintError> {
    let mut value = 0;
    let mut rest = bytes;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, following) = rest.split_first().ok_or(VarintError::Cut)?;
        rest = following;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(VarintError::TooLarge);
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok((value, rest));
        }
    }
    Err(VarintError::TooLarge)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_put_is_read_and_takes_what_was_said(value: u64, after: Vec<u8>) {
            let mut bytes = Vec::new();
            put(value, &mut bytes);
            prop_assert_eq!(bytes.len(), encoded_bytes(value));
            bytes.extend_from_slice(&after);
            prop_assert_eq!(read(&bytes).unwrap(), (value, after.as_slice()));
        }
    }

    #[test]
    fn the_largest_is_read_and_what_is_cut_or_larger_is_refused() {
        let mut largest = Vec::new();
        put(u64::MAX, &mut largest);
        assert_eq!(read(&largest), Ok((u64::MAX, &[][..])));
        assert_eq!(read(&largest[..9]), Err(VarintError::Cut));
        largest[9] = 2;
        assert_eq!(read(&largest), Err(VarintError::TooLarge));
        assert_eq!(read(&[0x80; 11]), Err(VarintError::TooLarge));
    }
}
