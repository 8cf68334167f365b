//! What a link between nodes costs, beside the simplest that could do; in this process, which is both ends.

use std::{path::Path, time::Duration};

use troupe_actors::cluster::link::bench::{self, LinkRow, Way};

use super::ClusterArgs;
use crate::cli::{
    error::CliError,
    output::{Output, Table},
};

/// Measures every way.
pub async fn measure(args: &ClusterArgs, folder: &Path, output: Output) -> Result<Vec<LinkRow>, CliError> {
    output.note("links: asks of 100 B and 64 KiB");
    let each = Duration::from_secs_f64(args.seconds);
    let rows = bench::measure(&folder.join("links"), each).await;
    rows.map_err(|error| CliError::Failed(format!("links: {error}")))
}

fn name(way: Way) -> &'static str {
    match way {
        Way::PingPong => "TCP ping-pong",
        Way::MinimalRpc => "minimal RPC on TCP",
        Way::LibraryCall => "ractor_cluster's call",
        Way::Link => "link (TLS)",
        Way::LinkBehindBulk => "link (TLS) behind 32 MiB",
    }
}

/// For people.
pub fn in_words(rows: &[LinkRow]) -> String {
    let mut table = Table::new(&["ASK", "BYTES", "IN FLIGHT", "PER S", "P50 µs", "P99 µs"]);
    for row in rows {
        table.row([
            name(row.way).to_owned(),
            row.bytes.to_string(),
            row.in_flight.to_string(),
            format!("{:.0}", row.asks_per_s),
            format!("{:.1}", row.p50_us),
            format!("{:.1}", row.p99_us),
        ]);
    }
    format!("{}{}", table.or(""), ratios(rows))
}

/// The figures that there are bars for.
fn ratios(rows: &[LinkRow]) -> String {
    let find = |way: Way, in_flight: usize| {
        rows.iter()
            .find(|row| row.way == way && row.bytes == 100 && row.in_flight == in_flight)
    };
    let rate = |way| find(way, 256).map_or(f64::NAN, |row| row.asks_per_s);
    let latency = |way| find(way, 1).map_or(f64::NAN, |row| row.p50_us);
    format!(
        "100 B, 256 in flight: {:.1} x ractor_cluster's calls, {:.0} % of the minimal RPC\n\
         100 B, 1 in flight: {:.2} x the time of ractor_cluster's call; behind 32 MiB of others' {:.1} x its own idle time\n",
        rate(Way::Link) / rate(Way::LibraryCall),
        100.0 * rate(Way::Link) / rate(Way::MinimalRpc),
        latency(Way::Link) / latency(Way::LibraryCall),
        latency(Way::LinkBehindBulk) / latency(Way::Link),
    )
}
