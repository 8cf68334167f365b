//! MCP clients of both eras, from the official Rust SDK.

use rmcp::model::{CallToolRequestParams, CallToolResult, ClientConfig, ProtocolVersion};
use rmcp::service::{ClientInitializeError, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientLifecycleMode, ClientServiceExt, RoleClient};
use serde_json::Value;

use crate::api::http_client;

pub type Client = RunningService<RoleClient, ClientConfig>;

/// The two families of protocol revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// 2025-11-25 and earlier: `initialize`, sessions.
    Legacy,
    /// 2026-07-28: `server/discover`, no sessions.
    Modern,
}

impl Era {
    pub const BOTH: [Self; 2] = [Self::Legacy, Self::Modern];

    pub fn lifecycle(self) -> ClientLifecycleMode {
        match self {
            Self::Legacy => ClientLifecycleMode::Initialize,
            Self::Modern => ClientLifecycleMode::Discover {
                preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            },
        }
    }
}

/// Connects to a streamable HTTP endpoint.
pub async fn try_connect(
    url: &str,
    key: Option<&str>,
    era: Era,
) -> Result<Client, Box<ClientInitializeError>> {
    let mut config = StreamableHttpClientTransportConfig::with_uri(url);
    if let Some(key) = key {
        config = config.auth_header(key);
    }
    let transport = StreamableHttpClientTransport::with_client(http_client(), config);
    ClientConfig::default()
        .serve_with_lifecycle(transport, era.lifecycle())
        .await
        .map_err(Box::new)
}

/// Connects, and panics when that fails.
pub async fn connect(url: &str, key: Option<&str>, era: Era) -> Client {
    try_connect(url, key, era)
        .await
        .unwrap_or_else(|error| panic!("{era:?} client at {url}: {error}"))
}

/// Calls a tool with arguments given as a JSON object.
pub async fn call(
    client: &Client,
    tool: &str,
    arguments: Value,
) -> Result<CallToolResult, rmcp::ServiceError> {
    let Value::Object(arguments) = arguments else {
        panic!("arguments are an object")
    };
    client
        .call_tool(CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments))
        .await
}

/// The names of all tools, in the server's order.
pub async fn tool_names(client: &Client) -> Vec<String> {
    let tools = client.list_all_tools().await.expect("tools/list answers");
    tools.into_iter().map(|tool| tool.name.into_owned()).collect()
}

/// The text of a tool's result, its text blocks joined by newlines.
pub fn text(result: &CallToolResult) -> String {
    let blocks: Vec<&str> = result
        .content
        .iter()
        .filter_map(|block| block.as_text())
        .map(|text| text.text.as_str())
        .collect();
    blocks.join("\n")
}
