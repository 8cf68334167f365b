//! Connections to small servers that are really there: shell scripts over stdio, axum over HTTP.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

pub(crate) mod bed;
mod http;
mod lifecycle;
mod oauth;
mod placed;
mod sse;
mod stdio;
