//! MCP over HTTP spoken by hand, so that a test decides itself which node each message goes to.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::api::Api;

const BOTH: &str = "application/json, text/event-stream";
const LEGACY: &str = "2025-11-25";
const MODERN: &str = "2026-07-28";

/// Calls a tool as a modern client does, which has no session. `path` is that of the face, as `/mcp/servers/NAME`.
///
/// # Errors
/// Whatever is not a result, as text: no answer, another status than 200, a JSON-RPC error, a tool's own error.
pub async fn call_modern(
    api: &Api,
    path: &str,
    tool: &str,
    arguments: &Value,
    within: Duration,
) -> Result<Value, String> {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({ "name": tool, "arguments": arguments, "_meta": meta });
    let sent = api
        .request(Method::POST, path)
        .json(&json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params }))
        .header("accept", BOTH)
        .header("mcp-protocol-version", MODERN)
        .header("mcp-method", "tools/call")
        .header("mcp-name", tool)
        .timeout(within);
    result_of(sent).await
}

/// A session of a legacy client, which may talk to any node.
#[derive(Debug, Clone)]
pub struct Session {
    pub id: String,
    path: String,
}

impl Session {
    /// Begins a session at this node.
    ///
    /// # Errors
    /// What went wrong, as text.
    pub async fn open(api: &Api, path: &str) -> Result<Self, String> {
        let params = json!({
            "protocolVersion": LEGACY,
            "capabilities": {},
            "clientInfo": { "name": "test", "version": "1" },
        });
        let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params });
        let sent = api.request(Method::POST, path).json(&initialize);
        let answer = sent.header("accept", BOTH).send().await;
        let answer = answer.map_err(|error| format!("initialize: {error:?}"))?;
        let id = answer.headers().get("mcp-session-id").cloned();
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        let id = id.ok_or_else(|| format!("initialize: {status}, no session: {text}"))?;
        let session = Self {
            id: id.to_str().map_err(|error| error.to_string())?.to_owned(),
            path: path.to_owned(),
        };
        let initialized = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
        let noticed = session.post(api, &initialized).send().await;
        let noticed = noticed.map_err(|error| format!("initialized: {error:?}"))?;
        if noticed.status().as_u16() == 202 {
            Ok(session)
        } else {
            Err(format!("initialized: {}", noticed.status()))
        }
    }

    /// Calls a tool through this node.
    ///
    /// # Errors
    /// As [`call_modern`]; a session that is not known any more is named so.
    pub async fn call(
        &self,
        api: &Api,
        tool: &str,
        arguments: &Value,
        within: Duration,
    ) -> Result<Value, String> {
        let params = json!({ "name": tool, "arguments": arguments });
        let message = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
        result_of(self.post(api, &message).timeout(within)).await
    }

    /// Opens the session's stream at this node, or takes one up after this event.
    pub fn listen(&self, api: &Api, last_event_id: Option<&str>) -> RequestBuilder {
        let sent = api
            .request(Method::GET, &self.path)
            .header("accept", "text/event-stream")
            .header("mcp-session-id", &self.id)
            .header("mcp-protocol-version", LEGACY);
        match last_event_id {
            Some(id) => sent.header("last-event-id", id),
            None => sent,
        }
    }

    /// A message of this session to this node.
    pub fn post(&self, api: &Api, message: &Value) -> RequestBuilder {
        api.request(Method::POST, &self.path)
            .json(message)
            .header("accept", BOTH)
            .header("mcp-session-id", &self.id)
            .header("mcp-protocol-version", LEGACY)
    }
}

async fn result_of(sent: RequestBuilder) -> Result<Value, String> {
    let answer = sent
        .send()
        .await
        .map_err(|error| format!("no answer: {error:?}"))?;
    let status = answer.status();
    let text = answer.text().await;
    let text = text.map_err(|error| format!("half an answer: {error:?}"))?;
    if status.as_u16() != 200 {
        return Err(format!("{status}: {text}"));
    }
    let message = last_message(&text).ok_or_else(|| format!("no message in {text:?}"))?;
    let result = &message["result"];
    if result.is_object() && result["isError"] != true {
        Ok(result.clone())
    } else {
        Err(format!("an error: {message}"))
    }
}

/// The body as JSON, or the last event of the stream.
fn last_message(text: &str) -> Option<Value> {
    if let Ok(message) = serde_json::from_str(text) {
        return Some(message);
    }
    let data = text.lines().rev().find_map(|line| line.strip_prefix("data: "))?;
    serde_json::from_str(data).ok()
}

/// The text of a tool's result.
pub fn text(result: &Value) -> String {
    result["content"][0]["text"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
