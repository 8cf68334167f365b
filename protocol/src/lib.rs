//! What Troupe's parts say to each other.
//!
//! Nothing here does I/O and nothing here knows an actor library: these are the words, not the speakers.
//!
//! # Layout
//! - [`id`], [`time`]: newtypes that everything else is made of
//! - [`error`]: the stable error codes and the problem document (RFC 9457)
//! - [`jsonrpc`], [`mcp`], [`upstream`]: the Model Context Protocol as the gateway sees it
//! - [`server`], [`health`]: the registry's entries and how the servers behind them fare
//! - [`event`], [`conversation`], [`routing`]: the seven steps from a question to its answer
//! - [`trace`], [`observe`], [`live`]: what can be seen of the actors while they work
//! - [`cluster`]: members, epochs, where placed actors belong
//! - [`access`]: principals, roles, keys, secrets' metadata, audit records
//! - [`virtual_server`]: parts of several servers, offered as one
//! - [`api`]: the remaining shapes of the administration API
//! - [`wire`]: the binary encoding of messages between nodes

pub mod access;
pub mod api;
pub mod cluster;
pub mod conversation;
pub mod error;
pub mod event;
pub mod health;
pub mod id;
pub mod jsonrpc;
pub mod live;
pub mod mcp;
pub mod observe;
pub mod routing;
pub mod server;
pub mod time;
pub mod trace;
pub mod upstream;
pub mod virtual_server;
pub mod wire;
