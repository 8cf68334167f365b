//! What clients see of a server over HTTP that is killed under load and comes back at the same address.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde::Serialize;
use serde_json::json;

use crate::{
    bench::{
        bars::Bar,
        fixture::Era,
        peer::{Caller, HttpPeer, Peer},
        process::{BenchNode, HttpFixture, NodeSetup, free_address},
    },
    cli::{
        error::CliError,
        output::{Output, Table},
    },
};

const CALLERS: usize = 16;
/// How long there are calls before the server is killed, how long it is away, and how long there are calls after that.
const BEFORE: Duration = Duration::from_millis(300);
const AWAY: Duration = Duration::from_millis(400);
const AFTER: Duration = Duration::from_millis(800);
/// Who has failed calls again after so long.
const PAUSE: Duration = Duration::from_millis(5);
/// From the moment at which the server listens again to the first success of each client.
const BACK_MS_MAX: f64 = 100.0;

/// What came out, over all kills.
#[derive(Debug, Serialize)]
pub struct Row {
    pub era: Era,
    pub kills: usize,
    pub calls: usize,
    /// Calls that were in flight when the server was killed, or not answered in time while it was away.
    pub failed: usize,
    /// Clients that could not go on in their session, or at all.
    pub lost_clients: usize,
    /// From the server's return to the first success of the last client: the median and the worst of the kills.
    pub back_median_ms: f64,
    pub back_worst_ms: f64,
}

/// What one client saw.
struct Seen {
    calls: usize,
    failed: usize,
    /// When calls succeeded that ended after the kill.
    successes: Vec<Instant>,
}

/// Measures clients of both eras.
pub async fn measure(repeats: usize, folder: &Path, output: Output) -> Result<Vec<Row>, CliError> {
    let setup = NodeSetup {
        data: folder.join("data-of-restart"),
        ..NodeSetup::default()
    };
    let node = BenchNode::start_with(folder, setup).await?;
    let mut rows = Vec::new();
    for era in [Era::Modern, Era::Legacy] {
        output.note(&format!("restart: {} server, {repeats} kills", era.as_str()));
        rows.push(of_era(era, repeats, folder, &node).await);
    }
    node.stop().await;
    rows.into_iter().collect()
}

async fn of_era(era: Era, repeats: usize, folder: &Path, node: &BenchNode) -> Result<Row, CliError> {
    let address = free_address().await?;
    let mut fixture = HttpFixture::start_at(folder, era, address).await?;
    let name = format!("returning-{}", era.as_str());
    node.register(&json!({ "name": name, "url": fixture.url }))
        .await?;
    let url = format!("{}/mcp/servers/{name}", node.url);
    let peer = Peer::http(HttpPeer::new(&url, Some(&node.key), era)?);
    let mut row = Row {
        era,
        kills: repeats,
        calls: 0,
        failed: 0,
        lost_clients: 0,
        back_median_ms: f64::NAN,
        back_worst_ms: f64::NAN,
    };
    let mut back_ms = Vec::new();
    for _ in 0..repeats {
        let mut callers = Vec::new();
        for _ in 0..CALLERS {
            callers.push(peer.caller().await?);
        }
        let until = Instant::now() + BEFORE + AWAY + AFTER;
        let calling = join_all(callers.into_iter().map(|caller| call_until(caller, until)));
        let (seen, returned) = tokio::join!(calling, kill_and_revive(fixture, folder, era, address));
        let returned_at;
        (fixture, returned_at) = returned?;
        let mut back = Duration::ZERO;
        for client in seen {
            row.calls += client.calls;
            row.failed += client.failed;
            match client.successes.iter().find(|success| **success > returned_at) {
                Some(first) => back = back.max(*first - returned_at),
                None => row.lost_clients += 1,
            }
        }
        back_ms.push(back.as_secs_f64() * 1e3);
    }
    back_ms.sort_by(f64::total_cmp);
    row.back_median_ms = back_ms.get(repeats / 2).copied().unwrap_or(f64::NAN);
    row.back_worst_ms = back_ms.last().copied().unwrap_or(f64::NAN);
    Ok(row)
}

async fn kill_and_revive(
    fixture: HttpFixture,
    folder: &Path,
    era: Era,
    address: SocketAddr,
) -> Result<(HttpFixture, Instant), CliError> {
    tokio::time::sleep(BEFORE).await;
    fixture.kill().await;
    tokio::time::sleep(AWAY).await;
    let fixture = HttpFixture::start_at(folder, era, address).await?;
    Ok((fixture, Instant::now()))
}

async fn call_until(mut caller: Caller<'_>, until: Instant) -> Seen {
    let mut seen = Seen {
        calls: 0,
        failed: 0,
        successes: Vec::new(),
    };
    while Instant::now() < until {
        seen.calls += 1;
        if caller.call().await.is_ok() {
            seen.successes.push(Instant::now());
        } else {
            seen.failed += 1;
            tokio::time::sleep(PAUSE).await;
        }
    }
    seen
}

/// What is promised.
pub fn bars(rows: &[Row]) -> Vec<Bar> {
    let bar = |row: &Row| {
        let era = row.era.as_str();
        let back = format!("return of a killed server to the next answer of each client ({era}), median");
        let lost = format!("clients that could not go on after that ({era})");
        [
            Bar::at_most(back, row.back_median_ms, BACK_MS_MAX, "ms"),
            Bar::at_most(lost, row.lost_clients as f64, 0.0, "clients"),
        ]
    };
    rows.iter().flat_map(bar).collect()
}

/// For people.
pub fn in_words(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        "era",
        "kills",
        "calls",
        "failed",
        "lost clients",
        "back ms, median",
        "worst",
    ]);
    for row in rows {
        table.row([
            row.era.as_str().to_owned(),
            row.kills.to_string(),
            row.calls.to_string(),
            row.failed.to_string(),
            row.lost_clients.to_string(),
            format!("{:.1}", row.back_median_ms),
            format!("{:.1}", row.back_worst_ms),
        ]);
    }
    format!(
        "\na server killed under load, {CALLERS} clients; from its return to the first answer of the last client\n{table}"
    )
}
