//! Several nodes that form one cluster, and what may befall them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::Api;
use crate::machine::Machines;
use crate::network::Network;
use crate::node::{Node, NodeOptions, lasting_address};
use crate::process;
use crate::wait::eventually;

/// Generous: debug builds of several nodes on two cores with other work. What is promised is asserted where it is
/// measured.
pub const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// How a cluster is started.
#[derive(Default, Clone)]
pub struct ClusterOptions {
    node: NodeOptions,
    network: Option<Network>,
    machines: Option<Machines>,
    founder_data: Option<PathBuf>,
}

impl ClusterOptions {
    /// Sets an environment variable of every node.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.node = self.node.environment(name, value);
        self
    }

    /// Puts the nodes into a network that can be cut.
    pub fn network(mut self, network: &Network) -> Self {
        self.network = Some(network.clone());
        self
    }

    /// Puts the nodes onto machines whose clocks and disks can be set.
    pub fn machines(mut self, machines: &Machines) -> Self {
        self.machines = Some(machines.clone());
        self
    }

    /// Keeps the data of the first node, which leads until something befalls it, in this folder.
    pub fn founder_data(mut self, folder: PathBuf) -> Self {
        self.founder_data = Some(folder);
        self
    }

    /// Starts so many nodes and waits until all are members that are up, and vote as they should.
    pub async fn start(self, nodes: usize) -> Cluster {
        let mut cluster = Cluster {
            nodes: Vec::new(),
            paused: Vec::new(),
            options: self,
        };
        let mut first = cluster.create(0, |node| node);
        first.start_again().await;
        cluster.push(first);
        for _ in 1..nodes {
            cluster.join().await;
        }
        cluster.wait_settled().await;
        cluster.wait_voters(nodes).await;
        cluster
    }
}

/// Nodes `node-0`, `node-1`… of one cluster.
pub struct Cluster {
    pub nodes: Vec<Node>,
    paused: Vec<bool>,
    options: ClusterOptions,
}

impl Cluster {
    /// So many nodes on loopback, all up.
    pub async fn start(nodes: usize) -> Self {
        ClusterOptions::default().start(nodes).await
    }

    /// The name that the cluster knows a node by.
    pub fn name(node: usize) -> String {
        format!("node-{node}")
    }

    /// A node of this number that is not started yet, with whatever else `adapt` wants of it.
    pub fn create(&self, node: usize, adapt: impl FnOnce(NodeOptions) -> NodeOptions) -> Node {
        let mut options = self.options.node.clone();
        let (listen, cluster_listen) = match &self.options.network {
            Some(network) => {
                let address = network.address(node);
                options = options.runner(network.runner(node));
                (SocketAddr::new(address, 7500), SocketAddr::new(address, 7501))
            }
            None => (lasting_address(), lasting_address()),
        };
        if let Some(folder) = self.options.founder_data.clone().filter(|_| node == 0) {
            options = options.data(folder);
        }
        if let Some(machines) = &self.options.machines {
            options = machines.put(node, options);
        }
        let cluster_listen = cluster_listen.to_string();
        let named = ["--cluster-listen", &cluster_listen, "--name", &Self::name(node)];
        let mut created = adapt(options.listen(listen).arguments(&named)).create();
        if let Some(first) = self.nodes.first() {
            created.use_key(&first.key);
        }
        created
    }

    fn push(&mut self, node: Node) {
        self.nodes.push(node);
        self.paused.push(false);
    }

    /// A join string, made at this node by the command line.
    pub async fn invite(&self, node: usize) -> String {
        let printed = self.nodes[node].cli(&["node", "invite", "--json"]).await.json();
        let string = printed["join_string"].as_str().or(printed["join"].as_str());
        string
            .unwrap_or_else(|| panic!("a join string in {printed}"))
            .to_owned()
    }

    /// Starts one more node, which joins through the first that runs. Returns once it is ready.
    pub async fn join(&mut self) -> usize {
        self.join_with(|options| options).await
    }

    /// As [`Self::join`], with whatever else `adapt` wants of the node.
    pub async fn join_with(&mut self, adapt: impl FnOnce(NodeOptions) -> NodeOptions) -> usize {
        let number = self.nodes.len();
        let mut node = self.create(number, adapt);
        node.join_at_start(&self.invite(self.any_live()).await);
        node.start_again().await;
        self.push(node);
        number
    }

    /// The nodes that run and are not paused.
    pub fn live(&self) -> Vec<usize> {
        let all = 0..self.nodes.len();
        all.filter(|node| self.nodes[*node].is_started() && !self.paused[*node])
            .collect()
    }

    /// The first node that runs.
    pub fn any_live(&self) -> usize {
        *self.live().first().expect("a node runs")
    }

    /// The APIs of all nodes, by number, whether they run or not.
    pub fn apis(&self) -> Vec<Api> {
        self.nodes.iter().map(|node| node.api.clone()).collect()
    }

    /// The cluster as this node sees it; nothing when it does not answer.
    pub async fn try_status(&self, node: usize) -> Option<Value> {
        let request = self.nodes[node]
            .api
            .request(reqwest::Method::GET, "/api/v1/cluster");
        let answer = request.timeout(Duration::from_secs(5)).send().await.ok()?;
        let is_success = answer.status().is_success();
        let body = answer.text().await.ok()?;
        is_success.then(|| serde_json::from_str(&body).ok()).flatten()
    }

    /// Registers a server at this node; the status of the answer, and its code if it is an error.
    pub async fn register(&self, node: usize, name: &str) -> (u16, String) {
        let body = json!({ "name": name, "command": "true", "enabled": false });
        let answer = self.nodes[node].api.post("/api/v1/servers", &body).await;
        let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
        (answer.status, code)
    }

    /// Waits until the majority takes a write at this node: the registration of a server of this name.
    pub async fn wait_writable(&self, node: usize, name: &str) {
        let what = format!("a write at node-{node}");
        eventually(&what, SETTLED_WITHIN, async || {
            let (status, code) = self.register(node, name).await;
            // what timed out before may have been written after all
            (status == 201 || code == "T2002").then_some(())
        })
        .await;
    }

    /// Waits until every live node sees exactly the live ones up, a leader, and itself in the majority.
    pub async fn wait_settled(&self) {
        let expected = self.live();
        eventually("the live nodes up, led, and agreed", SETTLED_WITHIN, async || {
            for node in self.live() {
                let status = self.try_status(node).await?;
                let is_settled = status["has_quorum"] == true && up(&status) == expected;
                let leads = members(&status).iter().any(|member| member["is_leader"] == true);
                if !is_settled || !leads {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Waits until as many vote as should in a cluster of so many nodes: before, losing one may lose the majority. What
    /// counts is the log's own configuration, at every node; the members' roles say what it will be.
    pub async fn wait_voters(&self, nodes: usize) {
        let wanted: u64 = match nodes {
            0..=2 => 1,
            3..=4 => 3,
            _ => 5,
        };
        eventually("those who should vote do", SETTLED_WITHIN, async || {
            for node in self.live() {
                let status = self.try_status(node).await?;
                if status["log"]["voters"] != wanted {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// Waits until every live node sees `node` in this state (`up`, `down`, `draining`).
    pub async fn wait_state(&self, node: usize, state: &str) {
        let name = Self::name(node);
        let what = format!("{name} {state} everywhere");
        eventually(&what, SETTLED_WITHIN, async || {
            for witness in self.live() {
                let status = self.try_status(witness).await?;
                let seen = members(&status)
                    .iter()
                    .find(|member| member["name"] == name.as_str())?;
                if seen["state"] != state {
                    return None;
                }
            }
            Some(())
        })
        .await;
    }

    /// The node that leads, as a majority-following live node says.
    pub async fn leader(&self) -> usize {
        eventually("a leader that runs", SETTLED_WITHIN, async || {
            for witness in self.live() {
                let status = self.try_status(witness).await?;
                if status["has_quorum"] != true {
                    continue;
                }
                let leader = members(&status)
                    .iter()
                    .find(|member| member["is_leader"] == true)?;
                let leader = number(leader)?;
                if self.live().contains(&leader) {
                    return Some(leader);
                }
            }
            None
        })
        .await
    }

    /// A live node that does not lead.
    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        let others = self.live().into_iter().find(|node| *node != leader);
        others.expect("a second node runs")
    }

    /// A live node that does not vote.
    pub async fn learner(&self) -> usize {
        eventually("a learner that runs", SETTLED_WITHIN, async || {
            let status = self.try_status(self.any_live()).await?;
            let mut learners = members(&status)
                .iter()
                .filter(|member| member["role"] == "learner");
            learners
                .find_map(number)
                .filter(|node| self.live().contains(node))
        })
        .await
    }

    /// The live node that runs the process whose command line holds `part`, if one does now. One that stands still does
    /// not count.
    pub fn runs(&self, part: &str) -> Option<usize> {
        self.live().into_iter().find(|node| {
            process::descendants(self.nodes[*node].pid())
                .into_iter()
                .any(|pid| process::command_line(pid).contains(part) && process::can_act(pid))
        })
    }

    /// Waits until a live node runs the process whose command line holds `part`.
    pub async fn owner(&self, part: &str) -> usize {
        let what = format!("a process with {part} in its command line");
        eventually(&what, SETTLED_WITHIN, async || self.runs(part)).await
    }

    /// SIGKILL.
    pub async fn kill(&mut self, node: usize) {
        self.paused[node] = false;
        self.nodes[node].kill().await;
    }

    /// SIGSTOP.
    pub fn pause(&mut self, node: usize) {
        self.nodes[node].pause();
        self.paused[node] = true;
    }

    /// SIGCONT.
    pub fn resume(&mut self, node: usize) {
        self.nodes[node].resume();
        self.paused[node] = false;
    }
}

/// The number of a member, from its name.
fn number(member: &Value) -> Option<usize> {
    member["name"].as_str()?.strip_prefix("node-")?.parse().ok()
}

fn members(status: &Value) -> &[Value] {
    status["members"].as_array().map_or(&[], Vec::as_slice)
}

/// The numbers of the members that are up, ascending.
pub fn up(status: &Value) -> Vec<usize> {
    let members = members(status);
    let up = members.iter().filter(|member| member["state"] == "up");
    let mut up: Vec<usize> = up.filter_map(number).collect();
    up.sort_unstable();
    up
}
