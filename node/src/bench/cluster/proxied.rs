//! CPU time per proxied call as nodes are added: a call at any node is served by that node alone, so it must stay flat.
//!
//! Each turn calls another node, and the CPU time of all nodes of its cluster counts. Nodes that are called at once would
//! compete for the cores and caches of the one machine that all of them are on, which they do not share otherwise. What
//! nodes do when nobody calls is measured before and taken off: it is stated on its own, for it depends on time, not on
//! calls. All clusters run all the time and are called in turn.

use std::{path::Path, time::Duration};

use futures::future::try_join_all;
use serde::Serialize;
use serde_json::json;

use super::{
    ClusterArgs,
    figures::median,
    nodes::{self, Cluster},
};
use crate::{
    bench::{
        bars::Bar,
        fixture::Era,
        load::{self, Pids},
        peer::{HttpPeer, Peer},
        process::HttpFixture,
    },
    cli::{error::CliError, output::Output},
};

/// Callers at the node that is called, however many nodes there are: a node that handles several calls whenever it runs
/// needs less for each, and all of them should be alike in that.
const CALLERS: usize = 16;
const WARM_UP: Duration = Duration::from_millis(500);
/// What nodes do by themselves is watched for at least so long.
const IDLE_FOR: Duration = Duration::from_secs(5);
/// How much more CPU time a call may cost in the cluster where it costs most than where it costs least.
const SPREAD_MAX: f64 = 1.10;

/// One size of cluster.
#[derive(Debug, Serialize)]
pub struct Row {
    pub nodes: usize,
    pub calls: usize,
    /// The median of the turns.
    pub calls_per_s: f64,
    /// CPU time of all nodes per call, less what they use idle; the median of the turns.
    pub cpu_us_per_call: f64,
    /// CPU time of one idle node, in per cent of a core.
    pub idle_cpu_percent: f64,
}

/// A cluster, a way to the same server through each of its nodes, and what came out so far.
struct Called<'a> {
    cluster: &'a Cluster,
    peers: Vec<(Peer, Pids)>,
    /// CPU seconds that all its nodes together use in a second without calls.
    idle: f64,
    calls: usize,
    rates: Vec<f64>,
    costs_us: Vec<f64>,
}

/// Measures every size.
pub async fn measure(args: &ClusterArgs, folder: &Path, output: Output) -> Result<Vec<Row>, CliError> {
    output.note(&format!("proxied calls: {:?} nodes", args.proxied_nodes));
    let fixture = HttpFixture::start(folder, Era::Modern).await?;
    let clusters = nodes::clusters(folder, &args.proxied_nodes).await?;
    let measured = of_clusters(&clusters, &fixture.url, args).await;
    nodes::end_all(clusters).await;
    measured
}

async fn of_clusters(clusters: &[Cluster], upstream: &str, args: &ClusterArgs) -> Result<Vec<Row>, CliError> {
    let mut called = Vec::new();
    for cluster in clusters {
        called.push(Called::begin(cluster, upstream).await?);
    }
    note_idle(&mut called).await?;
    for _ in 0..args.turns {
        for cluster in &mut called {
            cluster.turn(Duration::from_secs_f64(args.turn_seconds())).await?;
        }
    }
    let sizes = args.proxied_nodes.iter();
    let rows = called.iter().zip(sizes).map(|(called, &nodes)| Row {
        nodes,
        calls: called.calls,
        calls_per_s: median(called.rates.iter().copied()),
        cpu_us_per_call: median(called.costs_us.iter().copied()),
        idle_cpu_percent: called.idle * 100.0 / nodes as f64,
    });
    Ok(rows.collect())
}

/// Nobody calls any of them.
async fn note_idle(called: &mut [Called<'_>]) -> Result<(), CliError> {
    let used = |called: &[Called<'_>]| -> Result<Vec<Duration>, CliError> {
        called.iter().map(|called| called.cluster.cpu_time()).collect()
    };
    let before = used(called)?;
    tokio::time::sleep(IDLE_FOR).await;
    let after = used(called)?;
    for ((called, before), after) in called.iter_mut().zip(before).zip(after) {
        called.idle = after.saturating_sub(before).as_secs_f64() / IDLE_FOR.as_secs_f64();
    }
    Ok(())
}

impl<'a> Called<'a> {
    async fn begin(cluster: &'a Cluster, upstream: &str) -> Result<Self, CliError> {
        let server = json!({ "name": "outside", "url": upstream });
        cluster.first()?.register(&server).await?;
        cluster.settle().await?;
        let mut peers = Vec::new();
        for (_, node) in cluster.live() {
            let url = format!("{}/mcp/servers/outside", node.url);
            let peer = HttpPeer::new(&url, Some(&node.key), Era::Modern)?;
            peers.push((Peer::http(peer), own_pids(node.pid)));
        }
        for peer in &peers {
            calls(std::slice::from_ref(peer), WARM_UP).await?;
        }
        Ok(Self {
            cluster,
            peers,
            idle: 0.0,
            calls: 0,
            rates: Vec::new(),
            costs_us: Vec::new(),
        })
    }

    async fn turn(&mut self, time: Duration) -> Result<(), CliError> {
        let before = self.cluster.cpu_time()?;
        let next = self.rates.len() % self.peers.len();
        let (calls, wall) = calls(&self.peers[next..=next], time).await?;
        let busy = self.cluster.cpu_time()?.saturating_sub(before);
        let wall = wall.as_secs_f64();
        let net = busy.as_secs_f64() - self.idle * wall;
        self.calls += calls;
        self.rates.push(calls as f64 / wall);
        self.costs_us.push(net * 1e6 / calls.max(1) as f64);
        Ok(())
    }
}

/// The rounds of the gateway's benchmark count three processes; here only whole nodes count, over all rounds.
fn own_pids(node: u32) -> Pids {
    Pids {
        client: node,
        gateway: vec![node],
        upstream: node,
    }
}

/// Calls these nodes at once; answers how many calls there were and how long it took.
async fn calls(peers: &[(Peer, Pids)], time: Duration) -> Result<(usize, Duration), CliError> {
    let rounds = peers
        .iter()
        .map(|(peer, pids)| load::round(peer, CALLERS, time, pids));
    let rounds = try_join_all(rounds).await?;
    let calls = rounds.iter().map(|round| round.latencies_us.len()).sum();
    let wall = rounds.iter().map(|round| round.wall).max().unwrap_or_default();
    Ok((calls, wall))
}

/// For people.
pub fn in_words(rows: &[Row]) -> String {
    let mut text = format!(
        "\nproxied calls, {CALLERS} callers at one node in each turn\n{:>6}{:>10}{:>14}{:>12}{:>18}\n",
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

/// What is promised: that it stays flat.
pub fn bars(rows: &[Row]) -> Vec<Bar> {
    let costs = || rows.iter().map(|row| row.cpu_us_per_call);
    let spread = costs().fold(f64::NAN, f64::max) / costs().fold(f64::NAN, f64::min);
    let sizes: Vec<String> = rows.iter().map(|row| row.nodes.to_string()).collect();
    let what = format!(
        "CPU time per proxied call at {} nodes: most by least",
        sizes.join(", ")
    );
    vec![Bar::at_most(what, spread, SPREAD_MAX, "x")]
}
