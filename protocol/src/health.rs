//! How registered servers fare.
//!
//! Probing and judging them lives in `troupe_actors::health`.

use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::ToSchema;

use crate::mcp::Era;
use crate::server::ServerName;
use crate::time::Timestamp;

/// How a server fares, the worst first.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    TS,
    ToSchema,
    strum::IntoStaticStr,
    strum::EnumString,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
#[ts(export)]
pub enum HealthStatus {
    /// It does not answer.
    Offline,
    /// It answers slowly, or not always.
    Degraded,
    /// It is enabled and nothing is known of it yet.
    #[default]
    Testing,
    /// It answers.
    Online,
    /// It is registered but not to be used.
    Disabled,
}

/// How a server fares and what is known of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct HealthReport {
    /// Its status.
    pub status: HealthStatus,
    /// Since when it has this status.
    pub since: Option<Timestamp>,
    /// The round-trip time of the last successful probe in milliseconds.
    pub latency_ms: Option<f64>,
    /// The part of the last 24 hours that it was up, 0 to 1, of the time it was observed.
    pub uptime_24h: Option<f64>,
    /// When it was last probed.
    pub last_probe: Option<Timestamp>,
    /// When it last answered.
    pub last_active: Option<Timestamp>,
    /// What last went wrong.
    pub last_error: Option<String>,
    /// The stable code of what last went wrong.
    pub last_error_code: Option<String>,
    /// When that was.
    pub last_error_at: Option<Timestamp>,
    /// How many probes in a row have failed.
    pub failures_in_a_row: u32,
    /// The era of MCP it speaks: `legacy` or `modern`.
    pub era: Option<Era>,
    /// The protocol version agreed on.
    pub protocol_version: Option<String>,
    /// Its own name and version, as `everything 1.0.0`.
    pub implementation: Option<String>,
    /// What it offers: `tools`, `resources`, `prompts`, …
    pub capabilities: Vec<String>,
    /// How many tools it has.
    pub tools_count: Option<u32>,
    /// The names of its tools in lower case, separated by line ends: for searching.
    #[serde(skip)]
    #[ts(skip)]
    #[schema(ignore)]
    pub tool_names: std::sync::Arc<str>,
}

/// The last 24 hours of a server.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct HealthHistory {
    /// The last probes, oldest first; at most 360.
    pub latency: Vec<LatencyPoint>,
    /// Slots of five minutes, oldest first; at most 288. Slots in which nothing was observed are left out.
    pub slots: Vec<UptimeSlot>,
}

/// A probe.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct LatencyPoint {
    /// When.
    pub at: Timestamp,
    /// Its round-trip time in milliseconds; nothing when it failed.
    pub latency_ms: Option<f64>,
}

/// Five minutes of a server.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct UptimeSlot {
    /// When they began.
    pub at: Timestamp,
    /// The part of the observed time that it was up, 0 to 1.
    pub uptime: f64,
    /// The average round-trip time in milliseconds; nothing when no probe succeeded.
    pub latency_avg_ms: Option<f64>,
    /// The 95th percentile of the round-trip time in milliseconds.
    pub latency_p95_ms: Option<f64>,
    /// How many probes succeeded.
    pub probes_ok: u32,
    /// How many failed.
    pub probes_failed: u32,
}

/// Something has changed about a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct HealthEvent {
    /// Which.
    pub name: ServerName,
    /// Its status before.
    pub before: HealthStatus,
    /// How it fares now; nothing when it is no longer registered.
    pub now: Option<HealthReport>,
}

/// What a test of a connection found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct TestReport {
    /// Whether the server could be connected to and answered.
    pub ok: bool,
    /// The era of MCP it speaks: `legacy` or `modern`.
    pub era: Option<Era>,
    /// The protocol version agreed on.
    pub protocol_version: Option<String>,
    /// Its own name and version, as `everything 1.0.0`.
    pub server_info: Option<String>,
    /// How many tools it has.
    pub tools_count: Option<u32>,
    /// How long it took from the start to the first answer, in milliseconds.
    pub latency_ms: Option<f64>,
    /// What went wrong.
    pub error: Option<String>,
    /// The stable code of what went wrong.
    pub error_code: Option<String>,
    /// The last lines that the server wrote on standard error.
    pub log_tail: Vec<String>,
}
