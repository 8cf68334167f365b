//! The registry of MCP servers.
