//! What the lease's actor is told, and the handle with which others do.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use troupe_protocol::cluster::{Epoch, Membership};
use troupe_protocol::id::{ActorPath, NodeId};

use super::wire::{Renewal, Verdict};
use crate::cluster::log::Term;
use crate::runtime::{AskError, Deadline, Mailbox, Message, Reply, SendError, System};

/// What the lease's actor is told.
#[derive(Debug, strum::IntoStaticStr)]
pub(in crate::cluster) enum LeaseMessage {
    /// Time has passed.
    Tick,
    /// The log has come to a new membership.
    Applied(Arc<Membership>),
    /// Another node leads, or none.
    LeaderChanged(Option<(NodeId, Term)>),
    /// This node leads and has applied everything that was committed before.
    CaughtUp { term: Term, elected_at: Instant },
    /// A majority has confirmed that this node leads in the term, by following what it sent then; or has not.
    RoundDone { term: Term, confirmed: Option<Instant> },
    /// The hosts keep to what was allowed at this epoch, after so many lapses.
    Settled { epoch: Epoch, lapses: u64 },
    /// The leader answers what was asked then, or nothing came.
    Answered {
        asked_at: Instant,
        verdict: Option<Verdict>,
    },
    /// The leader says that an epoch is cleared.
    Cleared(Epoch),
    /// To the leader: a node asks for its lease.
    Asked {
        node: NodeId,
        renewal: Renewal,
        reply: Reply<Verdict>,
    },
    /// To the leader: a node stops and acts no more.
    Left(NodeId),
}

impl Message for LeaseMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

const MAILBOX_MESSAGES_MAX: u32 = 1_024;
/// How soon an actor whose mailbox is full is told again.
const TELL_AGAIN: Duration = Duration::from_millis(20);

/// Reaches the lease's actor.
#[derive(Debug, Clone)]
pub(in crate::cluster) struct LeaseHandle {
    pub(super) mailbox: Mailbox<LeaseMessage>,
}

impl LeaseHandle {
    pub fn new(system: &System, path: ActorPath) -> Self {
        Self {
            mailbox: Mailbox::new(system, path, MAILBOX_MESSAGES_MAX),
        }
    }

    /// The hosts keep to what was allowed at this epoch, after so many lapses.
    pub fn settled(&self, epoch: Epoch, lapses: u64) {
        self.tell(LeaseMessage::Settled { epoch, lapses });
    }

    /// A node asks for its lease.
    pub(super) async fn asked(
        &self,
        node: NodeId,
        renewal: Renewal,
        deadline: Deadline,
    ) -> Result<Verdict, AskError> {
        let question = |reply| LeaseMessage::Asked { node, renewal, reply };
        self.mailbox.ask(question, deadline).await
    }

    /// Tells what nothing would make up for: again and again until the actor has room for it.
    pub(super) async fn tell_surely(&self, message: impl Fn() -> LeaseMessage) {
        while let Err(SendError::Overloaded { .. }) = self.mailbox.tell(message()) {
            tokio::time::sleep(TELL_AGAIN).await;
        }
    }

    /// A refusal is on record as a dead letter; the next renewal or tick makes up for it.
    pub(super) fn tell(&self, message: LeaseMessage) {
        let _ = self.mailbox.tell(message);
    }
}
