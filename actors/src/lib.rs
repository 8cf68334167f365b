//! Who says it: one folder per actor or actor family.
//!
//! Nothing here knows of HTTP servers; what comes in over the network is the business of `node`.
//!
//! # Layout
//! - [`runtime`]: the layer over ractor that every actor goes through
//! - [`cluster`]: how nodes find each other, talk, agree, and share out what there is one of
//! - [`store`], [`vault`], [`access`], [`audit`]: what is kept, what is secret, who may, who did
//! - [`registry`], [`upstream`], [`health`], [`session`]: MCP servers, connections to them, how they fare, who uses them
//! - [`router`], [`conversation`], [`builtin`], [`pipeline`]: from a question to its answer
//!
//! An actor is a folder: `mod.rs` is the thin shell, `state.rs` decides and does no I/O, `messages.rs` holds what
//! others send to it and the handle with which they do.

pub mod access;
pub mod audit;
pub mod builtin;
pub mod cluster;
pub mod conversation;
pub mod health;
pub mod openapi;
pub mod pipeline;
pub mod registry;
pub mod router;
pub mod runtime;
pub mod session;
pub mod store;
pub mod upstream;
pub mod vault;
