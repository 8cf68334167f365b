//! Large frames put together again from their pieces.

use bytes::Bytes;
use troupe_protocol::cluster::frame::FRAME_OVERHEAD_BYTES_MAX;
use troupe_protocol::wire::MESSAGE_BYTES_MAX;

/// The large frame under way from a peer: at most one.
#[derive(Debug, Default)]
pub(super) struct Assembly(Option<Partial>);

#[derive(Debug)]
struct Partial {
    total: usize,
    bytes: Vec<u8>,
}

/// Pieces that make no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum AssemblyError {
    #[error("a large frame of {0} bytes is over the limit")]
    TooLarge(usize),
    #[error("a large frame begins within another")]
    Unfinished,
    #[error("a piece belongs to no frame, or has more bytes than are missing")]
    Stray,
}

impl Assembly {
    /// The first piece of a frame; the frame if it is whole.
    pub(super) fn begin(&mut self, total: u32, piece: &[u8]) -> Result<Option<Bytes>, AssemblyError> {
        let total = total as usize;
        if self.0.is_some() {
            return Err(AssemblyError::Unfinished);
        }
        if total > MESSAGE_BYTES_MAX + FRAME_OVERHEAD_BYTES_MAX {
            return Err(AssemblyError::TooLarge(total));
        }
        // Room is made as pieces come: a promise of much costs the peer as much.
        self.0 = Some(Partial {
            total,
            bytes: Vec::with_capacity(total.min(2 * piece.len())),
        });
        self.add(piece)
    }

    /// A further piece; the frame if it is whole.
    pub(super) fn add(&mut self, piece: &[u8]) -> Result<Option<Bytes>, AssemblyError> {
        let partial = self.0.as_mut().ok_or(AssemblyError::Stray)?;
        if partial.bytes.len() + piece.len() > partial.total {
            return Err(AssemblyError::Stray);
        }
        partial.bytes.extend_from_slice(piece);
        let is_whole = partial.bytes.len() == partial.total;
        Ok(self
            .0
            .take_if(|_| is_whole)
            .map(|partial| Bytes::from(partial.bytes)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pieces_make_a_frame() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.begin(5, b"ab").unwrap(), None);
        assert_eq!(assembly.add(b"cd").unwrap(), None);
        assert_eq!(assembly.add(b"e").unwrap().as_deref(), Some(&b"abcde"[..]));
        assert_eq!(assembly.begin(1, b"x").unwrap().as_deref(), Some(&b"x"[..]));
    }

    #[test]
    fn what_makes_no_frame_is_refused() {
        let mut assembly = Assembly::default();
        assert_eq!(assembly.add(b"x"), Err(AssemblyError::Stray));
        let too_large = u32::MAX;
        assert_eq!(
            assembly.begin(too_large, b"x"),
            Err(AssemblyError::TooLarge(too_large as usize))
        );
        assert_eq!(assembly.begin(3, b"x").unwrap(), None);
        assert_eq!(assembly.begin(3, b"x"), Err(AssemblyError::Unfinished));
        assert_eq!(assembly.add(b"xyz"), Err(AssemblyError::Stray));
    }
}
