//! What a link between nodes costs, beside the simplest that could do; in this process, which is both ends.

use std::{path::Path, time::Duration};

use troupe_actors::cluster::link::bench::{self, LinkRow, Turn, Way};

use super::{ClusterArgs, figures::median};
use crate::{
    bench::bars::Bar,
    cli::{
        error::CliError,
        output::{Output, Table},
    },
};

/// Measures every way.
pub async fn measure(args: &ClusterArgs, folder: &Path, output: Output) -> Result<Vec<LinkRow>, CliError> {
    output.note("links: asks of 100 B and 64 KiB");
    let each = Duration::from_secs_f64(args.turn_seconds());
    let rows = bench::measure(&folder.join("links"), args.turns, each).await;
    rows.map_err(|error| CliError::Failed(format!("links: {error}")))
}

fn name(way: Way) -> &'static str {
    match way {
        Way::PingPong => "TCP ping-pong",
        Way::MinimalRpc => "minimal RPC on TCP",
        Way::LibraryCall => "ractor_cluster's call",
        Way::LocalAsk => "ask within a node",
        Way::Link => "link (TLS)",
        Way::LinkBehindBulk => "link (TLS) behind 32 MiB",
    }
}

/// For people.
pub fn in_words(rows: &[LinkRow]) -> String {
    let mut table = Table::new(&["ASK", "BYTES", "IN FLIGHT", "PER S", "P50 µs", "P99 µs"]);
    for row in rows {
        let middle = |figure: fn(&Turn) -> f64| median(row.turns.iter().map(figure));
        table.row([
            name(row.case.way).to_owned(),
            row.case.bytes.to_string(),
            row.case.in_flight.to_string(),
            format!("{:.0}", middle(|turn| turn.asks_per_s)),
            format!("{:.1}", middle(|turn| turn.p50_us)),
            format!("{:.1}", middle(|turn| turn.p99_us)),
        ]);
    }
    table.or("")
}

/// What is promised of asks of 100 bytes.
pub fn bars(rows: &[LinkRow]) -> Vec<Bar> {
    let turns = |way: Way, in_flight: usize| {
        let of_case = rows
            .iter()
            .find(|row| row.case.way == way && row.case.bytes == 100 && row.case.in_flight == in_flight);
        of_case.map_or(&[][..], |row| &row.turns)
    };
    // Turn by turn, so that a slow moment of the machine is on both sides of the fraction.
    let ratio = |way: Way, other: Way, in_flight: usize, figure: fn(&Turn) -> f64| {
        let pairs = turns(way, in_flight).iter().zip(turns(other, in_flight));
        median(pairs.map(|(turn, other)| figure(turn) / figure(other)))
    };
    let rate = |turn: &Turn| turn.asks_per_s;
    let time = |turn: &Turn| turn.p50_us;
    vec![
        Bar::at_most(
            "100 B ask, one at a time: p50 by that of ractor_cluster's call",
            ratio(Way::Link, Way::LibraryCall, 1, time),
            1.0,
            "x",
        ),
        Bar::at_least(
            "100 B asks, 256 in flight: rate by that of ractor_cluster's calls",
            ratio(Way::Link, Way::LibraryCall, 256, rate),
            2.0,
            "x",
        ),
        Bar::at_least(
            "100 B asks, 256 in flight: rate by that of a minimal RPC on TCP",
            100.0 * ratio(Way::Link, Way::MinimalRpc, 256, rate),
            60.0,
            "%",
        ),
        Bar::at_most(
            "100 B ask behind 32 MiB of others': p50 by that of an idle link",
            ratio(Way::LinkBehindBulk, Way::Link, 1, time),
            5.0,
            "x",
        ),
    ]
}
