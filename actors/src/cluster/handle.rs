//! What the rest of the node uses of the cluster.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::BoxFuture;
use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};
use troupe_protocol::cluster::{
    Address, EntityKind, Epoch, Generation, Member, MemberState, Membership, NodeName, Role,
};
use troupe_protocol::error::Code;
use troupe_protocol::id::NodeId;
use troupe_protocol::time::Timestamp;
use troupe_protocol::wire;

use super::admission::Admission;
use super::dispatcher::{
    EntityContext, EntityHost, EntityStream, ObserveHost, ObserveTopic, PARTS_WAITING_MAX, Parts, decoded,
    observe_stream, observe_there,
};
use super::error::ClusterError;
use super::lease::LeaseClock;
use super::link::{LinksHandle, ServiceError};
use super::log::LogHandle;
use super::placement::{Hosts, Owners, PlacedCounts, View, Whereabouts};
use crate::runtime::{Deadline, trace};

/// The cluster, for everyone else on this node. Cheap to clone.
#[derive(Clone)]
pub struct ClusterHandle {
    pub(super) shared: Arc<Shared>,
}

/// What the parts of the cluster on this node have in common.
pub(super) struct Shared {
    pub node_id: NodeId,
    pub view: ArcSwap<View>,
    pub lease: LeaseClock,
    /// The current epoch, and whether a lease is held; sent anew whenever an address may have changed hands.
    pub epochs: watch::Sender<(Epoch, bool)>,
    pub hosts: Hosts,
    pub observers: RwLock<BTreeMap<ObserveTopic, Arc<dyn ObserveHost>>>,
    /// How other nodes are reached; nothing for [`ClusterHandle::alone`].
    pub reach: OnceLock<Reach>,
    pub before_removal: RwLock<Vec<BeforeRemoval>>,
}

/// Ends what a member has for itself and others would leave behind; called with its name before it is removed.
pub type BeforeRemoval = Arc<dyn Fn(NodeName) -> BoxFuture<'static, Result<(), ServiceError>> + Send + Sync>;

/// How other nodes are reached.
pub(super) struct Reach {
    pub links: LinksHandle,
    pub log: LogHandle,
    pub admission: Admission,
    /// Where other nodes reach this one, as `host:port`.
    pub cluster_address: String,
    /// Most voters.
    pub voters_max: usize,
}

impl std::fmt::Debug for ClusterHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClusterHandle({})", self.shared.node_id)
    }
}

impl ClusterHandle {
    /// A cluster of this node alone, without actors, network or disk: everything is here. For tests of other parts.
    pub fn alone(node_id: NodeId) -> Self {
        let membership = Arc::new(Membership {
            epoch: Epoch(1),
            members: BTreeMap::from([(node_id, lone_member(node_id))]),
            ..Membership::default()
        });
        let view = View {
            node_id,
            owners: vec![Arc::new(Owners::of(&membership))],
            membership,
            cleared: Epoch(1),
            lapses: 0,
        };
        let shared = Shared::new(view);
        shared.lease.hold_for_ever();
        shared.epochs.send_replace((Epoch(1), true));
        Self {
            shared: Arc::new(shared),
        }
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.shared.node_id
    }

    /// The members, as far as this node knows.
    pub fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.shared.view.load().membership)
    }

    /// Whether this node may act for what it owns.
    pub fn holds_lease(&self) -> bool {
        self.shared.lease.is_held()
    }

    /// How often this node has lost its lease since it started.
    pub fn lapses(&self) -> u64 {
        self.shared.view.load().lapses
    }

    /// Where an address is to be asked. Does no I/O and takes well under a microsecond.
    pub fn whereabouts(&self, address: &Address) -> Whereabouts {
        self.shared.whereabouts(address)
    }

    /// The current epoch, and whether this node holds a lease. Changes, too, when only the answer of
    /// [`whereabouts`](Self::whereabouts) may have.
    pub fn epochs(&self) -> watch::Receiver<(Epoch, bool)> {
        self.shared.epochs.subscribe()
    }

    /// Names what runs the placed actors of a kind on this node.
    pub fn host(&self, kind: EntityKind, host: Arc<dyn EntityHost>) {
        self.shared.hosts.add(kind, host);
    }

    /// Names what other nodes may look at here.
    pub fn observe(&self, topic: ObserveTopic, host: Arc<dyn ObserveHost>) {
        self.shared.observers.write().insert(topic, host);
    }

    /// Names what is to be done before a member is removed; while it cannot be done, the member stays.
    pub fn before_removal(&self, step: BeforeRemoval) {
        self.shared.before_removal.write().push(step);
    }

    /// How many placed actors run on this node.
    pub fn placed(&self) -> PlacedCounts {
        self.shared.hosts.counts()
    }

    /// Has all hosts settle for what this node owns now. The cluster's actors do this at each change; this is for tests
    /// of hosts [`alone`](Self::alone).
    pub async fn settle(&self) {
        let view = self.shared.view.load_full();
        self.shared.hosts.settle(&view, self.holds_lease()).await;
    }

    /// Asks the placed actor at an address, on whatever node it is.
    ///
    /// # Errors
    /// [`ClusterError`]; never later than the deadline.
    pub async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        address: &Address,
        question: &Q,
        deadline: Deadline,
    ) -> Result<A, ClusterError> {
        let question = encoded(question)?;
        decoded(&self.ask_bytes(address, question, deadline).await?)
    }

    /// As [`ask`](Self::ask), for who encodes and decodes himself.
    ///
    /// # Errors
    /// [`ClusterError`]; never later than the deadline.
    pub async fn ask_bytes(
        &self,
        address: &Address,
        question: Bytes,
        deadline: Deadline,
    ) -> Result<Bytes, ClusterError> {
        self.shared.ask(address, question, deadline, None).await
    }

    /// Asks the placed actor at an address for an answer that comes in parts.
    ///
    /// # Errors
    /// When the question cannot travel; all else comes from the stream.
    pub fn stream<Q: Serialize, P: DeserializeOwned, A: DeserializeOwned>(
        &self,
        address: &Address,
        question: &Q,
        deadline: Deadline,
    ) -> Result<EntityStream<P, A>, ClusterError> {
        let question = encoded(question)?;
        let (parts, received) = mpsc::channel(PARTS_WAITING_MAX);
        let (shared, address) = (Arc::clone(&self.shared), address.clone());
        let answer = async move { shared.ask(&address, question, deadline, Some(parts)).await };
        Ok(EntityStream::new(received, Box::pin(answer)))
    }

    /// Asks a node about itself.
    ///
    /// # Errors
    /// [`ClusterError`]; never later than the deadline.
    pub async fn ask_node<Q: Serialize, A: DeserializeOwned>(
        &self,
        node: NodeId,
        topic: ObserveTopic,
        question: &Q,
        deadline: Deadline,
    ) -> Result<A, ClusterError> {
        let answer = self
            .ask_node_bytes(node, &topic, encoded(question)?, deadline)
            .await?;
        decoded(&answer)
    }

    /// As [`ask_node`](Self::ask_node), for who encodes and decodes himself.
    ///
    /// # Errors
    /// [`ClusterError`]; never later than the deadline.
    pub async fn ask_node_bytes(
        &self,
        node: NodeId,
        topic: &ObserveTopic,
        question: Bytes,
        deadline: Deadline,
    ) -> Result<Bytes, ClusterError> {
        #[cfg(test)]
        if let Some(answer) = super::testkit::carry_to(node, topic, question.clone(), deadline).await {
            return answer;
        }
        if node == self.shared.node_id {
            let context = self.shared.context(deadline, Parts::ignored());
            let answer = self.shared.observe_here(topic, question, context);
            return answer_in_time(answer, deadline).await;
        }
        let reach = self.shared.reach_of(node)?;
        observe_there(reach, node, topic, &question, deadline).await
    }

    /// Asks a node about itself, for an answer that comes in parts.
    ///
    /// # Errors
    /// When the question cannot travel; all else comes from the stream.
    pub fn stream_node<Q: Serialize, P: DeserializeOwned, A: DeserializeOwned>(
        &self,
        node: NodeId,
        topic: ObserveTopic,
        question: &Q,
        deadline: Deadline,
    ) -> Result<EntityStream<P, A>, ClusterError> {
        let question = encoded(question)?;
        let (parts, received) = mpsc::channel(PARTS_WAITING_MAX);
        let shared = Arc::clone(&self.shared);
        let answer = async move {
            if node == shared.node_id {
                let context = shared.context(deadline, Parts::here(parts));
                let answer = shared.observe_here(&topic, question, context);
                return answer_in_time(answer, deadline).await;
            }
            let reach = shared.reach_of(node)?;
            observe_stream(reach, node, &topic, &question, deadline, &parts).await
        };
        Ok(EntityStream::new(received, Box::pin(answer)))
    }
}

pub(super) fn encoded<Q: Serialize>(question: &Q) -> Result<Bytes, ClusterError> {
    let encoded = wire::encode(question);
    encoded
        .map(Bytes::from)
        .map_err(|error| ClusterError::Wire(error.to_string()))
}

pub(super) async fn answer_in_time(
    answer: BoxFuture<'static, Result<Bytes, ServiceError>>,
    deadline: Deadline,
) -> Result<Bytes, ClusterError> {
    match tokio::time::timeout_at(deadline.instant(), answer).await {
        Ok(answer) => answer.map_err(ClusterError::Refused),
        Err(_) => Err(ClusterError::DeadlineExceeded),
    }
}

impl Shared {
    pub fn new(view: View) -> Self {
        Self {
            node_id: view.node_id,
            lease: LeaseClock::default(),
            epochs: watch::Sender::new((view.epoch(), false)),
            hosts: Hosts::new(),
            observers: RwLock::new(BTreeMap::new()),
            reach: OnceLock::new(),
            before_removal: RwLock::default(),
            view: ArcSwap::from_pointee(view),
        }
    }

    /// What a question asked on this node comes with.
    pub fn context(&self, deadline: Deadline, parts: Parts) -> EntityContext {
        EntityContext {
            from: self.node_id,
            deadline,
            trace: trace::current(),
            parts,
        }
    }

    /// Has this node's own host answer.
    pub async fn answer_here(
        &self,
        address: &Address,
        question: Bytes,
        deadline: Deadline,
        parts: Parts,
    ) -> Result<Bytes, ClusterError> {
        let Some(host) = self.hosts.get(address.kind) else {
            return Err(ClusterError::Elsewhere {
                address: address.clone(),
                detail: "its owner is still starting".to_owned(),
            });
        };
        let context = self.context(deadline, parts);
        answer_in_time(host.ask(address.key.clone(), question, context), deadline).await
    }

    /// See [`ClusterHandle::whereabouts`].
    pub fn whereabouts(&self, address: &Address) -> Whereabouts {
        let lease_held = self.lease.is_held();
        self.view.load().whereabouts(address, lease_held)
    }

    /// The way to another member.
    pub fn reach_of(&self, node: NodeId) -> Result<&Reach, ClusterError> {
        let is_member = self.view.load().membership.members.contains_key(&node);
        let reach = self.reach.get().filter(|_| is_member);
        reach.ok_or_else(|| ClusterError::NodeNotFound(node.to_string()))
    }

    /// Answers what is asked about this node.
    pub fn observe_here(
        &self,
        topic: &ObserveTopic,
        question: Bytes,
        context: EntityContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        let observer = self.observers.read().get(topic).cloned();
        match observer {
            Some(observer) => observer.ask(question, context),
            None => {
                let detail = format!("node {} tells nothing about {:?}", self.node_id, topic.as_str());
                Box::pin(async { Err(ServiceError::new(Code::NotFound, detail)) })
            }
        }
    }
}

pub(super) fn lone_member(id: NodeId) -> Member {
    let name: Result<NodeName, _> = "alone".parse();
    Member {
        id,
        #[expect(clippy::expect_used, reason = "a constant that is well formed")]
        name: name.expect("a name"),
        generation: Generation(1),
        role: Role::Voter,
        state: MemberState::Up,
        cluster_address: String::new(),
        edge_address: String::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        joined_at: Timestamp::from_unix_ms(0),
    }
}
