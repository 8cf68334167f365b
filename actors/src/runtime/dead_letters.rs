//! What could not be delivered: counted, and the latest kept.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use troupe_protocol::id::ActorPath;
use troupe_protocol::observe::{DeadLetter, DeadLetterReason, DeadLetters};
use troupe_protocol::time::Timestamp;

/// How many are kept.
pub const KEPT_MAX: usize = 1_000;

/// The dead letters of a node.
#[derive(Debug, Default)]
pub struct DeadLetterBox {
    total: AtomicU64,
    latest: Mutex<VecDeque<DeadLetter>>,
}

impl DeadLetterBox {
    pub(super) fn put(&self, actor: &ActorPath, message: &'static str, reason: DeadLetterReason) {
        self.total.fetch_add(1, Relaxed);
        let letter = DeadLetter {
            node: None,
            at: Timestamp::from(jiff::Timestamp::now()),
            actor: actor.clone(),
            message: message.to_owned(),
            reason,
            correlation_id: super::trace::current().map(|trace| trace.correlation_id),
        };
        tracing::debug!(%actor, message, ?reason, "dead letter");
        let mut latest = self.latest.lock();
        if latest.len() == KEPT_MAX {
            latest.pop_back();
        }
        latest.push_front(letter);
    }

    /// How many there ever were.
    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// How many there ever were, and the latest, newest first.
    pub fn read(&self) -> DeadLetters {
        DeadLetters {
            total: self.total(),
            items: self.latest.lock().iter().cloned().collect(),
            unanswered: Vec::new(),
        }
    }
}
