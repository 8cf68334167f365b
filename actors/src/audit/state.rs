//! What waits to be written and what must go. Decides; writes nothing.

use std::time::{Duration, SystemTime};

use troupe_protocol::access::{AuditEvent, AuditId};
use ulid::Ulid;

use crate::runtime::Reply;
use crate::store::{StoreError, TypedTree};

/// Events that wait for the batch under way.
pub(super) const GATHERED_EVENTS_MAX: usize = 4096;
/// Events of one batch.
const BATCH_EVENTS_MAX: usize = 1024;
/// Old events that one batch removes beyond its own number, so that a lowered limit is reached step by step.
const SURPLUS_EVENTS_MAX: u64 = 1024;

/// Events to be written, and how many of the oldest are to be removed with them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub events: Vec<AuditEvent>,
    pub surplus: usize,
}

pub(super) struct AuditState {
    events_max: u64,
    /// On the disk.
    kept: u64,
    last_id: Ulid,
    gathered: Vec<AuditEvent>,
    /// Being written.
    writing: Vec<AuditEvent>,
    writing_surplus: u64,
    flushes: Vec<Reply<()>>,
}

impl AuditState {
    /// An empty log.
    pub(super) fn new(events_max: u64) -> Self {
        Self {
            events_max: events_max.max(1),
            kept: 0,
            last_id: Ulid::nil(),
            gathered: Vec::new(),
            writing: Vec::new(),
            writing_surplus: 0,
            flushes: Vec::new(),
        }
    }

    /// The log as it is on the disk.
    pub(super) fn restore(events_max: u64, tree: &TypedTree<AuditEvent>) -> Result<Self, StoreError> {
        let mut state = Self::new(events_max);
        state.kept = tree.len()? as u64;
        let newest = tree.keys().next_back().transpose()?;
        state.last_id = newest
            .and_then(|key| Ulid::from_string(&key).ok())
            .unwrap_or(Ulid::nil());
        Ok(state)
    }

    pub(super) fn events_max(&self) -> u64 {
        self.events_max
    }

    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    pub(super) fn gathered(&self) -> usize {
        self.gathered.len() + self.writing.len()
    }

    /// Takes an event in and gives it its id; false when there is no room.
    pub(super) fn gather(&mut self, mut event: AuditEvent) -> bool {
        if self.gathered.len() >= GATHERED_EVENTS_MAX {
            return false;
        }
        let unix_ms = u64::try_from(event.at.unix_ms()).unwrap_or(0);
        let fresh = Ulid::from_datetime(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms));
        // Never before the last one, even if the clock was set back.
        let id = if fresh > self.last_id {
            fresh
        } else {
            self.last_id.increment().unwrap_or(fresh)
        };
        self.last_id = id;
        event.id = AuditId::from_ulid(id);
        self.gathered.push(event);
        true
    }

    /// What is to be written next, if nothing is being written.
    pub(super) fn next_batch(&mut self) -> Option<Batch> {
        if !self.writing.is_empty() || self.gathered.is_empty() {
            return None;
        }
        let events: Vec<_> = self
            .gathered
            .drain(..self.gathered.len().min(BATCH_EVENTS_MAX))
            .collect();
        let after = self.kept + events.len() as u64;
        // Never more than there are on the disk: the batch must not remove what it writes.
        let surplus = after.saturating_sub(self.events_max);
        let surplus = surplus
            .min(events.len() as u64 + SURPLUS_EVENTS_MAX)
            .min(self.kept);
        self.writing_surplus = surplus;
        self.writing.clone_from(&events);
        Some(Batch {
            events,
            surplus: usize::try_from(surplus).unwrap_or(usize::MAX),
        })
    }

    /// The batch under way ended; gives how many events it had, and answers who waited for them.
    pub(super) fn written(&mut self, succeeded: bool) -> usize {
        let events = std::mem::take(&mut self.writing).len();
        if succeeded {
            self.kept = self.kept + events as u64 - self.writing_surplus;
        }
        self.answer_flushes();
        events
    }

    /// Answers once nothing waits any more.
    pub(super) fn await_flush(&mut self, reply: Reply<()>) {
        self.flushes.push(reply);
        self.answer_flushes();
    }

    /// All that is not known to be written.
    pub(super) fn take_all(&mut self) -> Vec<AuditEvent> {
        let mut events = std::mem::take(&mut self.writing);
        events.append(&mut self.gathered);
        events
    }

    fn answer_flushes(&mut self) {
        if self.gathered() > 0 {
            return;
        }
        for reply in self.flushes.drain(..) {
            reply.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::messages::NewAuditEvent;
    use super::*;
    use troupe_protocol::access::Principal;
    use troupe_protocol::time::Timestamp;

    fn event(at_ms: i64) -> AuditEvent {
        NewAuditEvent::new(&Principal::node(), "server.register", "time").at(Timestamp::from_unix_ms(at_ms))
    }

    #[test]
    fn ids_rise_even_when_the_clock_is_set_back() {
        let mut state = AuditState::new(10);
        for at_ms in [1_000, 1_000, 999, 5, 2_000] {
            assert!(state.gather(event(at_ms)));
        }
        let events = state.next_batch().unwrap().events;
        assert!(events.is_sorted_by(|one, next| one.id < next.id));
        assert_eq!(events[4].id.as_ulid().timestamp_ms(), 2_000);
    }

    #[test]
    fn one_batch_at_a_time_and_the_rest_gathers() {
        let mut state = AuditState::new(10_000);
        assert_eq!(state.next_batch(), None);
        state.gather(event(1));
        assert_eq!(state.next_batch().unwrap().events.len(), 1);
        state.gather(event(2));
        state.gather(event(3));
        assert_eq!(state.next_batch(), None);
        assert_eq!(state.written(true), 1);
        assert_eq!(state.next_batch().unwrap().events.len(), 2);
        assert_eq!(state.take_all().len(), 2);
    }

    #[test]
    fn the_oldest_make_room() {
        let mut state = AuditState::new(3);
        for at_ms in 0..5 {
            state.gather(event(at_ms));
        }
        // Nothing is on the disk yet, so nothing can go; the next batch makes up for it.
        assert_eq!(state.next_batch().unwrap().surplus, 0);
        state.written(true);
        assert_eq!(state.kept(), 5);
        state.gather(event(9));
        assert_eq!(state.next_batch().unwrap().surplus, 3);
        state.written(true);
        assert_eq!(state.kept(), 3);
        state.gather(event(10));
        state.next_batch();
        state.written(false);
        assert_eq!(state.kept(), 3);
    }

    #[test]
    fn what_gathers_is_bounded() {
        let mut state = AuditState::new(10);
        for _ in 0..GATHERED_EVENTS_MAX {
            assert!(state.gather(event(1)));
        }
        assert!(!state.gather(event(1)));
    }

    #[test]
    fn a_flush_is_answered_when_nothing_waits() {
        let mut state = AuditState::new(10);
        state.gather(event(1));
        let (reply, mut answer) = Reply::channel();
        state.await_flush(reply);
        assert!(answer.try_recv().is_err());
        state.next_batch();
        state.written(true);
        assert!(answer.try_recv().is_ok());
    }
}
