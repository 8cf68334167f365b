//! Heavy work on media and text, away from the async threads.
//!
//! # Layout
//! - [`embedding`]: texts → vectors
//!
//! Speech, sight and documents will join.

pub mod embedding;
