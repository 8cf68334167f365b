//! `troupe status`

use std::{fmt::Write, process::ExitCode};

use serde_json::json;
use troupe_protocol::{api::NodeStatus, cluster::ClusterStatus};

use super::{
    client::Client,
    error::CliError,
    node,
    output::{Output, duration},
};

pub async fn run(client: &Client, output: Output) -> Result<ExitCode, CliError> {
    let mut status = client.get(&["status"], &[]).await?;
    let cluster = client.get(&["cluster"], &[]).await?;
    if output.json {
        status["cluster_status"] = cluster;
        output.show(status, |_: serde_json::Value| String::new())?;
        return Ok(ExitCode::SUCCESS);
    }
    output.show(
        json!([status, cluster]),
        |(node, cluster): (NodeStatus, ClusterStatus)| in_words(node, &cluster),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn in_words(status: NodeStatus, cluster: &ClusterStatus) -> String {
    let servers = status.servers;
    let actors = status.actors;
    let mut text = format!(
        "node     {} {} ({}), version {}, up {}\n",
        status.node_name,
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
    text.push_str(&node::log_in_words(cluster));
    if cluster.members.len() > 1 {
        text.push_str(&node::members_in_words(cluster));
    }
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
