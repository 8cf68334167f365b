//! The console's list of servers, and the detail of one.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use ts_rs::TS;
use utoipa::{IntoParams, ToSchema};

use super::manifest::ServerJson;
use super::name::ServerName;
use super::official::OfficialMeta;
use super::operation::Operation;
use crate::health::{HealthHistory, HealthReport, HealthStatus};
use crate::id::{InvalidId, travels_as_string};
use crate::mcp::Era;
use crate::time::Timestamp;

/// How many servers a page of the console's list has when the caller does not say.
pub const LIST_SERVERS_DEFAULT: usize = 50;
/// How many servers a page of the console's list has at most.
pub const LIST_SERVERS_MAX: usize = 500;
/// The most characters of a search.
pub const SEARCH_CHARS_MAX: usize = 200;

/// A server's line in the list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ServerSummary {
    /// Its name.
    pub name: ServerName,
    /// Its name for people.
    pub title: String,
    /// What it does.
    pub description: String,
    /// The version of its manifest.
    pub version: String,
    /// Its transport: `stdio` or `streamable_http`; nothing for an entry that is only catalogued.
    pub transport: Option<String>,
    /// Its command line or address.
    pub endpoint: Option<String>,
    /// The era of MCP it speaks: `legacy` or `modern`; nothing before it was first reached.
    pub era: Option<Era>,
    /// What it offers: `tools`, `resources`, `prompts`, …
    pub capabilities: Vec<String>,
    /// How many tools it has: those it listed, else those a catalogue says it has.
    pub tools_count: Option<u32>,
    /// Whether it is enabled.
    pub enabled: bool,
    /// How it fares.
    pub status: HealthStatus,
    /// The round-trip time of the last probe in milliseconds.
    pub latency_ms: Option<f64>,
    /// The part of the last 24 hours that it was up, 0 to 1, of the time it was observed.
    pub uptime_24h: Option<f64>,
    /// When it last answered.
    pub last_active: Option<Timestamp>,
    /// What last went wrong.
    pub last_error: Option<String>,
    /// Words by which people group servers.
    pub labels: Vec<String>,
    /// Who registered it.
    pub owner: String,
}

/// All there is to say of a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ServerDetail {
    /// Its line in the list.
    #[serde(flatten)]
    pub summary: ServerSummary,
    /// The latest version of its manifest.
    #[schema(value_type = ServerJson)]
    pub manifest: Arc<ServerJson>,
    /// How it is operated. Headers and variables show which secrets they refer to, never their values.
    pub operation: Operation,
    /// What the registry says of the latest version.
    pub official: OfficialMeta,
    /// All its versions, newest first.
    pub versions: Vec<String>,
    /// Counts its changes.
    #[ts(type = "number")]
    pub revision: u64,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// How it fares.
    pub health: HealthReport,
    /// How it fared in the last 24 hours.
    pub history: HealthHistory,
}

/// What to list.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ServerQuery {
    /// Words that must all occur in name, title, description, labels or tool names; at most 200 characters.
    pub search: Option<String>,
    /// Only servers of this status.
    pub status: Option<HealthStatus>,
    /// By what to sort: `name` (default; by fit when searching), `title`, `status`, `latency`, `uptime`,
    /// `last_active`, `updated`; with `-` before it in descending order.
    #[param(value_type = Option<String>)]
    pub sort: Option<ServerSort>,
    /// How many to list: 1 to 500. Default: 50.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// A page of the console's list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export, optional_fields)]
pub struct ServerPage {
    /// The servers.
    pub items: Vec<ServerSummary>,
    /// The `cursor` of the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// How many servers fit the query, over all pages.
    pub total: u32,
}

/// How many servers there are of each status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct StatusCounts {
    /// All registered servers.
    pub total: u32,
    /// Those that answer.
    pub online: u32,
    /// Those that answer slowly or not always.
    pub degraded: u32,
    /// Those that do not answer.
    pub offline: u32,
    /// Those about which nothing is known yet.
    pub testing: u32,
    /// Those that are disabled.
    pub disabled: u32,
}

impl StatusCounts {
    /// Counts one more server.
    pub fn add(&mut self, status: HealthStatus) {
        self.total += 1;
        *match status {
            HealthStatus::Online => &mut self.online,
            HealthStatus::Degraded => &mut self.degraded,
            HealthStatus::Offline => &mut self.offline,
            HealthStatus::Testing => &mut self.testing,
            HealthStatus::Disabled => &mut self.disabled,
        } += 1;
    }
}

/// By what the list is sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum SortKey {
    /// The name.
    Name,
    /// The name for people.
    Title,
    /// The status, the worst first.
    Status,
    /// The round-trip time; servers without one last.
    Latency,
    /// The uptime; servers without one last.
    Uptime,
    /// When it last answered; servers that never did last.
    LastActive,
    /// When it was last changed.
    Updated,
}

/// An order of the list; travels as `latency` or `-latency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerSort {
    /// By what.
    pub key: SortKey,
    /// Whether the greatest comes first.
    pub descending: bool,
}

impl FromStr for ServerSort {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let (key, descending) = text.strip_prefix('-').map_or((text, false), |key| (key, true));
        let key = key.parse().map_err(|_| InvalidId {
            kind: "sort order",
            text: text.chars().take(80).collect(),
            expected: "name, title, status, latency, uptime, last_active or updated, with or without - before it",
        })?;
        Ok(Self { key, descending })
    }
}

impl fmt::Display for ServerSort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.descending { "-" } else { "" };
        write!(f, "{sign}{}", <&str>::from(self.key))
    }
}

travels_as_string!(ServerSort);
