//! What waits to be sent to a peer, and in which order it goes.
//!
//! Small frames gather in one batch while the one before is written, and go ahead of large ones. Large frames are cut into
//! pieces; only so many bytes of pieces are under way as the peer takes in about a round trip, so that a small frame never
//! finds more than that before it: neither here, nor in the socket's buffer, nor at the peer.
//!
//! Frames of one question go in the order in which they were put here if they are of one class; the classes overtake
//! each other.

use std::collections::VecDeque;

use bytes::Bytes;
use troupe_protocol::cluster::frame::{BATCH_HEAD_BYTES_MAX, BatchHead, Frame};

use super::settings::{BULK_FLIGHT_BYTES_MIN, PIECE_BYTES_MAX};

/// Small bytes taken that are told in a batch of their own.
const SMALL_TAKEN_TOLD: u32 = 32 * 1024;
/// Large bytes taken that are told in a batch of their own: twice in the smallest flight.
const BULK_TAKEN_TOLD: u32 = PIECE_BYTES_MAX as u32;

/// Answers that gather while a batch is being taken, in bytes.
const CORKED_BYTES_MAX: usize = 8 * 1024;

/// What waits to be sent to a peer.
#[derive(Debug)]
pub(super) struct Outbox {
    /// By which the peer knows the link.
    key: u64,
    /// Room for the head of a batch, and the small frames of the next one.
    small: Vec<u8>,
    large: VecDeque<Large>,
    /// More is about to be put here.
    is_corked: bool,
    bulk_flight_bytes: usize,
    /// What we took and have not told the peer yet.
    small_bytes_taken: u32,
    bulk_bytes_taken: u32,
}

/// A large frame: what precedes its payload, the payload, and how much of both is sent.
#[derive(Debug)]
struct Large {
    head: Vec<u8>,
    payload: Bytes,
    sent: usize,
}

impl Large {
    fn total(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    fn next_piece_bytes(&self) -> usize {
        PIECE_BYTES_MAX.min(self.total() - self.sent)
    }

    /// The next piece; it may lie partly in the head.
    fn next_piece(&mut self) -> Vec<u8> {
        let until = self.sent + self.next_piece_bytes();
        let in_head = self.sent.min(self.head.len())..until.min(self.head.len());
        let in_payload = self.sent.saturating_sub(self.head.len())..until.saturating_sub(self.head.len());
        let mut piece = Vec::with_capacity(until - self.sent);
        piece.extend_from_slice(&self.head[in_head]);
        piece.extend_from_slice(&self.payload[in_payload]);
        self.sent = until;
        piece
    }
}

/// A batch, with some room before its head.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    begin: usize,
}

impl std::ops::Deref for Batch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }
}

impl Outbox {
    pub(super) fn new(key: u64) -> Self {
        Self {
            key,
            small: vec![0; BATCH_HEAD_BYTES_MAX],
            large: VecDeque::new(),
            is_corked: false,
            bulk_flight_bytes: 0,
            small_bytes_taken: 0,
            bulk_bytes_taken: 0,
        }
    }

    /// A frame that goes as soon as possible.
    pub(super) fn push_small(&mut self, frame: &Frame<'_>) {
        frame.put(&mut self.small);
    }

    /// A frame that goes in pieces, after those before it. `frame` is without its payload.
    pub(super) fn push_large(&mut self, frame: &Frame<'_>, payload: Bytes) {
        let mut head = Vec::with_capacity(64);
        frame.put_head(&mut head, payload.len());
        self.large.push_back(Large {
            head,
            payload,
            sent: 0,
        });
    }

    /// A batch of the peer is being taken: the answers to it go together, unless they become many.
    pub(super) fn cork(&mut self) {
        self.is_corked = true;
    }

    /// So many bytes of the peer's frames were taken: to be told. Whatever was put here meanwhile may go.
    pub(super) fn took(&mut self, small_bytes: u32, bulk_bytes: u32) {
        self.is_corked = false;
        self.small_bytes_taken = self.small_bytes_taken.saturating_add(small_bytes);
        self.bulk_bytes_taken = self.bulk_bytes_taken.saturating_add(bulk_bytes);
    }

    /// The peer has taken so many bytes of pieces.
    pub(super) fn peer_took_bulk(&mut self, bytes: u32) {
        self.bulk_flight_bytes = self.bulk_flight_bytes.saturating_sub(bytes as usize);
    }

    /// The next batch for the stream, if there is something to send. Asked for when the one before is written, so that
    /// what comes meanwhile gathers.
    pub(super) fn next_batch(&mut self, bulk_flight_bytes_max: usize) -> Option<Batch> {
        if self.is_corked && self.small.len() < CORKED_BYTES_MAX {
            return None;
        }
        let has_small = self.small.len() > BATCH_HEAD_BYTES_MAX;
        if !has_small && !self.put_piece(bulk_flight_bytes_max) && !self.has_much_to_tell() {
            return None;
        }
        let next = Vec::with_capacity(self.small.len().clamp(256, PIECE_BYTES_MAX));
        let mut bytes = std::mem::replace(&mut self.small, next);
        self.small.resize(BATCH_HEAD_BYTES_MAX, 0);
        let head = BatchHead {
            key: self.key,
            small_bytes_taken: std::mem::take(&mut self.small_bytes_taken),
            bulk_bytes_taken: std::mem::take(&mut self.bulk_bytes_taken),
        };
        let begin = head.put_before(&mut bytes);
        Some(Batch { bytes, begin })
    }

    /// Puts the next piece into the batch; alone, so that no small frame waits for its transfer. False if none may go.
    fn put_piece(&mut self, bulk_flight_bytes_max: usize) -> bool {
        let flight_bytes_max = bulk_flight_bytes_max.max(BULK_FLIGHT_BYTES_MIN);
        let flight_bytes = self.bulk_flight_bytes;
        let may_go = |large: &&mut Large| {
            flight_bytes == 0 || flight_bytes + large.next_piece_bytes() <= flight_bytes_max
        };
        let Some(large) = self.large.front_mut().filter(may_go) else {
            return false;
        };
        let is_first = large.sent == 0;
        let total_bytes = u32::try_from(large.total()).unwrap_or(u32::MAX);
        let piece = large.next_piece();
        if large.sent == large.total() {
            self.large.pop_front();
        }
        self.bulk_flight_bytes += piece.len();
        let frame = match is_first {
            true => Frame::Begin {
                total_bytes,
                piece: &piece,
            },
            false => Frame::More { piece: &piece },
        };
        frame.put(&mut self.small);
        true
    }

    fn has_much_to_tell(&self) -> bool {
        self.small_bytes_taken >= SMALL_TAKEN_TOLD || self.bulk_bytes_taken >= BULK_TAKEN_TOLD
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn cancel(number: u64) -> Frame<'static> {
        Frame::Cancel { number }
    }

    fn large(outbox: &mut Outbox, number: u64, payload_bytes: usize) {
        let frame = Frame::Answer { number, payload: &[] };
        outbox.push_large(&frame, Bytes::from(vec![7; payload_bytes]));
    }

    /// What is in a batch, as text; and its head.
    fn read(batch: &[u8]) -> (BatchHead, Vec<String>) {
        let (head, frames) = BatchHead::split(batch).unwrap();
        let names = frames.map(|frame| match frame.unwrap() {
            Frame::Cancel { number } => format!("small {number}"),
            Frame::Begin { piece, .. } => format!("begin {}", piece.len()),
            Frame::More { piece } => format!("more {}", piece.len()),
            other => format!("{other:?}"),
        });
        (head, names.collect())
    }

    fn next(outbox: &mut Outbox) -> Option<Vec<String>> {
        let batch = outbox.next_batch(0)?;
        Some(read(&batch).1)
    }

    #[test]
    fn small_frames_gather_until_they_are_taken() {
        let mut outbox = Outbox::new(5);
        for number in 2..5 {
            outbox.push_small(&cancel(number));
        }
        let (head, frames) = read(&outbox.next_batch(0).unwrap());
        assert_eq!(head.key, 5);
        assert_eq!(frames, ["small 2", "small 3", "small 4"]);
        assert_eq!(outbox.next_batch(0), None);
    }

    #[test]
    fn answers_to_a_batch_go_together_unless_they_become_many() {
        let mut outbox = Outbox::new(1);
        outbox.cork();
        outbox.push_small(&cancel(1));
        assert_eq!(next(&mut outbox), None);
        outbox.took(0, 0);
        assert_eq!(next(&mut outbox).unwrap(), ["small 1"]);
        outbox.cork();
        for number in 0..CORKED_BYTES_MAX as u64 / 3 {
            outbox.push_small(&cancel(number));
        }
        assert!(next(&mut outbox).is_some());
    }

    #[test]
    fn a_small_frame_goes_between_the_pieces_of_a_large_one() {
        let mut outbox = Outbox::new(1);
        large(&mut outbox, 1, PIECE_BYTES_MAX + 100);
        assert_eq!(next(&mut outbox).unwrap(), [format!("begin {PIECE_BYTES_MAX}")]);
        outbox.push_small(&cancel(2));
        assert_eq!(next(&mut outbox).unwrap(), ["small 2"]);
        // Four bytes of head came with the first piece.
        assert_eq!(next(&mut outbox).unwrap(), ["more 104"]);
        assert_eq!(next(&mut outbox), None);
    }

    #[test]
    fn only_so_many_bytes_of_pieces_are_under_way() {
        let mut outbox = Outbox::new(1);
        large(&mut outbox, 1, 10 * BULK_FLIGHT_BYTES_MIN);
        let sent = std::iter::from_fn(|| next(&mut outbox)).count();
        assert_eq!(sent, BULK_FLIGHT_BYTES_MIN / PIECE_BYTES_MAX);
        outbox.push_small(&cancel(2));
        assert_eq!(
            next(&mut outbox).unwrap(),
            ["small 2"],
            "small ones are not held up"
        );
        outbox.peer_took_bulk(PIECE_BYTES_MAX as u32);
        assert_eq!(next(&mut outbox).unwrap(), [format!("more {PIECE_BYTES_MAX}")]);
        assert_eq!(next(&mut outbox), None);
    }

    #[test]
    fn what_was_taken_is_told_along_or_when_it_is_much() {
        let mut outbox = Outbox::new(1);
        outbox.took(100, 0);
        assert_eq!(outbox.next_batch(0), None);
        outbox.push_small(&cancel(1));
        let (head, _) = read(&outbox.next_batch(0).unwrap());
        assert_eq!((head.small_bytes_taken, head.bulk_bytes_taken), (100, 0));
        outbox.took(0, BULK_TAKEN_TOLD);
        let (head, frames) = read(&outbox.next_batch(0).unwrap());
        assert_eq!(
            (head.small_bytes_taken, head.bulk_bytes_taken),
            (0, BULK_TAKEN_TOLD)
        );
        assert!(frames.is_empty());
    }

    #[test]
    fn the_pieces_make_up_the_frame() {
        let mut outbox = Outbox::new(1);
        large(&mut outbox, 9, 3 * PIECE_BYTES_MAX);
        let mut whole = Vec::new();
        while let Some(batch) = outbox.next_batch(usize::MAX) {
            for frame in BatchHead::split(&batch).unwrap().1 {
                match frame.unwrap() {
                    Frame::Begin { piece, .. } | Frame::More { piece } => whole.extend_from_slice(piece),
                    other => panic!("{other:?}"),
                }
            }
        }
        let (frame, rest) = Frame::split(&whole).unwrap();
        assert!(rest.is_empty());
        assert!(
            matches!(frame, Frame::Answer { number: 9, payload } if payload.len() == 3 * PIECE_BYTES_MAX)
        );
    }
}
