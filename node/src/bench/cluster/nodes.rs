//! A cluster of the benchmark's own: real processes of this program on loopback.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use reqwest::Method;
use troupe_protocol::cluster::{ClusterStatus, MemberState};

use crate::{
    bench::{
        process::{BenchNode, NodeSetup, ourselves},
        usage::cpu_time,
    },
    cli::error::CliError,
};

/// How long members may take to see each other.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Nodes that know each other. Those that were killed are absent.
pub struct Cluster {
    nodes: Vec<Option<BenchNode>>,
    folder: PathBuf,
}

impl Cluster {
    /// Starts so many nodes in a folder of their own within `folder`, and waits until all are up.
    pub async fn start(folder: &Path, nodes: usize) -> Result<Self, CliError> {
        let folder = folder.join(format!("cluster-{}", fastrand::u32(..)));
        std::fs::create_dir_all(&folder)
            .map_err(|error| CliError::Failed(format!("{}: {error}", folder.display())))?;
        let mut cluster = Self {
            nodes: Vec::new(),
            folder,
        };
        for number in 0..nodes {
            let mut setup = NodeSetup {
                data: cluster.folder.join(format!("data-{number}")),
                name: format!("bench-{number}"),
                cluster_listen: free_address()?,
                ..NodeSetup::default()
            };
            if let Some(first) = cluster.nodes.first().and_then(Option::as_ref) {
                setup.key = Some(first.key.clone());
                setup.join = Some(invite(&cluster.folder, first).await?);
            }
            let node = BenchNode::start_with(&cluster.folder, setup).await?;
            cluster.nodes.push(Some(node));
        }
        cluster.settle().await?;
        Ok(cluster)
    }

    /// The nodes that run, by number.
    pub fn live(&self) -> impl Iterator<Item = (usize, &BenchNode)> {
        let all = self.nodes.iter().enumerate();
        all.filter_map(|(number, node)| Some((number, node.as_ref()?)))
    }

    /// The first node that runs.
    pub fn first(&self) -> Result<&BenchNode, CliError> {
        let first = self.live().next();
        first
            .map(|(_, node)| node)
            .ok_or_else(|| CliError::Failed("no node of the benchmark runs".to_owned()))
    }

    /// Waits until every node that runs sees just these up, and itself among the majority.
    pub async fn settle(&self) -> Result<(), CliError> {
        let expected = self.live().count();
        let began = Instant::now();
        while began.elapsed() < SETTLED_WITHIN {
            let mut settled = 0;
            for (_, node) in self.live() {
                let Ok(status) = status(node).await else { break };
                let is_up = |state| state == MemberState::Up;
                let up = status
                    .members
                    .iter()
                    .filter(|one| is_up(one.member.state))
                    .count();
                let is_led = status.members.iter().any(|one| one.is_leader);
                settled += usize::from(status.has_quorum && is_led && up == expected);
            }
            if settled == expected {
                return Ok(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(CliError::Failed(format!(
            "the {expected} nodes did not agree within {} s",
            SETTLED_WITHIN.as_secs()
        )))
    }

    /// The number of the node that leads.
    pub async fn leader(&self) -> Result<usize, CliError> {
        let status = status(self.first()?).await?;
        let leader = status.members.iter().find(|one| one.is_leader);
        let name = leader.map(|leader| leader.member.name.as_str().to_owned());
        let mut live = self.live();
        live.find(|(_, node)| Some(&node.setup.name) == name.as_ref())
            .map(|(number, _)| number)
            .ok_or_else(|| CliError::Failed(format!("the leader is {name:?}, which does not run")))
    }

    /// Kills a node (SIGKILL); answers when, and what starts it again.
    pub async fn kill(&mut self, number: usize) -> Result<(Instant, NodeSetup), CliError> {
        let node = self.nodes.get_mut(number).and_then(Option::take);
        let node = node.ok_or_else(|| CliError::Failed(format!("node {number} does not run")))?;
        let killed = Instant::now();
        Ok((killed, node.kill().await))
    }

    /// Starts a killed node again.
    pub async fn revive(&mut self, number: usize, setup: NodeSetup) -> Result<(), CliError> {
        let node = BenchNode::start_with(&self.folder, setup).await?;
        if let Some(place) = self.nodes.get_mut(number) {
            *place = Some(node);
        }
        Ok(())
    }

    /// The CPU time that all nodes that run have used.
    pub fn cpu_time(&self) -> Result<Duration, CliError> {
        self.live().map(|(_, node)| cpu_time(node.pid)).sum()
    }

    /// Ends all nodes at once, and removes what they kept: nobody needs them any more.
    pub async fn end(self) {
        for node in self.nodes.into_iter().flatten() {
            node.kill().await;
        }
        // What is left goes with the folder of the whole benchmark.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A cluster of each size, all of them running.
pub async fn clusters(folder: &Path, sizes: &[usize]) -> Result<Vec<Cluster>, CliError> {
    let mut clusters = Vec::new();
    for &nodes in sizes {
        match Cluster::start(folder, nodes).await {
            Ok(cluster) => clusters.push(cluster),
            Err(error) => {
                end_all(clusters).await;
                return Err(error);
            }
        }
    }
    Ok(clusters)
}

/// Ends all of them.
pub async fn end_all(clusters: Vec<Cluster>) {
    for cluster in clusters {
        cluster.end().await;
    }
}

/// An address on which nobody listens now.
fn free_address() -> Result<String, CliError> {
    let bound = std::net::TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let address = bound.map_err(|error| CliError::Failed(format!("no free port: {error}")))?;
    Ok(address.to_string())
}

/// The cluster as this node sees it.
pub async fn status(node: &BenchNode) -> Result<ClusterStatus, CliError> {
    let answer = node.send(Method::GET, "/api/v1/cluster", None).await?;
    serde_json::from_value(answer).map_err(|error| CliError::Failed(format!("/api/v1/cluster: {error}")))
}

/// A join string, made by the command line.
async fn invite(folder: &Path, node: &BenchNode) -> Result<String, CliError> {
    let data = node.setup.data.to_string_lossy();
    let mut command = ourselves(folder, &["node", "invite", "--json", "--data", &data])?;
    let printed = command.output().await;
    let printed = printed.map_err(|error| CliError::Failed(format!("troupe node invite: {error}")))?;
    let answer: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap_or_default();
    let string = answer["join_string"]
        .as_str()
        .or(answer["join"].as_str())
        .map(str::to_owned);
    string.ok_or_else(|| CliError::Failed("troupe node invite gave no join string".to_owned()))
}
