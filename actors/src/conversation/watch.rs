//! Watching a conversation that another node has: its events come over a stream into the channel of this node, and go on
//! to come when the conversation moves.
//!
//! What happened while nobody listened is made up for by telling how the last turn stands, in the words of an event.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use troupe_protocol::conversation::{Conversation, ConversationEvent};
use troupe_protocol::id::ConversationId;

use super::handle::ConversationsHandle;
use super::placed::{Answer, Answered, CONVERSATION_BYTES_MAX, Part, Question, address_of};
use crate::cluster::dispatcher::NobodyListens;
use crate::cluster::pieces::{append, send_ahead};
use crate::cluster::{ClusterError, Parts, Streamed, Whereabouts};
use crate::runtime::Deadline;

/// How long one stream lasts; another follows.
const STREAM_TIME_MAX: Duration = Duration::from_secs(600);
/// How often it is looked whether anybody still watches.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The pause before a stream that has ended is opened again.
const OPEN_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Has the events of a conversation come to this node's channel, for as long as anybody here watches.
pub(super) async fn follow(conversations: ConversationsHandle, id: ConversationId) {
    let cluster = conversations.shared.services.cluster.clone();
    let mut epochs = cluster.epochs();
    let mut was_elsewhere = false;
    while conversations.shared.is_followed(id) {
        epochs.mark_unchanged();
        match cluster.whereabouts(&address_of(id)) {
            Whereabouts::Here(_) => {
                if std::mem::take(&mut was_elsewhere)
                    && let Ok(Answer::Whole(conversation)) =
                        conversations.answer_here(id, Question::Read).await
                {
                    tell(&conversations, id, standing(&conversation));
                }
                let _ = timeout(LOOK_EVERY, epochs.changed()).await;
            }
            Whereabouts::At(..) => {
                was_elsewhere = true;
                if let Err(error) = listen(&conversations, id).await {
                    tracing::trace!(conversation = %id, %error, "watching it is interrupted");
                }
                let _ = timeout(OPEN_AGAIN_AFTER, epochs.changed()).await;
            }
            Whereabouts::Nowhere(_) => drop(timeout(OPEN_AGAIN_AFTER, epochs.changed()).await),
        }
    }
}

/// Listens to the node that has the conversation until the stream ends, or nobody here watches any more.
async fn listen(conversations: &ConversationsHandle, id: ConversationId) -> Result<(), ClusterError> {
    let cluster = &conversations.shared.services.cluster;
    let deadline = Deadline::within(STREAM_TIME_MAX);
    let mut stream = cluster.stream::<_, Part, Answered>(&address_of(id), &Question::Watch, deadline)?;
    let mut arriving = String::new();
    while conversations.shared.has_watchers(id) {
        match timeout(LOOK_EVERY, stream.next()).await {
            Err(_) => {}
            Ok(Ok(Streamed::Part(part))) => tell(conversations, id, put_together(&mut arriving, part)?),
            Ok(Ok(Streamed::End(_))) => return Ok(()),
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(())
}

/// Puts a part to those before it; gives the event of which it was the last.
fn put_together(arriving: &mut String, part: Part) -> Result<Option<ConversationEvent>, ClusterError> {
    let (text, is_end) = match part {
        Part::Piece(piece) => (piece, false),
        Part::Event(rest) => (rest, true),
    };
    if append(arriving, &text, CONVERSATION_BYTES_MAX).is_break() {
        return Err(ClusterError::Wire("the event is too long".to_owned()));
    }
    if !is_end {
        return Ok(None);
    }
    let event = serde_json::from_str(&std::mem::take(arriving));
    event
        .map(Some)
        .map_err(|error| ClusterError::Wire(error.to_string()))
}

/// Sends an event, in as many parts as it takes.
async fn send(event: &ConversationEvent, parts: &Parts) -> Result<(), NobodyListens> {
    match serde_json::to_string(event) {
        Ok(text) => {
            let rest = send_ahead(text, parts, Part::Piece).await;
            parts.send(&Part::Event(rest)).await
        }
        Err(error) => {
            tracing::warn!(%error, "an event is left out");
            Ok(())
        }
    }
}

fn tell(conversations: &ConversationsHandle, id: ConversationId, event: Option<ConversationEvent>) {
    if let Some(event) = event {
        // Without watchers there is nobody to tell.
        let _ = conversations.shared.channel(id).send(event);
    }
}

/// Tells another node's watchers what happens, for as long as the conversation is here and they listen.
pub(super) async fn serve(conversations: &ConversationsHandle, id: ConversationId, parts: &Parts) {
    let mut events = conversations.shared.channel(id).subscribe();
    let mut epochs = conversations.shared.services.cluster.epochs();
    let mut is_behind = true;
    while conversations.is_here(id) {
        if std::mem::take(&mut is_behind) {
            let Ok(Answer::Whole(conversation)) = conversations.answer_here(id, Question::Read).await else {
                return;
            };
            if let Some(event) = standing(&conversation)
                && send(&event, parts).await.is_err()
            {
                return;
            }
        }
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => {
                    if send(&event, parts).await.is_err() {
                        return;
                    }
                }
                Err(RecvError::Lagged(_)) => is_behind = true,
                Err(RecvError::Closed) => return,
            },
            _ = epochs.changed() => {}
        }
    }
}

/// How the last turn stands.
fn standing(conversation: &Conversation) -> Option<ConversationEvent> {
    let turn = conversation.history.last()?.clone();
    Some(if turn.status.is_final() {
        ConversationEvent::TurnEnded { turn }
    } else {
        ConversationEvent::TurnChanged { turn }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use troupe_protocol::id::TurnId;
    use troupe_protocol::wire;

    use super::*;

    #[tokio::test]
    async fn an_event_arrives_whole_however_long_it_is() {
        let event = |characters: usize| ConversationEvent::AnswerChunk {
            turn_id: TurnId::from_ulid(ulid::Ulid(1)),
            offset: 0,
            text: "ä€".repeat(characters / 2),
        };
        let (parts, mut received) = Parts::channel();
        let mut arriving = String::new();
        for sent in [event(2), event(600_000), event(4)] {
            send(&sent, &parts).await.unwrap();
            let mut arrived = None;
            while arrived.is_none() {
                let part = received.try_recv().unwrap();
                assert!(part.len() < wire::MESSAGE_BYTES_MAX);
                arrived = put_together(&mut arriving, wire::decode(&part).unwrap()).unwrap();
            }
            assert_eq!(arrived.unwrap(), sent);
        }
        assert!(received.try_recv().is_err());
    }
}
