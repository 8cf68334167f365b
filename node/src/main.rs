//! The `troupe` binary: starts a node, or asks a running one.
//!
//! # Layout
//! - `bench`: what things cost;
//! - `cli`: the command line;
//! - `config`: settings;
//! - `tree`: the supervision tree, which is the node;
//! - `edge`: the port for people and clients.

#![forbid(unsafe_code)]

mod bench;
mod cli;
mod config;
mod edge;
mod tree;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Fails only when somebody else installed one, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    cli::run()
}
