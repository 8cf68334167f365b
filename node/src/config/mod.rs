//! The node's settings: what they are, their defaults, and how they are read.
//!
//! # Layout
//! - this file: the settings themselves, one struct per section of `cluster.toml`;
//! - `cluster`: the section about other nodes;
//! - `bounded`: numbers with limits; `text`: texts with a form;
//! - `load`: precedence (flags, environment, file, default) and where the file is;
//! - `error`: what is said about a wrong setting: file, line, column, and what is allowed.
//!
//! An empty text means "not set". Every setting is documented in `cluster.toml` at the top of the
//! repository; a test compares the two.

mod bounded;
mod cluster;
mod error;
mod load;
#[cfg(test)]
mod tests;
mod text;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use bounded::Bounded;
pub use cluster::{CLUSTER_LISTEN_DEFAULT, ClusterConfig, ListenChoice};
pub use error::ConfigError;
pub use load::{Flags, data_dir_default, environment, load, read_secret_file};
pub use text::{HttpUrl, LogFilter, NameChoice};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const SECOND_MS: u64 = 1_000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// All settings of a node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The node as a process.
    pub node: NodeConfig,
    /// Other nodes.
    pub cluster: ClusterConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// The port for people and clients.
    pub edge: EdgeConfig,
    /// The MCP faces, `/mcp…`.
    pub mcp: McpConfig,
    /// Supervision.
    pub runtime: RuntimeConfig,
    /// Secrets.
    pub vault: VaultConfig,
    /// Live connections to MCP servers.
    pub upstream: UpstreamConfig,
    /// Probing of MCP servers.
    pub health: HealthConfig,
    /// Choosing server and tool for a question.
    pub router: RouterConfig,
    /// Conversations.
    pub conversation: ConversationConfig,
    /// Who did what.
    pub audit: AuditConfig,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// Data folder; empty: the platform's.
    pub data: String,
    /// What people call the node; empty: made from the machine's name at the first start, and kept.
    pub name: NameChoice,
    /// Longest orderly shutdown, after which the node ends anyway.
    pub shutdown_timeout_ms: Bounded<100, { 10 * MINUTE_MS }>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            data: String::new(),
            name: NameChoice::default(),
            shutdown_timeout_ms: const { Bounded::new(10 * SECOND_MS) },
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// Levels, per module if wished.
    pub filter: LogFilter,
    /// For people or for machines.
    pub format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Aligned text, coloured on a terminal.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// `[edge]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EdgeConfig {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Callers without a key get the role user on `/mcp…` and `/v0.1…`. Loopback only.
    pub open: bool,
    /// Further `Host` names to answer to, beside the listening address and loopback names.
    pub hosts_allowed: Vec<String>,
    /// Further `Origin`s that may call, beside the node's own.
    pub origins_allowed: Vec<String>,
    /// Largest request body of the API.
    pub body_bytes_max: Bounded<KIB, { 256 * MIB }>,
    /// Longest wait for a request's whole body.
    pub body_timeout_ms: Bounded<100, HOUR_MS>,
    /// Longest wait for a request's headers; also how long a connection may idle.
    pub header_timeout_ms: Bounded<100, HOUR_MS>,
    /// Largest header section of a request.
    pub header_bytes_max: Bounded<{ 8 * KIB }, MIB>,
    /// A client that takes no byte of its answer for this long is cut.
    pub write_stall_timeout_ms: Bounded<100, HOUR_MS>,
    /// Longest time an API call may take.
    pub request_timeout_ms: Bounded<100, HOUR_MS>,
    /// Connections at the same time; one more is answered 503 and closed.
    pub connections_max: Bounded<1, 1_000_000>,
    /// WebSockets on `/api/v1/live` at the same time.
    pub live_clients_max: Bounded<1, 100_000>,
    /// Events waiting for one slow live client; beyond them it is told that it lagged.
    pub live_queue_events_max: Bounded<8, 65_536>,
    /// How often subscribers get a picture of all actors.
    pub live_actors_interval_ms: Bounded<500, MINUTE_MS>,
}

impl Default for EdgeConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7500)),
            open: false,
            hosts_allowed: Vec::new(),
            origins_allowed: Vec::new(),
            body_bytes_max: const { Bounded::new(16 * MIB) },
            body_timeout_ms: const { Bounded::new(30 * SECOND_MS) },
            header_timeout_ms: const { Bounded::new(30 * SECOND_MS) },
            header_bytes_max: const { Bounded::new(64 * KIB) },
            write_stall_timeout_ms: const { Bounded::new(30 * SECOND_MS) },
            request_timeout_ms: const { Bounded::new(2 * MINUTE_MS) },
            connections_max: const { Bounded::new(12_288) },
            live_clients_max: const { Bounded::new(1_024) },
            live_queue_events_max: const { Bounded::new(512) },
            live_actors_interval_ms: const { Bounded::new(500) },
        }
    }
}

/// `[mcp]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct McpConfig {
    /// Largest message from a client.
    pub body_bytes_max: Bounded<KIB, { 256 * MIB }>,
    /// Legacy client sessions at the same time.
    pub sessions_max: Bounded<1, 1_000_000>,
    /// A legacy session without a message for this long ends.
    pub session_idle_timeout_ms: Bounded<SECOND_MS, { 24 * HOUR_MS }>,
    /// Answer in JSON, where no stream is needed, to clients that accept only JSON.
    pub accept_json_only: bool,
}

impl Default for McpConfig {
    fn default() -> Self {
        Self {
            body_bytes_max: const { Bounded::new(8 * MIB) },
            sessions_max: const { Bounded::new(10_000) },
            session_idle_timeout_ms: const { Bounded::new(30 * MINUTE_MS) },
            accept_json_only: true,
        }
    }
}

/// `[runtime]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuntimeConfig {
    /// Restarts of one supervisor's children within `restart_window_ms` before it gives up.
    pub restarts_max: Bounded<0, 1_000>,
    /// The window in which restarts are counted.
    pub restart_window_ms: Bounded<100, HOUR_MS>,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            restarts_max: const { Bounded::new(5) },
            restart_window_ms: const { Bounded::new(30 * SECOND_MS) },
        }
    }
}

/// `[vault]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VaultConfig {
    /// File with the passphrase from which the vault's key is derived; empty: the key is `vault.key` in the data
    /// folder.
    pub passphrase_file: String,
}

/// `[upstream]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamConfig {
    /// Longest start of a server, from its process or first request to its answer.
    pub start_timeout_ms: Bounded<100, { 10 * MINUTE_MS }>,
    /// Longest call, where the server's entry says nothing else.
    pub call_timeout_ms: Bounded<100, HOUR_MS>,
    /// Calls in flight to one server.
    pub calls_in_flight_max: Bounded<1, 65_536>,
    /// Largest single message from or to a server.
    pub message_bytes_max: Bounded<{ 64 * KIB }, { 256 * MIB }>,
    /// Longest wait of a new stdio server for `server/discover`, before it is taken for one of the legacy era.
    pub probe_timeout_ms: Bounded<10, { 10 * MINUTE_MS }>,
    /// Longest time a server's process has to end by itself.
    pub stop_timeout_ms: Bounded<10, { 10 * MINUTE_MS }>,
    /// Longest wait of calls for a server that was up to come back.
    pub restart_wait_ms_max: Bounded<0, HOUR_MS>,
    /// Longest pause between attempts to connect.
    pub backoff_ms_max: Bounded<100, HOUR_MS>,
    /// How long a list is kept of a server that does not announce changes.
    pub list_age_ms_max: Bounded<0, { 24 * HOUR_MS }>,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            start_timeout_ms: const { Bounded::new(60 * SECOND_MS) },
            call_timeout_ms: const { Bounded::new(60 * SECOND_MS) },
            calls_in_flight_max: const { Bounded::new(1_024) },
            message_bytes_max: const { Bounded::new(16 * MIB) },
            probe_timeout_ms: const { Bounded::new(3 * SECOND_MS) },
            stop_timeout_ms: const { Bounded::new(2 * SECOND_MS) },
            restart_wait_ms_max: const { Bounded::new(15 * SECOND_MS) },
            backoff_ms_max: const { Bounded::new(30 * SECOND_MS) },
            list_age_ms_max: const { Bounded::new(5 * MINUTE_MS) },
        }
    }
}

/// `[health]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HealthConfig {
    /// Time between two probes of one server, give or take a tenth.
    pub probe_interval_ms: Bounded<{ SECOND_MS / 10 }, { 24 * HOUR_MS }>,
    /// Longest wait for a probe's answer.
    pub probe_timeout_ms: Bounded<100, { 10 * MINUTE_MS }>,
    /// From which round-trip time on a server counts as degraded.
    pub slow_from_ms: Bounded<1, { 10 * MINUTE_MS }>,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            probe_interval_ms: const { Bounded::new(30 * SECOND_MS) },
            probe_timeout_ms: const { Bounded::new(10 * SECOND_MS) },
            slow_from_ms: const { Bounded::new(2 * SECOND_MS) },
        }
    }
}

/// `[router]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RouterConfig {
    /// Folder of the sentence embedding model and the ONNX runtime; looked at first.
    pub model_dir: String,
    /// Base URL of an OpenAI-compatible endpoint that plans; empty: the built-in rules plan.
    pub planner_url: HttpUrl,
    /// The model to ask there.
    pub planner_model: String,
    /// File with the endpoint's key; empty: no key is sent.
    pub planner_key_file: String,
    /// Longest wait for the endpoint.
    pub planner_timeout_ms: Bounded<100, { 10 * MINUTE_MS }>,
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            model_dir: String::new(),
            planner_url: HttpUrl::default(),
            planner_model: String::new(),
            planner_key_file: String::new(),
            planner_timeout_ms: const { Bounded::new(30 * SECOND_MS) },
        }
    }
}

/// `[conversation]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConversationConfig {
    /// Longest turn, from question to answer.
    pub turn_timeout_ms: Bounded<SECOND_MS, HOUR_MS>,
}

impl Default for ConversationConfig {
    fn default() -> Self {
        Self {
            turn_timeout_ms: const { Bounded::new(2 * MINUTE_MS) },
        }
    }
}

/// `[audit]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuditConfig {
    /// Entries kept; the oldest go first.
    pub entries_max: Bounded<1_000, 10_000_000>,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            entries_max: const { Bounded::new(100_000) },
        }
    }
}
