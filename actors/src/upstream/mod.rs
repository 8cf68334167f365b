//! Live connections to MCP servers.
