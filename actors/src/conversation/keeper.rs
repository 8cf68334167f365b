//! Starts the conversations that were interrupted when the node stopped.

use serde_json::json;

use super::ConversationsHandle;
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

/// The keeper is told nothing: it works when it starts.
#[derive(strum::IntoStaticStr)]
pub(super) enum KeeperMessage {}

impl Message for KeeperMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

impl Actor for Keeper {
    type Message = KeeperMessage;
    const KIND: &'static str = "conversations";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let conversations = self.conversations.clone();
        // Beside the actor: the supervisor that starts the others is waiting for this one to have started.
        ctx.spawn("resume", async move {
            if let Err(error) = conversations.resume_unfinished().await {
                tracing::error!(%error, "interrupted conversations could not be resumed");
            }
        });
        Ok(())
    }

    async fn handle(&mut self, message: KeeperMessage, _: &Context<Self>) -> Result<(), ActorError> {
        match message {}
    }

    fn snapshot(&self) -> serde_json::Value {
        let shared = &self.conversations.shared;
        json!({ "conversations": shared.records.read().len(), "watchers_of_flow": shared.flow.receiver_count() })
    }
}
