//! Sessions of legacy MCP clients.
