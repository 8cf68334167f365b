//! The harness of the end-to-end tests: it starts real `troupe` processes and talks to them from outside, as a
//! person, an API client or an MCP client would. Nothing here links against the node.
//!
//! # Layout
//! - [`binary`]: which `troupe` binary is tested
//! - [`node`]: a running node: start, wait until ready, kill, restart, its log on failure
//! - [`api`]: the HTTP API as JSON, as a stranger sees it
//! - [`cli`]: the command line, against a running node
//! - [`conformance`]: the suite of the protocol's authors, and the fixture that passes it
//! - [`cluster`]: several nodes that form one cluster; [`network`]: a network that a test may cut; [`machine`]: machines
//!   whose clock and disk it may set
//! - [`forward`]: a door that leads elsewhere
//! - [`history`]: what clients asked of a cluster and were answered, and whether that can be true
//! - [`load`]: clients that write, read and call while things happen, and keep account of it
//! - [`mcp`]: MCP clients of both eras (rmcp); [`wire`]: the same by hand, each message to a node of choice
//! - [`parts`]: the real MCP servers, the model and the data that tests use, and when they may be skipped
//! - [`journal`], [`upstream`]: servers of the harness's own: one that writes down its life, one that outlives nodes
//! - [`events`]: event streams, read by hand
//! - [`process`]: what `/proc` says of a process; signals
//! - [`report`]: measured figures, said on the terminal
//! - [`scene`]: nodes, servers and traffic as most of the cluster's tests want them, and what must hold
//! - [`wait`]: waiting for something to become true, within a deadline

pub mod api;
pub mod binary;
pub mod cli;
pub mod cluster;
pub mod conformance;
pub mod events;
pub mod forward;
pub mod history;
pub mod journal;
pub mod load;
pub mod machine;
pub mod mcp;
pub mod network;
pub mod node;
pub mod parts;
pub mod process;
pub mod report;
pub mod scene;
pub mod upstream;
pub mod wait;
pub mod wire;

pub use api::{Answer, Api};
pub use cluster::{Cluster, ClusterOptions};
pub use events::Events;
pub use node::{Node, NodeOptions};
pub use wait::eventually;
