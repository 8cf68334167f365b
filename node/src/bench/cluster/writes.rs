//! Changes of the registry: through the edge, the registry's decision, the log's majority with its fsync, and back.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use futures::future::try_join_all;
use reqwest::Method;
use serde::Serialize;
use serde_json::json;

use super::{
    ClusterArgs,
    figures::{Distribution, median},
    nodes::{self, Cluster},
};
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
    /// The median of the turns.
    pub writes_per_s: f64,
    /// Of all turns.
    pub latency: Distribution,
}

/// What a case has come to so far.
#[derive(Default)]
struct Case {
    rates: Vec<f64>,
    latencies: Vec<Duration>,
}

/// Measures every size, in turn.
pub async fn measure(args: &ClusterArgs, folder: &Path, output: Output) -> Result<Vec<Row>, CliError> {
    output.note(&format!("writes: {:?} nodes", args.write_nodes));
    let clusters = nodes::clusters(folder, &args.write_nodes).await?;
    let measured = of_clusters(&clusters, args).await;
    nodes::end_all(clusters).await;
    let cases = measured?;
    let kinds = args
        .write_nodes
        .iter()
        .flat_map(|nodes| WRITERS.map(|writers| (*nodes, writers)));
    let rows = kinds.zip(cases).map(|((nodes, writers), case)| Row {
        nodes,
        writers,
        writes_per_s: median(case.rates),
        latency: Distribution::of(case.latencies),
    });
    Ok(rows.collect())
}

async fn of_clusters(clusters: &[Cluster], args: &ClusterArgs) -> Result<Vec<Case>, CliError> {
    for cluster in clusters {
        for writer in 0..WRITERS.into_iter().max().unwrap_or_default() {
            let server = json!({ "name": format!("written-{writer}"), "command": "true", "enabled": false });
            cluster.first()?.register(&server).await?;
        }
    }
    let mut cases: Vec<Case> = Vec::new();
    cases.resize_with(clusters.len() * WRITERS.len(), Case::default);
    for _ in 0..args.turns {
        let each = clusters
            .iter()
            .flat_map(|cluster| WRITERS.map(|writers| (cluster, writers)));
        for ((cluster, writers), case) in each.zip(&mut cases) {
            turn(cluster, writers, args.turn_seconds(), case).await?;
        }
    }
    Ok(cases)
}

async fn turn(cluster: &Cluster, writers: usize, seconds: f64, case: &mut Case) -> Result<(), CliError> {
    let live: Vec<&BenchNode> = cluster.live().map(|(_, node)| node).collect();
    let began = Instant::now();
    let until = began + Duration::from_secs_f64(seconds);
    let writing = (0..writers).map(|writer| write_until(live[writer % live.len()], writer, until));
    let latencies = try_join_all(writing).await?.concat();
    case.rates
        .push(latencies.len() as f64 / began.elapsed().as_secs_f64());
    case.latencies.extend(latencies);
    Ok(())
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
        let body = json!({ "labels": [format!("v{}", fastrand::u32(..))] });
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
