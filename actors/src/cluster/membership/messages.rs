//! What the membership's actor is told, and the handle with which others do.

use troupe_protocol::cluster::MemberState;
use troupe_protocol::id::{ActorPath, NodeId};

use crate::cluster::log::Term;
use crate::runtime::{Mailbox, Message, System};

/// What the membership's actor is told.
#[derive(Debug, strum::IntoStaticStr)]
pub(in crate::cluster) enum MembershipMessage {
    /// Time has passed.
    Tick,
    /// Another node leads, or none.
    LeaderChanged(Option<(NodeId, Term)>),
    /// A member asked for its lease.
    Heard { node: NodeId, has_lease: bool },
    /// The link to a member has ended.
    LinkEnded(NodeId),
    /// A member said that it stops.
    Left(NodeId),
    /// A judgement was written to the log, or could not be.
    Judged {
        node: NodeId,
        state: MemberState,
        is_written: bool,
    },
}

impl Message for MembershipMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

const MAILBOX_MESSAGES_MAX: u32 = 4_096;

/// Reaches the membership's actor.
#[derive(Debug, Clone)]
pub(in crate::cluster) struct MembershipHandle {
    pub(super) mailbox: Mailbox<MembershipMessage>,
}

impl MembershipHandle {
    pub fn new(system: &System, path: ActorPath) -> Self {
        Self {
            mailbox: Mailbox::new(system, path, MAILBOX_MESSAGES_MAX),
        }
    }

    /// A member asked for its lease, of which it has one or none.
    pub fn heard(&self, node: NodeId, has_lease: bool) {
        self.tell(MembershipMessage::Heard { node, has_lease });
    }

    /// A member said that it stops.
    pub fn left(&self, node: NodeId) {
        self.tell(MembershipMessage::Left(node));
    }

    /// A refusal is on record as a dead letter; the next sign of life makes up for it.
    pub(super) fn tell(&self, message: MembershipMessage) {
        let _ = self.mailbox.tell(message);
    }
}
