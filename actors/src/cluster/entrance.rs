//! The actor through which this node is and stays a member: it says that it has started, and keeps the links going to all
//! who are members. Beside it the gate, through which nobody else comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use troupe_protocol::cluster::{Member, Membership};
use troupe_protocol::error::Code;
use troupe_protocol::id::{ActorPath, NodeId};

use super::handle::Shared;
use super::link::{Gate, LinksHandle, Peer, ServiceError};
use super::log::{LogHandle, MemberCommand};
use crate::runtime::{Actor, ActorError, ChildSpec, Context, Deadline, Mailbox, Message, System};

/// How long one attempt to say that this node has started may take.
const ANNOUNCE_WITHIN: Duration = Duration::from_secs(5);
/// The pause after an attempt that failed.
const ANNOUNCE_AGAIN: Duration = Duration::from_millis(200);

const MAILBOX_MESSAGES_MAX: u32 = 16;

/// What the entrance's actor is told.
#[derive(Debug, strum::IntoStaticStr)]
pub(super) enum EntranceMessage {
    /// The membership has changed.
    Applied(Arc<Membership>),
    /// The cluster knows of this start.
    Announced,
}

impl Message for EntranceMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// What the entrance works with.
#[derive(Clone)]
pub(super) struct EntranceParts {
    pub log: LogHandle,
    pub links: LinksHandle,
    /// This node as it is now.
    pub own: Member,
    /// Whether this node has founded the cluster.
    pub is_founder: bool,
    /// Members that a newcomer was told of, until the log tells.
    pub first_peers: BTreeMap<NodeId, String>,
}

/// Cached state.
pub(super) struct Entrance {
    parts: EntranceParts,
    peers: usize,
    is_announced: bool,
}

/// Lets members in. A certificate alone is not enough: that of a removed node is as good as it was, and whoever has the
/// authority's key makes one.
pub(super) struct MembersOnly {
    pub memberships: watch::Receiver<Arc<Membership>>,
    /// Not owned: it refers to the links, which own this.
    pub shared: Weak<Shared>,
}

impl Gate for MembersOnly {
    fn let_in(&self, node: NodeId) -> Result<(), ServiceError> {
        let membership = Arc::clone(&self.memberships.borrow());
        let knows_all = self.shared.upgrade().is_some_and(|shared| shared.lease.is_held());
        may_come_in(&membership, node, knows_all)
    }
}

/// Without a lease this node may lag behind: whom it does not know may have joined since, and be the one that tells it.
fn may_come_in(membership: &Membership, node: NodeId, knows_all: bool) -> Result<(), ServiceError> {
    if membership.members.contains_key(&node) {
        return Ok(());
    }
    if membership.removed.contains_key(&node) {
        let detail = format!("node {node} was removed from the cluster");
        return Err(ServiceError::new(Code::JoinRefused, detail));
    }
    if !knows_all {
        return Ok(());
    }
    let detail = format!("node {node} is no member of the cluster");
    Err(ServiceError::new(Code::NodeNotFound, detail))
}

/// The entrance's actor, for the cluster's supervisor.
pub(super) fn child(system: &System, path: ActorPath, parts: EntranceParts) -> ChildSpec {
    let mailbox = Mailbox::new(system, path, MAILBOX_MESSAGES_MAX);
    ChildSpec::actor(mailbox, move || Entrance {
        parts: parts.clone(),
        peers: 0,
        is_announced: false,
    })
}

impl Actor for Entrance {
    type Message = EntranceMessage;
    const KIND: &'static str = "entrance";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let mut memberships = self.parts.log.membership();
        let own = ctx.mailbox().clone();
        ctx.spawn("follow the membership", async move {
            memberships.mark_changed();
            while memberships.changed().await.is_ok() {
                let membership = Arc::clone(&memberships.borrow_and_update());
                let _ = own.tell(EntranceMessage::Applied(membership));
            }
        });
        let parts = self.parts.clone();
        ctx.spawn_to_self("announce", async move {
            announce(&parts).await;
            EntranceMessage::Announced
        });
        Ok(())
    }

    async fn handle(&mut self, message: EntranceMessage, _: &Context<Self>) -> Result<(), ActorError> {
        match message {
            EntranceMessage::Applied(membership) => {
                let peers = peers_of(&self.parts, &membership);
                self.peers = peers.len();
                self.parts.links.connect_to(peers);
            }
            EntranceMessage::Announced => self.is_announced = true,
        }
        Ok(())
    }

    fn snapshot(&self) -> serde_json::Value {
        json!({ "peers": self.peers, "is_announced": self.is_announced, "is_founder": self.parts.is_founder })
    }
}

fn peers_of(parts: &EntranceParts, membership: &Membership) -> Vec<Peer> {
    let peer = |(id, address): (&NodeId, &String)| Peer {
        id: *id,
        address: address.clone(),
    };
    if !membership.members.contains_key(&parts.own.id) {
        return parts.first_peers.iter().map(peer).collect();
    }
    let others = membership
        .members
        .values()
        .filter(|member| member.id != parts.own.id);
    others
        .map(|member| peer((&member.id, &member.cluster_address)))
        .collect()
}

/// Has the log say that this node has started, however long that takes.
async fn announce(parts: &EntranceParts) {
    let mut memberships = parts.log.membership();
    loop {
        let membership = Arc::clone(&memberships.borrow_and_update());
        let command = match membership.members.get(&parts.own.id) {
            Some(known) if is_as_known(&parts.own, known) => return,
            Some(_) => started(&parts.own),
            None if parts.is_founder && membership.members.is_empty() => {
                MemberCommand::Add(parts.own.clone())
            }
            // A newcomer whom the log has not told yet, or a member that was removed.
            None => match memberships.changed().await {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        match parts.log.change(command, Deadline::within(ANNOUNCE_WITHIN)).await {
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "the cluster could not be told of this start yet");
                tokio::time::sleep(ANNOUNCE_AGAIN).await;
            }
        }
    }
}

fn is_as_known(own: &Member, known: &Member) -> bool {
    known.generation >= own.generation
        && known.cluster_address == own.cluster_address
        && known.edge_address == own.edge_address
        && known.version == own.version
}

fn started(own: &Member) -> MemberCommand {
    MemberCommand::Started {
        id: own.id,
        generation: own.generation,
        cluster_address: own.cluster_address.clone(),
        edge_address: own.edge_address.clone(),
        version: own.version.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_protocol::cluster::{Epoch, Generation, MemberState, Role};
    use ulid::Ulid;

    use super::*;

    #[test]
    fn members_come_in_and_strangers_only_where_they_may_have_joined_since() {
        let node = |number| NodeId::from_ulid(Ulid(number));
        let member = Member {
            id: node(1),
            name: "alpha".parse().unwrap(),
            generation: Generation(1),
            role: Role::Voter,
            state: MemberState::Up,
            cluster_address: String::new(),
            edge_address: String::new(),
            version: String::new(),
            joined_at: jiff::Timestamp::UNIX_EPOCH.into(),
        };
        let membership = Membership {
            members: BTreeMap::from([(node(1), member)]),
            removed: BTreeMap::from([(node(2), Epoch(3))]),
            ..Membership::default()
        };
        for knows_all in [true, false] {
            may_come_in(&membership, node(1), knows_all).unwrap();
            let removed = may_come_in(&membership, node(2), knows_all).unwrap_err();
            assert_eq!(removed.code, Code::JoinRefused);
        }
        let stranger = may_come_in(&membership, node(3), true).unwrap_err();
        assert_eq!(stranger.code, Code::NodeNotFound);
        may_come_in(&membership, node(3), false).unwrap();
    }
}
