//! Conversations as clients see them.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ts_rs::TS;
use utoipa::ToSchema;

use crate::error::Problem;
use crate::id::{ConversationId, CorrelationId, TurnId};
use crate::routing::Route;
use crate::time::Timestamp;

/// What a person says. Voice, images and documents will join as blob references.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct UserInput {
    /// The text, at most 32,768 bytes.
    pub text: String,
}

/// A line in the list of conversations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ConversationSummary {
    /// The conversation.
    pub id: ConversationId,
    /// Its title: given, or the beginning of the first question.
    pub title: String,
    /// Whether it is kept on top of the list.
    pub pinned: bool,
    /// When it was opened.
    pub created_at: Timestamp,
    /// When something was said last.
    pub updated_at: Timestamp,
    /// How many turns it has.
    pub turns: u32,
}

/// A conversation with its turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Conversation {
    /// Its line in the list.
    #[serde(flatten)]
    pub summary: ConversationSummary,
    /// Its turns, oldest first.
    pub history: Vec<Turn>,
}

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Turn {
    /// The turn.
    pub id: TurnId,
    /// To look up its trace.
    pub correlation_id: CorrelationId,
    /// When it began.
    pub at: Timestamp,
    /// The question.
    pub question: String,
    /// The answer so far.
    pub answer: String,
    /// How it stands.
    pub status: TurnStatus,
    /// Server and tool that were chosen, and why.
    pub route: Option<Route>,
    /// The calls that were made.
    pub calls: Vec<ToolCall>,
    /// From question to answer, in milliseconds.
    #[ts(type = "number | null")]
    pub duration_ms: Option<u64>,
    /// What went wrong, if anything.
    pub problem: Option<Problem>,
}

/// How a turn stands or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS, ToSchema, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum TurnStatus {
    /// Looking for server and tool.
    Routing,
    /// Waiting for the tool.
    Calling,
    /// Answered from a tool's result.
    Answered,
    /// An argument is missing; the answer asks for it.
    ArgumentNeeded,
    /// Nothing fits; the answer names the nearest.
    NothingFits,
    /// It failed; the answer says how.
    Failed,
    /// It was cancelled.
    Cancelled,
}

impl TurnStatus {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Routing | Self::Calling)
    }
}

/// A call that a turn made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ToolCall {
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// Its arguments.
    #[ts(type = "unknown")]
    pub arguments: Value,
    /// Its result (a `CallToolResult`), once there.
    #[ts(type = "unknown")]
    pub result: Option<Value>,
    /// Whether the tool says it failed, or the call did.
    pub failed: bool,
    /// How long it took, in milliseconds, once done.
    #[ts(type = "number | null")]
    pub duration_ms: Option<u64>,
}

/// What those who watch a conversation are told, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
#[ts(export)]
pub enum ConversationEvent {
    /// A turn began.
    TurnStarted {
        /// The turn.
        turn: Turn,
    },
    /// A turn changed (status, route, calls): its new state, without new answer text.
    TurnChanged {
        /// The turn.
        turn: Turn,
    },
    /// A piece of the answer.
    AnswerChunk {
        /// The turn.
        turn_id: TurnId,
        /// Where the piece begins in the answer, in UTF-16 code units, so that a piece heard twice is told.
        offset: u32,
        /// The piece.
        text: String,
    },
    /// Nothing more will happen to the turn.
    TurnEnded {
        /// The turn.
        turn: Turn,
    },
    /// Title or pin changed.
    SummaryChanged {
        /// The conversation's line.
        summary: ConversationSummary,
    },
    /// The conversation was deleted.
    Deleted,
}

/// The answer to a question asked outside any interface.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct AskAnswer {
    /// The conversation, to go on in.
    pub conversation_id: ConversationId,
    /// The turn with its answer, route and calls.
    #[serde(flatten)]
    pub turn: Turn,
}
