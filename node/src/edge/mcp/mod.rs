//! The MCP faces: `/mcp` and `/mcp/servers/{name}`.

use axum::Router;

use super::state::EdgeState;

/// The routes of the MCP faces. Their callers are known (see [`super::auth::Caller`]) when a handler runs.
pub fn routes() -> Router<EdgeState> {
    Router::new()
}
