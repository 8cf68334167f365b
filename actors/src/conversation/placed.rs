//! Conversations in the cluster: each has one actor, on the node that owns its address `conversation/ID`. Whoever is asked
//! on another node asks there; when the owner is gone the next one goes on from the steps that are written down.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};
use troupe_protocol::access::Principal;
use troupe_protocol::cluster::{Address, EntityKind, Epoch};
use troupe_protocol::conversation::{Conversation, ConversationSummary};
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::id::{ConversationId, CorrelationId, TurnId};
use troupe_protocol::wire::AsJson;

use super::error::ConversationError;
use super::handle::ConversationsHandle;
use super::messages::ConversationMessage;
use super::shared::Shared;
use super::watch;
use crate::cluster::dispatcher::{Owned, decode, encode};
use crate::cluster::patience::Patience;
use crate::cluster::pieces::{append, send_ahead};
use crate::cluster::{
    ClusterError, ClusterHandle, EntityContext, EntityHost, Nowhere, ServiceError, Streamed, Whereabouts,
};
use crate::runtime::Deadline;

/// The longest pause before it is looked again who the owner is.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// How long a turn in hand may go on when its conversation moves away.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(4);
/// The largest conversation or event that is passed on between nodes, in bytes.
pub(super) const CONVERSATION_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What the node of a conversation is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Question {
    /// Somebody says something: [`Answer::Said`]. Asked twice, it is said once.
    Say {
        turn_id: TurnId,
        correlation_id: CorrelationId,
        text: String,
        principal: AsJson<Principal>,
    },
    /// [`Answer::Whole`]
    Read,
    /// [`Answer::Changed`]
    Change {
        title: Option<String>,
        pinned: Option<bool>,
    },
    /// [`Answer::Cancelled`]
    Cancel,
    /// [`Answer::Removed`]
    Remove,
    /// Its events as parts, until it moves away.
    Watch,
}

/// The answer to a [`Question`]. Travels as JSON: results of tools are any JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Said(TurnId),
    Whole(Box<Conversation>),
    Changed(ConversationSummary),
    Cancelled(bool),
    Removed,
    Ended,
}

/// What comes before the end of an answer.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Part {
    /// A piece of the answer, or of an event.
    Piece(String),
    /// Something has happened: the end of an event's JSON text, after the pieces before.
    Event(String),
}

/// The end of an answer: the rest of its JSON text, or the error's code and text.
pub(super) type Answered = Result<String, (Code, String)>;

pub(super) fn address_of(id: ConversationId) -> Address {
    Address::new(EntityKind::Conversation, id.to_string())
}

impl ConversationsHandle {
    /// Asks the conversation's actor, on whatever node it is.
    ///
    /// A question that was lost with its node is asked again: each can be asked twice.
    pub(super) async fn question(
        &self,
        id: ConversationId,
        question: Question,
    ) -> Result<Answer, ConversationError> {
        let cluster = &self.shared.services.cluster;
        let mut patience = Patience::begin(cluster, Deadline::within(super::handle::ANSWER_WITHIN));
        loop {
            let error = match cluster.whereabouts(&address_of(id)) {
                Whereabouts::Here(_) => return self.answer_here(id, question).await,
                Whereabouts::At(..) => match self.ask_elsewhere(id, &question).await {
                    Err(error)
                        if error.is_harmless_to_repeat() || matches!(error, ClusterError::Lost { .. }) =>
                    {
                        error
                    }
                    Err(error) => return Err(error.into()),
                    Ok(answered) => return answered.map_err(|(code, detail)| elsewhere(code, detail)),
                },
                Whereabouts::Nowhere(Nowhere::NoLease) => ClusterError::NoQuorum {
                    address: address_of(id),
                },
                Whereabouts::Nowhere(reason) => ClusterError::Elsewhere {
                    address: address_of(id),
                    detail: format!("{reason:?}"),
                },
            };
            if !patience.wait().await {
                return Err(error.into());
            }
        }
    }

    async fn ask_elsewhere(
        &self,
        id: ConversationId,
        question: &Question,
    ) -> Result<Result<Answer, (Code, String)>, ClusterError> {
        let deadline = Deadline::within(super::handle::ANSWER_WITHIN);
        let cluster = &self.shared.services.cluster;
        let mut stream = cluster.stream::<_, Part, Answered>(&address_of(id), question, deadline)?;
        let mut text = String::new();
        loop {
            let (piece, is_end) = match stream.next().await? {
                Streamed::Part(Part::Event(_)) => continue,
                Streamed::Part(Part::Piece(piece)) => (piece, false),
                Streamed::End(Ok(rest)) => (rest, true),
                Streamed::End(Err((Code::PlacedElsewhere, detail))) => {
                    let address = address_of(id);
                    return Err(ClusterError::Elsewhere { address, detail });
                }
                Streamed::End(Err(error)) => return Ok(Err(error)),
            };
            if append(&mut text, &piece, CONVERSATION_BYTES_MAX).is_break() {
                return Err(ClusterError::Wire("the conversation is too long".to_owned()));
            }
            if is_end {
                let answer = serde_json::from_str(&text);
                return answer
                    .map(Ok)
                    .map_err(|error| ClusterError::Wire(error.to_string()));
            }
        }
    }

    /// Has this node's own actor answer.
    pub(super) async fn answer_here(
        &self,
        id: ConversationId,
        question: Question,
    ) -> Result<Answer, ConversationError> {
        match question {
            Question::Say {
                turn_id,
                correlation_id,
                text,
                principal,
            } => {
                let said = self.ask_actor(id, |reply| ConversationMessage::UserInput {
                    turn_id,
                    correlation_id,
                    text,
                    principal: principal.0,
                    reply,
                });
                said.await?.map(Answer::Said)
            }
            Question::Read => {
                let conversation = self.ask_actor(id, ConversationMessage::Read).await?;
                Ok(Answer::Whole(Box::new(conversation)))
            }
            Question::Change { title, pinned } => {
                let changed =
                    self.ask_actor(id, |reply| ConversationMessage::Change { title, pinned, reply });
                changed.await?.map(Answer::Changed)
            }
            Question::Cancel => Ok(Answer::Cancelled(
                self.ask_actor(id, ConversationMessage::Cancel).await?,
            )),
            Question::Remove => self.remove_here(id).await.map(|()| Answer::Removed),
            Question::Watch => Ok(Answer::Ended),
        }
    }

    /// Waits until this node may act for the conversation. Never ends when another does: then the actor is stopped.
    pub(super) async fn until_here(cluster: &ClusterHandle, id: ConversationId) {
        let mut epochs = cluster.epochs();
        while !matches!(cluster.whereabouts(&address_of(id)), Whereabouts::Here(_)) {
            // The end of the wait alone says nothing.
            let _ = tokio::time::timeout(LOOK_AGAIN_AFTER, epochs.changed()).await;
        }
    }

    /// Whether this node may act for the conversation.
    pub(super) fn is_here(&self, id: ConversationId) -> bool {
        let whereabouts = self.shared.services.cluster.whereabouts(&address_of(id));
        matches!(whereabouts, Whereabouts::Here(_))
    }
}

fn elsewhere(code: Code, detail: String) -> ConversationError {
    ConversationError::Elsewhere { code, detail }
}

/// This node's part in running the cluster's conversations.
pub(super) struct ConversationsHost {
    /// The cluster holds this, and the family holds the cluster.
    shared: Weak<Shared>,
}

impl ConversationsHost {
    /// Takes the part.
    pub fn register(shared: &Arc<Shared>) {
        let host = Self {
            shared: Arc::downgrade(shared),
        };
        shared
            .services
            .cluster
            .host(EntityKind::Conversation, Arc::new(host));
    }

    fn handle(&self) -> Option<ConversationsHandle> {
        let shared = self.shared.upgrade()?;
        Some(ConversationsHandle { shared })
    }
}

impl EntityHost for ConversationsHost {
    fn ask(
        &self,
        key: String,
        question: Bytes,
        context: EntityContext,
    ) -> BoxFuture<'static, Result<Bytes, ServiceError>> {
        let handle = self.handle();
        Box::pin(async move {
            let handle = handle.ok_or_else(ServiceError::stopping)?;
            let id: ConversationId = key.parse().map_err(|_| {
                ServiceError::new(Code::ConversationNotFound, format!("no conversation {key:?}"))
            })?;
            let answered = match decode(&question)? {
                Question::Watch => {
                    watch::serve(&handle, id, &context.parts).await;
                    Ok(Answer::Ended)
                }
                question => handle.answer_here(id, question).await,
            };
            let answered: Answered = match answered {
                Ok(answer) => match serde_json::to_string(&answer) {
                    Ok(text) => Ok(send_ahead(text, &context.parts, Part::Piece).await),
                    Err(error) => Err((Code::Internal, error.to_string())),
                },
                Err(error) => Err((error.code(), error.to_string())),
            };
            encode(&answered)
        })
    }

    fn settle(&self, _: Epoch, owned: Owned) -> BoxFuture<'static, ()> {
        let handle = self.handle();
        Box::pin(async move {
            if let Some(handle) = handle {
                handle.give_away(&owned).await;
                handle.take_over();
            }
        })
    }

    fn count(&self) -> usize {
        self.shared.upgrade().map_or(0, |shared| shared.live_count())
    }
}

impl ConversationsHandle {
    /// Stops the actors of conversations that are not this node's any more, between two turns if that comes soon.
    async fn give_away(&self, owned: &Owned) {
        // Without a lease nothing new begins here; who goes on is known when there is one again.
        let cluster = self.shared.services.cluster.clone();
        let is_elsewhere =
            move |id: &ConversationId| matches!(cluster.whereabouts(&address_of(*id)), Whereabouts::At(..));
        let is_foreign = |id: &ConversationId| !owned(&id.to_string()) && is_elsewhere(id);
        let foreign = self.shared.take_foreign(is_foreign).await;
        let stopped = foreign.iter().map(|mailbox| async move {
            if self.shared.services.cluster.holds_lease() {
                // Whether it came to the end or not, it stops; the next owner goes on from what is written down.
                let _ = mailbox
                    .ask(ConversationMessage::Rest, Deadline::within(DRAIN_TIME_MAX))
                    .await;
            }
            self.shared.stop(mailbox).await;
        });
        join_all(stopped).await;
    }
}

impl From<ClusterError> for ConversationError {
    fn from(error: ClusterError) -> Self {
        elsewhere(Coded::code(&error), error.to_string())
    }
}
