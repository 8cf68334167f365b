//! Starts the conversations that were interrupted when their node stopped, and has the events of conversations brought
//! here that other nodes have.

use std::sync::Arc;

use serde_json::json;
use troupe_protocol::id::ConversationId;

use super::ConversationsHandle;
use super::watch;
use crate::runtime::{Actor, ActorError, Context, Message};

/// Starts the conversations that were interrupted.
pub(super) struct Keeper {
    conversations: ConversationsHandle,
}

impl Keeper {
    pub fn new(conversations: ConversationsHandle) -> Self {
        Self { conversations }
    }
}

/// What the keeper is told.
#[derive(strum::IntoStaticStr)]
pub(super) enum KeeperMessage {
    /// Conversations may have come to this node.
    TakeOver,
    /// Conversations were opened, changed or deleted, perhaps on other nodes.
    RecordsChanged,
    /// Somebody here listens to a conversation that another node may have.
    Follow(ConversationId),
}

impl Message for KeeperMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

impl Actor for Keeper {
    type Message = KeeperMessage;
    const KIND: &'static str = "conversations";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        self.resume(ctx);
        let conversations = self.conversations.clone();
        ctx.spawn("follow the replicated conversations", async move {
            conversations.nudge_keeper().await
        });
        self.conversations.shared.catch_up()?;
        let shared = Arc::clone(&self.conversations.shared);
        let mut epochs = shared.services.cluster.epochs();
        ctx.spawn("follow the cluster", async move {
            while epochs.changed().await.is_ok() {
                shared.follow_all();
            }
        });
        Ok(())
    }

    async fn handle(&mut self, message: KeeperMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            KeeperMessage::TakeOver => self.resume(ctx),
            KeeperMessage::RecordsChanged => self.conversations.shared.catch_up()?,
            KeeperMessage::Follow(id) => {
                ctx.spawn("bring events here", watch::follow(self.conversations.clone(), id));
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> serde_json::Value {
        let shared = &self.conversations.shared;
        json!({ "conversations": shared.records.read().len(), "watchers_of_flow": shared.flow.receiver_count() })
    }
}

impl Keeper {
    fn resume(&self, ctx: &Context<Self>) {
        let conversations = self.conversations.clone();
        // Beside the actor: the supervisor that starts the others is waiting for this one to have started.
        ctx.spawn("resume", async move {
            if let Err(error) = conversations.resume_unfinished().await {
                tracing::error!(%error, "interrupted conversations could not be resumed");
            }
        });
    }
}
