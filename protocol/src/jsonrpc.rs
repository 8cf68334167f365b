//! The raw JSON-RPC core.
