//! Audit events: who did what to which subject, when, and how it ended.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ts_rs::TS;
use ulid::Ulid;
use utoipa::{IntoParams, ToSchema};

use super::Role;
use crate::id::{CorrelationId, InvalidId, NodeId, travels_as_string, ulid_id};
use crate::time::Timestamp;

ulid_id!(
    /// The identity of an audit event: the order of ids is the order of events. Also a list's cursor.
    AuditId,
    "audit id"
);

/// How an audited action ended.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    TS,
    ToSchema,
    strum::Display,
    strum::EnumString,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum AuditOutcome {
    /// It was done.
    Succeeded,
    /// The principal may not do it.
    Refused,
    /// It was tried and failed.
    Failed,
    /// It was begun, and how it ended is not known: who asked hung up, or the time was over.
    Unknown,
}

/// Who did what to which subject, when, and how it ended. Never holds a key, a secret, or the arguments of a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct AuditEvent {
    /// Its identity, ordered by time.
    pub id: AuditId,
    /// When it happened.
    pub at: Timestamp,
    /// The node on which it was done; filled in where nodes are put together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub node: Option<NodeId>,
    /// The name of the principal.
    pub principal: String,
    /// The role it had.
    pub role: Role,
    /// What was done: noun and verb, such as `server.register`, `key.revoke`, `secret.put`, `actor.restart`.
    pub action: String,
    /// To what: a server's, key's or secret's name, an actor's path.
    pub subject: String,
    /// How it ended.
    pub outcome: AuditOutcome,
    /// The trace it belongs to.
    #[ts(optional)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
    /// More for a reader, such as the error.
    #[ts(optional)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Which audit events to list, newest first. All conditions that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
#[ts(export, optional_fields)]
pub struct AuditQuery {
    /// Exactly this principal's name.
    pub principal: Option<String>,
    /// This action, or all that begin with it: `server` finds `server.register`.
    pub action: Option<String>,
    /// Subjects that contain this text.
    pub subject: Option<String>,
    /// Only this outcome.
    pub outcome: Option<AuditOutcome>,
    /// Not before this moment.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
    /// How many at most: 1 to 500, 50 when not given.
    pub limit: Option<u32>,
    /// Where the last page ended: its `next_cursor`.
    pub cursor: Option<AuditId>,
}

/// A page of audit events, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct AuditPage {
    /// The events. May be fewer than the limit, even none, when `next_cursor` says that there is more to look through.
    pub items: Vec<AuditEvent>,
    /// Where to go on; absent at the end.
    #[ts(optional)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<AuditId>,
    /// How many events are kept in all, whatever the query.
    #[ts(type = "number")]
    pub total: u64,
    /// Nodes that were asked too and did not answer: what they have is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(optional, as = "Option<Vec<NodeId>>")]
    pub unanswered: Vec<NodeId>,
}
