//! What a node holds in memory for the sessions of legacy clients.

use std::{path::Path, time::Duration};

use futures::future::try_join_all;
use serde::Serialize;
use serde_json::json;

use crate::{
    bench::{
        bars::Bar,
        fixture::Era,
        peer::{HttpCaller, HttpPeer},
        process::{BenchNode, HttpFixture, NodeSetup},
        usage::resident_bytes,
    },
    cli::{
        error::CliError,
        output::{Output, Table},
    },
};

/// Clients that are connected; further sessions are begun over the same connections.
const CLIENTS: usize = 64;
/// What is held for a moment only is given back by then.
const SETTLE: Duration = Duration::from_secs(2);
/// What may be resident with up to so many sessions, in MB.
const BARS_MB: [(usize, f64); 2] = [(64, 30.0), (10_000, 60.0)];

/// With so many sessions.
#[derive(Debug, Serialize)]
pub struct Row {
    pub sessions: usize,
    pub resident_bytes: u64,
}

/// Measures with each number of sessions, the fewest first.
pub async fn measure(numbers: &[usize], folder: &Path, output: Output) -> Result<Vec<Row>, CliError> {
    let fixture = HttpFixture::start(folder, Era::Legacy).await?;
    let setup = NodeSetup {
        data: folder.join("data-of-memory"),
        ..NodeSetup::default()
    };
    let node = BenchNode::start_with(folder, setup).await?;
    let measured = of_node(numbers, &node, &fixture.url, output).await;
    node.stop().await;
    measured
}

async fn of_node(
    numbers: &[usize],
    node: &BenchNode,
    upstream: &str,
    output: Output,
) -> Result<Vec<Row>, CliError> {
    node.register(&json!({ "name": "outside", "url": upstream }))
        .await?;
    let url = format!("{}/mcp/servers/outside", node.url);
    let peer = HttpPeer::new(&url, Some(&node.key), Era::Legacy)?;
    let mut numbers = numbers.to_vec();
    numbers.sort_unstable();
    let mut rows = vec![row(node, 0).await?];
    let (mut callers, mut open) = (Vec::new(), 0);
    for sessions in numbers {
        output.note(&format!("memory: {sessions} sessions"));
        while callers.len() < CLIENTS.min(sessions) {
            callers.push(peer.connect().await?);
            open += 1;
        }
        let missing = sessions.saturating_sub(open);
        let per_caller = missing.div_ceil(callers.len().max(1));
        try_join_all(callers.iter_mut().enumerate().map(|(number, caller)| {
            let own = missing.saturating_sub(number * per_caller).min(per_caller);
            begin_sessions(caller, own)
        }))
        .await?;
        open += missing;
        rows.push(row(node, open).await?);
    }
    Ok(rows)
}

async fn begin_sessions(caller: &mut HttpCaller, number: usize) -> Result<(), CliError> {
    for _ in 0..number {
        caller.start_session().await?;
    }
    caller.call(100).await?;
    Ok(())
}

async fn row(node: &BenchNode, sessions: usize) -> Result<Row, CliError> {
    tokio::time::sleep(SETTLE).await;
    let resident_bytes = resident_bytes(node.pid)?;
    Ok(Row {
        sessions,
        resident_bytes,
    })
}

/// What is promised.
pub fn bars(rows: &[Row]) -> Vec<Bar> {
    let bar = |(sessions, bar_mb): (usize, f64)| {
        let row = rows.iter().find(|row| row.sessions == sessions)?;
        let what = format!("resident memory with {sessions} sessions");
        Some(Bar::at_most(what, row.resident_bytes as f64 / 1e6, bar_mb, "MB"))
    };
    BARS_MB.into_iter().filter_map(bar).collect()
}

/// For people.
pub fn in_words(rows: &[Row]) -> String {
    let mut table = Table::new(&["sessions", "resident MB"]);
    for row in rows {
        let mb = row.resident_bytes as f64 / 1e6;
        table.row([row.sessions.to_string(), format!("{mb:.1}")]);
    }
    format!("\nmemory, {CLIENTS} clients connected\n{table}")
}
