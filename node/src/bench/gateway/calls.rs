//! Calls: directly, through nginx, and through a node, in turn.

use std::{path::Path, time::Duration};

use serde::Serialize;
use serde_json::json;

use super::{GatewayArgs, figures::Figures};
use crate::{
    bench::{
        bars::Bar,
        fixture::{Era, Wire},
        load::{self, Cost, Pids},
        nginx::Nginx,
        peer::{HttpPeer, Peer, StdioPeer},
        process::{BenchNode, HttpFixture, fixture_args},
    },
    cli::{
        error::CliError,
        output::{Output, Table},
    },
};

/// Calls made before anything is counted.
const WARM_UP: Duration = Duration::from_millis(200);
const SMALL_BYTES: usize = 100;
/// Larger results are asked for by so many at once only.
const LARGE_BYTES: [usize; 2] = [10_000, 1_000_000];
const CALLERS_OF_LARGE: usize = 16;

/// The case for which something is promised: many callers, small results, a server over HTTP.
const CALLERS_OF_BARS: usize = 64;
/// What a call may cost in a node, by what it costs in nginx.
const BY_NGINX_MAX: f64 = 1.5;
/// How many calls go through a node, of those that the same machine makes directly.
const OF_DIRECT_MIN_PERCENT: f64 = 35.0;

/// What stands between client and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Through {
    Nothing,
    Nginx,
    Troupe,
}

/// One way in one case.
#[derive(Debug, Serialize)]
pub struct Row {
    pub wire: Wire,
    pub era: Era,
    pub callers: usize,
    pub result_bytes: usize,
    pub through: Through,
    pub figures: Figures,
}

/// Everything.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// Whether nginx was found.
    pub has_nginx: bool,
    pub rows: Vec<Row>,
}

struct Way {
    through: Through,
    peer: Peer,
    pids: Pids,
}

/// A server of one kind, all the ways to it, and what must run meanwhile.
struct Served {
    ways: Vec<Way>,
    nginx: Option<Nginx>,
    _fixture: Option<HttpFixture>,
}

/// Measures every case.
pub async fn measure(args: &GatewayArgs, folder: &Path, output: Output) -> Result<Measured, CliError> {
    let node = BenchNode::start(folder).await?;
    let measured = with_node(args, folder, &node, output).await;
    node.stop().await;
    measured
}

async fn with_node(
    args: &GatewayArgs,
    folder: &Path,
    node: &BenchNode,
    output: Output,
) -> Result<Measured, CliError> {
    let mut measured = Measured {
        has_nginx: true,
        rows: Vec::new(),
    };
    for (wire, era) in [
        (Wire::Http, Era::Modern),
        (Wire::Http, Era::Legacy),
        (Wire::Stdio, Era::Modern),
        (Wire::Stdio, Era::Legacy),
    ] {
        let name = format!("{}-{}", wire.as_str(), era.as_str());
        if !name.contains(&args.cases) {
            continue;
        }
        output.note(&format!("calls: {name}"));
        let served = serve(&name, wire, era, folder, node).await?;
        measured.has_nginx &= wire == Wire::Stdio || served.nginx.is_some();
        let rows = of_server(args, wire, era, &served.ways).await;
        if let Some(nginx) = served.nginx {
            nginx.stop().await;
        }
        measured.rows.extend(rows?);
    }
    Ok(measured)
}

async fn serve(
    name: &str,
    wire: Wire,
    era: Era,
    folder: &Path,
    node: &BenchNode,
) -> Result<Served, CliError> {
    let mut ways = Vec::new();
    let mut served = (None, None);
    match wire {
        Wire::Http => {
            let fixture = HttpFixture::start(folder, era).await?;
            node.register(&json!({ "name": name, "url": fixture.url }))
                .await?;
            let direct = Peer::http(HttpPeer::new(&fixture.url, None, era)?);
            ways.push(Way::new(Through::Nothing, direct, Vec::new()).await?);
            if let Some(nginx) = Nginx::start(folder, &fixture.url).await? {
                let peer = Peer::http(HttpPeer::new(&nginx.url, None, era)?);
                ways.push(Way::new(Through::Nginx, peer, nginx.pids.clone()).await?);
                served.0 = Some(nginx);
            }
            served.1 = Some(fixture);
        }
        Wire::Stdio => {
            let program = std::env::current_exe().map_err(|error| CliError::Failed(error.to_string()))?;
            let args = fixture_args(wire, era);
            node.register(&json!({ "name": name, "command": program, "args": args }))
                .await?;
            let direct = Peer::stdio(StdioPeer::start(folder, era)?);
            ways.push(Way::new(Through::Nothing, direct, Vec::new()).await?);
        }
    }
    let url = format!("{}/mcp/servers/{name}", node.url);
    let proxied = Peer::http(HttpPeer::new(&url, Some(&node.key), era)?);
    ways.push(Way::new(Through::Troupe, proxied, vec![node.pid]).await?);
    Ok(Served {
        ways,
        nginx: served.0,
        _fixture: served.1,
    })
}

impl Way {
    async fn new(through: Through, peer: Peer, gateway: Vec<u32>) -> Result<Self, CliError> {
        let upstream = peer.caller().await?.pid_of_server().await?;
        let client = std::process::id();
        let pids = Pids {
            client,
            gateway,
            upstream,
        };
        Ok(Self { through, peer, pids })
    }
}

async fn of_server(args: &GatewayArgs, wire: Wire, era: Era, ways: &[Way]) -> Result<Vec<Row>, CliError> {
    let small = args.callers.iter().map(|&callers| (callers, SMALL_BYTES));
    let large = LARGE_BYTES.map(|bytes| (CALLERS_OF_LARGE, bytes));
    let large = large
        .into_iter()
        .filter(|(callers, _)| args.callers.contains(callers));
    let mut rows = Vec::new();
    for (callers, result_bytes) in small.chain(large) {
        let turn = Duration::from_secs_f64(args.seconds / f64::from(args.turns));
        let mut costs = vec![Cost::default(); ways.len()];
        for way in ways {
            way.peer.set_result_bytes(result_bytes);
            load::round(&way.peer, callers, WARM_UP, &way.pids).await?;
        }
        for _ in 0..args.turns {
            for (way, cost) in ways.iter().zip(&mut costs) {
                cost.add(load::round(&way.peer, callers, turn, &way.pids).await?);
            }
        }
        rows.extend(ways.iter().zip(&mut costs).map(|(way, cost)| Row {
            wire,
            era,
            callers,
            result_bytes,
            through: way.through,
            figures: Figures::of(cost),
        }));
    }
    Ok(rows)
}

impl Measured {
    /// What is promised: cheap beside nginx, quick beside no gateway at all.
    pub fn bars(&self) -> Vec<Bar> {
        [Era::Modern, Era::Legacy]
            .into_iter()
            .flat_map(|era| self.bars_of(era))
            .collect()
    }

    fn bars_of(&self, era: Era) -> Vec<Bar> {
        let figures = |through: Through| {
            let is_it = |row: &&Row| {
                (row.wire, row.era, row.through) == (Wire::Http, era, through)
                    && (row.callers, row.result_bytes) == (CALLERS_OF_BARS, SMALL_BYTES)
            };
            self.rows.iter().find(is_it).map(|row| &row.figures)
        };
        let Some(troupe) = figures(Through::Troupe) else {
            return Vec::new();
        };
        let case = format!("{}, {SMALL_BYTES} B, {CALLERS_OF_BARS} callers", era.as_str());
        let by_nginx =
            figures(Through::Nginx).map_or(f64::NAN, |nginx| troupe.cpu_gateway_us / nginx.cpu_gateway_us);
        let of_direct = figures(Through::Nothing)
            .map_or(f64::NAN, |direct| troupe.calls_per_s * 100.0 / direct.calls_per_s);
        vec![
            Bar::at_most(
                format!("CPU of a proxied call in the node by that in nginx ({case})"),
                by_nginx,
                BY_NGINX_MAX,
                "x",
            ),
            Bar::at_least(
                format!("calls through the node by direct ones on the same cores ({case})"),
                of_direct,
                OF_DIRECT_MIN_PERCENT,
                "%",
            ),
        ]
    }

    /// For people.
    pub fn in_words(&self) -> String {
        let mut table = Table::new(&[
            "server",
            "era",
            "callers",
            "bytes",
            "through",
            "calls/s",
            "p50 µs",
            "p99 µs",
            "p99.9 µs",
            "client µs",
            "between µs",
            "server µs",
        ]);
        for row in &self.rows {
            let figures = &row.figures;
            let (is_first, number) = (row.through == Through::Nothing, |value: f64| {
                format!("{value:.1}")
            });
            let once = |text: String| if is_first { text } else { String::new() };
            table.row([
                once(row.wire.as_str().to_owned()),
                once(row.era.as_str().to_owned()),
                once(row.callers.to_string()),
                once(row.result_bytes.to_string()),
                format!("{:?}", row.through).to_lowercase(),
                format!("{:.0}", figures.calls_per_s),
                figures.latency_p50_us.to_string(),
                figures.latency_p99_us.to_string(),
                figures.latency_p999_us.to_string(),
                number(figures.cpu_client_us),
                number(figures.cpu_gateway_us),
                number(figures.cpu_server_us),
            ]);
        }
        let mut text = format!("calls; the last three columns are CPU time per call\n{table}");
        if !self.has_nginx {
            text.push_str(
                "nginx was not found, so nothing is said about what it would cost (tests/setup nginx installs it)\n",
            );
        }
        text
    }
}
