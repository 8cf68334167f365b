//! The command line. `troupe up` (or nothing) starts a node; every other command asks a running one over its HTTP
//! API, so that what one can do the other can.
//!
//! # Layout
//! - this file: commands and flags; one file per family of commands;
//! - `client`: finding the node and its key, and asking; `error`: what is said when that fails, and exit codes;
//! - `output`: tables and words for people, JSON for machines.

mod actor;
mod ask;
mod audit;
mod backup;
pub mod client;
mod connect;
mod doctor;
pub mod error;
mod key;
mod node;
pub mod output;
mod secret;
mod server;
mod status;
mod tool;
mod up;
mod virtual_server;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::bench::{self, BenchCommand};
use client::Client;
use error::CliError;
use output::Output;

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 refused or failed; 2 wrong usage or settings; 3 no node reachable; 4 no key, or one that may not.
Without a command, a node is started.";

/// Troupe: a gateway to MCP servers that answers questions with their tools.
#[derive(Debug, Parser)]
#[command(name = "troupe", version, about = "Gateway, registry and router for MCP servers.", after_help = AFTER_HELP, args_conflicts_with_subcommands = false)]
pub struct Cli {
    #[command(flatten)]
    target: Target,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Which node is asked, and how the answer is written.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The node's data folder: where it keeps everything, and where its address and key are found.
    #[arg(long, global = true, env = "TROUPE_DATA", value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The node's address, instead of the one in the data folder.
    #[arg(long, global = true, env = "TROUPE_NODE", value_name = "URL")]
    pub node: Option<String>,
    /// The key to present, instead of the one in the data folder.
    #[arg(
        long,
        global = true,
        env = "TROUPE_KEY",
        value_name = "KEY",
        hide_env_values = true
    )]
    pub key: Option<String>,
    /// Write JSON, as the API gives it.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a node.
    Up(up::UpArgs),
    /// How the node is, and what a person should look at.
    Status,
    /// Registered MCP servers.
    #[command(subcommand)]
    Server(server::ServerCommand),
    /// Virtual servers: chosen tools, resources and prompts of several servers, offered as one.
    #[command(subcommand)]
    Virtual(virtual_server::VirtualCommand),
    /// The tools of all servers.
    #[command(subcommand)]
    Tool(tool::ToolCommand),
    /// Ask a question; the node chooses server and tool.
    Ask(ask::AskArgs),
    /// Actors: what they do, and controls.
    #[command(subcommand)]
    Actor(actor::ActorCommand),
    /// Speak MCP on standard input and output, for clients that start a command.
    Connect(connect::ConnectArgs),
    /// The nodes of the cluster: invite, list, drain, promote, remove.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Write all servers, keys, secrets and conversations of the cluster into one file, while it runs.
    Backup(backup::BackupArgs),
    /// Replace them by those of such a file.
    Restore(backup::RestoreArgs),
    /// API keys and login links.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Secrets that servers' headers and environment refer to as ${secret:NAME}.
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Who did what.
    Audit(audit::AuditArgs),
    /// What things cost, measured on this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Check this machine: data folder, port, tools, model files, clock.
    Doctor(doctor::DoctorArgs),
}

/// Runs what the command line says.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let output = Output {
        json: cli.target.json,
    };
    let outcome = match cli.command {
        None => up::run(&cli.target, up::UpArgs::default()),
        Some(Command::Up(args)) => up::run(&cli.target, args),
        Some(Command::Doctor(args)) => in_runtime(doctor::run(&cli.target, args, output)),
        Some(Command::Connect(args)) => in_runtime(connect::run(&cli.target, args)),
        Some(Command::Bench(command)) => in_runtime(bench::run(command, output)),
        Some(command) => in_runtime(ask_node(&cli.target, command, output)),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            error.exit_code()
        }
    }
}

async fn ask_node(target: &Target, command: Command, output: Output) -> Result<ExitCode, CliError> {
    let client = Client::find(target)?;
    match command {
        Command::Status => status::run(&client, output).await,
        Command::Server(command) => server::run(&client, command, output).await,
        Command::Virtual(command) => virtual_server::run(&client, command, output).await,
        Command::Tool(command) => tool::run(&client, command, output).await,
        Command::Ask(args) => ask::run(&client, args, output).await,
        Command::Actor(command) => actor::run(&client, command, output).await,
        Command::Node(command) => node::run(&client, command, output).await,
        Command::Backup(args) => backup::back_up(&client, args, output).await,
        Command::Restore(args) => backup::restore(&client, args, output).await,
        Command::Key(command) => key::run(&client, command, output).await,
        Command::Secret(command) => secret::run(&client, command, output).await,
        Command::Audit(args) => audit::run(&client, args, output).await,
        // handled by the caller
        Command::Up(_) | Command::Doctor(_) | Command::Connect(_) | Command::Bench(_) => {
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// A command asks and prints; one thread is enough.
fn in_runtime(work: impl Future<Output = Result<ExitCode, CliError>>) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::Failed(format!("cannot start: {error}")))?;
    runtime.block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_before_and_after_the_command() {
        for line in [
            "troupe --json status --data /d",
            "troupe status --json --data /d",
            "troupe --data /d --json status",
        ] {
            let cli = Cli::parse_from(line.split(' '));
            assert!(cli.target.json && cli.target.data.is_some(), "{line}");
        }
    }
}
