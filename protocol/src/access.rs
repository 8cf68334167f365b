//! Who may do what, and who did it: roles, principals, API keys, secrets and their templates, audit events.
//!
//! Here are the wire types only. Keys are checked in `actors::access`, secrets are sealed and resolved in
//! `actors::vault`, audit events are kept by `actors::audit`. No type here ever holds a key or a secret in clear.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ts_rs::TS;
use ulid::Ulid;
use utoipa::ToSchema;

use crate::id::{InvalidId, travels_as_string, ulid_id};
use crate::time::Timestamp;

mod audit;
mod secret;

pub use audit::{AuditEvent, AuditId, AuditOutcome, AuditPage, AuditQuery};
pub use secret::{SecretInfo, SecretName, SecretTemplate, TemplateError, TemplatePart};

/// What a principal may do. Ordered: each role may do all that the ones before it may.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    TS,
    ToSchema,
    strum::Display,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantNames,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum Role {
    /// Asks, converses, and calls tools.
    User,
    /// Also sees actors, traces, calls, dead letters, status and metrics.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Whether this role may do what `required` may do.
    pub fn allows(self, required: Role) -> bool {
        self >= required
    }
}

/// How the tools of all servers are shown to the MCP clients of a key at `/mcp`. It limits what is listed, not what may
/// be called.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
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
pub enum ToolsShown {
    /// Every tool is listed.
    #[default]
    Full,
    /// Only `find_tools` and `call_tool`: for clients that must not be given thousands of tools.
    Search,
}

impl ToolsShown {
    fn is_full(&self) -> bool {
        *self == Self::Full
    }
}

ulid_id!(
    /// The stable identity of an API key. Never the key itself.
    KeyId,
    "key id"
);

/// Who is behind a request. Made by `actors::access` from a key or a browser session, or by the node for callers without one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Principal {
    /// The key's name, `anonymous`, or `node`.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The key that proved it; `None` for `anonymous` and `node`.
    #[ts(optional)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<KeyId>,
    /// How tools are shown to its MCP clients.
    #[ts(as = "Option<ToolsShown>", optional)]
    #[serde(default, skip_serializing_if = "ToolsShown::is_full")]
    pub tools: ToolsShown,
}

impl Principal {
    /// The principal that a named key proves.
    pub fn of_key(name: impl Into<String>, role: Role, key_id: KeyId) -> Self {
        Self {
            name: name.into(),
            role,
            key_id: Some(key_id),
            tools: ToolsShown::Full,
        }
    }

    /// The same, with tools shown in this way.
    #[must_use]
    pub fn shown(self, tools: ToolsShown) -> Self {
        Self { tools, ..self }
    }

    /// A caller without a key on a node that was started with `--open`. It has the user role.
    pub fn anonymous() -> Self {
        Self {
            name: "anonymous".to_owned(),
            role: Role::User,
            key_id: None,
            tools: ToolsShown::Full,
        }
    }

    /// The node itself: what it does unasked (first start, import at start, repair).
    pub fn node() -> Self {
        Self {
            name: "node".to_owned(),
            role: Role::Admin,
            key_id: None,
            tools: ToolsShown::Full,
        }
    }

    /// Whether its role may do what `required` may do.
    pub fn may(&self, required: Role) -> bool {
        self.role.allows(required)
    }
}

/// An API key as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct KeyInfo {
    /// Its identity.
    pub id: KeyId,
    /// Whose or what for; unique.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// How tools are shown to its MCP clients.
    #[serde(default)]
    pub tools: ToolsShown,
    /// Its first characters, so that a person recognises it: `trp_Ab3d…`.
    pub hint: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The principal that made it.
    pub created_by: String,
    /// When it last proved a principal, to within a minute.
    #[ts(optional)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

/// Asks for a new API key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export)]
pub struct NewKey {
    /// Whose or what for; unique, at most 64 characters.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// How tools are shown to its MCP clients; all of them when nothing is given.
    #[serde(default)]
    #[ts(as = "Option<ToolsShown>", optional)]
    pub tools: ToolsShown,
}

impl NewKey {
    /// A key with this name and role, whose clients see all tools.
    pub fn new(name: impl Into<String>, role: Role) -> Self {
        Self {
            name: name.into(),
            role,
            tools: ToolsShown::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_role_allows_itself_and_the_lesser_ones() {
        assert!(
            Role::Admin.allows(Role::User)
                && Role::Admin.allows(Role::Operator)
                && Role::Admin.allows(Role::Admin)
        );
        assert!(Role::Operator.allows(Role::User) && !Role::Operator.allows(Role::Admin));
        assert!(!Role::User.allows(Role::Operator));
    }

    #[test]
    fn roles_are_written_in_lower_case_everywhere() {
        assert_eq!(serde_json::to_string(&Role::Operator).unwrap(), r#""operator""#);
        assert_eq!(Role::Operator.to_string(), "operator");
        assert_eq!("admin".parse::<Role>().unwrap(), Role::Admin);
    }

    #[test]
    fn an_anonymous_principal_is_a_mere_user() {
        assert!(Principal::anonymous().may(Role::User));
        assert!(!Principal::anonymous().may(Role::Operator));
    }
}
