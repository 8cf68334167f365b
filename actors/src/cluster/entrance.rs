//! The actor through which this node is and stays a member: it says that it has started, and keeps the links going to all
//! who are members.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use troupe_protocol::cluster::{Member, Membership};
use troupe_protocol::id::{ActorPath, NodeId};

use super::link::{LinksHandle, Peer};
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
                self.parts
                    .links
                    .refuse(membership.removed.keys().copied().collect());
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
