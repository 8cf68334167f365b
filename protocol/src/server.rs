//! MCP servers as registry entries.

use serde::{Deserialize, Serialize};

/// A server's line in the list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ts_rs::TS, utoipa::ToSchema)]
#[ts(export)]
pub struct ServerSummary {
    /// Its name.
    pub name: String,
}
