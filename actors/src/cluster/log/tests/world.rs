//! Nodes with real stores, and a network in memory between them that can be cut, slow and lossy.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::task::JoinSet;
use troupe_protocol::cluster::{Generation, Member, MemberState, Role};
use troupe_protocol::id::NodeId;
use troupe_protocol::time::Timestamp;

use super::super::*;
use crate::runtime::Deadline;
use crate::store::{ReplicatedTree, Store};

pub fn id(number: u128) -> NodeId {
    NodeId::from_ulid(ulid::Ulid(number))
}

pub fn within(seconds: u64) -> Deadline {
    Deadline::within(Duration::from_secs(seconds))
}

pub fn member(number: u128) -> Member {
    Member {
        id: id(number),
        name: format!("node-{number}").parse().unwrap(),
        generation: Generation(1),
        role: if number == 1 { Role::Voter } else { Role::Learner },
        state: MemberState::Up,
        cluster_address: format!("127.0.0.1:{number}"),
        edge_address: String::new(),
        version: "test".to_owned(),
        joined_at: Timestamp::from_unix_ms(number as i64),
    }
}

/// How questions fare between nodes.
#[derive(Default)]
pub struct Weather {
    logs: BTreeMap<NodeId, LogHandle>,
    /// From whom to whom nothing gets.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Whether who is cut off notices at once (a link that ended) or not (a cable that was pulled).
    pub silent: bool,
    /// The share of questions, and of answers, that get lost.
    pub loss: f64,
    pub delay_ms_max: u64,
    pub questions: u64,
    pub bytes: u64,
}

pub type Network = Arc<Mutex<Weather>>;

struct MemoryTransport {
    own: NodeId,
    network: Network,
}

impl RaftTransport for MemoryTransport {
    fn ask(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Deadline,
    ) -> BoxFuture<'static, Result<Bytes, TransportError>> {
        let (own, network) = (self.own, Arc::clone(&self.network));
        Box::pin(async move {
            let on_the_way = |from, to, bytes: usize| {
                let mut weather = network.lock();
                weather.questions += 1;
                weather.bytes += bytes as u64;
                let is_cut = weather.cut.contains(&(from, to));
                let is_lost = (is_cut && weather.silent) || fastrand::f64() < weather.loss;
                let delay = Duration::from_millis(fastrand::u64(..=weather.delay_ms_max));
                (is_cut, is_lost, delay, weather.logs.get(&to).cloned())
            };
            let (is_cut, is_lost, delay, log) = on_the_way(own, to, request.len());
            let log = log.filter(|_| !is_cut || is_lost);
            let Some(log) = log else {
                return Err(TransportError::NotSent("no link".to_owned()));
            };
            let no_answer = || TransportError::NoAnswer("not in time".to_owned());
            if is_lost {
                tokio::time::sleep_until(deadline.instant()).await;
                return Err(no_answer());
            }
            let answered = async {
                tokio::time::sleep(delay).await;
                log.answer(own, request).await
            };
            let answer = tokio::time::timeout_at(deadline.instant(), answered).await;
            let answer = answer.map_err(|_| no_answer())?;
            let bytes = answer.as_ref().map_or(0, Bytes::len);
            let (is_cut, is_lost, delay, _) = on_the_way(to, own, bytes);
            if is_lost || is_cut {
                tokio::time::sleep_until(deadline.instant()).await;
                return Err(no_answer());
            }
            tokio::time::sleep(delay).await;
            answer.map_err(|error| TransportError::Refused(error.to_string()))
        })
    }
}

/// Longer times than those of a node: a machine that is busy for a second is no failure here.
pub fn unhurried() -> LogSettings {
    LogSettings {
        heartbeat_ms: 300,
        election_min_ms: 900,
        election_max_ms: 1_800,
        leaderless_ms_max: 7_500,
        ..LogSettings::default()
    }
}

pub struct Node {
    pub log: LogHandle,
    pub store: Store,
    tasks: JoinSet<()>,
}

impl Node {
    pub fn values(&self) -> ReplicatedTree<String> {
        self.store.replicated("values", 1)
    }

    pub async fn put(&self, key: &str, value: &str) -> Result<Written, LogError> {
        self.put_within(key, value, 60).await
    }

    pub async fn put_within(&self, key: &str, value: &str, seconds: u64) -> Result<Written, LogError> {
        let mut batch = crate::store::RecordBatch::default();
        self.values()
            .put_into(&mut batch, key, &value.to_owned())
            .unwrap();
        self.log.write(Command::Records(batch), within(seconds)).await
    }

    pub fn get(&self, key: &str) -> Option<String> {
        self.values().get(key).unwrap()
    }

    pub fn all(&self) -> BTreeMap<String, String> {
        self.values().scan_prefix("").map(Result::unwrap).collect()
    }

    pub fn leads(&self) -> bool {
        self.log
            .leader()
            .borrow()
            .is_some_and(|(leader, _)| leader == self.log.node_id())
    }
}

pub struct World {
    pub nodes: BTreeMap<u128, Node>,
    folders: BTreeMap<u128, PathBuf>,
    temporary: Vec<TempDir>,
    pub network: Network,
    pub settings: LogSettings,
}

impl World {
    pub fn new(settings: LogSettings) -> Self {
        Self {
            nodes: BTreeMap::new(),
            folders: BTreeMap::new(),
            temporary: Vec::new(),
            network: Network::default(),
            settings,
        }
    }

    /// A cluster of so many members, as many voters as there should be.
    pub async fn of(members: u128, settings: LogSettings) -> Self {
        Self::new(settings).grown(members).await
    }

    /// As [`of`](Self::of), with the nodes' folders in this one.
    pub async fn in_folder(folder: &Path, members: u128, settings: LogSettings) -> Self {
        let mut world = Self::new(settings);
        world.place_in(folder, members);
        world.grown(members).await
    }

    /// The cluster that was there before.
    pub async fn again(folder: &Path, members: u128, settings: LogSettings) -> Self {
        let mut world = Self::new(settings);
        world.place_in(folder, members);
        for number in 1..=members {
            world.start(number).await;
        }
        world
    }

    fn place_in(&mut self, folder: &Path, members: u128) {
        let place = |number: u128| (number, folder.join(number.to_string()));
        self.folders = (1..=members).map(place).collect();
    }

    async fn grown(mut self, members: u128) -> Self {
        let world = &mut self;
        world.start(1).await;
        let first = &world.nodes[&1];
        first.log.initialize().await.unwrap();
        first
            .log
            .change(MemberCommand::Add(member(1)), within(60))
            .await
            .unwrap();
        for number in 2..=members {
            world.join(number).await;
        }
        world.settled().await;
        self
    }

    pub async fn join(&mut self, number: u128) {
        self.start(number).await;
        let other = self.nodes.iter().find(|(other, _)| **other != number).unwrap().1;
        let add = MemberCommand::Add(member(number));
        other.log.change(add, within(60)).await.unwrap();
    }

    /// Starts a node in its folder.
    pub async fn start(&mut self, number: u128) {
        let folder = self.folders.entry(number).or_insert_with(|| {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().to_owned();
            self.temporary.push(folder);
            path
        });
        let store = open_when_free(folder).await;
        let transport = MemoryTransport {
            own: id(number),
            network: Arc::clone(&self.network),
        };
        let opened = LogHandle::open(
            id(number),
            store.clone(),
            Arc::new(transport),
            self.settings.clone(),
        );
        let log = opened.await.unwrap();
        self.network.lock().logs.insert(id(number), log.clone());
        let mut tasks = JoinSet::new();
        let running = log.clone();
        tasks.spawn(async move { running.run().await });
        self.nodes.insert(number, Node { log, store, tasks });
    }

    pub fn folder(&self, number: u128) -> &Path {
        &self.folders[&number]
    }

    /// Ends a node without a word to the others.
    pub async fn stop(&mut self, number: u128) {
        self.network.lock().logs.remove(&id(number));
        let mut node = self.nodes.remove(&number).unwrap();
        node.tasks.shutdown().await;
        node.log.shut_down().await;
    }

    pub async fn stop_all(&mut self) {
        let numbers: Vec<u128> = self.nodes.keys().copied().collect();
        for number in numbers {
            self.stop(number).await;
        }
    }

    pub fn cut(&self, some: &[u128], others: &[u128]) {
        let mut network = self.network.lock();
        for some in some {
            for other in others {
                network.cut.insert((id(*some), id(*other)));
                network.cut.insert((id(*other), id(*some)));
            }
        }
    }

    pub fn heal(&self) {
        let mut network = self.network.lock();
        network.cut.clear();
        network.loss = 0.0;
        network.delay_ms_max = 0;
    }

    /// The node that leads a majority.
    pub async fn leader(&self) -> u128 {
        for _ in 0..400 {
            for (number, node) in &self.nodes {
                let confirmed = node
                    .log
                    .confirm_leadership(Deadline::within(Duration::from_secs(2)));
                if node.leads() && confirmed.await.is_ok() {
                    return *number;
                }
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("nobody leads");
    }

    /// Returns once as many vote as should, and all have applied the same.
    pub async fn settled(&self) {
        let wanted = super::super::state::voters_wanted(self.nodes.len(), self.settings.voters_max);
        eventually("as many vote as should, and all are equally far", || {
            let statuses: Vec<_> = self.nodes.values().map(|node| node.log.status()).collect();
            let voters = self.nodes.values().map(|node| {
                let membership = node.log.membership().borrow().clone();
                let roles = membership.members.values().map(|member| member.role);
                let configured = node.log.core.network.voters.load().len();
                (roles.filter(|role| *role == Role::Voter).count(), configured)
            });
            let same = statuses.windows(2).all(|pair| pair[0].applied == pair[1].applied);
            same && voters.into_iter().all(|count| count == (wanted, wanted))
        })
        .await;
    }

    /// Fails unless all nodes hold the same records.
    pub async fn same_everywhere(&self) -> BTreeMap<String, String> {
        for node in self.nodes.values() {
            node.log.linearize(within(60)).await.unwrap();
        }
        let mut all = self.nodes.values().map(|node| (node, node.all()));
        let (_, first) = all.next().unwrap();
        for (node, other) in all {
            let differs = |key: &&String| first.get(*key) != other.get(*key);
            let keys: BTreeSet<&String> = first.keys().chain(other.keys()).filter(differs).collect();
            let statuses: Vec<_> = self.nodes.values().map(|node| node.log.status()).collect();
            assert!(
                keys.is_empty(),
                "{:?} differs at {keys:?}: {statuses:#?}",
                node.log
            );
        }
        let mut memberships = self
            .nodes
            .values()
            .map(|node| node.log.membership().borrow().clone());
        let first_membership = memberships.next().unwrap();
        assert!(memberships.all(|other| other == first_membership));
        first
    }
}

pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_400 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not within a minute: {what}");
}

/// The former life's tasks let go of the folder a moment after it was shut down.
pub async fn open_when_free(folder: &std::path::Path) -> Store {
    for _ in 0..2_400 {
        match Store::open(folder) {
            Ok(store) => return store,
            Err(crate::store::StoreError::InUse { .. } | crate::store::StoreError::Unreadable { .. }) => {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the folder stays in use");
}
