//! Live connections to MCP servers: processes and HTTP servers, both eras of the protocol.
//!
//! # Layout
//! - [`handle`](UpstreamsHandle): how the rest of the node reaches servers
//! - `starter`: the actor that starts and stops the others, on demand and as the registry changes
//! - this file: the actor of one server, which makes its connection and makes it again; `state` decides when
//! - `slot`: one server as its callers see it; `calls`: the calls in flight; `lists`: what the server lists; `log`
//! - `connect`, `era`: reaching a server, finding out its era, shaking hands
//! - `connection` over `stdio` or `http`: how requests get there; `frame` writes them, `incoming` reads what comes back
//! - `placed`: servers of which the whole cluster has one process: those that are child processes
//! - `circuit`: a server that only fails is left alone for a while; `retry`: which lost calls are made
//!   again; `flood`: a bound on what one says unasked
//! - `watch`: subscriptions to resources, of all clients together
//! - [`builtin`](BuiltinServer): servers that are part of the node
//!
//! A call does not pass through a mailbox. The caller's own task puts it into the call table, hands it to the
//! connection and waits; the actor is needed only when there is no connection. Every call is nonetheless listed,
//! traced, bounded by a deadline and cancellable.
//!
//! All state here is cached: after a restart of the node everything is made anew from the registry.

mod builtin;
mod calls;
mod circuit;
mod connect;
mod connection;
mod endpoint;
mod era;
mod error;
mod flood;
mod frame;
mod handle;
mod http;
mod incoming;
mod lists;
mod log;
mod messages;
mod oauth;
mod placed;
mod questions;
mod retry;
mod shared;
mod slot;
mod sources;
mod starter;
mod state;
mod stdio;
mod trial;
mod watch;
mod wires;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::Instant;
use troupe_protocol::mcp::ListKind;
use troupe_protocol::observe::ExitReason;

use crate::runtime::{Actor, ActorError, Context, Deadline};

pub use builtin::{BuiltinError, BuiltinServer};
pub use endpoint::UpstreamSettings;
pub use error::UpstreamError;
pub use handle::{Trial, UpstreamHandle, UpstreamsHandle, WeakUpstreams};
pub use http::ParamHeaders;
pub(crate) use http::client as http_client;
pub use log::{LOG_LINE_BYTES_MAX, LOG_LINES_MAX};
pub use messages::{CallOptions, UpstreamEvent};
pub use oauth::LoginError;
#[cfg(test)]
pub(crate) use questions::tests::question as question_for_test;
pub use questions::{Question, QuestionsTo};
pub use sources::{RegisteredServer, SecretFailure, SecretSource, ServerChange, ServerSource};
pub use watch::{Watch, WatchError};

use circuit::Turn;
use connect::{Ground, connect};
use connection::Connection;
use messages::{UpstreamMessage, connect_error};
use oauth::Bearers;
use placed::UpstreamNews;
use slot::{Pause, Slot, SlotState};
use state::{Do, Lifecycle, Phase};
use wires::Notice;

/// The actor of one server: makes the connection, makes it again when it is lost, ends it when it stops.
struct UpstreamActor {
    slot: Arc<Slot>,
    secrets: Arc<dyn SecretSource>,
    bearers: Arc<Bearers>,
    events: broadcast::Sender<UpstreamEvent>,
    lifecycle: Lifecycle,
    last_error: Option<UpstreamError>,
}

impl UpstreamActor {
    fn new(
        slot: Arc<Slot>,
        secrets: Arc<dyn SecretSource>,
        bearers: Arc<Bearers>,
        events: broadcast::Sender<UpstreamEvent>,
    ) -> Self {
        let pause_max = Duration::from_millis(slot.settings.backoff_ms_max);
        let hope = Duration::from_millis(slot.settings.restart_wait_ms_max);
        let mut lifecycle = Lifecycle::new(pause_max, hope);
        lifecycle.set_knocks(!slot.is_placed());
        Self {
            slot,
            secrets,
            bearers,
            events,
            lifecycle,
            last_error: None,
        }
    }

    fn carry_out(&mut self, todo: Option<Do>, ctx: &Context<Self>) {
        match todo {
            None => {}
            Some(Do::Connect { attempt }) => {
                self.slot.publish(SlotState::Connecting);
                ctx.spawn_to_self("connect", self.connecting(attempt, ctx));
            }
            Some(Do::Retry { after, attempt }) => {
                self.publish_pause();
                ctx.send_after(after, UpstreamMessage::RetryDue(attempt));
            }
            Some(Do::Rest) => self.publish_pause(),
        }
    }

    fn publish_pause(&self) {
        let Phase::Waiting { retry_at, .. } = self.lifecycle.phase() else {
            return;
        };
        let error = self
            .last_error
            .clone()
            .unwrap_or_else(|| UpstreamError::Stopped(self.slot.name.clone()));
        self.slot.publish(SlotState::Waiting(Pause {
            error,
            failures: self.lifecycle.failures(),
            retry_at,
            hopeful_until: self.lifecycle.hopeful_until(),
        }));
    }

    /// One attempt to connect. Secrets are resolved for it and forgotten after it.
    fn connecting(
        &self,
        attempt: u64,
        ctx: &Context<Self>,
    ) -> impl Future<Output = UpstreamMessage> + Send + use<> {
        let (slot, secrets) = (Arc::clone(&self.slot), Arc::clone(&self.secrets));
        let bearers = Arc::clone(&self.bearers);
        let mailbox = ctx.mailbox().clone();
        async move {
            if !slot.may_run() {
                let outcome = Err(UpstreamError::Stopped(slot.name.clone()));
                return UpstreamMessage::Connected { attempt, outcome };
            }
            let limit = Duration::from_millis(slot.settings.start_timeout_ms);
            let transport = slot.transport.lock().clone();
            let deadline = Deadline::within(limit);
            let resolved = sources::resolve(&slot.name, &transport, &*secrets, &bearers, deadline).await;
            let endpoint = match resolved {
                Ok(endpoint) => endpoint,
                Err(SecretFailure { code, reason }) => {
                    let server = slot.name.clone();
                    return UpstreamMessage::Connected {
                        attempt,
                        outcome: Err(UpstreamError::Secret { server, reason, code }),
                    };
                }
            };
            let ground = Ground {
                calls: Arc::clone(&slot.calls),
                log: Arc::clone(&slot.log),
                on_notice: Arc::new(move |notice| {
                    // A refusal is on record as a dead letter.
                    let _ = mailbox.tell(UpstreamMessage::Noticed(notice));
                }),
                settings: Arc::clone(&slot.settings),
                profile: slot.profile,
            };
            let hint = *slot.era.lock();
            let connected = connect(&endpoint, &ground, hint, limit).await;
            let outcome = connected
                .map(Box::new)
                .map_err(|failure| connect_error(&slot.name, failure));
            UpstreamMessage::Connected { attempt, outcome }
        }
    }

    fn connected(&mut self, attempt: u64, connection: Connection, ctx: &Context<Self>) {
        let connection = Arc::new(connection);
        if !self.lifecycle.connected(attempt, Instant::now()) {
            ctx.spawn(
                "close what is not wanted",
                async move { connection.close().await },
            );
            return;
        }
        let info = Arc::clone(&connection.info);
        *self.slot.era.lock() = Some(info.era);
        self.slot.log.note(&format!(
            "connected: {} {}, {} era, protocol version {}",
            info.server_info.name, info.server_info.version, info.era, info.protocol_version
        ));
        tracing::info!(server = %self.slot.name, era = %info.era, "connected");
        self.slot.lists.forget_all();
        self.slot.info.store(Some(Arc::clone(&info)));
        self.last_error = None;
        let is_gone = connection.wires.is_gone();
        let (id, reason) = (connection.wires.connection, connection.wires.reason());
        self.slot.publish(SlotState::Ready(connection));
        self.slot.subscriptions_lost();
        self.emit(UpstreamEvent::Up {
            server: self.slot.name.clone(),
            era: info.era,
        });
        if is_gone {
            // It ended before it was published, so the notice of its end named no connection that was known.
            self.noticed(
                Notice::Gone {
                    connection: id,
                    reason,
                },
                ctx,
            );
        }
    }

    fn failed(&mut self, attempt: u64, error: UpstreamError, ctx: &Context<Self>) {
        let todo = self.lifecycle.failed(attempt, Instant::now(), fastrand::f64());
        if todo.is_none() {
            return;
        }
        self.slot.log.note(&format!("not connected: {error}"));
        tracing::warn!(server = %self.slot.name, %error, "not connected");
        self.emit(UpstreamEvent::Down {
            server: self.slot.name.clone(),
            reason: error.to_string(),
        });
        self.last_error = Some(error);
        self.carry_out(todo, ctx);
    }

    fn noticed(&mut self, notice: Notice, ctx: &Context<Self>) {
        match notice {
            Notice::ListChanged(kinds) => kinds.iter().for_each(|kind| self.list_changed(*kind)),
            Notice::ResourceUpdated(uri) => {
                self.slot.tell_others(&UpstreamNews::ResourceUpdated(uri.clone()));
                self.emit(UpstreamEvent::ResourceUpdated {
                    server: self.slot.name.clone(),
                    uri,
                });
            }
            Notice::SessionRenewed => self.slot.session_begun(),
            Notice::Gone { connection, reason } => {
                let is_ours = match self.slot.state() {
                    SlotState::Ready(current) => current.wires.connection == connection,
                    _ => false,
                };
                if !is_ours {
                    return;
                }
                tracing::warn!(server = %self.slot.name, reason, "connection lost");
                let server = self.slot.name.clone();
                self.last_error = Some(UpstreamError::Unreachable {
                    server: server.clone(),
                    reason: reason.clone(),
                });
                let todo = self.lifecycle.lost(Instant::now(), fastrand::f64());
                self.carry_out(todo, ctx);
                self.emit(UpstreamEvent::Down { server, reason });
            }
        }
    }

    fn turned(&self, turn: Turn) {
        let server = self.slot.name.clone();
        match turn {
            Turn::Opened => {
                tracing::warn!(%server, "left alone for a moment: every call of late was lost");
                let reason = "every call of late was lost".to_owned();
                self.emit(UpstreamEvent::Down { server, reason });
            }
            Turn::Closed => tracing::info!(%server, "its calls are answered again"),
        }
    }

    fn list_changed(&self, kind: ListKind) {
        self.slot.lists.forget(kind);
        self.slot.tell_others(&UpstreamNews::ListChanged(kind));
        self.emit(UpstreamEvent::ListChanged {
            server: self.slot.name.clone(),
            kind,
        });
    }

    fn emit(&self, event: UpstreamEvent) {
        // Whether the server is up is told by the connection that is everybody's.
        let is_of_connection = matches!(event, UpstreamEvent::Up { .. } | UpstreamEvent::Down { .. });
        if is_of_connection && !self.slot.profile.is_none() {
            return;
        }
        // Nobody may be listening.
        let _ = self.events.send(event);
    }
}

impl Actor for UpstreamActor {
    type Message = UpstreamMessage;
    const KIND: &'static str = "upstream";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        match self.slot.state() {
            // A crash of this actor does not end the connection: it is the slot's.
            SlotState::Ready(connection) => {
                self.lifecycle.adopt(Instant::now());
                if connection.wires.is_gone() {
                    let (connection, reason) = (connection.wires.connection, connection.wires.reason());
                    self.noticed(Notice::Gone { connection, reason }, ctx);
                }
            }
            _ => self.slot.publish(SlotState::Idle),
        }
        Ok(())
    }

    async fn handle(&mut self, message: UpstreamMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            UpstreamMessage::Demanded => {
                let todo = self.lifecycle.demanded(Instant::now());
                self.carry_out(todo, ctx);
            }
            UpstreamMessage::Connected {
                attempt,
                outcome: Ok(connection),
            } => self.connected(attempt, *connection, ctx),
            UpstreamMessage::Connected {
                attempt,
                outcome: Err(error),
            } => self.failed(attempt, error, ctx),
            UpstreamMessage::Noticed(notice) => self.noticed(notice, ctx),
            UpstreamMessage::RetryDue(attempt) => {
                let todo = self.lifecycle.retry_due(attempt);
                self.carry_out(todo, ctx);
            }
            UpstreamMessage::Settled(reply) => reply.send(()),
            UpstreamMessage::Turned(turn) => self.turned(turn),
            UpstreamMessage::Reconfigured(transport) => {
                *self.slot.transport.lock() = transport;
                self.slot.circuit.reset();
                *self.slot.era.lock() = None;
                let old = self.slot.state();
                self.lifecycle.set_knocks(!self.slot.is_placed());
                let todo = self.lifecycle.reconfigured();
                self.slot.publish(SlotState::Idle);
                self.carry_out(todo, ctx);
                if let SlotState::Ready(connection) = old {
                    ctx.spawn(
                        "close the old connection",
                        async move { connection.close().await },
                    );
                }
            }
        }
        Ok(())
    }

    async fn stopped(&mut self, reason: &ExitReason) {
        if !reason.is_clean() {
            return;
        }
        let state = self.slot.state();
        self.slot.publish(SlotState::Stopped);
        self.slot.calls.cancel_all();
        if let SlotState::Ready(connection) = state {
            connection.close().await;
        }
    }

    fn snapshot(&self) -> serde_json::Value {
        let slot = &self.slot;
        let lists = slot
            .lists
            .sizes()
            .into_iter()
            .map(|(kind, size)| (kind.to_string(), size.into()));
        serde_json::json!({
            "server": slot.name,
            "transport": slot.transport.lock().kind(),
            "connection": slot.state_for_people(),
            "info": slot.info.load_full(),
            "calls_in_flight": slot.calls.len(),
            "calls": slot.calls.begun(),
            "failures": self.lifecycle.failures(),
            "is_left_alone": slot.circuit.is_open(),
            "last_error": self.last_error.as_ref().map(ToString::to_string),
            "lists": lists.collect::<serde_json::Map<_, _>>(),
        })
    }
}

#[cfg(test)]
pub(crate) mod tests;
