//! Names and numbers of the Model Context Protocol, both eras.
//!
//! Sources: the specification's revisions 2024-11-05, 2025-03-26, 2025-06-18, 2025-11-25 (legacy: a session made by
//! `initialize`) and 2026-07-28 (modern: every request carries its version and the client's capabilities).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use ts_rs::TS;
use utoipa::ToSchema;

use crate::jsonrpc::edit;

pub mod header;
mod log_level;
mod profile;

pub use log_level::LogLevel;
pub use profile::Profile;

/// How a peer starts and identifies itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
#[ts(export)]
pub enum Era {
    /// `initialize`, sessions, server requests to the client: up to 2025-11-25.
    Legacy,
    /// Every request stands alone: from 2026-07-28.
    Modern,
}

impl fmt::Display for Era {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Legacy => "legacy",
            Self::Modern => "modern",
        })
    }
}

/// A revision of the protocol that Troupe speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// 2024-11-05
    V2024_11_05,
    /// 2025-03-26
    V2025_03_26,
    /// 2025-06-18
    V2025_06_18,
    /// 2025-11-25
    V2025_11_25,
    /// 2026-07-28
    V2026_07_28,
}

/// A revision that Troupe does not speak.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("protocol version {0:?} is not spoken here (one of {list})", list = ProtocolVersion::ALL.map(ProtocolVersion::as_str).join(", "))]
pub struct UnknownProtocolVersion(pub String);

impl ProtocolVersion {
    /// Every revision, oldest first.
    pub const ALL: [Self; 5] = [
        Self::V2024_11_05,
        Self::V2025_03_26,
        Self::V2025_06_18,
        Self::V2025_11_25,
        Self::V2026_07_28,
    ];
    /// The revision offered by `initialize`.
    pub const LATEST_LEGACY: Self = Self::V2025_11_25;
    /// The revision offered by `server/discover`.
    pub const LATEST_MODERN: Self = Self::V2026_07_28;

    /// The revision as it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// The era of the revision.
    pub const fn era(self) -> Era {
        match self {
            Self::V2026_07_28 => Era::Modern,
            _ => Era::Legacy,
        }
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ProtocolVersion {
    type Err = UnknownProtocolVersion;
    fn from_str(text: &str) -> Result<Self, UnknownProtocolVersion> {
        let known = Self::ALL.into_iter().find(|version| version.as_str() == text);
        known.ok_or_else(|| UnknownProtocolVersion(text.chars().take(80).collect()))
    }
}

/// Keys of `_meta`.
pub mod meta {
    /// The revision of the protocol of this request (modern, required).
    pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
    /// What the client can do (modern, required).
    pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
    /// The client's name and version (modern).
    pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
    /// The server's name and version (modern).
    pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
    /// The subscription a notification belongs to (modern).
    pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
    /// The least severe log message wanted with this request (modern).
    pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
    /// The token under which progress of this request is reported.
    pub const PROGRESS_TOKEN: &str = "progressToken";
}

/// Method names.
pub mod method {
    #![allow(missing_docs, reason = "each name is the method it names")]
    pub const INITIALIZE: &str = "initialize";
    pub const INITIALIZED: &str = "notifications/initialized";
    pub const DISCOVER: &str = "server/discover";
    pub const PING: &str = "ping";
    pub const TOOLS_LIST: &str = "tools/list";
    pub const TOOLS_CALL: &str = "tools/call";
    pub const RESOURCES_LIST: &str = "resources/list";
    pub const RESOURCES_TEMPLATES_LIST: &str = "resources/templates/list";
    pub const RESOURCES_READ: &str = "resources/read";
    pub const RESOURCES_SUBSCRIBE: &str = "resources/subscribe";
    pub const RESOURCES_UNSUBSCRIBE: &str = "resources/unsubscribe";
    pub const PROMPTS_LIST: &str = "prompts/list";
    pub const PROMPTS_GET: &str = "prompts/get";
    pub const COMPLETION_COMPLETE: &str = "completion/complete";
    pub const LOGGING_SET_LEVEL: &str = "logging/setLevel";
    pub const TASKS_GET: &str = "tasks/get";
    pub const TASKS_UPDATE: &str = "tasks/update";
    pub const TASKS_CANCEL: &str = "tasks/cancel";
    pub const TASKS_RESULT: &str = "tasks/result";
    pub const TASKS_LIST: &str = "tasks/list";
    pub const SUBSCRIPTIONS_LISTEN: &str = "subscriptions/listen";
    pub const ROOTS_LIST: &str = "roots/list";
    pub const SAMPLING_CREATE_MESSAGE: &str = "sampling/createMessage";
    pub const ELICITATION_CREATE: &str = "elicitation/create";
    pub const NOTIFICATION_CANCELLED: &str = "notifications/cancelled";
    pub const NOTIFICATION_ROOTS_CHANGED: &str = "notifications/roots/list_changed";
    pub const NOTIFICATION_PROGRESS: &str = "notifications/progress";
    pub const NOTIFICATION_MESSAGE: &str = "notifications/message";
    pub const NOTIFICATION_TOOLS_CHANGED: &str = "notifications/tools/list_changed";
    pub const NOTIFICATION_RESOURCES_CHANGED: &str = "notifications/resources/list_changed";
    pub const NOTIFICATION_RESOURCE_UPDATED: &str = "notifications/resources/updated";
    pub const NOTIFICATION_PROMPTS_CHANGED: &str = "notifications/prompts/list_changed";
    pub const NOTIFICATION_SUBSCRIPTION_ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";
}

/// Error codes that MCP adds to those of JSON-RPC.
pub mod code {
    /// Legacy: the resource does not exist. Modern servers say -32602.
    pub const RESOURCE_NOT_FOUND: i64 = -32002;
    /// Headers and body of a request disagree, or a required header is absent.
    pub const HEADER_MISMATCH: i64 = -32020;
    /// The request needs a capability that the client did not declare.
    pub const MISSING_CLIENT_CAPABILITY: i64 = -32021;
    /// The revision of the protocol is not spoken.
    pub const UNSUPPORTED_PROTOCOL_VERSION: i64 = -32022;

    /// Whether only a modern server answers with this code: such a server is not asked to `initialize`.
    pub const fn is_modern(code: i64) -> bool {
        matches!(
            code,
            HEADER_MISMATCH | MISSING_CLIENT_CAPABILITY | UNSUPPORTED_PROTOCOL_VERSION
        )
    }
}

/// The capabilities of a client as JSON text, passed on as they are.
#[derive(Debug, Clone)]
pub struct ClientCapabilities(Arc<RawValue>);

impl ClientCapabilities {
    /// The capabilities that a client declared: an object.
    pub fn new(object: Box<RawValue>) -> Self {
        Self(object.into())
    }

    /// The capabilities as JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }
}

impl Default for ClientCapabilities {
    fn default() -> Self {
        Self(
            RawValue::from_string("{}".to_owned())
                .map_or_else(|_| RawValue::NULL.to_owned().into(), Into::into),
        )
    }
}

/// The kinds of things that a server lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, TS, ToSchema, strum::Display)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum ListKind {
    /// `tools/list`
    Tools,
    /// `resources/list`
    Resources,
    /// `resources/templates/list`
    ResourceTemplates,
    /// `prompts/list`
    Prompts,
}

impl ListKind {
    /// The method that lists them.
    pub const fn method(self) -> &'static str {
        match self {
            Self::Tools => method::TOOLS_LIST,
            Self::Resources => method::RESOURCES_LIST,
            Self::ResourceTemplates => method::RESOURCES_TEMPLATES_LIST,
            Self::Prompts => method::PROMPTS_LIST,
        }
    }

    /// The member of the result that holds them.
    pub const fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::ResourceTemplates => "resourceTemplates",
            Self::Prompts => "prompts",
        }
    }

    /// The capability that a server must declare to be asked.
    pub const fn capability(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources | Self::ResourceTemplates => "resources",
            Self::Prompts => "prompts",
        }
    }

    /// The member that names one of them.
    const fn key_member(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::ResourceTemplates => "uriTemplate",
        }
    }
}

/// One listed thing: its name (or URI) and its description exactly as the server wrote it.
#[derive(Debug, Clone)]
pub struct Descriptor {
    /// `name`, `uri` or `uriTemplate`.
    pub name: String,
    /// The whole object.
    pub raw: Arc<RawValue>,
}

/// A tool as its server describes it.
pub type ToolDescriptor = Descriptor;
/// A resource, named by its URI.
pub type ResourceDescriptor = Descriptor;
/// A resource template, named by its URI template.
pub type ResourceTemplateDescriptor = Descriptor;
/// A prompt.
pub type PromptDescriptor = Descriptor;

impl Serialize for Descriptor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

impl Descriptor {
    /// Reads one item of a list; nothing if it has no name.
    pub fn read(kind: ListKind, raw: &RawValue) -> Option<Self> {
        let name = edit::string_member(raw, kind.key_member())?.into_owned();
        Some(Self {
            name,
            raw: raw.to_owned().into(),
        })
    }

    /// The parts of a tool's description that Troupe itself looks at. Wrongly typed parts count as absent.
    pub fn tool(&self) -> ToolFields {
        serde_json::from_str(self.raw.get()).unwrap_or_default()
    }
}

/// What Troupe itself reads of a tool's description.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ToolFields {
    /// The title for people.
    #[serde(deserialize_with = "lenient")]
    pub title: Option<String>,
    /// What the tool does.
    #[serde(deserialize_with = "lenient")]
    pub description: Option<String>,
    /// JSON Schema of the arguments.
    pub input_schema: serde_json::Value,
    /// JSON Schema of `structuredContent`.
    pub output_schema: Option<serde_json::Value>,
    /// Hints on what a call may do.
    #[serde(deserialize_with = "lenient")]
    pub annotations: Option<ToolAnnotations>,
}

/// A tool's hints; they are the server's word, not a promise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "camelCase", default)]
#[ts(export)]
pub struct ToolAnnotations {
    /// The title for people.
    pub title: Option<String>,
    /// A call changes nothing.
    pub read_only_hint: Option<bool>,
    /// A call may destroy something.
    pub destructive_hint: Option<bool>,
    /// A second call with the same arguments changes nothing more.
    pub idempotent_hint: Option<bool>,
    /// A call reaches beyond the server.
    pub open_world_hint: Option<bool>,
}

fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_read_what_they_write_and_know_their_era() {
        for version in ProtocolVersion::ALL {
            assert_eq!(version.as_str().parse::<ProtocolVersion>().unwrap(), version);
        }
        assert_eq!(ProtocolVersion::LATEST_LEGACY.era(), Era::Legacy);
        assert_eq!(ProtocolVersion::LATEST_MODERN.era(), Era::Modern);
        let error = "2030-01-01".parse::<ProtocolVersion>().unwrap_err().to_string();
        assert!(error.contains("2026-07-28"), "{error}");
    }

    #[test]
    fn a_tool_keeps_what_is_not_known_of_it() {
        let text = r#"{"name":"t","title":7,"inputSchema":{"type":"object"},"execution":{"taskSupport":"optional"},
            "annotations":{"readOnlyHint":true},"x":12345678901234567890123}"#;
        let raw: Box<RawValue> = serde_json::from_str(text).unwrap();
        let tool = ToolDescriptor::read(ListKind::Tools, &raw).unwrap();
        assert_eq!(serde_json::to_string(&tool).unwrap(), text);
        let fields = tool.tool();
        assert_eq!((fields.title, fields.description), (None, None));
        assert_eq!(fields.annotations.unwrap().read_only_hint, Some(true));
        assert_eq!(fields.input_schema["type"], "object");
    }
}
