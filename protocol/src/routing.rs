//! Tools found, chosen and explained.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use ts_rs::TS;
use utoipa::ToSchema;

/// A tool found for a query.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ToolMatch {
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// Its title, if it has one.
    pub title: Option<String>,
    /// What it does.
    pub description: String,
    /// The JSON Schema of its arguments.
    #[ts(type = "unknown")]
    pub input_schema: Value,
    /// How well it fits, 0 to 1, fused from the two below.
    pub score: f32,
    /// How well the words fit, 0 to 1.
    pub lexical_score: f32,
    /// How well the meaning fits, 0 to 1; nothing without an embedding model.
    pub dense_score: Option<f32>,
}

/// A tool that was considered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Candidate {
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// How well it fits, 0 to 1.
    pub score: f32,
}

/// Server and tool chosen for a question, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct Route {
    /// The server.
    pub server: String,
    /// The tool.
    pub tool: String,
    /// The arguments as far as they could be filled.
    #[ts(type = "unknown")]
    pub arguments: Value,
    /// How sure the router is, 0 to 1, calibrated.
    pub confidence: f32,
    /// What else was considered, best first.
    pub candidates: Vec<Candidate>,
    /// Who filled the arguments, as `rules`.
    pub planner: String,
    /// The reasons in a sentence.
    pub why: String,
}
