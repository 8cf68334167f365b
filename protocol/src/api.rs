//! Shapes of the administration API that belong to no other module: pages, signing in, the node's status, and the
//! small bodies of requests.
//!
//! JSON is snake_case. Lists are a [`Page`]. Errors are [`crate::error`]'s problem document.

use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::{IntoParams, ToSchema};

use crate::access::Role;
use crate::id::{CorrelationId, NodeId, TurnId};
use crate::routing::{ModelStatus, PlannerKind};
use crate::server::StatusCounts;

/// Items of a page where the caller names no limit.
pub const PAGE_ITEMS_DEFAULT: u32 = 50;
/// Most items of a page.
pub const PAGE_ITEMS_MAX: u32 = 500;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Page<T> {
    /// The items of this page.
    pub items: Vec<T>,
    /// Ask with this cursor for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub next_cursor: Option<String>,
    /// Items on all pages together.
    #[ts(type = "number")]
    pub total: u64,
    /// Nodes that were asked too and did not answer: what they have is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(optional, as = "Option<Vec<NodeId>>")]
    pub unanswered: Vec<NodeId>,
}

impl<T> Page<T> {
    /// A list that fits on one page.
    pub fn whole(items: Vec<T>) -> Self {
        let total = items.len() as u64;
        Self {
            items,
            next_cursor: None,
            total,
            unanswered: Vec::new(),
        }
    }

    /// The page of `items` that starts at `cursor` (an offset, as [`Self::next_cursor`] gave it).
    /// A cursor that is no number starts at the beginning.
    pub fn slice(items: impl ExactSizeIterator<Item = T>, cursor: Option<&str>, limit: Option<u32>) -> Self {
        let total = items.len();
        let start: usize = cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
        let limit = limit.unwrap_or(PAGE_ITEMS_DEFAULT).clamp(1, PAGE_ITEMS_MAX) as usize;
        let end = start.saturating_add(limit);
        let items = items.skip(start).take(limit).collect();
        Self {
            items,
            next_cursor: (end < total).then(|| end.to_string()),
            total: total as u64,
            unanswered: Vec::new(),
        }
    }
}

/// Where a list is entered and how much of it is wanted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Words that must occur.
    pub search: Option<String>,
    /// Items wanted, 1 to 500.
    #[param(minimum = 1, maximum = 500)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Signing in: with the one-time code of a login link, or with a key.
#[derive(Clone, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct LoginRequest {
    /// One-time code of a login link.
    #[serde(default)]
    #[ts(optional)]
    pub code: Option<String>,
    /// A key, `trp_…`.
    #[serde(default)]
    #[ts(optional)]
    pub key: Option<String>,
}

/// Who the caller is, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Me {
    /// Name of the key that the caller holds.
    pub name: String,
    /// What the caller may do.
    pub role: Role,
    /// This node.
    pub node_id: NodeId,
    /// What people call it.
    pub node_name: String,
    /// The node's version.
    pub version: String,
}

/// How the node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct NodeStatus {
    /// This node.
    pub node_id: NodeId,
    /// What people call it.
    pub node_name: String,
    /// The node's version.
    pub version: String,
    /// Time since the start, in milliseconds.
    #[ts(type = "number")]
    pub uptime_ms: u64,
    /// Whether every part has started.
    pub ready: bool,
    /// The cluster in figures.
    pub cluster: ClusterCounts,
    /// The sentence embedding model.
    pub model: ModelStatus,
    /// Who fills the arguments of calls.
    pub planner: PlannerKind,
    /// Registered servers by how they fare.
    pub servers: StatusCounts,
    /// Actors by what they do.
    pub actors: ActorCounts,
    /// Calls to servers that wait for their answer.
    #[ts(type = "number")]
    pub calls_in_flight: u64,
    /// Messages that reached nobody since the start.
    #[ts(type = "number")]
    pub dead_letters: u64,
    /// What a person should look at, worst first.
    pub warnings: Vec<Warning>,
}

/// The cluster in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ClusterCounts {
    /// Nodes that belong to it.
    pub members: u32,
    /// Those that are alive.
    pub members_up: u32,
    /// Whether this node follows a majority: it takes writes and runs placed actors.
    pub has_quorum: bool,
}

/// Actors by what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ActorCounts {
    /// All that have not ended for good.
    pub total: u32,
    /// Handling a message.
    pub busy: u32,
    /// Paused by an operator.
    pub suspended: u32,
    /// Died and waiting to be started again.
    pub restarting: u32,
    /// Restarts since the node started, all actors together.
    pub restarts: u32,
    /// Messages waiting in all mailboxes.
    pub messages_waiting: u32,
}

/// Something that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Warning {
    /// What kind of warning, such as `mailbox_growing`.
    pub code: String,
    /// How bad.
    pub severity: Severity,
    /// For a person.
    pub text: String,
    /// The actor or server it is about; empty: the node.
    pub subject: String,
}

/// How bad.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, TS, ToSchema, strum::Display,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Look soon.
    Warning,
    /// Look now.
    Error,
}

/// A tool of a server that is up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ToolListing {
    /// The server.
    pub server: String,
    /// The tool's name there.
    pub tool: String,
    /// Its title, if it has one.
    pub title: Option<String>,
    /// What it does.
    pub description: String,
    /// The JSON Schema of its arguments.
    #[ts(type = "unknown")]
    #[schema(value_type = Object)]
    pub input_schema: serde_json::Value,
}

/// A call of one tool.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct CallToolRequest {
    /// By the tool's input schema.
    #[serde(default)]
    #[ts(type = "Record<string, unknown>")]
    #[schema(value_type = Object)]
    pub arguments: serde_json::Map<String, serde_json::Value>,
}

/// A resource to be read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct ReadResourceRequest {
    /// As the server lists it.
    pub uri: String,
}

/// What a prompt is filled in with.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct GetPromptRequest {
    /// Values by the prompt's arguments.
    #[serde(default)]
    pub arguments: std::collections::BTreeMap<String, String>,
}

/// What a tool, resource or prompt answered.
#[derive(Debug, Clone, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct CallToolResponse {
    /// MCP's result, byte for byte as the server gave it.
    #[ts(type = "unknown")]
    #[schema(value_type = Object)]
    pub result: Box<serde_json::value::RawValue>,
    /// Finds the call's trace.
    pub correlation_id: Option<CorrelationId>,
    /// From request to answer, in milliseconds.
    pub duration_ms: f64,
}

/// A question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct AskRequest {
    /// The question.
    pub text: String,
    /// The conversation it belongs to; absent: a new one.
    #[serde(default)]
    #[ts(optional)]
    pub conversation_id: Option<crate::id::ConversationId>,
}

/// A message to a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct SayRequest {
    /// What the person wrote.
    pub text: String,
}

/// A message was taken; its answer comes through the conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct SayAccepted {
    /// The turn that answers it.
    pub turn_id: TurnId,
}

/// What changes about a conversation; absent fields stay.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct ConversationPatch {
    /// Its new title.
    #[serde(default)]
    #[ts(optional)]
    pub title: Option<String>,
    /// Whether it stays on top.
    #[serde(default)]
    #[ts(optional)]
    pub pinned: Option<bool>,
}

/// Confirms something that ends an actor's work.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct ActorCommandRequest {
    /// The actor's path. Needed for restart, drain and kill.
    #[serde(default)]
    #[ts(optional)]
    pub confirm: Option<String>,
}

/// What a command to an actor did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ActorCommandResponse {
    /// The actor's path.
    pub path: crate::id::ActorPath,
    /// The command.
    pub command: crate::observe::ActorCommand,
    /// The actors below it, which it reaches too.
    pub children: u32,
}

/// A key that was made. The only time that the key itself is told.
#[derive(Clone, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct CreatedKey {
    /// What is known of it later.
    #[serde(flatten)]
    pub info: crate::access::KeyInfo,
    /// The key. Keep it: it is not told again.
    pub key: String,
}

/// A one-time link that signs a browser in.
#[derive(Clone, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct LoginLink {
    /// Open this in a browser.
    pub url: String,
    /// How long it works, in milliseconds.
    #[ts(type = "number")]
    pub expires_in_ms: u64,
}

/// A secret's value, on its way in. There is no way out.
#[derive(Clone, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct PutSecret {
    /// The value.
    pub value: String,
}

/// What another machine needs to join the cluster. The only time that the string is told.
#[derive(Clone, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Invitation {
    /// Start a node with `troupe up --join` and this string. It works once.
    pub join: String,
    /// How long it works, in milliseconds.
    #[ts(type = "number")]
    pub expires_in_ms: u64,
}

/// Confirms something that takes a node out of its work.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct MemberCommandRequest {
    /// The member's name. Needed for drain and demote.
    #[serde(default)]
    #[ts(optional)]
    pub confirm: Option<String>,
}

/// What an operator can have a member do.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema, strum::Display, strum::EnumString,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum MemberCommand {
    /// Hand over all placed actors and take no more.
    Drain,
    /// Take placed actors again.
    Undrain,
    /// Vote on what is written.
    Promote,
    /// Follow without a vote.
    Demote,
}

/// What a restored backup brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Restored {
    /// When the backup was made.
    pub made_at: crate::time::Timestamp,
    /// Records that were put.
    #[ts(type = "number")]
    pub put: u64,
    /// Records that are not in the backup and were removed.
    #[ts(type = "number")]
    pub removed: u64,
    /// Records that were as in the backup already.
    #[ts(type = "number")]
    pub unchanged: u64,
    /// Whether the secrets are those of the backup. Those of another cluster are sealed with a key that this one lacks,
    /// and are left out.
    pub with_secrets: bool,
}

/// What the caller may know of readiness.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Readiness {
    /// Whether every part has started.
    pub ready: bool,
    /// The parts that have not, by path.
    pub waiting_for: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::Page;

    #[test]
    fn pages_follow_each_other_without_gap_or_overlap() {
        let first = Page::slice(0..5, None, Some(2));
        assert_eq!(
            (first.items.as_slice(), first.next_cursor.as_deref(), first.total),
            ([0, 1].as_slice(), Some("2"), 5)
        );
        let last = Page::slice(0..5, Some("4"), Some(2));
        assert_eq!((last.items.as_slice(), last.next_cursor), ([4].as_slice(), None));
        assert!(Page::slice(0..5, Some("9"), None).items.is_empty());
    }
}
