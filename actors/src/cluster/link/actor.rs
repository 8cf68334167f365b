//! The actor that keeps the links: accepts, dials, dials again.
//!
//! Its state is cached: after a restart every link is made anew. Asks and answers do not pass through its mailbox.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use troupe_protocol::cluster::frame::Hello;
use troupe_protocol::id::NodeId;

use super::connection::Connection;
use super::error::ServiceError;
use super::handshake::{self, HandshakeError};
use super::messages::{LinkEvent, Peer};
use super::port::{self, NodePort};
use super::pulse;
use super::session::RunningDispatcher;
use super::shared::{Ground, Shared, Standing};
use super::state::{Effect, LinksState};
use crate::runtime::{Actor, ActorError, Context, Message, Reply};

/// How often ended connections are swept and the certificate is looked at.
const TICK: Duration = Duration::from_secs(1);

/// What the actor is told.
#[derive(strum::IntoStaticStr)]
pub(super) enum LinksMessage {
    /// These are the nodes.
    ConnectTo(Vec<Peer>),
    /// A peer introduces itself: may it have a link?
    Admit {
        hello: Box<Hello>,
        reply: Reply<Result<(), ServiceError>>,
    },
    /// A connection is open.
    Opened(Arc<Connection>),
    /// A connection has ended.
    Ended(Arc<Connection>),
    /// It is time to dial.
    DialDue { peer: Peer, attempt: u64 },
    /// An attempt to dial failed.
    DialFailed {
        node: NodeId,
        attempt: u64,
        error: String,
        /// Whether the peer was reached and there must be no link.
        is_refusal: bool,
    },
    /// Somebody knows that a node is gone.
    Cut { node: NodeId, reason: String },
    /// The dispatcher has ended.
    DispatcherEnded,
    /// Time has passed.
    Tick,
}

impl Message for LinksMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// The actor.
pub(super) struct Links {
    shared: Arc<Shared>,
    port: NodePort,
    state: LinksState,
    dispatcher: Option<RunningDispatcher>,
}

impl Links {
    /// `peers` are those that an earlier life knew.
    pub(super) fn new(shared: Arc<Shared>, port: NodePort) -> Self {
        Self {
            state: LinksState::new(shared.own.node, shared.settings.redial_ms_max),
            shared,
            port,
            dispatcher: None,
        }
    }

    fn carry_out(&mut self, effects: impl IntoIterator<Item = Effect>, ctx: &Context<Self>) {
        for effect in effects {
            match effect {
                Effect::Close { node, reason } => self.cut(node, reason),
                Effect::Dial { peer, attempt, after } if after.is_zero() => self.dial(peer, attempt, ctx),
                Effect::Dial { peer, attempt, after } => {
                    self.standing(peer.id, |standing| standing.is_connecting = true);
                    ctx.send_after(after, LinksMessage::DialDue { peer, attempt });
                }
            }
        }
    }

    fn dial(&mut self, peer: Peer, attempt: u64, ctx: &Context<Self>) {
        if !self.state.is_due(peer.id, attempt) {
            return;
        }
        self.standing(peer.id, |standing| standing.is_connecting = true);
        let (shared, mailbox) = (Arc::clone(&self.shared), ctx.mailbox().clone());
        ctx.spawn("dial", async move {
            let dialled = handshake::dial(&shared, &peer).await;
            if let Err(error) = dialled {
                let failed = LinksMessage::DialFailed {
                    node: peer.id,
                    attempt,
                    error: format!("{}: {error}", peer.address),
                    is_refusal: matches!(error, HandshakeError::Refused(_)),
                };
                // An overloaded actor finds the link missing at its next tick.
                let _ = mailbox.tell(failed);
            }
        });
    }

    fn cut(&mut self, node: NodeId, reason: &str) {
        let connection = self.shared.live.load().get(&node).cloned();
        if let Some(connection) = connection {
            connection.end(reason);
        }
    }

    fn opened(&mut self, connection: Arc<Connection>, ctx: &Context<Self>) {
        let node = connection.peer();
        let start = connection.agreement().peer;
        let before = self.shared.live.load().get(&node).cloned();
        if let Some(before) = before {
            before.end("the peer opened another connection");
            self.forget(&before);
        }
        self.state.opened(start, connection.agreement().own_key);
        self.change_live(|live| {
            live.insert(node, Arc::clone(&connection));
        });
        self.standing(node, |standing| {
            standing.is_connecting = false;
            standing.opened += 1;
        });
        tracing::info!(%node, generation = %start.generation, "link open");
        let _ = self.shared.events.send(LinkEvent::Up {
            node,
            generation: start.generation,
        });
        let settings = self.shared.settings.clone();
        let mailbox = ctx.mailbox().clone();
        ctx.spawn("watch", async move {
            tokio::select! {
                () = pulse::watch(Arc::clone(&connection), settings) => {}
                () = pulse::measure(&connection) => {}
            }
            // An overloaded actor finds out at its next tick.
            let _ = mailbox.tell(LinksMessage::Ended(connection));
        });
    }

    fn ended(&mut self, connection: &Arc<Connection>, ctx: &Context<Self>) {
        let node = connection.peer();
        let key = connection.agreement().own_key;
        let (was_current, effect) = self.state.ended(node, key, connection.opened_at().elapsed());
        if was_current {
            self.forget(connection);
            self.carry_out(effect, ctx);
        }
    }

    fn forget(&mut self, connection: &Arc<Connection>) {
        let node = connection.peer();
        self.change_live(|live| {
            live.remove(&node);
        });
        let reason = connection.end_reason().to_owned();
        tracing::info!(%node, reason, "link closed");
        self.note_error(node, reason);
        self.shared.sweep();
        let _ = self.shared.events.send(LinkEvent::Down { node });
    }

    fn change_live(&self, change: impl FnOnce(&mut HashMap<NodeId, Arc<Connection>>)) {
        let mut live = HashMap::clone(&self.shared.live.load());
        change(&mut live);
        self.shared.live.store(Arc::new(live));
    }

    fn standing(&self, node: NodeId, change: impl FnOnce(&mut Standing)) {
        change(self.shared.board.lock().entry(node).or_default());
    }

    fn last_error(&self, node: NodeId) -> Option<String> {
        let board = self.shared.board.lock();
        board.get(&node).and_then(|standing| standing.last_error.clone())
    }

    /// Keeps why a link is down; of nodes that are no peers nothing is kept.
    fn note_error(&self, node: NodeId, error: String) {
        if let Some(standing) = self.shared.board.lock().get_mut(&node) {
            standing.last_error = Some(error);
        }
    }

    fn connect_to(&mut self, peers: Vec<Peer>, ctx: &Context<Self>) {
        let effects = self.state.connect_to(peers);
        {
            let mut board = self.shared.board.lock();
            let known: HashMap<NodeId, &str> = self.state.peers().collect();
            board.retain(|node, _| known.contains_key(node));
            for (node, address) in known {
                board.entry(node).or_default().address = Some(address.to_owned());
            }
        }
        self.carry_out(effects, ctx);
    }

    fn tick(&mut self, ctx: &Context<Self>) {
        let live = self.shared.live.load_full();
        for connection in live.values().filter(|connection| connection.has_ended()) {
            self.ended(connection, ctx);
        }
        // One that came in while this node knew less than now.
        for node in live.keys() {
            if let Err(refusal) = self.shared.let_in(*node) {
                self.cut(*node, &refusal.detail);
            }
        }
        self.shared.sweep();
        match self.shared.identity.renew_if_due(jiff::Timestamp::now()) {
            Ok(true) => tracing::info!("this node's certificate was renewed"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "this node's certificate cannot be renewed"),
        }
        ctx.send_after(TICK, LinksMessage::Tick);
    }
}

impl Actor for Links {
    type Message = LinksMessage;
    const KIND: &'static str = "links";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        self.shared.end_all("the links start anew");
        let (dispatcher, ended) = RunningDispatcher::start(Arc::clone(&self.shared))
            .await
            .map_err(ActorError::new)?;
        *self.shared.ground.write() = Some(Ground {
            dispatcher: dispatcher.number(),
            supervisor: dispatcher.supervisor(),
        });
        self.dispatcher = Some(dispatcher);
        ctx.spawn_to_self("dispatcher", async move {
            let _ = ended.await;
            LinksMessage::DispatcherEnded
        });
        ctx.spawn("accept", port::serve(Arc::clone(&self.shared), self.port.clone()));
        let known = self.shared.board.lock().clone().into_iter();
        let known = known.filter_map(|(id, standing)| standing.address.map(|address| Peer { id, address }));
        self.connect_to(known.collect(), ctx);
        ctx.send_after(TICK, LinksMessage::Tick);
        Ok(())
    }

    async fn handle(&mut self, message: LinksMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            LinksMessage::ConnectTo(peers) => self.connect_to(peers, ctx),
            LinksMessage::Admit { hello, reply } => {
                let admitted = self
                    .state
                    .admit(&hello)
                    .map(|replaced| self.carry_out(replaced, ctx));
                if let Err(refusal) = &admitted {
                    tracing::warn!(node = %hello.node, reason = %refusal, "a node was refused a link");
                    let reason = format!("refused: {refusal}");
                    self.note_error(hello.node, reason);
                }
                reply.send(admitted);
            }
            LinksMessage::Opened(connection) => self.opened(connection, ctx),
            LinksMessage::Ended(connection) => self.ended(&connection, ctx),
            LinksMessage::DialDue { peer, attempt } => self.dial(peer, attempt, ctx),
            LinksMessage::DialFailed {
                node,
                attempt,
                error,
                is_refusal,
            } => {
                if is_refusal && self.last_error(node).as_ref() != Some(&error) {
                    tracing::warn!(%node, error, "there is no link to a node");
                }
                self.note_error(node, error);
                let effect = self.state.dial_failed(node, attempt);
                self.carry_out(effect, ctx);
            }
            LinksMessage::Cut { node, reason } => self.cut(node, &reason),
            LinksMessage::DispatcherEnded => return Err(ActorError::new("the dispatcher has ended")),
            LinksMessage::Tick => self.tick(ctx),
        }
        Ok(())
    }

    async fn stopped(&mut self, _: &troupe_protocol::observe::ExitReason) {
        *self.shared.ground.write() = None;
        self.shared.end_all("this node ends its links");
    }

    fn snapshot(&self) -> serde_json::Value {
        let live = self.shared.live.load();
        json!({
            "node": self.shared.own.node,
            "generation": self.shared.own.generation,
            "listens": self.port.address().to_string(),
            "wanted": self.state.peers().count(),
            "open": live.len(),
        })
    }
}
