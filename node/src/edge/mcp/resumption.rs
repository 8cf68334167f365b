//! Streams that a legacy client takes up again where it lost them (2025-11-25, basic/transports, "Resumability and
//! Redelivery").
//!
//! Each event has an id and is kept for a while (`troupe_actors::session::replay`). When the connection of a call's stream
//! breaks, the call goes on and what it would have sent is kept; GET with `Last-Event-ID` gives what came after that event,
//! and then what comes. The stream of notices is taken up likewise; where what it carried is not kept any more, the client
//! is told that everything may have changed, which says the same in other words.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use http::HeaderMap;
use tokio::sync::mpsc;
use tokio::time::Interval;
use troupe_actors::session::replay::{EVENT_BYTES_MAX, NOTICES};
use troupe_actors::session::{Answer, EventId, Session, SessionsHandle, StreamInSession, StreamNumber};
use troupe_protocol::error::Code;
use troupe_protocol::jsonrpc::{RawMessage, code as jsonrpc_code, edit};
use troupe_protocol::mcp::header;

use super::Context;
use super::event_stream::{self, KEEP_ALIVE, PendingCall, frame, keep_alive};
use super::fault::Fault;

/// How soon a client should come back for a stream that broke, in milliseconds.
const RETRY_MS: u32 = 1_000;
/// After so long without an answer a stream is begun for a client that can then take it up again from the beginning.
const STREAM_AFTER: Duration = Duration::from_secs(1);

/// A message as the event with this id.
fn numbered(id: &EventId, message: &str) -> Bytes {
    format!("id: {id}\n{}", frame(message)).into()
}

/// The event that carries nothing but its id.
fn priming(id: &EventId) -> Bytes {
    format!("id: {id}\nretry: {RETRY_MS}\ndata: \n\n").into()
}

/// A session whose client can take streams up again.
pub(super) struct Resumable {
    session: Arc<Session>,
    sessions: SessionsHandle,
}

impl Resumable {
    pub fn new(session: &Arc<Session>, sessions: &SessionsHandle) -> Option<Self> {
        session.can_resume().then(|| Self {
            session: Arc::clone(session),
            sessions: sessions.clone(),
        })
    }

    /// After how long without an answer a stream is begun, if that is of use to the client.
    pub fn stream_after(&self) -> Option<Duration> {
        self.session.wants_priming().then_some(STREAM_AFTER)
    }

    /// Begins the stream of a call.
    pub fn begin(self) -> Numbered {
        Numbered {
            first: self.session.begin_stream(),
            of: self,
        }
    }
}

/// The stream of a call whose events have ids and are kept.
pub(super) struct Numbered {
    of: Resumable,
    first: EventId,
}

impl Numbered {
    /// The event with which the stream begins, if the client takes such.
    pub fn opening(&self) -> Option<Bytes> {
        self.of.session.wants_priming().then(|| priming(&self.first))
    }

    /// A message as the next event, which is kept.
    pub fn event(&self, message: &str) -> Bytes {
        keep(&self.of.session, self.first.stream, message)
    }

    /// The answer as the last event. One that is too large to be kept is kept as an error that says so.
    pub fn last_event(&self, answer: &Answer, request_id: &str) -> Bytes {
        let (session, stream) = (&self.of.session, self.first.stream);
        let response = answer.to_response(request_id);
        let mut sent = Bytes::new();
        session.record(stream, |id| {
            sent = numbered(id, &response);
            if sent.len() > EVENT_BYTES_MAX {
                numbered(id, &too_large_to_be_kept(request_id))
            } else {
                sent.clone()
            }
        });
        session.end_stream(stream);
        sent
    }

    /// The client is gone: the call goes on without it, and what it sends is kept.
    pub fn go_on(
        self,
        mut call: PendingCall,
        request_id: Box<str>,
        first: Option<RawMessage>,
        mut notifications: Option<mpsc::Receiver<RawMessage>>,
    ) {
        let sessions = self.of.sessions.clone();
        sessions.finish(Box::pin(async move {
            if let Some(first) = first {
                self.event(first.as_str());
            }
            let answer = loop {
                tokio::select! {
                    biased;
                    notification = event_stream::receive(&mut notifications) => match notification {
                        Some(notification) => drop(self.event(notification.as_str())),
                        None => notifications = None,
                    },
                    answer = call.as_mut() => break answer,
                }
            };
            while let Some(Ok(notification)) = notifications.as_mut().map(mpsc::Receiver::try_recv) {
                self.event(notification.as_str());
            }
            self.last_event(&answer, &request_id);
        }));
    }
}

fn keep(session: &Session, stream: StreamNumber, message: &str) -> Bytes {
    session.record(stream, |id| numbered(id, message))
}

fn too_large_to_be_kept(request_id: &str) -> String {
    let data = format!(r#"{{"code":"{}","retryable":false}}"#, Code::MessageTooLarge);
    let message = format!(
        "the connection broke and the answer was too large to be kept for a stream taken up again (more than {EVENT_BYTES_MAX} bytes)"
    );
    let error = edit::error_object(jsonrpc_code::INTERNAL_ERROR, &message, Some(&data));
    edit::response(request_id, "error", &error)
}

/// A notice as the next event of the session's stream of notices.
pub(super) fn notice_event(session: &Session, message: &str) -> Bytes {
    if session.can_resume() {
        keep(session, NOTICES, message)
    } else {
        frame(message).into()
    }
}

/// With what a stream of notices begins.
pub(super) fn opening_of_notices(session: &Session) -> Bytes {
    if session.wants_priming() {
        priming(&session.last_event(NOTICES))
    } else {
        Bytes::from_static(b": open\n\n")
    }
}

/// The event after which the client wants to take a stream up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastSeen {
    /// This one.
    Known(EventId),
    /// One that has never been sent from here.
    Unknown,
}

impl LastSeen {
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let text = headers.get(header::LAST_EVENT_ID)?.to_str().ok();
        let id = text.and_then(|text| text.trim().parse().ok());
        Some(id.map_or(Self::Unknown, Self::Known))
    }
}

/// A call's stream that is read again.
struct Resumed {
    session: Arc<Session>,
    _in_session: StreamInSession,
    after: EventId,
    is_over: bool,
    end: Pin<Box<dyn Future<Output = ()> + Send>>,
    keep_alive: Interval,
}

/// What came on a call's stream after this event, and then what comes.
///
/// # Errors
/// 400 when that is not kept. Not 404: to the client that would mean that its whole session is over.
pub(super) fn of_call(context: &Context<'_>, session: Arc<Session>, id: EventId) -> Result<Response, Fault> {
    session
        .replay(id)
        .map_err(|not_kept| Fault::invalid_request(not_kept.to_string()))?;
    let in_session = session.resume_stream();
    let (must_end, no_longer) = (in_session.must_end(), context.no_longer_served());
    let state = Resumed {
        session,
        _in_session: in_session,
        after: id,
        is_over: false,
        end: Box::pin(async move {
            tokio::select! {
                () = must_end => {}
                () = no_longer => {}
            }
        }),
        keep_alive: keep_alive(),
    };
    Ok(event_stream::response(Body::from_stream(stream::unfold(
        state,
        next_of_resumed,
    ))))
}

async fn next_of_resumed(mut state: Resumed) -> Option<(Result<Bytes, Infallible>, Resumed)> {
    if state.is_over {
        return None;
    }
    let session = Arc::clone(&state.session);
    loop {
        let mut kept_more = std::pin::pin!(session.kept_more());
        // From here on nothing that is kept is missed.
        kept_more.as_mut().enable();
        let replayed = session.replay(state.after).ok()?;
        (state.after, state.is_over) = (replayed.last, replayed.is_over);
        if !replayed.frames.is_empty() {
            return Some((Ok(replayed.frames.concat().into()), state));
        }
        if state.is_over {
            return None;
        }
        tokio::select! {
            biased;
            () = &mut state.end => return None,
            () = kept_more => {}
            _ = state.keep_alive.tick() => return Some((Ok(Bytes::from_static(KEEP_ALIVE.as_bytes())), state)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn events_are_written_with_their_ids() {
        let id: EventId = "000000ab.1.2".parse().unwrap();
        assert_eq!(
            numbered(&id, "{}"),
            "id: 000000ab.1.2\nevent: message\ndata: {}\n\n"
        );
        assert_eq!(priming(&id), "id: 000000ab.1.2\nretry: 1000\ndata: \n\n");
    }

    #[test]
    fn the_last_event_is_read_from_its_header() {
        let of = |text: &'static str| {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(header::LAST_EVENT_ID),
                http::HeaderValue::from_static(text),
            )]);
            LastSeen::read(&headers)
        };
        assert_eq!(of("ab.1.2"), Some(LastSeen::Known("ab.1.2".parse().unwrap())));
        assert_eq!(of("17"), Some(LastSeen::Unknown));
        assert_eq!(LastSeen::read(&HeaderMap::new()), None);
    }
}
