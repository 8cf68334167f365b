//! `troupe bench`: what things cost, measured on this machine.
//!
//! # Layout
//! - `gateway`: a proxied call against a direct one and against one through nginx; memory, start, restarts of servers;
//! - `cluster`: what being several costs, and how fast a loss is made good;
//! - `routing`: how well tools are found;
//! - `load`: callers that call as fast as they get answers; `peer`: the ways to a server, direct or through a node;
//! - `fixture`: the fast MCP server that is called; `process`, `nginx`: children; `usage`: their CPU time and memory;
//! - `bars`: figures and what they must be.

mod bars;
mod cluster;
mod fixture;
mod gateway;
mod load;
mod nginx;
mod peer;
mod process;
mod routing;
mod usage;

use std::process::ExitCode;

use clap::Subcommand;

use crate::cli::{error::CliError, output::Output};

#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// What a proxied tools/call costs beside a direct one and one through nginx: CPU time, latency, throughput; memory,
    /// start, restarts of servers. Starts what it needs itself.
    Gateway(gateway::GatewayArgs),
    /// What a cluster costs and how fast it recovers: links, writes, failover, proxied calls, idling. Starts what it
    /// needs itself.
    Cluster(cluster::ClusterArgs),
    /// How well and how fast tools are found, on a catalog and queries with known answers.
    Routing(routing::RoutingArgs),
    /// The fast MCP server that the benchmark calls.
    #[command(hide = true)]
    Fixture(fixture::FixtureArgs),
}

/// Runs a benchmark.
pub async fn run(command: BenchCommand, output: Output) -> Result<ExitCode, CliError> {
    match command {
        BenchCommand::Gateway(args) => gateway::run(&args, output).await,
        BenchCommand::Cluster(args) => cluster::run(&args, output).await,
        BenchCommand::Routing(args) => routing::run(args, output).await,
        BenchCommand::Fixture(args) => fixture::run(&args).await,
    }
}
