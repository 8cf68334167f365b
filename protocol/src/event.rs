//! The events of the flow, from a question to its answer. Each is written down before the next step begins.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ts_rs::TS;
use utoipa::ToSchema;

use crate::conversation::TurnStatus;
use crate::error::Problem;
use crate::id::{ConversationId, CorrelationId, TurnId};
use crate::routing::Route;
use crate::time::Timestamp;

/// Something that happened to a turn, with what is needed to follow it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct FlowEvent {
    /// The request.
    pub correlation_id: CorrelationId,
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The turn within it.
    pub turn_id: TurnId,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub step: FlowStep,
}

/// The steps of the flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema, strum::IntoStaticStr)]
#[serde(tag = "event")]
#[ts(export)]
pub enum FlowStep {
    /// The question as text, whatever it came in as.
    UserQueryReceived {
        /// The question.
        text: String,
    },
    /// The router needs to know what is on the user's screen.
    GlazyrContextRequested {
        /// Which parts are wanted, as `text`, `tree`, `frame`, `ocr`.
        want: Vec<String>,
        /// The oldest that would do, in milliseconds.
        #[ts(type = "number")]
        max_age_ms: u64,
    },
    /// What is on the user's screen.
    ContextReady {
        /// Where it came from.
        source: String,
        /// The context in words.
        summary_text: String,
    },
    /// There is no context; the flow goes on without.
    ContextFailed {
        /// Why.
        problem: Problem,
    },
    /// Server and tool were chosen and the arguments filled.
    RouteChosen {
        /// The choice and its reasons.
        route: Route,
    },
    /// The tool is about to be called. A turn found in this state after a crash may have had effects.
    McpCallStarted {
        /// The server.
        server: String,
        /// The tool.
        tool: String,
        /// Its arguments.
        #[ts(type = "unknown")]
        arguments: Value,
        /// Whether the tool says that calling it twice does no more than calling it once.
        safe_to_repeat: bool,
    },
    /// The tool answered.
    McpResponseReady {
        /// The result, as the server gave it (a `CallToolResult`).
        #[ts(type = "unknown")]
        result: Value,
        /// How long the call took, in milliseconds.
        #[ts(type = "number")]
        duration_ms: u64,
    },
    /// The call failed.
    McpCallFailed {
        /// Why.
        problem: Problem,
        /// Whether the tool may have had effects all the same.
        may_have_had_effects: bool,
    },
    /// The answer is there; nothing more will happen to the turn.
    AnswerReady {
        /// How the turn ended.
        status: TurnStatus,
        /// The answer.
        text: String,
        /// The arguments that the answer asks for.
        missing: Vec<String>,
        /// What went wrong, if anything.
        problem: Option<Problem>,
    },
}
