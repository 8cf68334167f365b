//! Nodes, what they do, and an account of who acted for what and when.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use secrecy::ExposeSecret;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;
use troupe_protocol::cluster::{Address, EntityKind, Epoch, Member, MemberState, Role};
use troupe_protocol::error::Code;
use troupe_protocol::id::{ActorPath, NodeId};

use crate::cluster::dispatcher::{Owned, encode};
use crate::cluster::identity::{
    Applicant, EnrolDesk, EnrolGrant, JoinString, KeyFingerprint, NodeRecord, Refusal, TokenHash,
};
use crate::cluster::lease::LeaseTiming;
use crate::cluster::link::{LinkContext, LinkService, LinkSettings, LinksHandle, NodePort, Peer, Service};
use crate::cluster::log::LogSettings;
use crate::cluster::membership::DetectionTiming;
use crate::cluster::{
    ClusterError, ClusterHandle, ClusterParts, ClusterSettings, EntityContext, EntityHost, ServiceError,
    start,
};
use crate::runtime::testkit::PATIENCE;
use crate::runtime::{Deadline, Root, SupervisorSpec, System, SystemConfig};
use crate::store::{Store, StoreError};

/// For what is to be answered, however long a busy machine takes.
pub fn soon() -> Deadline {
    Deadline::within(PATIENCE)
}

/// How many addresses there are.
pub const KEYS: usize = 24;

pub fn address(key: usize) -> Address {
    Address::new(EntityKind::Conversation, format!("k{key}"))
}

/// All times three times as long as those of a node: a machine that is busy for a second is no failure here. How soon real
/// nodes notice one is measured end to end.
fn unhurried() -> ClusterSettings {
    ClusterSettings {
        link: LinkSettings {
            silence_ms_max: 1_500,
            ..LinkSettings::default()
        },
        log: LogSettings {
            heartbeat_ms: 300,
            election_min_ms: 900,
            election_max_ms: 1_800,
            leaderless_ms_max: 7_500,
            ..LogSettings::default()
        },
        lease: LeaseTiming {
            lasts: Duration::from_millis(3_300),
            renew_every: Duration::from_millis(700),
            round_serves: Duration::from_millis(120),
            silence_before_election: Duration::from_millis(1_800),
            ..LeaseTiming::default()
        },
        detection: DetectionTiming {
            silent_after: Duration::from_millis(2_700),
            silent_after_link_end: Duration::from_millis(1_000),
            deaf_after: Duration::from_millis(4_500),
            ..DetectionTiming::default()
        },
    }
}

/// Waits until something holds; says after how long.
pub async fn wait_until(holds: impl Fn() -> bool) -> Option<Duration> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if holds() {
            return Some(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    None
}

/// Who acted for what, from when to when.
#[derive(Clone, Default)]
pub struct Account(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    /// How long a host still works on what it has given away.
    lingers: Duration,
    open: BTreeMap<(String, NodeId), Instant>,
    closed: Vec<(String, NodeId, Instant, Instant)>,
}

impl Account {
    fn act(&self, key: &str, node: NodeId) {
        self.0
            .lock()
            .open
            .entry((key.to_owned(), node))
            .or_insert_with(Instant::now);
    }

    fn end(&self, node: NodeId, is_kept: impl Fn(&str) -> bool) {
        let mut entries = self.0.lock();
        let ended: Vec<_> = entries
            .open
            .keys()
            .filter(|(key, at)| *at == node && !is_kept(key))
            .cloned()
            .collect();
        for (key, node) in ended {
            let since = entries.open.remove(&(key.clone(), node)).unwrap();
            entries.closed.push((key, node, since, Instant::now()));
        }
    }

    pub fn linger(&self, lingers: Duration) {
        self.0.lock().lingers = lingers;
    }

    pub fn acting_at(&self, node: NodeId) -> usize {
        self.0.lock().open.keys().filter(|(_, at)| *at == node).count()
    }

    /// No two nodes may have acted for one key at the same time.
    pub fn check(&self) {
        let entries = self.0.lock();
        let now = Instant::now();
        let open = entries
            .open
            .iter()
            .map(|((key, node), since)| (key.clone(), *node, *since, now));
        let all: Vec<_> = entries.closed.iter().cloned().chain(open).collect();
        assert!(all.len() >= KEYS, "only {} entries", all.len());
        for (index, (key, node, from, to)) in all.iter().enumerate() {
            for (other_key, other, other_from, other_to) in &all[index + 1..] {
                let is_overlap = key == other_key && node != other && from < other_to && other_from < to;
                assert!(!is_overlap, "{node} and {other} both acted for {key}");
            }
        }
    }
}

/// Answers with the node's id; acts for a key from the first question until it is told to stop.
struct Host {
    node: NodeId,
    account: Account,
}

impl EntityHost for Host {
    fn ask(
        &self,
        key: String,
        _question: Bytes,
        _context: EntityContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        self.account.act(&key, self.node);
        let node = self.node;
        Box::pin(async move { encode(&node) })
    }

    fn settle(&self, _epoch: Epoch, owned: Owned) -> BoxFuture<'static, ()> {
        let (account, node) = (self.account.clone(), self.node);
        Box::pin(async move {
            // Stopping takes its time.
            tokio::time::sleep(Duration::from_millis(5)).await;
            account.end(node, |key| owned(key));
            let lingers = account.0.lock().lingers;
            tokio::time::sleep(lingers).await;
        })
    }

    fn count(&self) -> usize {
        self.account.acting_at(self.node)
    }
}

/// Answers nothing.
struct Nobody;

impl LinkService for Nobody {
    fn ask(&self, _: NodeId, _: Bytes, _: LinkContext) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        Box::pin(async { Err(ServiceError::new(Code::ShuttingDown, "gone")) })
    }

    fn tell(&self, _: NodeId, _: Bytes) {}
}

impl EnrolDesk for Nobody {
    fn admit(
        &self,
        _: TokenHash,
        _: KeyFingerprint,
        _: Applicant,
    ) -> BoxFuture<'static, Result<EnrolGrant, Refusal>> {
        let (code, detail) = (Code::ShuttingDown, "gone".to_owned());
        Box::pin(async move { Err(Refusal { code, detail }) })
    }

    fn knows(&self, _: TokenHash) -> bool {
        false
    }
}

pub struct Node {
    pub cluster: ClusterHandle,
    store: Option<Store>,
    data: TempDir,
    name: String,
    links: LinksHandle,
    root: Option<Root>,
}

impl Node {
    pub fn id(&self) -> NodeId {
        self.cluster.node_id()
    }
}

/// Opens a store as soon as its former owner, which ends in tasks of its own, has let go of the folder.
async fn open_store(folder: PathBuf) -> Store {
    let began = Instant::now();
    loop {
        let folder = folder.clone();
        let opened = tokio::task::spawn_blocking(move || Store::open(&folder));
        match opened.await.unwrap() {
            Err(StoreError::InUse { .. }) if began.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            opened => return opened.unwrap(),
        }
    }
}

#[derive(Default)]
pub struct Bed {
    nodes: Vec<Node>,
    pub account: Account,
}

impl Bed {
    pub fn node(&self, number: usize) -> &Node {
        &self.nodes[number]
    }

    pub async fn found(&mut self, name: &str) {
        self.start(name, None).await.unwrap();
    }

    pub async fn join(&mut self, name: &str) {
        assert!(self.node(0).cluster.ready(soon()).await);
        let join = self.invitation(0).await;
        self.start(name, Some(join)).await.unwrap();
    }

    pub async fn invitation(&self, node: usize) -> String {
        let within = soon();
        let invited = self.node(node).cluster.invite(within).await.unwrap();
        invited.join.expose_secret().to_owned()
    }

    pub async fn start(&mut self, name: &str, join: Option<String>) -> Result<(), String> {
        let data = tempfile::tempdir().unwrap();
        let node = self.run(name, data, join).await?;
        self.nodes.push(node);
        Ok(())
    }

    /// Starts the node with its folder again.
    pub async fn restart(&mut self, number: usize) {
        let former = self.nodes.remove(number);
        let node = self.run(&former.name, former.data, None).await.unwrap();
        self.nodes.insert(number, node);
    }

    async fn run(&self, name: &str, data: TempDir, join: Option<String>) -> Result<Node, String> {
        let system = System::new(SystemConfig::default());
        let folder = data.path().to_owned();
        let record = NodeRecord::begin_start(&folder, None, Some(name.parse().unwrap())).unwrap();
        let store = open_store(folder).await;
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let port = NodePort::bind(any).await.unwrap();
        let join: Option<JoinString> = join.map(|join| join.parse().unwrap());
        let parts = ClusterParts {
            system: system.clone(),
            path: ActorPath::new("node/cluster"),
            data: data.path().to_owned(),
            store: store.clone(),
            record,
            cluster_address: port.address().to_string(),
            port,
            edge_address: "127.0.0.1:1".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            join,
            settings: unhurried(),
        };
        let started = start(parts).await.map_err(|error| error.to_string())?;
        let host = Host {
            node: started.handle.node_id(),
            account: self.account.clone(),
        };
        started.handle.host(EntityKind::Conversation, Arc::new(host));
        let top = SupervisorSpec::new(&system, ActorPath::new("node")).child(started.child);
        let root = system.start(top).await.map_err(|error| error.to_string())?;
        Ok(Node {
            cluster: started.handle,
            store: Some(store),
            data,
            name: name.to_owned(),
            links: started.links,
            root: Some(root),
        })
    }

    pub async fn stop(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.root.take().unwrap().shutdown().await;
        // The log keeps its files open until it has ended.
        if let Some(log) = node.cluster.log() {
            log.shut_down().await;
        }
        // A process ends; here what refers to itself in circles must let go of the folder.
        node.store.take().unwrap().end_replication();
        for service in [Service::Log, Service::Lease, Service::Entity, Service::Observe] {
            node.links.serve(service, Arc::new(Nobody));
        }
        node.links.enrol_with(Arc::new(Nobody));
        node.cluster = ClusterHandle::alone(node.id());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    pub async fn end(&mut self) {
        for number in 0..self.nodes.len() {
            if self.nodes[number].root.is_some() {
                self.stop(number).await;
            }
        }
    }

    /// Until all nodes know of so many members that are up, and hold their leases.
    pub async fn await_up(&self, members: usize) {
        let is_up = || {
            self.nodes.iter().all(|node| {
                let membership = node.cluster.membership();
                let up = membership
                    .members
                    .values()
                    .filter(|member| member.state == MemberState::Up);
                up.count() == members && node.cluster.holds_lease()
            })
        };
        let waited = wait_until(is_up).await;
        assert!(waited.is_some(), "{}", self.describe().await);
    }

    /// Until so many members vote, so that the loss of one is borne.
    pub async fn await_voters(&self, voters: usize) {
        let votes = || {
            self.nodes.iter().all(|node| {
                let membership = node.cluster.membership();
                let voting = membership
                    .members
                    .values()
                    .filter(|member| member.role == Role::Voter);
                voting.count() == voters
            })
        };
        let waited = wait_until(votes).await;
        assert!(waited.is_some(), "{}", self.describe().await);
        // The log's own configuration follows the roles.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }

    pub async fn describe(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            text += &format!("{}: {:#?}\n", node.name, node.cluster.status().await);
        }
        text
    }

    /// Until every address has somebody who acts for it.
    pub async fn settle_in(&self) {
        for key in 0..KEYS {
            self.ask(0, key, soon()).await.unwrap();
        }
    }

    pub async fn ask(&self, node: usize, key: usize, deadline: Deadline) -> Result<NodeId, ClusterError> {
        self.node(node).cluster.ask(&address(key), &(), deadline).await
    }

    /// A key that the node owns.
    pub async fn key_of(&self, number: usize) -> usize {
        for key in 0..KEYS {
            let owner = self.ask(number, key, soon()).await.unwrap();
            if owner == self.node(number).id() {
                return key;
            }
        }
        panic!("{} owns nothing", self.node(number).name);
    }

    pub async fn leader_or_follower(&self, is_leader: bool) -> usize {
        let leaders = self.node(0).cluster.log().unwrap().leader();
        let leader = leaders.borrow().unwrap().0;
        let found = (0..self.nodes.len()).find(|number| (self.node(*number).id() == leader) == is_leader);
        found.unwrap()
    }

    /// Cuts a node off from all others.
    pub fn isolate(&self, number: usize) {
        self.node(number).links.connect_to(Vec::new());
    }

    pub fn reconnect(&self, number: usize) {
        let own = self.node(number).id();
        let membership = self.node(number).cluster.membership();
        let peer = |member: &Member| Peer {
            id: member.id,
            address: member.cluster_address.clone(),
        };
        let peers = membership
            .members
            .values()
            .filter(|member| member.id != own)
            .map(peer);
        self.node(number).links.connect_to(peers.collect());
    }

    /// Asks for everything at every node, all the time.
    pub fn load(&self) -> Load {
        let load = Load {
            tasks: JoinSet::new(),
            answered: Arc::default(),
            failed: Arc::default(),
            is_over: Arc::default(),
        };
        self.nodes.iter().fold(load, |mut load, node| {
            let cluster = node.cluster.clone();
            let (answered, failed) = (Arc::clone(&load.answered), Arc::clone(&load.failed));
            let is_over = Arc::clone(&load.is_over);
            load.tasks.spawn(async move {
                for key in (0..KEYS).cycle() {
                    if is_over.load(Ordering::Relaxed) {
                        break;
                    }
                    let within = soon();
                    let answer: Result<NodeId, _> = cluster.ask(&address(key), &(), within).await;
                    match answer {
                        Ok(_) => answered.fetch_add(1, Ordering::Relaxed),
                        Err(_) => failed.fetch_add(1, Ordering::Relaxed),
                    };
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            });
            load
        })
    }
}

pub struct Load {
    tasks: JoinSet<()>,
    answered: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
}

impl Load {
    pub fn failures(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// How many questions were answered.
    pub async fn stop(mut self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.answered.load(Ordering::Relaxed)
    }
}
