//! The replicated log: what all nodes agree on, in one order.
//!
//! openraft decides; here is what it stores to, how it talks, and what its entries mean. Members that vote (one, three or
//! five) must have an entry on the disk before it counts; the others get it too. An entry changes records of the store's
//! replicated trees, or the membership; it does the same on every node.
//!
//! Writes are possible at any node and happen once, however often they must be handed over. Reads are the store's: local.
//! [`LogHandle::linearize`] waits until they show everything that was acknowledged anywhere.
//!
//! # Layout
//! - `messages`: [`LogHandle`]; `command`: what is written; `error`: what can go wrong
//! - `core`: what the parts share, and openraft; `raft`: its types and timing
//! - `entries`: the log on the disk; `machine`: what entries do; `requests`: so that nothing happens twice;
//!   `snapshot`, `image`: the state in a file; `backup`: the same for people
//! - `transport`, `links`, `wire`, `network`, `serve`, `receive`: between nodes; `quorum`: when a majority last answered
//! - `propose`: from writes to entries; `forward`: from any node to the leader
//! - `members`: how the membership changes; `state`: who should vote; `reconcile`: the leader sees to it;
//!   `stand`: when a voter stands for election; `hand_over`: to another leader
//! - `alive`: signs of life that no disk delays; `voice`: what they promise
//!
//! What is not here: who is alive, and who owns what ([`super::placement`]).

mod alive;
mod backup;
mod command;
mod core;
mod entries;
mod error;
mod forward;
mod hand_over;
mod image;
mod links;
mod machine;
mod members;
mod messages;
mod network;
mod propose;
mod quorum;
mod raft;
mod receive;
mod reconcile;
mod requests;
mod serve;
mod snapshot;
mod stand;
mod state;
mod transport;
mod voice;
mod wire;

use std::time::Duration;

use serde_json::json;

pub use backup::{BackupHeader, Restored, Spared, inspect_backup};
pub use command::{Command, MemberCommand, MemberRefusal, Term, Written};
pub use core::Leader;
pub use error::LogError;
pub use messages::LogHandle;
pub use raft::LogSettings;
pub use serve::Confirmation;
pub(in crate::cluster) use state::voters_wanted;
pub use transport::{Nowhere, RaftTransport, TransportError};

use crate::runtime::{
    Actor, ActorError, ActorPath, ChildSpec, Context, Deadline, ExitReason, Mailbox, Message, System,
};

/// How often the actor looks whether the log still runs.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// How long a stopping leader waits for the next one.
const STEP_DOWN_WITHIN: Duration = Duration::from_secs(3);
const MAILBOX_MESSAGES_MAX: u32 = 16;

/// What the log's actor is told: by itself only.
#[derive(Debug)]
pub struct Check;

impl Message for Check {
    fn name(&self) -> &'static str {
        "check"
    }
}

/// Owns the log's work on this node. openraft's own tasks live as long as the handle; when its disk has failed they have
/// ended, and only a restart of the node brings them back: other nodes go on, and reads here too.
pub struct LogActor {
    log: LogHandle,
}

/// The log's actor, for the cluster's supervisor.
pub fn child(system: &System, path: ActorPath, log: LogHandle) -> ChildSpec {
    let mailbox = Mailbox::<Check>::new(system, path, MAILBOX_MESSAGES_MAX);
    ChildSpec::actor(mailbox, move || LogActor { log: log.clone() })
}

impl Actor for LogActor {
    type Message = Check;
    const KIND: &'static str = "log";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let log = self.log.clone();
        ctx.spawn("log", async move { log.run().await });
        ctx.send_after(CHECK_EVERY, Check);
        Ok(())
    }

    async fn handle(&mut self, Check: Check, ctx: &Context<Self>) -> Result<(), ActorError> {
        if let Err(error) = self.log.check() {
            tracing::error!(%error, "the log has stopped");
            return Ok(()); // for good: nothing is looked after any more
        }
        ctx.send_after(CHECK_EVERY, Check);
        Ok(())
    }

    async fn stopped(&mut self, reason: &ExitReason) {
        if *reason != ExitReason::Shutdown {
            return;
        }
        // So that others need not find out that this leader is gone.
        if let Err(error) = self.log.step_down(Deadline::within(STEP_DOWN_WITHIN)).await {
            tracing::info!(%error, "this node leads until it ends");
        }
    }

    fn snapshot(&self) -> serde_json::Value {
        json!({ "status": self.log.status(), "epoch": self.log.membership().borrow().epoch })
    }
}

#[cfg(test)]
mod tests;
