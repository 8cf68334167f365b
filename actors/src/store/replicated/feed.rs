//! Telling those who keep something in memory which records have changed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::batch::LogIndex;
use crate::runtime::{Mailbox, Message, SendError};

/// Applied batches that a slow follower may be behind before it has to read everything again.
pub(super) const FEED_BATCHES_MAX: usize = 4_096;

/// A record of a replicated tree.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecordKey {
    /// The tree.
    pub tree: String,
    /// The record's key.
    pub key: String,
}

/// What was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedChanges {
    /// With which entry of the log.
    pub index: LogIndex,
    /// Which records were put or removed; nothing when any of all may have, because a snapshot was installed.
    pub keys: Option<Vec<RecordKey>>,
}

/// Which records of a tree have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeChange {
    /// These were put or removed.
    Keys(Vec<RecordKey>),
    /// Any may have: read the tree again.
    Everything,
}

/// The changes of some trees, from the moment it was made on; made by [`Store::follow`](crate::store::Store::follow).
///
/// To miss nothing, make it first, then read the tree. What comes is only which records have changed: read them.
pub struct TreeFeed {
    trees: Vec<&'static str>,
    applied: broadcast::Receiver<Arc<AppliedChanges>>,
}

impl TreeFeed {
    pub(in crate::store) fn new(
        trees: &[&'static str],
        applied: broadcast::Receiver<Arc<AppliedChanges>>,
    ) -> Self {
        Self {
            trees: trees.to_vec(),
            applied,
        }
    }

    /// The next change. Nothing when the store is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<TreeChange> {
        loop {
            let change = match self.applied.recv().await {
                Ok(applied) => self.of_ours(&applied),
                Err(RecvError::Lagged(_)) => Some(TreeChange::Everything),
                Err(RecvError::Closed) => return None,
            };
            if change.is_some() {
                return change;
            }
        }
    }

    /// What has changed already and was not yet asked for; nothing when nothing has.
    pub fn drain(&mut self) -> Option<TreeChange> {
        let mut all: Option<TreeChange> = None;
        loop {
            let change = match self.applied.try_recv() {
                Ok(applied) => self.of_ours(&applied),
                Err(TryRecvError::Lagged(_)) => Some(TreeChange::Everything),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return all,
            };
            all = match (all, change) {
                (Some(all), Some(change)) => Some(all.and(change)),
                (all, change) => all.or(change),
            };
        }
    }

    fn of_ours(&self, applied: &AppliedChanges) -> Option<TreeChange> {
        let Some(keys) = &applied.keys else {
            return Some(TreeChange::Everything);
        };
        let ours = keys.iter().filter(|at| self.trees.contains(&at.tree.as_str()));
        let ours: Vec<RecordKey> = ours.cloned().collect();
        (!ours.is_empty()).then_some(TreeChange::Keys(ours))
    }
}

/// How long an actor whose mailbox is full is left alone.
const NUDGE_AGAIN_AFTER: Duration = Duration::from_millis(20);

/// Sends an actor a message whenever something has changed, until the actor ends. The message only wakes it: the actor
/// drains a feed of its own, so that it is as far as the feed also when it has not yet come to the message.
pub async fn nudge<M: Message>(mut feed: TreeFeed, mailbox: Mailbox<M>, message: fn() -> M) {
    while feed.next().await.is_some() {
        feed.drain();
        while let Err(SendError::Overloaded { .. }) = mailbox.tell(message()) {
            tokio::time::sleep(NUDGE_AGAIN_AFTER).await;
        }
    }
}

impl TreeChange {
    /// Both.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Keys(mut keys), Self::Keys(more)) => {
                keys.extend(more);
                Self::Keys(keys)
            }
            _ => Self::Everything,
        }
    }
}
