//! The built-in server `troupe`: what a fresh node can answer before anything is registered.
//!
//! # Layout
//! - [`tools`]: what its tools are called and take. Pure

pub mod tools;

pub use tools::{SERVER_NAME, document};
