//! MCP clients: their sessions, and what they see of the servers behind.
//!
//! # Layout
//! - [`session`], [`state`]: legacy clients' sessions and the table of them; [`endpoint`]: where they connect
//! - [`names`], [`merge`], [`readdress`]: many servers as one: naming, lists in pages, addresses in results
//! - [`bridge`]: replies between the eras; `exchange`: a request, and what the server wants of the client before it
//!   answers; `input`: the same where a modern server wants it of a legacy client
//! - [`gateway`], `aggregate`, `virtual_server`, `listings`: from a client's request to its answer; [`introduction`]: how
//!   clients are greeted
//! - [`parked`]: calls that stand still while a modern client gathers what a legacy server asks
//! - [`replay`]: what streams carried, for clients that lost their connection
//! - [`subscriptions`]: resources of which clients want to hear
//! - `tasks`: tasks where client and server are of different eras
//! - [`notices`]: what clients are told without having asked
//!
//! What lives here knows nothing of HTTP: bodies, headers and streams are the business of the edge.
//!
//! # One actor for all sessions
//! A session is a few hundred bytes that change hands rarely and are looked up with each request. An actor for each
//! would cost more than the session itself and put a mailbox into the path of every call. So one actor owns the
//! table: it opens, closes and expires sessions, one after the other, and requests read the table beside it.
//!
//! # Where a session is
//! Sessions are *placed*: each has one node in the cluster, and a small replicated record from which the next one goes on
//! when that node is gone ([`record`], [`placed`]). What belongs to the moment (calls in flight, the open stream, questions
//! to the client) is not in it; a client whose stream ended opens it again, as the specification asks of it.

mod aggregate;
pub mod bridge;
pub mod endpoint;
mod exchange;
pub mod gateway;
mod input;
pub mod introduction;
mod listings;
pub mod merge;
mod messages;
pub mod names;
pub mod notices;
pub mod parked;
pub mod placed;
pub mod readdress;
pub mod record;
pub mod refusal;
pub mod replay;
#[allow(clippy::module_inception, reason = "the family is named after what it keeps")]
mod session;
mod session_id;
pub mod state;
pub mod subscriptions;
mod tasks;
mod virtual_server;

use std::time::Duration;

use serde_json::Value;

pub use endpoint::Endpoint;
pub use gateway::{Client, ClientRequest, Gateway, GatewayLimits};
pub use introduction::Introduction;
pub use messages::{Found, SessionError, SessionMessage, SessionsHandle, Unhurried};
pub use notices::{Notice, NoticeFeed, Notices};
pub use placed::SessionPlace;
pub use refusal::{Answer, Refusal};
pub use replay::{EventId, NotKept, StreamNumber};
pub use session::{
    CALLS_IN_FLIGHT_MAX, CallInSession, NewSession, SUBSCRIPTIONS_MAX, Session, StreamInSession,
};
pub use session_id::SessionId;
pub use state::SessionLimits;
pub use subscriptions::Subscribed;

use crate::cluster::ClusterHandle;
use crate::runtime::{Actor, ActorError, ChildSpec, Context, Mailbox, Reply, System};
use crate::store::Store;
use messages::SharedSessions;
use placed::SessionsHost;
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
pub fn sessions(
    system: &System,
    path: ActorPath,
    limits: SessionLimits,
    store: &Store,
    cluster: ClusterHandle,
) -> (ChildSpec, SessionsHandle) {
    let mailbox = Mailbox::new(system, path, MAILBOX_MESSAGES_MAX);
    let handle = SessionsHandle {
        mailbox: mailbox.clone(),
        shared: SharedSessions::new(
            Sessions::new(limits),
            store.replicated(record::TREE, record::SCHEMA_VERSION),
            cluster,
        ),
    };
    SessionsHost::register(&handle);
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
        self.take_over(ctx);
        Ok(())
    }

    async fn handle(&mut self, message: SessionMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        let shared = &self.handle.shared;
        let now_ms = shared.now_ms();
        match message {
            SessionMessage::Open(Some(id), settled, reply) => {
                let opened = shared.table.write().open_bound(id, settled, now_ms);
                reply.send(Ok(opened));
            }
            SessionMessage::Open(None, settled, reply) => {
                let opened = self
                    .handle
                    .draw_id()
                    .map(|id| shared.table.write().open(id, settled, now_ms))
                    .map_err(|error| SessionError::NoRandomness(error.to_string()));
                reply.send(opened);
            }
            SessionMessage::Close(id, owner, reply) => {
                let was_open = shared.table.write().close(&id, &owner);
                let (handle, ended) = (self.handle.clone(), self.ended());
                ctx.spawn("forget a closed session", async move {
                    handle.forget(ended).await;
                    reply.send(was_open);
                });
            }
            SessionMessage::Resume(sessions, reply) => {
                // A session may have ended since its record was read.
                let still_there = |id: &SessionId| {
                    shared
                        .records
                        .get(id.as_str())
                        .is_ok_and(|record| record.is_some())
                };
                let mut table = shared.table.write();
                let resumed = sessions.into_iter().filter_map(|(id, record)| {
                    if !still_there(&id) {
                        return None;
                    }
                    table.resume(id, record, now_ms)
                });
                reply.send(resumed.collect());
            }
            SessionMessage::Release(ids, reply) => {
                shared.table.write().release(&ids);
                reply.send(());
            }
            SessionMessage::TakeOver => self.take_over(ctx),
            SessionMessage::Finish(work) => {
                ctx.spawn("what nobody waits for", work);
            }
            SessionMessage::Sweep => {
                shared.table.write().expire(now_ms);
                let (handle, ended) = (self.handle.clone(), self.ended());
                if !ended.is_empty() {
                    ctx.spawn("forget ended sessions", async move { handle.forget(ended).await });
                }
                ctx.send_after(self.sweep_interval, SessionMessage::Sweep);
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Value {
        self.handle.snapshot()
    }
}

impl SessionsActor {
    /// The sessions that have ended and are to be forgotten everywhere; not those that other nodes have by now.
    fn ended(&self) -> Vec<SessionId> {
        let ended = self.handle.shared.table.write().take_to_forget();
        let (ours, others): (Vec<_>, Vec<_>) =
            ended.into_iter().partition(|id| self.handle.is_here(id.as_str()));
        self.handle.shared.table.write().forgotten(&others);
        ours
    }

    /// Sessions that have come to this node are idle from now on, until their clients ask; else nobody would end them.
    fn take_over(&self, ctx: &Context<Self>) {
        let handle = self.handle.clone();
        ctx.spawn("take sessions over", async move {
            let reader = handle.clone();
            let unclaimed = tokio::task::spawn_blocking(move || reader.unclaimed()).await;
            let (reply, _) = Reply::channel();
            if let Ok(unclaimed) = unclaimed
                && !unclaimed.is_empty()
            {
                // A refusal is on record as a dead letter.
                let _ = handle.mailbox.tell(SessionMessage::Resume(unclaimed, reply));
            }
        });
    }
}

#[cfg(test)]
mod gateway_tests;
#[cfg(test)]
mod tests;
