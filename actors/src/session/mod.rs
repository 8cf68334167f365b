//! MCP clients: their sessions, and what they see of the servers behind.
//!
//! # Layout
//! - [`session`], [`state`]: legacy clients' sessions and the table of them; [`endpoint`]: where they connect
//! - [`names`], [`merge`], [`readdress`]: many servers as one: naming, lists in pages, addresses in results
//! - [`bridge`]: replies between the eras; `input`: what modern servers want of legacy clients
//! - [`gateway`], `aggregate`, `listings`: from a client's request to its answer; [`introduction`]: how clients are greeted
//! - [`notices`]: what clients are told without having asked
//!
//! What lives here knows nothing of HTTP: bodies, headers and streams are the business of the edge.
//!
//! # One actor for all sessions
//! A session is a few hundred bytes that change hands rarely and are looked up with each request. An actor for each
//! would cost more than the session itself and put a mailbox into the path of every call. So one actor owns the
//! table: it opens, closes and expires sessions, one after the other, and requests read the table beside it.
//!
//! Sessions are *cached* state in the sense of ARCHITECTURE.md: a client whose session is gone initialises again, as
//! the specification asks of it. They outlive a restart of the actor, not of the node.

mod aggregate;
pub mod bridge;
pub mod endpoint;
pub mod gateway;
mod input;
pub mod introduction;
mod listings;
pub mod merge;
mod messages;
pub mod names;
pub mod notices;
pub mod readdress;
pub mod refusal;
#[allow(clippy::module_inception, reason = "the family is named after what it keeps")]
mod session;
pub mod state;

use std::time::Duration;

use serde_json::Value;

pub use endpoint::Endpoint;
pub use gateway::{Client, ClientRequest, Gateway, GatewayLimits};
pub use introduction::Introduction;
pub use messages::{SessionError, SessionMessage, SessionsHandle, Unhurried};
pub use notices::{Notice, Notices};
pub use refusal::{Answer, Refusal};
pub use session::{CALLS_IN_FLIGHT_MAX, CallInSession, NewSession, Session, SessionId, StreamInSession};
pub use state::SessionLimits;

use crate::runtime::{Actor, ActorError, ChildSpec, Context, Mailbox, System};
use messages::SharedSessions;
use state::Sessions;
use troupe_protocol::id::ActorPath;

/// How many sessions may wait to be opened or closed.
const MAILBOX_MESSAGES_MAX: u32 = 4_096;

/// Owns the table of sessions.
struct SessionsActor {
    handle: SessionsHandle,
    sweep_interval: Duration,
}

/// The session table under this path, and the handle to it.
pub fn sessions(system: &System, path: ActorPath, limits: SessionLimits) -> (ChildSpec, SessionsHandle) {
    let mailbox = Mailbox::new(system, path, MAILBOX_MESSAGES_MAX);
    let handle = SessionsHandle {
        mailbox: mailbox.clone(),
        shared: SharedSessions::new(Sessions::new(limits)),
    };
    // Often enough that nothing stays much longer than it may.
    let sweep_interval =
        Duration::from_millis((limits.handshake_ms_max.min(limits.idle_ms_max) / 4).max(100));
    let for_actor = handle.clone();
    let spec = ChildSpec::actor(mailbox, move || SessionsActor {
        handle: for_actor.clone(),
        sweep_interval,
    });
    (spec, handle)
}

impl Actor for SessionsActor {
    type Message = SessionMessage;
    const KIND: &'static str = "sessions";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        ctx.send_after(self.sweep_interval, SessionMessage::Sweep);
        Ok(())
    }

    async fn handle(&mut self, message: SessionMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        let shared = &self.handle.shared;
        let now_ms = shared.now_ms();
        match message {
            SessionMessage::Open(settled, reply) => {
                let opened = SessionId::random()
                    .map(|id| shared.table.write().open(id, settled, now_ms))
                    .map_err(|error| SessionError::NoRandomness(error.to_string()));
                reply.send(opened);
            }
            SessionMessage::Close(id, owner, reply) => reply.send(shared.table.write().close(&id, &owner)),
            SessionMessage::Finish(work) => {
                ctx.spawn("what nobody waits for", work);
            }
            SessionMessage::Sweep => {
                shared.table.write().expire(now_ms);
                ctx.send_after(self.sweep_interval, SessionMessage::Sweep);
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Value {
        self.handle.snapshot()
    }
}

#[cfg(test)]
mod gateway_tests;
#[cfg(test)]
mod tests;
