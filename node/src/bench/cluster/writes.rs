//! Changes of the registry: through the edge, the registry's decision, the log's majority with its fsync, and back.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use reqwest::Method;
use serde::Serialize;
use serde_json::json;

use super::{ClusterArgs, figures::Distribution, nodes::Cluster};
use crate::{
    bench::process::BenchNode,
    cli::{error::CliError, output::Output},
};

const WRITERS: [usize; 3] = [1, 16, 64];

/// One size of cluster with so many writers at once.
#[derive(Debug, Serialize)]
pub struct Row {
    pub nodes: usize,
    pub writers: usize,
    pub writes_per_s: f64,
    pub latency: Distribution,
}

/// Measures every size.
pub async fn measure(args: &ClusterArgs, folder: &Path, output: Output) -> Result<Vec<Row>, CliError> {
    let mut rows = Vec::new();
    for &nodes in &args.write_nodes {
        output.note(&format!("writes: {nodes} nodes"));
        let cluster = Cluster::start(folder, nodes).await?;
        let measured = of_cluster(&cluster, nodes, args.seconds).await;
        cluster.stop().await;
        rows.extend(measured?);
    }
    Ok(rows)
}

async fn of_cluster(cluster: &Cluster, nodes: usize, seconds: f64) -> Result<Vec<Row>, CliError> {
    let first = cluster.first()?;
    for writer in 0..WRITERS.into_iter().max().unwrap_or_default() {
        let server = json!({ "name": format!("written-{writer}"), "command": "true", "enabled": false });
        first.register(&server).await?;
    }
    let live: Vec<&BenchNode> = cluster.live().map(|(_, node)| node).collect();
    let mut rows = Vec::new();
    for writers in WRITERS {
        let began = Instant::now();
        let until = began + Duration::from_secs_f64(seconds);
        let writing = (0..writers).map(|writer| write_until(live[writer % live.len()], writer, until));
        let latencies = try_join_all(writing).await?.concat();
        rows.push(Row {
            nodes,
            writers,
            writes_per_s: latencies.len() as f64 / began.elapsed().as_secs_f64(),
            latency: Distribution::of(latencies),
        });
    }
    Ok(rows)
}

/// Changes a server of its own again and again.
async fn write_until(node: &BenchNode, writer: usize, until: Instant) -> Result<Vec<Duration>, CliError> {
    let path = format!("/api/v1/servers/written-{writer}");
    let mut latencies = Vec::new();
    loop {
        let began = Instant::now();
        if began >= until {
            return Ok(latencies);
        }
        let body = json!({ "labels": [format!("v{}", latencies.len())] });
        node.send(Method::PATCH, &path, Some(&body)).await?;
        latencies.push(began.elapsed());
    }
}

/// For people.
pub fn in_words(rows: &[Row]) -> String {
    let mut text = format!(
        "\nchanges of the registry, acknowledged by a majority with fsync\n{:>6}{:>9}{:>10}{:>9}{:>9}{:>9}\n",
        "nodes", "writers", "writes/s", "p50 ms", "p99 ms", "max ms"
    );
    for row in rows {
        text.push_str(&format!(
            "{:>6}{:>9}{:>10.0}{:>9.2}{:>9.2}{:>9.1}\n",
            row.nodes,
            row.writers,
            row.writes_per_s,
            row.latency.p50_ms,
            row.latency.p99_ms,
            row.latency.max_ms
        ));
    }
    text
}
