//! Conversations on the disk: one record for each, one for each step of each turn.
//!
//! A step is written before the next one begins, so that whoever goes on after a crash knows how far it came. State is
//! **owned**: by the one actor of the conversation; it is rebuilt from here.

use serde::{Deserialize, Serialize};
use troupe_protocol::access::Principal;
use troupe_protocol::conversation::ConversationSummary;
use troupe_protocol::event::FlowEvent;
use troupe_protocol::id::{ConversationId, TurnId};
use troupe_protocol::time::Timestamp;

use crate::store::{Change, Store, StoreError, TypedTree};

const CONVERSATIONS_TREE: &str = "conversations";
const STEPS_TREE: &str = "conversation.steps";
const UNFINISHED_TREE: &str = "conversation.unfinished";
const SCHEMA_VERSION: u16 = 1;

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
    conversations: TypedTree<ConversationRecord>,
    steps: TypedTree<FlowEvent>,
    unfinished: TypedTree<Unfinished>,
}

impl ConversationTrees {
    /// Opens the trees.
    pub fn open(store: &Store) -> Result<Self, StoreError> {
        Ok(Self {
            conversations: store.tree(CONVERSATIONS_TREE, SCHEMA_VERSION)?,
            steps: store.tree(STEPS_TREE, SCHEMA_VERSION)?,
            unfinished: store.tree(UNFINISHED_TREE, SCHEMA_VERSION)?,
        })
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

    /// Writes a conversation.
    pub async fn put(&self, record: &ConversationRecord) -> Result<(), StoreError> {
        self.conversations
            .put(&record.summary.id.to_string(), record)
            .await
    }

    /// The steps of a conversation, oldest first.
    pub fn steps(&self, id: ConversationId) -> Result<Vec<FlowEvent>, StoreError> {
        self.steps
            .scan_prefix(&format!("{id}/"))
            .map(|entry| Ok(entry?.1))
            .collect()
    }

    /// Writes a step: the `number`th of its turn.
    pub async fn put_step(&self, number: usize, step: &FlowEvent) -> Result<(), StoreError> {
        let key = format!("{}/{}/{number:06}", step.conversation_id, step.turn_id);
        self.steps.put(&key, step).await
    }

    /// Removes the steps of a turn.
    pub async fn remove_turn(&self, id: ConversationId, turn_id: TurnId) -> Result<(), StoreError> {
        self.remove_steps(&format!("{id}/{turn_id}/")).await
    }

    /// Removes a conversation with all its steps.
    pub async fn remove(&self, id: ConversationId) -> Result<(), StoreError> {
        // The record first: without it the steps are unreachable, and a crash in between shows nothing half deleted.
        self.conversations.remove(&id.to_string()).await?;
        self.unfinished.remove(&id.to_string()).await?;
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

    /// Marks a turn as begun.
    pub async fn begin(&self, id: ConversationId, unfinished: &Unfinished) -> Result<(), StoreError> {
        self.unfinished.put(&id.to_string(), unfinished).await
    }

    /// Marks a conversation's turn as over.
    pub async fn end(&self, id: ConversationId) -> Result<(), StoreError> {
        self.unfinished.remove(&id.to_string()).await
    }

    async fn remove_steps(&self, prefix: &str) -> Result<(), StoreError> {
        let keys: Result<Vec<String>, StoreError> =
            self.steps.scan_prefix(prefix).map(|entry| Ok(entry?.0)).collect();
        self.steps
            .batch(keys?.into_iter().map(Change::Remove).collect())
            .await
    }
}
