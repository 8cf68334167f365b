//! The harness of the end-to-end tests: it starts real `troupe` processes and talks to them from outside, as a
//! person, an API client or an MCP client would. Nothing here links against the node.
//!
//! # Layout
//! - [`binary`]: which `troupe` binary is tested
//! - [`node`]: a running node: start, wait until ready, kill, restart, its log on failure
//! - [`api`]: the HTTP API as JSON, as a stranger sees it
//! - [`cli`]: the command line, against a running node
//! - [`history`]: what clients asked of a cluster and were answered, and whether that can be true
//! - [`mcp`]: MCP clients of both eras (rmcp)
//! - [`parts`]: the real MCP servers, the model and the data that tests use, and when they may be skipped
//! - [`process`]: what `/proc` says of a process; signals
//! - [`report`]: measured figures, said on the terminal
//! - [`wait`]: waiting for something to become true, within a deadline

pub mod api;
pub mod binary;
pub mod cli;
pub mod history;
pub mod mcp;
pub mod node;
pub mod parts;
pub mod process;
pub mod report;
pub mod wait;

pub use api::{Answer, Api};
pub use node::{Node, NodeOptions};
pub use wait::eventually;
