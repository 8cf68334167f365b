//! The stream on which an HTTP server talks unasked: a GET for legacy servers, `subscriptions/listen` for modern ones.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, HeaderValue};
use reqwest::{Method, StatusCode};
use tokio::time::Instant;
use troupe_protocol::jsonrpc::Message;
use troupe_protocol::mcp::header;

use super::Outgoing;
use super::answer::{self, Body};
use super::exchange::{PROTOCOL_VERSION, SESSION_ID, Shared};
use super::response::Response;

/// The pauses before the stream is opened again.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A stream that lasted this long was a good one: the next is opened soon.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Keeps the stream open for as long as the server supports it and the connection lives.
pub(super) async fn run(shared: Arc<Shared>, listen: Option<Outgoing<'static>>) {
    let mut pause = PAUSE_MIN;
    let mut last_event_id: Option<String> = None;
    while !shared.wires.is_gone() {
        let opened = match &listen {
            Some(listen) => shared.post(listen, None).await.ok(),
            None => open(&shared, last_event_id.as_deref()).await,
        };
        let _ = shared.has_listened.set(()); // at the first time
        if let Some(response) = opened {
            let is_stream = response.status().is_success() && answer::body_of(&response) == Body::Events;
            if shared.target.wants_login(&response) {
                // The token is renewed, or a person logs in; then there is a stream.
                let _ = shared.target.challenged();
            } else if is_stream {
                let opened_at = Instant::now();
                read(&shared, response, &mut last_event_id).await;
                if opened_at.elapsed() >= STABLE_AFTER {
                    pause = PAUSE_MIN;
                }
            } else if will_never_be(response.status(), shared.target.has_token())
                || response.status().is_success()
            {
                // 405: the server does not talk unasked.
                return;
            }
        }
        let jittered = pause.mul_f64(0.5 + fastrand::f64());
        // A new session comes with a new stream, at once.
        if tokio::time::timeout(jittered, shared.renewed.notified())
            .await
            .is_ok()
        {
            last_event_id = None;
            pause = PAUSE_MIN;
        } else {
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Whether an answer means that there is no such stream, at any time. With a token it may be the token's fault.
fn will_never_be(status: StatusCode, has_token: bool) -> bool {
    let is_passing = match status {
        StatusCode::NOT_FOUND
        | StatusCode::REQUEST_TIMEOUT
        | StatusCode::TOO_EARLY
        | StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => has_token,
        _ => false,
    };
    status.is_client_error() && !is_passing
}

/// Opens a legacy server's stream, or takes one up again after the event with this id.
pub(super) async fn open(shared: &Shared, last_event_id: Option<&str>) -> Option<Response> {
    let session = shared.session.load_full();
    let after = last_event_id.map(HeaderValue::from_str).transpose().ok()?;
    let headers = || {
        let mut headers = shared.target.headers();
        headers.append(ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.append(PROTOCOL_VERSION, shared.version());
        if let Some(session) = &session {
            headers.append(SESSION_ID, session.id.clone());
        }
        if let Some(id) = &after {
            headers.append(header::LAST_EVENT_ID, id.clone());
        }
        headers
    };
    shared.target.send(Method::GET, headers, Bytes::new()).await.ok()
}

async fn read(shared: &Shared, response: Response, last_event_id: &mut Option<String>) {
    let mut events = answer::events(response, shared.message_bytes_max);
    while let Some(Ok(event)) = events.next().await {
        if event.id.is_some() {
            *last_event_id = event.id;
        }
        let Some(data) = event.data.filter(|data| !data.is_empty()) else {
            continue;
        };
        match Message::parse_str(&data) {
            Ok(message) => shared.received(&message, None).await,
            Err(error) => shared
                .wires
                .log
                .note(&format!("an event that is no message was dropped: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_given_up_for_what_does_not_pass() {
        for (status, has_token, is_final) in [
            (405, true, true),
            (400, true, true),
            (404, false, false),
            (429, false, false),
            (503, false, false),
            (401, true, false),
            (403, true, false),
            (401, false, true),
        ] {
            let status = StatusCode::from_u16(status).unwrap_or_default();
            assert_eq!(will_never_be(status, has_token), is_final, "{status} {has_token}");
        }
    }
}
