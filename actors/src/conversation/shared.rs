//! What handles and actors of conversations share: which there are, who watches them, which run here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::broadcast;
use troupe_protocol::conversation::ConversationEvent;
use troupe_protocol::event::FlowEvent;
use troupe_protocol::id::ConversationId;

use super::handle::{ANSWER_WITHIN, ConversationServices};
use super::keeper::KeeperMessage;
use super::messages::ConversationMessage;
use super::record::{ConversationRecord, ConversationTrees};
use crate::runtime::{Deadline, Mailbox, SupervisorHandle, System};
use crate::store::StoreError;
use crate::store::replicated::{TreeChange, TreeFeed};

/// Events that a slow watcher may be behind before it has to read the conversation again.
const EVENTS_MAX: usize = 256;

/// What handles and actors of this family share.
pub(super) struct Shared {
    pub system: System,
    pub services: ConversationServices,
    pub trees: ConversationTrees,
    pub flow: broadcast::Sender<FlowEvent>,
    pub records: RwLock<BTreeMap<ConversationId, ConversationRecord>>,
    pub supervisor: SupervisorHandle,
    pub channels: Mutex<HashMap<ConversationId, broadcast::Sender<ConversationEvent>>>,
    /// Held while an actor is started, so that there is one only.
    pub live: tokio::sync::Mutex<HashMap<ConversationId, Mailbox<ConversationMessage>>>,
    /// How many those are, for who cannot wait.
    pub live_count: AtomicUsize,
    pub keeper: Mailbox<KeeperMessage>,
    /// Which records have changed; made before they were read.
    pub feed: Mutex<TreeFeed>,
    /// The conversations whose events are brought here if another node has them.
    pub followed: Mutex<HashSet<ConversationId>>,
}

impl Shared {
    /// Where a conversation's events go.
    pub fn channel(&self, id: ConversationId) -> broadcast::Sender<ConversationEvent> {
        self.channels
            .lock()
            .entry(id)
            .or_insert_with(|| broadcast::Sender::new(EVENTS_MAX))
            .clone()
    }

    /// An idle actor is about to stop.
    pub async fn retire(&self, id: ConversationId) {
        self.take_live(id).await;
        self.channels
            .lock()
            .retain(|known, channel| *known != id || channel.receiver_count() > 0);
    }

    /// A conversation's record, also when it was written a moment ago on another node.
    pub fn record(&self, id: ConversationId) -> Option<ConversationRecord> {
        let known = self.records.read().get(&id).cloned();
        // What cannot be read now is read again when it changes.
        known.or_else(|| self.trees.conversation(id).ok().flatten())
    }

    /// Takes in what was written on other nodes.
    pub fn catch_up(&self) -> Result<(), StoreError> {
        let mut feed = self.feed.lock();
        match feed.drain() {
            None => {}
            Some(TreeChange::Keys(keys)) => {
                for id in keys.iter().filter_map(|record| record.key.parse().ok()) {
                    self.take_in(id, self.trees.conversation(id)?);
                }
            }
            Some(TreeChange::Everything) => {
                let records = self.trees.conversations()?;
                let there: BTreeMap<_, _> = records
                    .into_iter()
                    .map(|record| (record.summary.id, record))
                    .collect();
                let gone: Vec<ConversationId> = {
                    let known = self.records.read();
                    known
                        .keys()
                        .filter(|id| !there.contains_key(id))
                        .copied()
                        .collect()
                };
                gone.into_iter().for_each(|id| self.take_in(id, None));
                there
                    .into_iter()
                    .for_each(|(id, record)| self.take_in(id, Some(record)));
            }
        }
        Ok(())
    }

    fn take_in(&self, id: ConversationId, record: Option<ConversationRecord>) {
        match record {
            Some(record) => drop(self.records.write().insert(id, record)),
            None => {
                self.records.write().remove(&id);
                if let Some(channel) = self.channels.lock().remove(&id) {
                    // Without watchers there is nobody to tell.
                    let _ = channel.send(ConversationEvent::Deleted);
                }
            }
        }
    }

    /// Whether anybody on this node listens to a conversation's events.
    pub fn has_watchers(&self, id: ConversationId) -> bool {
        let channels = self.channels.lock();
        channels
            .get(&id)
            .is_some_and(|channel| channel.receiver_count() > 0)
    }

    /// As [`has_watchers`](Self::has_watchers); if nobody does, its events are no longer brought here.
    pub fn is_followed(&self, id: ConversationId) -> bool {
        let mut followed = self.followed.lock();
        let is_watched = self.has_watchers(id);
        if !is_watched {
            followed.remove(&id);
        }
        is_watched
    }

    /// Has a conversation's events brought here, if another node has it or may come to.
    pub fn follow(&self, id: ConversationId) {
        let is_alone = self.services.cluster.membership().members.len() <= 1;
        if !is_alone
            && self.followed.lock().insert(id)
            && self.keeper.tell(KeeperMessage::Follow(id)).is_err()
        {
            self.followed.lock().remove(&id);
        }
    }

    /// As [`follow`](Self::follow), for all that are listened to.
    pub fn follow_all(&self) {
        let watched: Vec<ConversationId> = {
            let channels = self.channels.lock();
            let watched = channels
                .iter()
                .filter(|(_, channel)| channel.receiver_count() > 0);
            watched.map(|(id, _)| *id).collect()
        };
        watched.into_iter().for_each(|id| self.follow(id));
    }

    /// How many actors there are.
    pub fn live_count(&self) -> usize {
        self.live_count.load(Ordering::Relaxed)
    }

    /// Takes an actor out of reach.
    pub async fn take_live(&self, id: ConversationId) -> Option<Mailbox<ConversationMessage>> {
        let mut live = self.live.lock().await;
        let mailbox = live.remove(&id);
        self.live_count.store(live.len(), Ordering::Relaxed);
        mailbox
    }

    /// Takes the actors out of reach that this node may not run any more.
    pub async fn take_foreign(
        &self,
        is_foreign: impl Fn(&ConversationId) -> bool,
    ) -> Vec<Mailbox<ConversationMessage>> {
        let mut live = self.live.lock().await;
        let foreign: Vec<ConversationId> = live.keys().filter(|id| is_foreign(id)).copied().collect();
        let mailboxes = foreign.iter().filter_map(|id| live.remove(id)).collect();
        self.live_count.store(live.len(), Ordering::Relaxed);
        mailboxes
    }

    /// Stops an actor.
    pub async fn stop(&self, mailbox: &Mailbox<ConversationMessage>) {
        let deadline = Deadline::within(ANSWER_WITHIN);
        if let Err(error) = self.supervisor.stop_child(mailbox.path(), deadline).await {
            tracing::warn!(%error, "a conversation's actor did not stop in time");
        }
    }
}
