//! `/api/v1/live`: what happens on the node, pushed to those who subscribe.
//!
//! # Layout
//! - here: the hub, an actor that turns what the parts tell into events, once for all clients;
//! - `client`: one WebSocket; `feed`: the same as lines, for other nodes; `elsewhere`: hearing theirs.
//!
//! Events are written as JSON once and handed to every client's bounded queue. Pictures of all actors and the node's
//! status are only made while somebody looks, and at most twice (once) a second.

mod client;
mod elsewhere;
mod feed;

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tokio::sync::broadcast::{self, error::RecvError};
use troupe_actors::registry::RegistryEvent;
use troupe_actors::runtime::{Actor, ActorError, ActorPath, ChildSpec, Context, Mailbox, Message};
use troupe_protocol::{live::LiveEvent, server::ServerName};

pub use client::*;
pub use feed::*;

use elsewhere::Elsewhere;

use super::{api, everywhere::located, state::EdgeState};

const MAILBOX_MESSAGES_MAX: u32 = 16;
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// An event as it goes over the wire.
pub type Text = Arc<str>;

/// Where events go. A queue keeps as many as the slowest client may be behind.
#[derive(Debug, Clone)]
pub struct LiveChannels {
    servers: broadcast::Sender<Text>,
    actors: broadcast::Sender<Text>,
    events: broadcast::Sender<Text>,
    status: broadcast::Sender<Text>,
    /// What other nodes say of some of these topics.
    elsewhere: Elsewhere,
}

impl LiveChannels {
    /// Queues of this length.
    pub fn new(queue_events_max: usize) -> Self {
        let channel = || broadcast::Sender::new(queue_events_max);
        Self {
            servers: channel(),
            actors: channel(),
            events: channel(),
            status: channel(),
            elsewhere: Elsewhere::new(queue_events_max),
        }
    }

    fn topic(&self, topic: &str) -> Option<&broadcast::Sender<Text>> {
        match topic {
            "servers" => Some(&self.servers),
            "actors" => Some(&self.actors),
            "events" => Some(&self.events),
            "status" => Some(&self.status),
            _ => None,
        }
    }
}

/// What the hub is told.
#[derive(Debug, strum::IntoStaticStr)]
pub enum HubMessage {
    /// A source of events has ended.
    SourceEnded,
}

impl Message for HubMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// Turns what the parts of the node tell into events for live clients.
struct Hub {
    state: EdgeState,
}

/// The hub at `path`.
pub fn child(state: &EdgeState, path: ActorPath) -> ChildSpec {
    let mailbox = Mailbox::new(&state.system, path, MAILBOX_MESSAGES_MAX);
    let state = state.clone();
    ChildSpec::actor(mailbox, move || Hub { state: state.clone() })
}

impl Actor for Hub {
    type Message = HubMessage;
    const KIND: &'static str = "live";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let state = self.state.clone();
        ctx.spawn_to_self("follow servers", async move {
            follow_servers(&state).await;
            HubMessage::SourceEnded
        });
        let state = self.state.clone();
        ctx.spawn_to_self("follow conversations", async move {
            follow_flow(&state).await;
            HubMessage::SourceEnded
        });
        let state = self.state.clone();
        ctx.spawn_to_self("listen to other nodes", async move {
            elsewhere::listen(&state).await;
            HubMessage::SourceEnded
        });
        let state = self.state.clone();
        ctx.spawn_to_self("look at status", async move {
            look_at_status(&state).await;
            HubMessage::SourceEnded
        });
        let state = self.state.clone();
        ctx.spawn_to_self("look at actors", async move {
            look_at_actors(&state).await;
            HubMessage::SourceEnded
        });
        Ok(())
    }

    /// Sources end when their owners do, which is when the node stops; else a restart follows them again.
    async fn handle(&mut self, message: HubMessage, _: &Context<Self>) -> Result<(), ActorError> {
        match message {
            HubMessage::SourceEnded if self.state.stopping.is_cancelled() => Ok(()),
            HubMessage::SourceEnded => Err(ActorError::new("a source of events has ended")),
        }
    }

    fn snapshot(&self) -> serde_json::Value {
        let channels = &self.state.live;
        json!({
            "clients": self.state.live_clients(),
            "subscribers": {
                "servers": channels.servers.receiver_count(),
                "actors": channels.actors.receiver_count(),
                "events": channels.events.receiver_count(),
                "status": channels.status.receiver_count(),
            },
        })
    }
}

async fn follow_servers(state: &EdgeState) {
    let mut registered = state.registry.subscribe();
    let mut probed = state.health.subscribe();
    loop {
        let told = tokio::select! {
            event = registered.recv() => match event {
                Ok(RegistryEvent::Registered { name } | RegistryEvent::Updated { name }) => tell_server(state, &name),
                Ok(RegistryEvent::Removed { name }) => {
                    send(&state.live.servers, || LiveEvent::ServerRemoved { name: name.to_string() });
                    Ok(())
                }
                Ok(RegistryEvent::Imported { count }) => {
                    send(&state.live.servers, || LiveEvent::Lagged { events: count.into() });
                    Ok(())
                }
                Err(error) => Err(error),
            },
            event = probed.recv() => match event {
                Ok(event) => tell_server(state, &event.name),
                Err(error) => Err(error),
            },
        };
        match told {
            Ok(()) => {}
            Err(RecvError::Lagged(events)) => send(&state.live.servers, || LiveEvent::Lagged { events }),
            Err(RecvError::Closed) => return,
        }
    }
}

fn tell_server(state: &EdgeState, name: &ServerName) -> Result<(), RecvError> {
    if state.live.servers.receiver_count() > 0
        && let Some(summary) = state.registry.view().summary(name.as_str(), &state.health.view())
    {
        send(&state.live.servers, || LiveEvent::Server {
            server: Box::new(summary),
        });
    }
    Ok(())
}

async fn follow_flow(state: &EdgeState) {
    let mut steps = state.conversations.flow();
    loop {
        match steps.recv().await {
            Ok(event) => send(&state.live.events, || LiveEvent::Flow {
                event: Box::new(event),
            }),
            Err(RecvError::Lagged(events)) => send(&state.live.events, || LiveEvent::Lagged { events }),
            Err(RecvError::Closed) => return,
        }
    }
}

async fn look_at_actors(state: &EdgeState) {
    let interval = state.config.edge.live_actors_interval_ms.millis();
    loop {
        tokio::time::sleep(interval).await;
        send(&state.live.actors, || LiveEvent::Actors {
            node: state.node_id,
            reports: located(state.system.directory().reports(), state.node_id),
        });
    }
}

/// Apart from the actors: it asks other nodes, who may be slow.
async fn look_at_status(state: &EdgeState) {
    loop {
        tokio::time::sleep(STATUS_INTERVAL).await;
        if state.live.status.receiver_count() == 0 {
            continue;
        }
        let status = Box::new(api::status_of(state).await);
        send(&state.live.status, || LiveEvent::Status { status });
    }
}

/// Makes and sends an event, if anybody is there to hear it.
fn send(channel: &broadcast::Sender<Text>, event: impl FnOnce() -> LiveEvent) {
    if channel.receiver_count() == 0 {
        return;
    }
    if let Some(text) = text_of(&event()) {
        // The last subscriber may have left meanwhile.
        let _ = channel.send(text);
    }
}

fn text_of(event: &LiveEvent) -> Option<Text> {
    match serde_json::to_string(event) {
        Ok(text) => Some(text.into()),
        Err(error) => {
            tracing::error!(%error, "an event cannot be written as JSON");
            None
        }
    }
}
