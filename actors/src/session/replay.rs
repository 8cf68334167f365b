//! What a session's streams carried, kept for a while: a client that lost its connection takes a stream up after the last
//! event it has seen (2025-11-25, basic/transports, "Resumability and Redelivery"). Pure, the time is given.
//!
//! What is kept is bounded three ways: per session in events and bytes, over all sessions in bytes, and in time. The oldest
//! events go first. A stream that has lost an event which its client has not seen cannot be taken up: the client is told
//! so, never given a stream with a gap. It stays on the session's node: other nodes know nothing of these events.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// Events kept of one session.
const EVENTS_MAX: usize = 256;
/// Their bytes.
const BYTES_MAX: usize = 1024 * 1024;
/// For how long.
const AGE_MAX: Duration = Duration::from_secs(5 * 60);
/// Bytes kept of all sessions together.
const BYTES_OF_ALL_MAX: usize = 64 * 1024 * 1024;
/// The largest event that is worth keeping, in bytes: others would have to give way to it.
pub const EVENT_BYTES_MAX: usize = BYTES_MAX / 2;

/// The number of a stream within its session. Number 0 is the stream of notices, the others belong to calls.
pub type StreamNumber = u64;
/// The stream on which a client hears what it has not asked for.
pub const NOTICES: StreamNumber = 0;

/// The name of an event, unique among all of its session: `INCARNATION.STREAM.EVENT`.
///
/// The incarnation tells sessions apart that go on at another node: there the numbers begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventId {
    incarnation: u32,
    /// The stream.
    pub stream: StreamNumber,
    event: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}.{}.{}", self.incarnation, self.stream, self.event)
    }
}

/// The text is no event's name that was given here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of an event that was sent from here")]
pub struct NoEventId;

impl FromStr for EventId {
    type Err = NoEventId;

    fn from_str(text: &str) -> Result<Self, NoEventId> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().ok_or(NoEventId);
        Ok(Self {
            incarnation: u32::from_str_radix(part()?, 16).map_err(|_| NoEventId)?,
            stream: part()?.parse().map_err(|_| NoEventId)?,
            event: part()?.parse().map_err(|_| NoEventId)?,
        })
    }
}

/// The bytes that all sessions keep together. Shared by them.
#[derive(Debug, Default)]
pub(super) struct ReplayBudget(AtomicUsize);

impl ReplayBudget {
    fn take(&self, bytes: usize) -> bool {
        let taken = self.0.fetch_add(bytes, Ordering::Relaxed);
        let fits = taken.saturating_add(bytes) <= BYTES_OF_ALL_MAX;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What came after an event.
#[derive(Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The events, as they were sent.
    pub frames: Vec<Bytes>,
    /// The last of them, or the one asked about.
    pub last: EventId,
    /// Nothing more will come.
    pub is_over: bool,
}

/// The stream is not known, or has lost events that the client has not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what came after this event is not kept (any more)")]
pub struct NotKept;

/// The streams of one session.
#[derive(Debug)]
pub(super) struct Replay {
    incarnation: u32,
    streams: BTreeMap<StreamNumber, Stream>,
    /// Oldest first.
    kept: VecDeque<Kept>,
    kept_bytes: usize,
    next_stream: StreamNumber,
    budget: Arc<ReplayBudget>,
}

#[derive(Debug, Default)]
struct Stream {
    last: u64,
    /// The latest event that is not kept.
    lost: u64,
    is_over: bool,
    kept: usize,
}

#[derive(Debug)]
struct Kept {
    stream: StreamNumber,
    event: u64,
    at: Instant,
    frame: Bytes,
}

impl Replay {
    pub fn new(incarnation: u32, budget: Arc<ReplayBudget>) -> Self {
        Self {
            incarnation,
            streams: BTreeMap::new(),
            kept: VecDeque::new(),
            kept_bytes: 0,
            next_stream: NOTICES + 1,
            budget,
        }
    }

    /// A call's stream begins: its first event, which carries nothing, is [`EventId`] zero of it.
    pub fn begin(&mut self) -> EventId {
        let stream = self.next_stream;
        self.next_stream += 1;
        self.streams.insert(stream, Stream::default());
        self.id(stream, 0)
    }

    fn id(&self, stream: StreamNumber, event: u64) -> EventId {
        EventId {
            incarnation: self.incarnation,
            stream,
            event,
        }
    }

    /// The last event of the stream.
    pub fn last(&self, stream: StreamNumber) -> EventId {
        let last = self.streams.get(&stream).map_or(0, |stream| stream.last);
        self.id(stream, last)
    }

    /// The name of the stream's next event, which [`keep`](Self::keep) is then told.
    pub fn next(&mut self, stream: StreamNumber) -> EventId {
        let of_stream = self.streams.entry(stream).or_default();
        of_stream.last += 1;
        let event = of_stream.last;
        self.id(stream, event)
    }

    /// Keeps an event as it was sent.
    pub fn keep(&mut self, id: EventId, frame: Bytes, now: Instant) {
        self.forget_old(now);
        let bytes = frame.len();
        let has_room = |kept: &Self| kept.kept.len() < EVENTS_MAX && kept.kept_bytes + bytes <= BYTES_MAX;
        while !has_room(self) && !self.kept.is_empty() {
            self.forget_oldest();
        }
        if bytes > EVENT_BYTES_MAX || !self.budget.take(bytes) {
            if let Some(stream) = self.streams.get_mut(&id.stream) {
                stream.lost = id.event;
            }
            return;
        }
        if let Some(stream) = self.streams.get_mut(&id.stream) {
            stream.kept += 1;
        }
        self.kept_bytes += bytes;
        self.kept.push_back(Kept {
            stream: id.stream,
            event: id.event,
            at: now,
            frame,
        });
    }

    /// Nothing more comes on the stream.
    pub fn end(&mut self, stream: StreamNumber) {
        if let Some(of_stream) = self.streams.get_mut(&stream) {
            of_stream.is_over = true;
        }
        self.forget_stream_if_over(stream);
    }

    /// What came after this event.
    pub fn after(&mut self, id: EventId, now: Instant) -> Result<Replayed, NotKept> {
        self.forget_old(now);
        let unused = Stream::default();
        // The stream of notices is there before anything was sent on it.
        let stream = self
            .streams
            .get(&id.stream)
            .or((id.stream == NOTICES).then_some(&unused))
            .ok_or(NotKept)?;
        if id.incarnation != self.incarnation || id.event > stream.last || stream.lost > id.event {
            return Err(NotKept);
        }
        let after = self
            .kept
            .iter()
            .filter(|kept| kept.stream == id.stream && kept.event > id.event);
        Ok(Replayed {
            frames: after.map(|kept| kept.frame.clone()).collect(),
            last: self.last(id.stream),
            is_over: stream.is_over,
        })
    }

    /// Forgets what has been kept for too long.
    pub fn forget_old(&mut self, now: Instant) {
        while self
            .kept
            .front()
            .is_some_and(|oldest| now.duration_since(oldest.at) > AGE_MAX)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.kept.pop_front() else {
            return;
        };
        self.kept_bytes -= oldest.frame.len();
        self.budget.give_back(oldest.frame.len());
        if let Some(stream) = self.streams.get_mut(&oldest.stream) {
            stream.kept -= 1;
            stream.lost = stream.lost.max(oldest.event);
        }
        self.forget_stream_if_over(oldest.stream);
    }

    fn forget_stream_if_over(&mut self, stream: StreamNumber) {
        let is_over = |stream: &Stream| stream.is_over && stream.kept == 0;
        if self.streams.get(&stream).is_some_and(is_over) {
            self.streams.remove(&stream);
        }
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.budget.give_back(self.kept_bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn replay() -> Replay {
        Replay::new(0xab, Arc::default())
    }

    fn send(replay: &mut Replay, stream: StreamNumber, frame: &'static str, now: Instant) -> EventId {
        let id = replay.next(stream);
        replay.keep(id, Bytes::from_static(frame.as_bytes()), now);
        id
    }

    #[test]
    fn a_stream_is_taken_up_after_the_last_event_that_was_seen() {
        let (mut replay, now) = (replay(), Instant::now());
        let (primed, other) = (replay.begin(), replay.begin());
        let first = send(&mut replay, primed.stream, "a", now);
        send(&mut replay, other.stream, "x", now);
        let last = send(&mut replay, primed.stream, "b", now);
        let texts = |replayed: Replayed| -> Vec<Bytes> { replayed.frames };
        assert_eq!(texts(replay.after(primed, now).unwrap()), ["a", "b"]);
        assert_eq!(texts(replay.after(first, now).unwrap()), ["b"]);
        let rest = replay.after(last, now).unwrap();
        assert_eq!((rest.frames.len(), rest.last, rest.is_over), (0, last, false));
        replay.end(primed.stream);
        assert!(replay.after(last, now).unwrap().is_over);
        assert!(!replay.after(other, now).unwrap().is_over);
    }

    #[test]
    fn events_have_names_that_are_read_again_and_no_others_are() {
        let (mut replay, now) = (replay(), Instant::now());
        let stream = replay.begin().stream;
        let id = send(&mut replay, stream, "a", now);
        assert_eq!(id.to_string(), "000000ab.1.1");
        assert_eq!("000000ab.1.1".parse(), Ok(id));
        for wrong in [
            "",
            "1",
            "1.2",
            "x.1.1",
            "ab.1.-1",
            "ab.1.1.1",
            "ab.1.99999999999999999999",
        ] {
            assert_eq!(wrong.parse::<EventId>(), Err(NoEventId), "{wrong}");
        }
        let unknown = ["ac.1.1", "ab.7.0", "ab.1.2"];
        for id in unknown {
            assert_eq!(replay.after(id.parse().unwrap(), now), Err(NotKept), "{id}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_gap_is_never_hidden() {
        let (mut replay, now) = (replay(), Instant::now());
        let primed = replay.begin();
        let first = send(&mut replay, primed.stream, "0", now);
        for _ in 0..EVENTS_MAX {
            send(&mut replay, primed.stream, "n", now);
        }
        assert_eq!(replay.after(primed, now), Err(NotKept), "its first event is gone");
        assert_eq!(replay.after(first, now).unwrap().frames.len(), EVENTS_MAX);

        let large = Bytes::from(vec![b'x'; EVENT_BYTES_MAX]);
        for _ in 0..4 {
            let id = replay.next(primed.stream);
            replay.keep(id, large.clone(), now);
            assert!(replay.kept_bytes <= BYTES_MAX);
        }
        let before = replay.last(primed.stream);
        let id = replay.next(primed.stream);
        replay.keep(id, Bytes::from(vec![b'x'; EVENT_BYTES_MAX + 1]), now);
        assert_eq!(
            replay.after(before, now),
            Err(NotKept),
            "what is too large is not kept"
        );
        assert!(replay.after(id, now).unwrap().frames.is_empty());
    }

    #[test]
    fn what_is_old_is_forgotten_and_streams_with_it() {
        let (mut replay, now) = (replay(), Instant::now());
        let primed = replay.begin();
        let last = send(&mut replay, primed.stream, "a", now);
        replay.end(primed.stream);
        let later = now + AGE_MAX + Duration::from_secs(1);
        assert_eq!(replay.after(last, later), Err(NotKept));
        assert!(replay.streams.is_empty());
        assert_eq!(
            (replay.kept_bytes, replay.budget.0.load(Ordering::Relaxed)),
            (0, 0)
        );
    }

    #[test]
    fn all_sessions_share_one_budget_and_give_it_back() {
        let budget = Arc::new(ReplayBudget::default());
        let now = Instant::now();
        let large = Bytes::from(vec![b'x'; EVENT_BYTES_MAX]);
        let sessions = BYTES_OF_ALL_MAX / EVENT_BYTES_MAX;
        let mut replays: Vec<Replay> = (0..=sessions)
            .map(|_| Replay::new(1, Arc::clone(&budget)))
            .collect();
        for replay in &mut replays {
            let id = replay.next(NOTICES);
            replay.keep(id, large.clone(), now);
        }
        let last = replays.last_mut().unwrap();
        assert_eq!(last.kept_bytes, 0, "there is no room for it");
        assert_eq!(last.after("1.0.0".parse().unwrap(), now), Err(NotKept));
        drop(replays);
        assert_eq!(budget.0.load(Ordering::Relaxed), 0);
    }
}
