//! What can be seen of live connections to servers.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::ToSchema;

use crate::id::{CorrelationId, InvalidId, NodeId};
use crate::mcp::{Era, ListKind};
use crate::server::{ClearText, ServerName};
use crate::time::Timestamp;

/// One call on its way to a server. Unique on its node for as long as the node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, TS, ToSchema)]
#[serde(transparent)]
#[ts(as = "u32")]
pub struct CallId(pub u64);

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CallId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        text.parse()
            .map(Self)
            .map_err(|_| InvalidId::new("call id", text, "a whole number"))
    }
}

/// A call that a server has not answered yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct CallInFlight {
    /// The call; it can be cancelled by this id.
    pub id: CallId,
    /// The node on which it is in flight; filled in where nodes are put together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(optional)]
    pub node: Option<NodeId>,
    /// The server that was called.
    pub server: ServerName,
    /// The method, as `tools/call`.
    pub method: String,
    /// The tool, prompt or resource that was named.
    pub name: Option<String>,
    /// Who called; nothing for Troupe itself.
    pub principal: Option<String>,
    /// When it was handed to the connection.
    pub since: Timestamp,
    /// For how long it has been in flight, in milliseconds.
    #[ts(type = "number")]
    pub age_ms: u64,
    /// The request that it belongs to.
    pub correlation_id: Option<CorrelationId>,
}

/// Where a line of a server's log comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
#[ts(export)]
pub enum LogSource {
    /// The server's standard error.
    Stderr,
    /// `notifications/message` of the protocol.
    Message,
    /// Troupe itself: starts, ends, what could not be read.
    Troupe,
}

/// A line of a server's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct LogLine {
    /// When it came.
    pub at: Timestamp,
    /// Where it comes from.
    pub source: LogSource,
    /// The severity, where the source gives one (`debug` … `emergency`).
    pub level: Option<String>,
    /// The text, cut where it is too long.
    pub text: String,
}

/// Name and version that a server gives of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(default)]
#[ts(export)]
pub struct ServerInfo {
    /// The server's name for programs.
    pub name: String,
    /// The server's name for people.
    pub title: Option<String>,
    /// The server's version.
    pub version: String,
}

/// What a server said of itself when the connection was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct UpstreamInfo {
    /// The era it speaks.
    pub era: Era,
    /// The revision agreed upon.
    pub protocol_version: String,
    /// Its name and version.
    pub server_info: ServerInfo,
    /// Its capabilities, as it wrote them.
    #[ts(type = "unknown")]
    pub capabilities: serde_json::Value,
    /// Its guidance for models.
    pub instructions: Option<String>,
}

impl UpstreamInfo {
    /// Whether the server declared what it takes to be asked for this list.
    pub fn offers(&self, kind: ListKind) -> bool {
        self.capabilities
            .get(kind.capability())
            .is_some_and(|capability| !capability.is_null())
    }
}

/// How Troupe gets a token for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
#[ts(export)]
pub enum LoginGrant {
    /// A person logs in with a browser.
    #[default]
    AuthorizationCode,
    /// By the credentials of a client that the authorization server knows.
    ClientCredentials,
}

/// A login to begin at a server that asks for OAuth.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, TS, ToSchema)]
#[serde(deny_unknown_fields)]
#[ts(export, optional_fields)]
pub struct ServerLogin {
    /// How.
    #[serde(default)]
    #[ts(as = "Option<LoginGrant>")]
    pub grant: LoginGrant,
    /// The node's address as the person's browser reaches it, to which it comes back: `http://127.0.0.1:7500`.
    #[serde(default)]
    #[ts(as = "Option<String>")]
    pub origin: String,
    /// The client that the authorization server knows; without one Troupe registers itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// The client's secret. It is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<ClearText>,
    /// What to ask for; what the server names when nothing is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[ts(as = "Option<Vec<String>>")]
    pub scopes: Vec<String>,
}

/// A login that was begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export, optional_fields)]
pub struct ServerLoginStarted {
    /// Where the person logs in; nothing when the login is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// What there is of a login at a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export, optional_fields)]
pub struct ServerLoginState {
    /// When the token that is kept was received, in seconds since 1970; nothing when nobody has logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[ts(type = "number")]
    pub received_at_s: Option<u64>,
}

/// Where a connection to a server stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
#[ts(export)]
pub enum UpstreamState {
    /// Nobody has needed it yet.
    Idle,
    /// The process is being started, or the era probed.
    Connecting,
    /// Calls are answered.
    Ready,
    /// The connection was lost or could not be made; the next attempt comes after a pause.
    Waiting {
        /// Why.
        reason: String,
        /// How many attempts have failed in a row.
        attempts: u32,
        /// The pause before the next attempt, in milliseconds.
        #[ts(type = "number")]
        retry_in_ms: u64,
    },
    /// The server was disabled or removed.
    Stopped,
}
