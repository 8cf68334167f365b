//! Conversations as all nodes have them: one record for each, one for each step of each turn.
//!
//! A step is written before the next one begins, so that whoever goes on after a crash, on whatever node, knows how far it
//! came. A step is written only where there is none of its number: should a former owner still be at work, one of the two
//! learns that it is not alone. State is **owned**: by the one actor of the conversation; it is rebuilt from here.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use troupe_protocol::access::Principal;
use troupe_protocol::conversation::ConversationSummary;
use troupe_protocol::event::FlowEvent;
use troupe_protocol::id::{ConversationId, TurnId};
use troupe_protocol::time::Timestamp;

use crate::runtime::Deadline;
use crate::store::replicated::{TreeFeed, WRITE_WITHIN};
use crate::store::{Change, RecordBatch, ReplicatedTree, Store, StoreError, WriteError};

const CONVERSATIONS_TREE: &str = "conversations";
const STEPS_TREE: &str = "conversation.steps";
const UNFINISHED_TREE: &str = "conversation.unfinished";
const SCHEMA_VERSION: u16 = 1;
/// The trees of this family.
pub const TREES: &[&str] = &[CONVERSATIONS_TREE, STEPS_TREE, UNFINISHED_TREE];
/// How often a change is made to what another has changed meanwhile.
const CHANGE_TRIES: u32 = 3;
/// How long a majority may take to say what was acknowledged.
const LINEARIZE_WITHIN: Duration = Duration::from_secs(2);
/// Steps removed with one write.
const REMOVED_AT_ONCE: usize = 512;

/// Whose a conversation is: the key that proved it, else the name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Owner(String);

impl Owner {
    /// The owner that this principal is.
    pub fn of(principal: &Principal) -> Self {
        Self(match principal.key_id {
            Some(key) => format!("key/{key}"),
            None => format!("name/{}", principal.name),
        })
    }
}

/// A conversation without its turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConversationRecord {
    /// Whose it is.
    pub owner: Owner,
    /// What people see of it in a list.
    pub summary: ConversationSummary,
}

/// A turn that was not over when it was last written, and on whose behalf it runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Unfinished {
    /// The turn.
    pub turn_id: TurnId,
    /// Who asked.
    pub principal: Principal,
    /// Since when.
    pub since: Timestamp,
}

/// The trees of this family.
#[derive(Clone)]
pub struct ConversationTrees {
    store: Store,
    conversations: ReplicatedTree<ConversationRecord>,
    steps: ReplicatedTree<FlowEvent>,
    unfinished: ReplicatedTree<Unfinished>,
}

impl ConversationTrees {
    /// Opens the trees.
    pub fn open(store: &Store) -> Self {
        Self {
            store: store.clone(),
            conversations: store.replicated(CONVERSATIONS_TREE, SCHEMA_VERSION),
            steps: store.replicated(STEPS_TREE, SCHEMA_VERSION),
            unfinished: store.replicated(UNFINISHED_TREE, SCHEMA_VERSION),
        }
    }

    /// Which conversations change from now on, by their keys.
    pub fn follow(&self) -> TreeFeed {
        self.store.follow(&[CONVERSATIONS_TREE])
    }

    /// All conversations.
    pub fn conversations(&self) -> Result<Vec<ConversationRecord>, StoreError> {
        self.conversations
            .scan_prefix("")
            .map(|entry| Ok(entry?.1))
            .collect()
    }

    /// One conversation.
    pub fn conversation(&self, id: ConversationId) -> Result<Option<ConversationRecord>, StoreError> {
        self.conversations.get(&id.to_string())
    }

    /// Changes a conversation, if it is there. Whoever was its owner before and writes late changes nothing: neither does it
    /// bring a conversation back that was removed, nor what another has overwritten.
    pub async fn change(
        &self,
        id: ConversationId,
        change: impl Fn(&mut ConversationSummary),
    ) -> Result<Option<ConversationRecord>, WriteError> {
        let key = id.to_string();
        let mut tries = CHANGE_TRIES;
        loop {
            let Some(mut known) = self.conversations.get_versioned(&key)? else {
                return Ok(None);
            };
            change(&mut known.value.summary);
            let mut batch = RecordBatch::default();
            self.conversations
                .guard_into(&mut batch, &key, Some(known.version));
            self.conversations.put_into(&mut batch, &key, &known.value)?;
            let deadline = Deadline::within(WRITE_WITHIN);
            match self.store.write_records(batch, deadline).await {
                Err(WriteError::Conflict(_)) if tries > 1 => tries -= 1,
                written => return written.map(|()| Some(known.value)),
            }
        }
    }

    /// Writes a new conversation.
    pub async fn put(&self, record: &ConversationRecord) -> Result<(), WriteError> {
        self.conversations
            .put(&record.summary.id.to_string(), record)
            .await
    }

    /// Waits until what is read shows everything that was acknowledged before, on whatever node.
    pub async fn linearize(&self) -> Result<(), WriteError> {
        self.steps.linearize(Deadline::within(LINEARIZE_WITHIN)).await
    }

    /// The steps of a conversation, oldest first.
    pub fn steps(&self, id: ConversationId) -> Result<Vec<FlowEvent>, StoreError> {
        self.steps
            .scan_prefix(&format!("{id}/"))
            .map(|entry| Ok(entry?.1))
            .collect()
    }

    /// Writes a step: the `number`th of its turn. The first one of a turn marks it as begun, in the same write.
    pub async fn put_step(
        &self,
        number: usize,
        step: &FlowEvent,
        begun: Option<&Unfinished>,
    ) -> Result<(), WriteError> {
        let key = format!("{}/{}/{number:06}", step.conversation_id, step.turn_id);
        let mut batch = RecordBatch::default();
        self.steps.guard_into(&mut batch, &key, None);
        self.steps.put_into(&mut batch, &key, step)?;
        if let Some(unfinished) = begun {
            self.unfinished
                .put_into(&mut batch, &step.conversation_id.to_string(), unfinished)?;
        }
        self.store
            .write_records(batch, Deadline::within(WRITE_WITHIN))
            .await
    }

    /// Removes the steps of a turn.
    pub async fn remove_turn(&self, id: ConversationId, turn_id: TurnId) -> Result<(), WriteError> {
        self.remove_steps(&format!("{id}/{turn_id}/")).await
    }

    /// Removes a conversation with all its steps.
    pub async fn remove(&self, id: ConversationId) -> Result<(), WriteError> {
        // The record first: without it the steps are unreachable, and a crash in between shows nothing half deleted.
        let mut batch = RecordBatch::default();
        self.conversations.remove_into(&mut batch, &id.to_string());
        self.unfinished.remove_into(&mut batch, &id.to_string());
        self.store
            .write_records(batch, Deadline::within(WRITE_WITHIN))
            .await?;
        self.remove_steps(&format!("{id}/")).await
    }

    /// The conversations with an unfinished turn.
    pub fn unfinished(&self) -> Result<Vec<(ConversationId, Unfinished)>, StoreError> {
        let entries = self.unfinished.scan_prefix("");
        let readable = entries.filter_map(|entry| match entry {
            Ok((key, unfinished)) => Some(Ok((key.parse().ok()?, unfinished))),
            Err(error) => Some(Err(error)),
        });
        readable.collect()
    }

    /// The unfinished turn of a conversation.
    pub fn unfinished_of(&self, id: ConversationId) -> Result<Option<Unfinished>, StoreError> {
        self.unfinished.get(&id.to_string())
    }

    /// Marks a conversation's turn as over.
    pub async fn end(&self, id: ConversationId) -> Result<(), WriteError> {
        self.unfinished.remove(&id.to_string()).await
    }

    async fn remove_steps(&self, prefix: &str) -> Result<(), WriteError> {
        let keys: Result<Vec<String>, StoreError> =
            self.steps.scan_prefix(prefix).map(|entry| Ok(entry?.0)).collect();
        for some in keys?.chunks(REMOVED_AT_ONCE) {
            self.steps
                .batch(some.iter().cloned().map(Change::Remove).collect())
                .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_conversation_that_is_removed_while_it_is_changed_stays_removed() {
        let folder = tempfile::tempdir().unwrap();
        let trees = ConversationTrees::open(&Store::open(folder.path()).unwrap());
        let id = ConversationId::from_ulid(ulid::Ulid(1));
        let at = Timestamp::from_unix_ms(0);
        let summary = ConversationSummary {
            id,
            title: String::new(),
            pinned: false,
            created_at: at,
            updated_at: at,
            turns: 0,
        };
        let owner = Owner("name/ada".to_owned());
        trees.put(&ConversationRecord { owner, summary }).await.unwrap();
        let runtime = tokio::runtime::Handle::current();
        let removing = |summary: &mut ConversationSummary| {
            tokio::task::block_in_place(|| runtime.block_on(trees.remove(id)).unwrap());
            summary.title = "old".to_owned();
        };
        assert_eq!(trees.change(id, removing).await.unwrap(), None);
        assert_eq!(trees.conversation(id).unwrap(), None);
    }
}
