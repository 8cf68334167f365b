//! CPU time per proxied call as nodes are added: a call at any node is served by that node alone, so it must stay flat.
//!
//! Calls go to all nodes in turn. What nodes do when nobody calls is measured before and taken off: it is stated on its
//! own, for it depends on time, not on calls.

use std::{path::Path, time::Duration};

use futures::future::try_join_all;
use serde::Serialize;
use serde_json::json;

use super::{ClusterArgs, nodes::Cluster};
use crate::{
    bench::{
        fixture::Era,
        load::{self, Pids},
        peer::{HttpPeer, Peer},
        process::HttpFixture,
    },
    cli::{error::CliError, output::Output},
};

/// Callers in all, however many nodes there are.
const CALLERS: usize = 16;
const WARM_UP: Duration = Duration::from_millis(500);

/// One size of cluster.
#[derive(Debug, Serialize)]
pub struct Row {
    pub nodes: usize,
    pub calls: usize,
    pub calls_per_s: f64,
    /// CPU time of all nodes per call, less what they use idle.
    pub cpu_us_per_call: f64,
    /// CPU time of one idle node, in per cent of a core.
    pub idle_cpu_percent: f64,
}

/// Measures every size.
pub async fn measure(args: &ClusterArgs, folder: &Path, output: Output) -> Result<Vec<Row>, CliError> {
    let mut rows = Vec::new();
    for &nodes in &args.proxied_nodes {
        output.note(&format!("proxied calls: {nodes} nodes"));
        let fixture = HttpFixture::start(folder, Era::Modern).await?;
        let cluster = Cluster::start(folder, nodes).await?;
        let row = of_cluster(&cluster, nodes, &fixture.url, args.seconds).await;
        cluster.stop().await;
        rows.push(row?);
    }
    Ok(rows)
}

async fn of_cluster(cluster: &Cluster, nodes: usize, upstream: &str, seconds: f64) -> Result<Row, CliError> {
    let time = Duration::from_secs_f64(seconds);
    let server = json!({ "name": "outside", "url": upstream });
    cluster.first()?.register(&server).await?;
    cluster.settle().await?;
    let mut peers = Vec::new();
    for (_, node) in cluster.live() {
        let url = format!("{}/mcp/servers/outside", node.url);
        let peer = HttpPeer::connect(&url, Some(&node.key), Era::Modern).await?;
        peers.push((Peer::Http(peer), own_pids(node.pid)));
    }
    calls(&peers, WARM_UP).await?;

    let before = cluster.cpu_time()?;
    tokio::time::sleep(time).await;
    let idle = cluster.cpu_time()?.saturating_sub(before);
    let before = cluster.cpu_time()?;
    let (calls, wall) = calls(&peers, time).await?;
    let busy = cluster.cpu_time()?.saturating_sub(before);
    let net = busy.as_secs_f64() - idle.as_secs_f64() * (wall.as_secs_f64() / seconds);
    Ok(Row {
        nodes,
        calls,
        calls_per_s: calls as f64 / wall.as_secs_f64(),
        cpu_us_per_call: net * 1e6 / calls.max(1) as f64,
        idle_cpu_percent: idle.as_secs_f64() * 100.0 / (seconds * nodes as f64),
    })
}

/// The rounds of the gateway's benchmark count three processes; here only whole nodes count, over all rounds.
fn own_pids(node: u32) -> Pids {
    Pids {
        client: node,
        node,
        upstream: node,
    }
}

/// Calls all nodes at once; answers how many calls there were and how long it took.
async fn calls(peers: &[(Peer, Pids)], time: Duration) -> Result<(usize, Duration), CliError> {
    let callers = CALLERS.div_ceil(peers.len());
    let rounds = peers
        .iter()
        .map(|(peer, pids)| load::round(peer, callers, time, *pids));
    let rounds = try_join_all(rounds).await?;
    let calls = rounds.iter().map(|round| round.latencies_us.len()).sum();
    let wall = rounds.iter().map(|round| round.wall).max().unwrap_or_default();
    Ok((calls, wall))
}

/// For people.
pub fn in_words(rows: &[Row]) -> String {
    let mut text = format!(
        "\nproxied calls, spread over all nodes\n{:>6}{:>10}{:>14}{:>12}{:>18}\n",
        "nodes", "calls/s", "CPU µs/call", "of 1 node", "idle node, % core"
    );
    let alone = rows.first().map_or(0.0, |row| row.cpu_us_per_call);
    for row in rows {
        text.push_str(&format!(
            "{:>6}{:>10.0}{:>14.1}{:>11.0}%{:>18.2}\n",
            row.nodes,
            row.calls_per_s,
            row.cpu_us_per_call,
            row.cpu_us_per_call * 100.0 / alone,
            row.idle_cpu_percent
        ));
    }
    text
}
