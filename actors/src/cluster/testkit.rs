//! Clusters of several nodes within one process, for tests of what runs on them: real pictures of who owns what, and
//! hand-overs in their real order, without links, log and leases.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Weak};

use bytes::Bytes;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use troupe_protocol::cluster::{Address, EntityKind, Epoch, MemberState, Membership};
use troupe_protocol::id::NodeId;
use ulid::Ulid;

use super::handle::{Shared, lone_member};
use super::placement::{Owners, View, Whereabouts};
use super::{ClusterError, ClusterHandle, ObserveTopic, Parts};
use crate::runtime::Deadline;

/// The way to a node.
struct Wire {
    shared: Weak<Shared>,
    cut: CancellationToken,
}

static WIRES: LazyLock<Mutex<HashMap<NodeId, Wire>>> = LazyLock::new(Mutex::default);

/// Several nodes.
pub(crate) struct Net {
    nodes: Vec<ClusterHandle>,
    epoch: Mutex<Epoch>,
}

impl Net {
    /// So many nodes, of which the first `up` are up.
    pub fn new(nodes: usize, up: usize) -> Self {
        let ids: Vec<NodeId> = (0..nodes).map(|_| NodeId::from_ulid(Ulid::generate())).collect();
        let membership = membership_of(&ids, &(0..up).collect::<Vec<_>>(), Epoch(1));
        let nodes = ids.iter().map(|id| node(*id, &membership)).collect();
        Self {
            nodes,
            epoch: Mutex::new(Epoch(1)),
        }
    }

    /// The handle of a node.
    pub fn node(&self, number: usize) -> ClusterHandle {
        self.nodes[number].clone()
    }

    /// The first of these keys that a node owns.
    pub fn key_of(&self, number: usize, kind: EntityKind, keys: impl IntoIterator<Item = String>) -> String {
        let node = &self.nodes[number];
        let mut keys = keys.into_iter();
        keys.find(|key| {
            matches!(
                node.whereabouts(&Address::new(kind, key.as_str())),
                Whereabouts::Here(_)
            )
        })
        .expect("a key that the node owns")
    }

    /// Cuts a node off for ever: what is in flight to it is lost.
    pub fn kill(&self, number: usize) {
        if let Some(wire) = WIRES.lock().remove(&self.nodes[number].node_id()) {
            wire.cut.cancel();
        }
    }

    /// Has a node's lease end. Nobody tells its hosts.
    pub fn lose_lease(&self, number: usize) {
        self.nodes[number].shared.lease.set(None);
    }

    /// The next epoch, at which these nodes are up: nodes that can be reached learn of it, give away what they no longer
    /// own, and only then may act for what has come to them.
    pub async fn up(&self, up: &[usize]) {
        let epoch = {
            let mut epoch = self.epoch.lock();
            epoch.0 += 1;
            *epoch
        };
        let ids: Vec<NodeId> = self.nodes.iter().map(ClusterHandle::node_id).collect();
        let membership = membership_of(&ids, up, epoch);
        let reachable: Vec<&ClusterHandle> = {
            let wires = WIRES.lock();
            self.nodes
                .iter()
                .filter(|node| wires.contains_key(&node.node_id()))
                .collect()
        };
        for node in &reachable {
            let mut view = View::clone(&node.shared.view.load());
            view.owners.push(Arc::new(Owners::of(&membership)));
            view.membership = Arc::clone(&membership);
            node.shared.view.store(Arc::new(view));
            node.shared.epochs.send_replace((epoch, true));
        }
        join_all(reachable.iter().map(|node| node.settle())).await;
        for node in &reachable {
            let mut view = View::clone(&node.shared.view.load());
            view.owners = vec![Arc::new(Owners::of(&membership))];
            view.cleared = epoch;
            node.shared.view.store(Arc::new(view));
            node.shared.epochs.send_replace((epoch, true));
        }
        join_all(reachable.iter().map(|node| node.settle())).await;
    }
}

fn node(id: NodeId, membership: &Arc<Membership>) -> ClusterHandle {
    let shared = Shared::new(View {
        node_id: id,
        owners: vec![Arc::new(Owners::of(membership))],
        membership: Arc::clone(membership),
        cleared: membership.epoch,
        lapses: 0,
    });
    shared.lease.hold_for_ever();
    shared.epochs.send_replace((membership.epoch, true));
    let shared = Arc::new(shared);
    let wire = Wire {
        shared: Arc::downgrade(&shared),
        cut: CancellationToken::new(),
    };
    WIRES.lock().insert(id, wire);
    ClusterHandle { shared }
}

fn membership_of(ids: &[NodeId], up: &[usize], epoch: Epoch) -> Arc<Membership> {
    let member = |(number, id): (usize, &NodeId)| {
        let mut member = lone_member(*id);
        if !up.contains(&number) {
            member.state = MemberState::Down;
        }
        (*id, member)
    };
    let members: BTreeMap<_, _> = ids.iter().enumerate().map(member).collect();
    Arc::new(Membership {
        epoch,
        members,
        ..Membership::default()
    })
}

fn wire_to(node: NodeId) -> Option<(Arc<Shared>, CancellationToken)> {
    let wires = WIRES.lock();
    let wire = wires.get(&node)?;
    Some((wire.shared.upgrade()?, wire.cut.clone()))
}

/// Carries a question to the node that owns the address; gives it back when that is this one.
pub(super) async fn carry(
    from: &Shared,
    address: &Address,
    question: Bytes,
    deadline: Deadline,
    parts: Parts,
) -> Result<Result<Bytes, ClusterError>, (Bytes, Parts)> {
    let node = match from.view.load().whereabouts(address, from.lease.is_held()) {
        Whereabouts::At(node, _) => node,
        _ => return Err((question, parts)),
    };
    let Some((owner, cut)) = wire_to(node) else {
        return Ok(Err(ClusterError::Unreachable { node }));
    };
    let answer = Box::pin(owner.answer_here(address, question, deadline, parts));
    Ok(tokio::select! {
        answer = answer => answer,
        () = cut.cancelled() => Err(ClusterError::Lost { node }),
    })
}

/// Carries a question about a node to it; nothing if it is not of such a cluster.
pub(super) async fn carry_to(
    node: NodeId,
    topic: &ObserveTopic,
    question: Bytes,
    deadline: Deadline,
) -> Option<Result<Bytes, ClusterError>> {
    let (there, cut) = wire_to(node)?;
    let context = there.context(deadline, Parts::ignored());
    let answer = there.observe_here(topic, question, context);
    Some(tokio::select! {
        answer = answer => answer.map_err(ClusterError::Refused),
        () = cut.cancelled() => Err(ClusterError::Lost { node }),
    })
}
