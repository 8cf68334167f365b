//! `troupe status`

use std::{fmt::Write, process::ExitCode};

use troupe_protocol::api::NodeStatus;

use super::{
    client::Client,
    error::CliError,
    output::{Output, duration},
};

pub async fn run(client: &Client, output: Output) -> Result<ExitCode, CliError> {
    let status = client.get(&["status"], &[]).await?;
    output.show(status, in_words)?;
    Ok(ExitCode::SUCCESS)
}

fn in_words(status: NodeStatus) -> String {
    let servers = status.servers;
    let actors = status.actors;
    let mut text = format!(
        "node     {} ({}), version {}, up {}\n",
        status.node_id,
        if status.ready { "ready" } else { "not ready" },
        status.version,
        duration(status.uptime_ms),
    );
    let _ = writeln!(
        text,
        "servers  {}: {} online, {} degraded, {} offline, {} testing, {} disabled",
        servers.total, servers.online, servers.degraded, servers.offline, servers.testing, servers.disabled
    );
    let _ = writeln!(text, "calls    {} in flight", status.calls_in_flight);
    let _ = writeln!(
        text,
        "actors   {}: {} busy, {} suspended, {} restarting; {} restarts, {} dead letters",
        actors.total, actors.busy, actors.suspended, actors.restarting, actors.restarts, status.dead_letters
    );
    let _ = writeln!(text, "model    {} ({})", status.model.state, status.model.detail);
    let _ = writeln!(text, "planner  {}", status.planner);
    for warning in status.warnings {
        let subject = if warning.subject.is_empty() {
            String::new()
        } else {
            format!(" ({})", warning.subject)
        };
        let _ = writeln!(
            text,
            "{:<8} {}{subject}",
            warning.severity.to_string(),
            warning.text
        );
    }
    text
}
