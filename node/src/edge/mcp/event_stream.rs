//! Answers as Server-Sent Events: the frames, and the two kinds of streams.
//!
//! A *call's* stream carries the notifications that belong to one request and ends with its response. A *notice*
//! stream carries what a client is told without having asked, and stays open until somebody ends it. Both say
//! nothing in comments every so often, so that nobody in between takes the connection for dead.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use troupe_actors::session::{Answer, Notice, NoticeFeed, StreamInSession};
use troupe_protocol::jsonrpc::RawMessage;

use super::resumption::Numbered;

/// How often a quiet stream says that it is there.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
pub const KEEP_ALIVE: &str = ": keep-alive\n\n";
/// Asks reverse proxies (nginx) not to hold events back.
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A message as an event. The text is JSON, in which line breaks are mere white space; an event has one `data` line
/// for each line.
pub fn frame(message: &str) -> String {
    let mut frame = String::with_capacity(message.len() + 32);
    frame.push_str("event: message\n");
    for line in message.split(['\n', '\r']) {
        frame.push_str("data: ");
        frame.push_str(line);
        frame.push('\n');
    }
    frame.push('\n');
    frame
}

/// A whole stream that is a single event.
pub fn single_event(message: &str) -> Response {
    response(Body::from(frame(message)))
}

/// A call whose answer is on its way.
pub type PendingCall = Pin<Box<dyn Future<Output = Answer> + Send>>;

struct CallStream {
    /// Nothing once the answer went out.
    call: Option<PendingCall>,
    id: Box<str>,
    /// What goes out first, if anything: a complete frame.
    opening: Option<Bytes>,
    first: Option<RawMessage>,
    /// Nothing once no more can come.
    notifications: Option<mpsc::Receiver<RawMessage>>,
    keep_alive: Interval,
    /// The events' ids, if the client can take the stream up again. Else dropping the stream drops the call.
    numbered: Option<Numbered>,
}

impl Drop for CallStream {
    fn drop(&mut self) {
        if let (Some(call), Some(numbered)) = (self.call.take(), self.numbered.take()) {
            let (first, notifications) = (self.first.take(), self.notifications.take());
            numbered.go_on(call, std::mem::take(&mut self.id), first, notifications);
        }
    }
}

impl CallStream {
    /// A message as the stream's next event.
    fn event(&self, message: &str) -> Bytes {
        match &self.numbered {
            Some(numbered) => numbered.event(message),
            None => frame(message).into(),
        }
    }

    fn last_event(&self, answer: &Answer) -> Bytes {
        match &self.numbered {
            Some(numbered) => numbered.last_event(answer, &self.id),
            None => frame(&answer.to_response(&self.id)).into(),
        }
    }
}

/// The stream of a call: `first`, the notifications, then the response with this id (JSON text).
///
/// Dropping the response (the client is gone) drops the call, unless the client can take the stream up again.
pub fn of_call(
    call: PendingCall,
    id: Box<str>,
    first: Option<RawMessage>,
    notifications: Option<mpsc::Receiver<RawMessage>>,
    numbered: Option<Numbered>,
) -> Response {
    let state = CallStream {
        call: Some(call),
        id,
        opening: numbered.as_ref().and_then(Numbered::opening),
        first,
        notifications,
        keep_alive: keep_alive(),
        numbered,
    };
    response(Body::from_stream(stream::unfold(state, next_of_call)))
}

async fn next_of_call(mut state: CallStream) -> Option<(Result<Bytes, Infallible>, CallStream)> {
    let call = state.call.as_mut()?;
    if let Some(opening) = state.opening.take() {
        return Some((Ok(opening), state));
    }
    if let Some(first) = state.first.take() {
        return Some((Ok(state.event(first.as_str())), state));
    }
    let frames = loop {
        tokio::select! {
            biased;
            notification = receive(&mut state.notifications) => match notification {
                Some(notification) => break state.event(notification.as_str()),
                None => state.notifications = None,
            },
            answer = call.as_mut() => {
                state.call = None;
                let mut frames = BytesMut::new();
                // What was sent before the answer goes out before it.
                while let Some(Ok(notification)) = state.notifications.as_mut().map(mpsc::Receiver::try_recv) {
                    frames.extend_from_slice(&state.event(notification.as_str()));
                }
                let last = state.last_event(&answer);
                if frames.is_empty() {
                    break last;
                }
                frames.extend_from_slice(&last);
                break frames.freeze();
            }
            _ = state.keep_alive.tick() => break Bytes::from_static(KEEP_ALIVE.as_bytes()),
        }
    };
    Some((Ok(frames), state))
}

/// The next notification; never resolves where none can come.
pub async fn receive(notifications: &mut Option<mpsc::Receiver<RawMessage>>) -> Option<RawMessage> {
    match notifications {
        Some(notifications) => notifications.recv().await,
        None => std::future::pending().await,
    }
}

/// Writes a notice as an event for one client, a complete frame; nothing if that client does not want to hear of it.
pub type Render = Box<dyn Fn(&Notice) -> Option<Bytes> + Send>;

/// What a notice stream is made of.
pub struct NoticeStream {
    /// What goes out first, if anything: complete frames.
    pub opening: Bytes,
    /// What to tell.
    pub notices: NoticeFeed,
    /// A notice as an event for this client.
    pub render: Render,
    /// Resolves when the stream must end.
    pub end: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// What goes out last, if anything: complete frames.
    pub closing: String,
    /// The session's note of the stream, dropped with it; modern streams have none.
    pub in_session: Option<StreamInSession>,
}

struct OpenNotices {
    stream: NoticeStream,
    keep_alive: Interval,
    is_over: bool,
}

/// The stream of what a client is told unasked.
pub fn of_notices(stream: NoticeStream) -> Response {
    let state = OpenNotices {
        stream,
        keep_alive: keep_alive(),
        is_over: false,
    };
    response(Body::from_stream(stream::unfold(state, next_of_notices)))
}

async fn next_of_notices(mut state: OpenNotices) -> Option<(Result<Bytes, Infallible>, OpenNotices)> {
    if state.is_over {
        return None;
    }
    if !state.stream.opening.is_empty() {
        return Some((Ok(std::mem::take(&mut state.stream.opening)), state));
    }
    let frames = loop {
        tokio::select! {
            biased;
            () = &mut state.stream.end => {
                state.is_over = true;
                state.stream.in_session = None;
                break std::mem::take(&mut state.stream.closing).into();
            }
            notices = state.stream.notices.next() => {
                let frames: Vec<Bytes> = notices.iter().filter_map(&state.stream.render).collect();
                if !frames.is_empty() {
                    break frames.concat().into();
                }
            }
            _ = state.keep_alive.tick() => break Bytes::from_static(KEEP_ALIVE.as_bytes()),
        }
    };
    if frames.is_empty() {
        return None;
    }
    Some((Ok(frames), state))
}

/// Ticks when a quiet stream should say that it is there.
pub fn keep_alive() -> Interval {
    let mut interval = interval_at(Instant::now() + KEEP_ALIVE_INTERVAL, KEEP_ALIVE_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// A response of events.
pub fn response(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_several_lines_is_one_event() {
        assert_eq!(frame("{}"), "event: message\ndata: {}\n\n");
        assert_eq!(
            frame("{\n\"a\":1}"),
            "event: message\ndata: {\ndata: \"a\":1}\n\n"
        );
        assert_eq!(frame("{\r\n}"), "event: message\ndata: {\ndata: \ndata: }\n\n");
    }
}
