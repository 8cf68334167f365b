//! The tools of the built-in server, as they are described to clients and to the index. Pure.

use std::sync::Arc;

use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use troupe_protocol::mcp::{Descriptor, ListKind, ToolDescriptor};

use crate::router::index::document::{ServerDocument, ToolDocument, ToolHints};

/// The name under which the built-in server is reached.
pub const SERVER_NAME: &str = "troupe";

/// What the built-in server is for.
pub const DESCRIPTION: &str =
    "Troupe itself: its registered servers, their tools, the state of this node, and the clock.";

/// Every tool of a registered server wins against a built-in one that fits as well.
const PRIOR: f32 = -0.3;

/// Tools that are for programs: a question is routed to the tool itself instead.
const NOT_ROUTED: &[&str] = &["call_tool"];

/// The tools, each an MCP tool description.
pub fn descriptions() -> Vec<Value> {
    let read_only = json!({
        "readOnlyHint": true, "destructiveHint": false, "idempotentHint": true, "openWorldHint": false
    });
    vec![
        json!({
            "name": "list_servers",
            "title": "List servers",
            "description": "List the MCP servers that are registered here, with their status and number of tools.",
            "inputSchema": {"type": "object", "properties": {
                "search": {"type": "string", "description": "Only servers whose name or description contains this"},
                "status": {"type": "string", "enum": ["online", "degraded", "offline", "testing", "disabled"], "description": "Only servers with this status"},
            }, "additionalProperties": false},
            "annotations": read_only,
        }),
        json!({
            "name": "find_tools",
            "title": "Find tools",
            "description": "Find the tools that fit a task, among the tools of all registered servers. Call the one that fits with call_tool.",
            "inputSchema": {"type": "object", "properties": {
                "query": {"type": "string", "minLength": 1, "maxLength": 2000, "description": "What the tool should do, in plain words"},
                "limit": {"type": "integer", "minimum": 1, "maximum": 50, "default": 5, "description": "How many tools to return at most"},
            }, "required": ["query"], "additionalProperties": false},
            "annotations": read_only,
        }),
        json!({
            "name": "call_tool",
            "title": "Call a tool",
            "description": "Call a tool of a registered server, found with find_tools. The result is the tool's own.",
            "inputSchema": {"type": "object", "properties": {
                "server": {"type": "string", "description": "The server's name"},
                "tool": {"type": "string", "description": "The tool's name on that server"},
                "arguments": {"type": "object", "description": "The arguments, by the tool's input schema"},
            }, "required": ["server", "tool"], "additionalProperties": false},
            "annotations": {"readOnlyHint": false, "destructiveHint": true, "idempotentHint": false, "openWorldHint": true},
        }),
        json!({
            "name": "cluster_status",
            "title": "Cluster status",
            "description": "The status of this Troupe node and its cluster: version, uptime, actors, servers, warnings.",
            "inputSchema": {"type": "object", "properties": {}, "additionalProperties": false},
            "annotations": read_only,
        }),
        json!({
            "name": "current_time",
            "title": "Current time",
            "description": "The current date and time by this node's clock, in UTC or in a given time zone.",
            "inputSchema": {"type": "object", "properties": {
                "timezone": {"type": "string", "description": "IANA timezone name, as Asia/Tokyo; UTC when left out"},
            }, "additionalProperties": false},
            "annotations": {"readOnlyHint": true, "destructiveHint": false, "idempotentHint": false, "openWorldHint": false},
        }),
    ]
}

/// The tools as they are listed to clients.
pub fn descriptors() -> Vec<ToolDescriptor> {
    let descriptor = |tool: Value| Descriptor::read(ListKind::Tools, &to_raw_value(&tool).ok()?);
    descriptions().into_iter().filter_map(descriptor).collect()
}

/// The built-in server as the index knows it.
pub fn document() -> ServerDocument {
    let name: Arc<str> = SERVER_NAME.into();
    let tools = descriptions()
        .into_iter()
        .filter(|tool| !NOT_ROUTED.iter().any(|hidden| tool["name"] == *hidden))
        .map(|tool| {
            let text = |field: &str| tool[field].as_str().map(str::to_owned);
            Arc::new(ToolDocument {
                server: Arc::clone(&name),
                name: text("name").unwrap_or_default(),
                title: text("title"),
                description: text("description").unwrap_or_default(),
                input_schema: tool["inputSchema"].clone(),
                hints: ToolHints::from_annotations(tool.get("annotations")),
            })
        })
        .collect();
    ServerDocument {
        name,
        description: DESCRIPTION.to_owned(),
        prior: PRIOR,
        tools,
    }
}
