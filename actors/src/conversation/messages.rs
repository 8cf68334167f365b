//! What a conversation's actor is told.

use serde_json::Value;
use troupe_protocol::access::Principal;
use troupe_protocol::conversation::{Conversation, ConversationSummary};
use troupe_protocol::id::{CorrelationId, TurnId};

use super::caller::CallFailure;
use super::error::ConversationError;
use super::state::Routed;
use crate::runtime::{Message, Reply};

type Answer<T> = Reply<Result<T, ConversationError>>;

/// What a conversation's actor is told.
#[derive(strum::IntoStaticStr)]
pub enum ConversationMessage {
    /// Somebody says something.
    UserInput {
        /// The turn it begins.
        turn_id: TurnId,
        /// The request.
        correlation_id: CorrelationId,
        /// The text.
        text: String,
        /// Who says it.
        principal: Principal,
        /// Answered when it is written down.
        reply: Answer<TurnId>,
    },
    /// A tool was chosen and filled, or not; nothing when what was said does not go on from before.
    Routed {
        /// The turn.
        turn_id: TurnId,
        /// The choice.
        routed: Option<Box<Routed>>,
    },
    /// The call has ended.
    CallEnded {
        /// The turn.
        turn_id: TurnId,
        /// The result, or why there is none.
        outcome: Result<Value, CallFailure>,
        /// How long it took, in milliseconds.
        duration_ms: u64,
    },
    /// Choosing, filling or calling panicked.
    WorkPanicked {
        /// The turn.
        turn_id: TurnId,
    },
    /// The turn is no longer wanted. Answers whether there was one.
    Cancel(Reply<bool>),
    /// The conversation with its turns.
    Read(Reply<Conversation>),
    /// Change title or pin.
    Change {
        /// The new title.
        title: Option<String>,
        /// Whether to keep it on top.
        pinned: Option<bool>,
        /// The new line.
        reply: Answer<ConversationSummary>,
    },
    /// Nothing was said for a while.
    IdleDue,
    /// The conversation moves to another node: answered when no turn is in hand.
    Rest(Reply<()>),
}

impl Message for ConversationMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}
