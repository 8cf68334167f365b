//! One client of `/api/v1/live`.

use std::{pin::Pin, time::Duration};

use axum::{
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code, rejection::WebSocketUpgradeRejection},
    },
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt, stream::select};
use tokio::sync::broadcast;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::{
    StreamMap,
    wrappers::{BroadcastStream, errors::BroadcastStreamRecvError},
};
use troupe_protocol::{
    access::Role,
    error::Code,
    id::ConversationId,
    live::{LiveEvent, LiveRequest},
};

use super::{Text, text_of};
use crate::edge::{ApiError, ApiResult, Caller, EdgeState, state::LiveClient};

/// Topics of one client.
const TOPICS_MAX: usize = 32;
const REQUEST_BYTES_MAX: usize = 16 * 1024;
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// A client that says nothing for this long, not even to a ping, is gone.
const SILENCE_MAX: Duration = Duration::from_secs(60);

type Events = Pin<Box<dyn Stream<Item = Text> + Send>>;

/// Upgrades to a WebSocket: the client subscribes to topics and hears of what happens.
#[utoipa::path(
    get, path = "/api/v1/live", tag = "node",
    responses(
        (status = 101, description = "a WebSocket: LiveRequest from the client, LiveEvent to it", body = LiveEvent),
    )
)]
pub async fn live(
    State(state): State<EdgeState>,
    caller: Caller,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> ApiResult<Response> {
    let upgrade = upgrade.map_err(|refused| {
        ApiError::new(
            Code::InvalidField,
            format!("this path is a WebSocket: {}", refused.body_text()),
        )
    })?;
    let place = state.enter_live().ok_or_else(|| {
        ApiError::new(
            Code::TooManyRequests,
            "all places of live clients are taken (edge.live_clients_max)",
        )
    })?;
    let upgrade = upgrade
        .max_message_size(REQUEST_BYTES_MAX)
        .max_frame_size(REQUEST_BYTES_MAX)
        .max_write_buffer_size(16 * 1024 * 1024);
    Ok(upgrade
        .on_upgrade(move |socket| Client::new(state, caller, place).run(socket))
        .into_response())
}

struct Client {
    state: EdgeState,
    caller: Caller,
    topics: StreamMap<String, Events>,
    heard: Instant,
    _place: LiveClient,
}

impl Client {
    fn new(state: EdgeState, caller: Caller, place: LiveClient) -> Self {
        Self {
            state,
            caller,
            topics: StreamMap::new(),
            heard: Instant::now(),
            _place: place,
        }
    }

    async fn run(mut self, mut socket: WebSocket) {
        let reason = self.converse(&mut socket).await;
        if let Some((code, reason)) = reason {
            let frame = CloseFrame {
                code,
                reason: Utf8Bytes::from_static(reason),
            };
            let _ = socket.send(Message::Close(Some(frame))).await;
        }
    }

    /// Until either side has had enough; says why we had.
    async fn converse(&mut self, socket: &mut WebSocket) -> Option<(u16, &'static str)> {
        let mut ping = interval(PING_INTERVAL);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stopping = self.state.stopping.clone();
        loop {
            let text = tokio::select! {
                () = stopping.cancelled() => return Some((close_code::AWAY, "the node is stopping")),
                _ = ping.tick() => {
                    if self.heard.elapsed() > SILENCE_MAX {
                        return Some((close_code::POLICY, "no answer to pings"));
                    }
                    if !self.may_stay() {
                        return Some((close_code::POLICY, "the key was revoked"));
                    }
                    if !self.send(socket, Message::Ping(Default::default())).await {
                        return None;
                    }
                    continue;
                }
                received = socket.recv() => match received {
                    Some(Ok(message)) => match self.heard(message) {
                        Some(refusal) => refusal,
                        None => continue,
                    },
                    Some(Err(_)) | None => return None,
                },
                Some((_, text)) = self.topics.next() => text,
            };
            if !self.send(socket, Message::Text(Utf8Bytes::from(&*text))).await {
                return None;
            }
        }
    }

    /// Whether the client took the message in time.
    async fn send(&mut self, socket: &mut WebSocket, message: Message) -> bool {
        let limit = self.state.config.edge.write_stall_timeout_ms.millis();
        matches!(
            tokio::time::timeout(limit, socket.send(message)).await,
            Ok(Ok(()))
        )
    }

    fn may_stay(&self) -> bool {
        self.caller
            .principal
            .key_id
            .is_none_or(|key| self.state.access.has_key(key))
    }

    /// Does what the client asks; an event for it when that was not understood.
    fn heard(&mut self, message: Message) -> Option<Text> {
        self.heard = Instant::now();
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(_) => {
                return refused("binary messages are not understood; send JSON text".to_owned());
            }
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => return None,
        };
        match serde_json::from_str::<LiveRequest>(&text) {
            Ok(LiveRequest::Subscribe(topics)) => {
                let refusals: Vec<String> = topics
                    .into_iter()
                    .filter_map(|topic| self.subscribe(topic).err())
                    .collect();
                if refusals.is_empty() {
                    None
                } else {
                    refused(refusals.join("; "))
                }
            }
            Ok(LiveRequest::Unsubscribe(topics)) => {
                for topic in topics {
                    self.topics.remove(&topic);
                }
                None
            }
            Err(error) => refused(format!(
                "{error}; send {{\"subscribe\":[…]}} or {{\"unsubscribe\":[…]}}"
            )),
        }
    }

    fn subscribe(&mut self, topic: String) -> Result<(), String> {
        if self.topics.contains_key(&topic) {
            return Ok(());
        }
        if self.topics.len() >= TOPICS_MAX {
            return Err(format!("{topic}: a client has at most {TOPICS_MAX} topics"));
        }
        let events = self.events_of(&topic)?;
        self.topics.insert(topic, events);
        Ok(())
    }

    fn events_of(&self, topic: &str) -> Result<Events, String> {
        if let Some(id) = topic.strip_prefix("conversations/") {
            return self.events_of_conversation(id);
        }
        let Some(channel) = self.state.live.topic(topic) else {
            return Err(format!(
                "no topic {topic:?}; allowed: servers, actors, events, status, conversations/ID"
            ));
        };
        let required = if topic == "servers" {
            Role::User
        } else {
            Role::Operator
        };
        if !self.caller.principal.may(required) {
            return Err(format!("{topic}: this needs the role {required}"));
        }
        let here = heard_of(channel);
        Ok(match self.state.live.elsewhere.topic(topic) {
            Some(elsewhere) => select(here, heard_of(elsewhere)).boxed(),
            None => here,
        })
    }

    fn events_of_conversation(&self, id: &str) -> Result<Events, String> {
        let conversation_id: ConversationId = id
            .parse()
            .map_err(|error| format!("conversations/{id}: {error}"))?;
        let events = self
            .state
            .conversations
            .subscribe(conversation_id, &self.caller.principal)
            .map_err(|error| error.to_string())?;
        let events = BroadcastStream::new(events).filter_map(move |event| async move {
            match event {
                Ok(event) => text_of(&LiveEvent::Conversation {
                    conversation_id,
                    event: Box::new(event),
                }),
                Err(error) => lagged(error),
            }
        });
        Ok(events.boxed())
    }
}

fn heard_of(channel: &broadcast::Sender<Text>) -> Events {
    BroadcastStream::new(channel.subscribe())
        .filter_map(|event| async { event.map_or_else(lagged, Some) })
        .boxed()
}

pub(super) fn lagged(BroadcastStreamRecvError::Lagged(events): BroadcastStreamRecvError) -> Option<Text> {
    text_of(&LiveEvent::Lagged { events })
}

fn refused(detail: String) -> Option<Text> {
    text_of(&LiveEvent::Refused { detail })
}
