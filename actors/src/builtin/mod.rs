//! The built-in server `troupe`: what a fresh node can answer before anything is registered.
//!
//! # Layout
//! - [`tools`]: what its tools are called and take. Pure
//! - [`server`]: runs them

pub mod server;
pub mod tools;

pub use server::{Builtin, BuiltinServices};
pub use tools::{SERVER_NAME, document};
