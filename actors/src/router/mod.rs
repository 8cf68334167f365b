//! From a question to a tool: the index, the selection, the planner, and the actor that keeps the index following the
//! registry.
//!
//! # Layout
//! - [`index`]: what is known of the tools, and the signals of each for a question. Pure
//! - [`selection`]: fusion, confidence, decision. Pure
//! - [`planner`]: fills a tool's arguments from the question
//! - [`bench`]: `troupe bench routing`

pub mod bench;
pub mod index;
pub mod planner;
pub mod route;
pub mod selection;
