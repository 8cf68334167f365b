//! What the live WebSocket says.

use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::ToSchema;

use crate::conversation::ConversationEvent;
use crate::event::FlowEvent;
use crate::id::{ConversationId, NodeId};
use crate::observe::ActorReport;

/// What a client of `/api/v1/live` sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
#[ts(export)]
pub enum LiveRequest {
    /// Begin to hear of these topics: `servers`, `actors`, `events`, `status`, `conversations/{id}`; at most 32.
    Subscribe(Vec<String>),
    /// No longer hear of these.
    Unsubscribe(Vec<String>),
}

/// What a client of `/api/v1/live` hears.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[serde(tag = "topic", rename_all = "snake_case")]
#[ts(export)]
pub enum LiveEvent {
    /// A server was registered or changed, or its status did: its line in the list.
    Server {
        /// The line.
        server: Box<crate::server::ServerSummary>,
    },
    /// A server is gone.
    ServerRemoved {
        /// Its name.
        name: String,
    },
    /// All actors of one node, at most twice a second; each node's in an event of its own.
    Actors {
        /// The node.
        node: NodeId,
        /// Their reports.
        reports: Vec<ActorReport>,
    },
    /// Something happened to a turn.
    Flow {
        /// What.
        event: Box<FlowEvent>,
    },
    /// Something happened in a conversation.
    Conversation {
        /// The conversation.
        conversation_id: ConversationId,
        /// What.
        #[serde(flatten)]
        event: Box<ConversationEvent>,
    },
    /// The node's status, at most once a second.
    Status {
        /// The status.
        status: Box<crate::api::NodeStatus>,
    },
    /// Events were lost because this client was too slow: read the lists again.
    Lagged {
        /// How many.
        #[ts(type = "number")]
        events: u64,
    },
    /// The request was not understood.
    Refused {
        /// Why.
        detail: String,
    },
}
