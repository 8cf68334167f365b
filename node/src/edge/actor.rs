//! The edge as an actor: it owns the listening socket and every connection.

use std::{io, net::TcpListener as StdListener, sync::Arc};

use axum::Router;
use serde_json::json;
use tokio::net::TcpListener;
use troupe_actors::runtime::{Actor, ActorError, Context, Message};

use super::{
    listener::{ConnectionLimits, serve},
    state::EdgeState,
};

/// What the edge is told.
#[derive(Debug, strum::IntoStaticStr)]
pub enum EdgeMessage {
    /// Accepting connections has ended.
    ListenerEnded,
}

impl Message for EdgeMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// Owns the listening socket and every connection.
pub struct Edge {
    state: EdgeState,
    router: Router,
    limits: ConnectionLimits,
    /// Bound once: a restart of the actor listens on the same socket, so no client is refused meanwhile.
    listener: Arc<StdListener>,
}

impl Edge {
    /// The edge on a bound socket.
    pub fn new(
        state: EdgeState,
        router: Router,
        limits: ConnectionLimits,
        listener: Arc<StdListener>,
    ) -> Self {
        Self {
            state,
            router,
            limits,
            listener,
        }
    }

    fn listen(&self) -> io::Result<TcpListener> {
        TcpListener::from_std(self.listener.try_clone()?)
    }
}

impl Actor for Edge {
    type Message = EdgeMessage;
    const KIND: &'static str = "edge";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let serving = serve(
            self.listen()?,
            self.router.clone(),
            self.limits.clone(),
            self.state.connections.clone(),
            self.state.stopping.clone(),
        );
        ctx.spawn_to_self("serve", async move {
            serving.await;
            EdgeMessage::ListenerEnded
        });
        Ok(())
    }

    async fn handle(&mut self, message: EdgeMessage, _: &Context<Self>) -> Result<(), ActorError> {
        match message {
            EdgeMessage::ListenerEnded if self.state.stopping.is_cancelled() => Ok(()),
            EdgeMessage::ListenerEnded => Err(ActorError::new("accepting connections has ended")),
        }
    }

    fn snapshot(&self) -> serde_json::Value {
        json!({
            "listen": self.state.config.edge.listen.to_string(),
            "connections": self.state.connections.open(),
            "connections_max": self.limits.connections_max,
            "connections_refused": self.state.connections.refused(),
        })
    }
}
