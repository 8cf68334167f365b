//! Watching a conversation that another node has: its events come over a stream into the channel of this node, and go on
//! to come when the conversation moves.
//!
//! What happened while nobody listened is made up for by telling how the last turn stands, in the words of an event.

use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;
use troupe_protocol::conversation::{Conversation, ConversationEvent};
use troupe_protocol::id::ConversationId;
use troupe_protocol::wire::AsJson;

use super::handle::ConversationsHandle;
use super::placed::{Answer, Answered, Part, Question, address_of};
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
    while conversations.shared.has_watchers(id) {
        match timeout(LOOK_EVERY, stream.next()).await {
            Err(_) => {}
            Ok(Ok(Streamed::Part(Part::Event(AsJson(event))))) => tell(conversations, id, Some(event)),
            Ok(Ok(Streamed::Part(Part::Piece(_)))) => {}
            Ok(Ok(Streamed::End(_))) => return Ok(()),
            Ok(Err(error)) => return Err(error),
        }
    }
    Ok(())
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
                && parts.send(&Part::Event(AsJson(event))).await.is_err()
            {
                return;
            }
        }
        tokio::select! {
            event = events.recv() => match event {
                Ok(event) => {
                    if parts.send(&Part::Event(AsJson(event))).await.is_err() {
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
