//! What a node costs that does nothing: memory, CPU time, and what it says to others.
//!
//! What goes over the wire is counted by the kernel on the loopback device, all headers included. So that nothing else is
//! counted, the cluster runs in a network of its own: this program starts itself again there, if the machine allows it
//! (`unshare`); else the figures hold whatever else this machine says to itself, and the report says so. What each node
//! sends is counted by the kernel for each of its connections ([`sockets`](super::sockets)).

use std::{path::Path, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    ClusterArgs,
    nodes::Cluster,
    sockets::{self, Sent},
};
use crate::{
    bench::{bars::Bar, process::ourselves},
    cli::{
        error::CliError,
        output::{Output, Table},
    },
};

/// Set for the process that measures in a network of its own.
const INSIDE: &str = "TROUPE_BENCH_OWN_NETWORK";
/// After the nodes have met, until they have said all there is to say.
const CALM_AFTER: Duration = Duration::from_secs(6);
/// What is promised for ten nodes, in bytes a second and node.
const PROMISED_BYTES_PER_S: f64 = 4_096.0;
const PROMISED_AT_NODES: usize = 10;

/// One size of cluster.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    pub nodes: usize,
    /// Resident memory of a node, the mean.
    pub memory_mib: f64,
    /// CPU time of a node in per cent of a core, the mean.
    pub cpu_percent: f64,
    /// What a node sends, headers included, the mean.
    pub bytes_per_s: f64,
    /// How many packets, those that only acknowledge included.
    pub packets_per_s: f64,
    /// Of the node that sends most: the leader. Absent where the kernel's figures cannot be had.
    pub busiest: Option<Busiest>,
    /// Whether nothing else used the same loopback device.
    pub alone_on_the_wire: bool,
}

/// What the node sends that sends most.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Busiest {
    /// What it writes into its connections, encryption included.
    pub written_bytes_per_s: f64,
    /// What becomes of it on the wire, headers and packets that only acknowledge included.
    pub bytes_per_s: f64,
    /// Packets with something in them.
    pub messages_per_s: f64,
}

/// Measures every size.
pub async fn measure(args: &ClusterArgs, folder: &Path, output: Output) -> Result<Vec<Row>, CliError> {
    if std::env::var_os(INSIDE).is_none()
        && let Some(rows) = in_own_network(args, folder, output).await?
    {
        return Ok(rows);
    }
    let mut rows = Vec::new();
    for &nodes in &args.idle_nodes {
        output.note(&format!("idle: {nodes} nodes"));
        let cluster = Cluster::start(folder, nodes).await?;
        let row = of_cluster(&cluster, nodes, args.idle_seconds).await;
        cluster.end().await;
        rows.push(row?);
    }
    Ok(rows)
}

/// Runs this part in a network of its own; nothing when the machine does not allow that.
async fn in_own_network(
    args: &ClusterArgs,
    folder: &Path,
    output: Output,
) -> Result<Option<Vec<Row>>, CliError> {
    let sizes: Vec<String> = args.idle_nodes.iter().map(usize::to_string).collect();
    let (sizes, seconds) = (sizes.join(","), args.idle_seconds.to_string());
    let own = ["bench", "cluster", "--only", "idle", "--json"];
    let with = ["--idle-nodes", &sizes, "--idle-seconds", &seconds];
    let plain = ourselves(folder, &[&own[..], &with[..]].concat())?;
    let namespaces = ["--user", "--map-root-user", "--net", "--", "sh", "-c"];
    let mut inside = tokio::process::Command::new("unshare");
    inside
        .args(namespaces)
        .args(["ip link set lo up && exec \"$0\" \"$@\""])
        .arg(plain.as_std().get_program())
        .args(plain.as_std().get_args())
        .env(INSIDE, "1")
        .kill_on_drop(true)
        .stderr(Stdio::null());
    output.note(&format!("idle: {sizes} nodes, in a network of their own"));
    let Ok(printed) = inside.output().await else {
        return Ok(None); // no such program
    };
    #[derive(Deserialize)]
    struct Answer {
        idle: Vec<Row>,
    }
    let answer: Option<Answer> = serde_json::from_slice(&printed.stdout).ok();
    Ok(answer.map(|answer| answer.idle))
}

async fn of_cluster(cluster: &Cluster, nodes: usize, seconds: f64) -> Result<Row, CliError> {
    tokio::time::sleep(CALM_AFTER).await;
    let (sockets, wire, cpu) = (sockets::sent().await, Wire::now()?, cluster.cpu_time()?);
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let (sockets_after, wire_after, cpu_after) = (sockets::sent().await, Wire::now()?, cluster.cpu_time()?);
    let per_node_second = |count: u64| count as f64 / (seconds * nodes as f64);
    let memory: u64 = cluster.live().map(|(_, node)| resident_kib(node.pid)).sum();
    let busiest = cluster
        .live()
        .filter_map(|(_, node)| Some(sockets_after.get(&node.pid)?.since(*sockets.get(&node.pid)?)))
        .max_by_key(Sent::wire_bytes);
    Ok(Row {
        nodes,
        memory_mib: memory as f64 / 1024.0 / nodes as f64,
        cpu_percent: (cpu_after.saturating_sub(cpu)).as_secs_f64() * 100.0 / (seconds * nodes as f64),
        bytes_per_s: per_node_second(wire_after.bytes.saturating_sub(wire.bytes)),
        packets_per_s: per_node_second(wire_after.packets.saturating_sub(wire.packets)),
        busiest: busiest.map(|sent| Busiest {
            written_bytes_per_s: sent.bytes as f64 / seconds,
            bytes_per_s: sent.wire_bytes() as f64 / seconds,
            messages_per_s: sent.messages as f64 / seconds,
        }),
        alone_on_the_wire: std::env::var_os(INSIDE).is_some(),
    })
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_default()
}

/// What the loopback device has sent so far.
struct Wire {
    bytes: u64,
    packets: u64,
}

impl Wire {
    fn now() -> Result<Self, CliError> {
        let path = "/proc/self/net/dev";
        let failed =
            |reason: &str| CliError::Failed(format!("{path}: {reason} (traffic is read on Linux only)"));
        let table = std::fs::read_to_string(path).map_err(|error| failed(&error.to_string()))?;
        Self::of(&table).ok_or_else(|| failed("not as expected"))
    }

    /// After the name come eight fields of what was received, then bytes and packets that were sent.
    fn of(table: &str) -> Option<Self> {
        let line = table
            .lines()
            .find_map(|line| line.trim_start().strip_prefix("lo:"))?;
        let fields: Vec<u64> = line
            .split_whitespace()
            .filter_map(|field| field.parse().ok())
            .collect();
        Some(Self {
            bytes: *fields.get(8)?,
            packets: *fields.get(9)?,
        })
    }
}

/// For people.
pub fn in_words(rows: &[Row]) -> String {
    let mut table = Table::new(&[
        "IDLE NODES",
        "MEMORY MiB",
        "CPU %",
        "BYTES/S",
        "PACKETS/S",
        "LEADER: WRITTEN B/S",
        "BYTES/S",
        "MESSAGES/S",
    ]);
    for row in rows {
        let busiest = |figure: fn(&Busiest) -> f64| {
            let figure = row.busiest.as_ref().map(figure);
            figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.0}"))
        };
        table.row([
            row.nodes.to_string(),
            format!("{:.1}", row.memory_mib),
            format!("{:.2}", row.cpu_percent),
            format!("{:.0}", row.bytes_per_s),
            format!("{:.1}", row.packets_per_s),
            busiest(|busiest| busiest.written_bytes_per_s),
            busiest(|busiest| busiest.bytes_per_s),
            busiest(|busiest| busiest.messages_per_s),
        ]);
    }
    let mut text = format!("\n{}", table.or(""));
    if rows.iter().any(|row| !row.alone_on_the_wire) {
        text.push_str(
            "this machine allows no network of one's own: others' traffic on loopback is in the figures\n",
        );
    }
    text
}

/// What is promised of ten nodes.
pub fn bars(rows: &[Row]) -> Vec<Bar> {
    let Some(row) = rows.iter().find(|row| row.nodes == PROMISED_AT_NODES) else {
        return Vec::new();
    };
    let bar = |what: &str, measured: f64| {
        let what = format!("idle, {PROMISED_AT_NODES} nodes: {what}");
        Bar::at_most(what, measured, PROMISED_BYTES_PER_S, "B/s")
    };
    let leader = |figure: fn(Busiest) -> f64| row.busiest.map_or(f64::NAN, figure);
    vec![
        bar(
            "what a node sends on the wire with all headers, mean",
            row.bytes_per_s,
        ),
        bar(
            "what the leader writes, encrypted",
            leader(|busiest| busiest.written_bytes_per_s),
        ),
        bar(
            "what the leader sends on the wire with all headers",
            leader(|busiest| busiest.bytes_per_s),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_read_from_the_kernels_table() {
        let table = "Inter-|   Receive    |  Transmit\n face |bytes packets errs\n\
                        lo: 100 2 0 0 0 0 0 0 300 4 0 0 0 0 0 0\n\
                      eth0: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n";
        let wire = Wire::of(table).map(|wire| (wire.bytes, wire.packets));
        assert_eq!(wire, Some((300, 4)));
        assert!(Wire::of("nothing").is_none());
    }
}
