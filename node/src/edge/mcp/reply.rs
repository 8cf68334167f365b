//! A call's answer in the form that the client takes and the call needs: JSON, or a stream.
//!
//! A call is answered in JSON unless something must be told before the answer: a notification that belongs to it, or
//! only that it is still being worked on. Then the answer becomes a stream, if the client takes one.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use troupe_actors::session::Answer;
use troupe_protocol::jsonrpc::{RawMessage, code as jsonrpc_code};
use troupe_protocol::mcp::{Era, code as mcp_code};

use super::event_stream::{self, PendingCall};
use super::negotiation::Accepts;
use super::resumption::Resumable;

/// After so long without an answer a stream is begun, whose comments keep the connection alive.
const STREAM_AFTER: Duration = Duration::from_secs(10);

/// When a client that was refused for load may come again: calls are short.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// How a request wants to be answered.
pub struct ReplyTo {
    /// The request's id, as JSON text.
    pub id: Box<str>,
    /// The client's era.
    pub era: Era,
    /// The forms the client takes.
    pub accepts: Accepts,
    /// How a stream is taken up again, by clients that can.
    pub resumable: Option<Resumable>,
}

impl ReplyTo {
    /// Answers with what is known already.
    pub fn answer(&self, answer: &Answer) -> Response {
        let text = answer.to_response(&self.id);
        if !self.accepts.json {
            return event_stream::single_event(&text);
        }
        let status = status_of(self.era, answer);
        let mut response = json(status, text);
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        response
    }

    /// Answers once the call is done, and streams what comes before.
    pub async fn call(
        self,
        mut call: PendingCall,
        notifications: Option<mpsc::Receiver<RawMessage>>,
    ) -> Response {
        if !self.accepts.event_stream {
            return self.answer(&call.await);
        }
        if !self.accepts.json {
            return self.stream(call, None, notifications);
        }
        let mut notifications = notifications;
        let stream_after = self.resumable.as_ref().and_then(Resumable::stream_after);
        let stream_at = Instant::now() + stream_after.unwrap_or(STREAM_AFTER);
        loop {
            let first = tokio::select! {
                biased;
                answer = call.as_mut() => {
                    let Some(before) = notifications.as_mut().and_then(|waiting| waiting.try_recv().ok()) else {
                        return self.answer(&answer);
                    };
                    call = Box::pin(std::future::ready(answer));
                    Some(before)
                }
                notification = event_stream::receive(&mut notifications) => {
                    if notification.is_none() {
                        notifications = None;
                        continue;
                    }
                    notification
                }
                () = sleep_until(stream_at) => None,
            };
            return self.stream(call, first, notifications);
        }
    }

    fn stream(
        self,
        call: PendingCall,
        first: Option<RawMessage>,
        notifications: Option<mpsc::Receiver<RawMessage>>,
    ) -> Response {
        let numbered = self.resumable.map(Resumable::begin);
        event_stream::of_call(call, self.id, first, notifications, numbered)
    }
}

/// A body of JSON.
pub fn json(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// 202, without a body: a notification or response was taken.
pub fn accepted() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// Errors are answers, and so 200, but for those whose status the modern revision fixes, and for what this node has no
/// room for.
fn status_of(era: Era, answer: &Answer) -> StatusCode {
    let Answer::Error {
        code, is_for_load, ..
    } = answer
    else {
        return StatusCode::OK;
    };
    if *is_for_load {
        return StatusCode::TOO_MANY_REQUESTS;
    }
    match (era, *code) {
        (Era::Modern, jsonrpc_code::METHOD_NOT_FOUND) => StatusCode::NOT_FOUND,
        (Era::Modern, code) if mcp_code::is_modern(code) => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http_body_util::BodyExt;

    const BOTH: Accepts = Accepts {
        json: true,
        event_stream: true,
    };
    const JSON: Accepts = Accepts {
        json: true,
        event_stream: false,
    };
    const STREAM: Accepts = Accepts {
        json: false,
        event_stream: true,
    };

    fn reply_to(accepts: Accepts) -> ReplyTo {
        ReplyTo {
            id: "1".into(),
            era: Era::Modern,
            accepts,
            resumable: None,
        }
    }

    fn done() -> PendingCall {
        Box::pin(async { Answer::Result("{}".into()) })
    }

    fn note(n: u32) -> RawMessage {
        RawMessage::new(format!(r#"{{"jsonrpc":"2.0","method":"n/{n}"}}"#)).unwrap()
    }

    async fn text(response: Response) -> (String, String) {
        let content_type = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        (
            content_type,
            String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap(),
        )
    }

    #[tokio::test]
    async fn what_needs_no_stream_is_json_unless_only_a_stream_is_taken() {
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        for accepts in [BOTH, JSON] {
            let response = text(reply_to(accepts).call(done(), None).await).await;
            assert_eq!(response, ("application/json".to_owned(), answer.to_owned()));
        }
        let (content_type, body) = text(reply_to(STREAM).call(done(), None).await).await;
        assert_eq!(content_type, "text/event-stream");
        assert_eq!(body, format!("event: message\ndata: {answer}\n\n"));
    }

    #[tokio::test]
    async fn notifications_come_before_the_answer_even_when_both_are_there_at_once() {
        for is_slow in [false, true] {
            let (sender, receiver) = mpsc::channel(8);
            sender.try_send(note(1)).unwrap();
            sender.try_send(note(2)).unwrap();
            let call: PendingCall = Box::pin(async move {
                if is_slow {
                    tokio::task::yield_now().await;
                    sender.send(note(3)).await.unwrap();
                }
                drop(sender);
                Answer::Result("{}".into())
            });
            let (content_type, body) = text(reply_to(BOTH).call(call, Some(receiver)).await).await;
            assert_eq!(content_type, "text/event-stream");
            let order: Vec<usize> = ["n/1", "n/2", "result"]
                .iter()
                .map(|what| body.find(what).unwrap())
                .collect();
            assert!(order.is_sorted(), "{body}");
            assert_eq!(body.contains("n/3"), is_slow);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_call_becomes_a_stream_that_says_it_is_alive() {
        let call: PendingCall = Box::pin(async {
            tokio::time::sleep(Duration::from_secs(40)).await;
            Answer::Result("{}".into())
        });
        let (_, body) = text(reply_to(BOTH).call(call, None).await).await;
        assert_eq!(body.matches(": keep-alive").count(), 1, "{body}");
        assert!(body.ends_with("\"result\":{}}\n\n"));
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_is_429_and_says_when_to_come_again() {
        for era in [Era::Legacy, Era::Modern] {
            let answer = Answer::Error {
                code: -32603,
                object: r#"{"code":-32603}"#.into(),
                is_for_load: true,
            };
            let to = ReplyTo {
                era,
                ..reply_to(BOTH)
            };
            let response = to.answer(&answer);
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(response.headers()[RETRY_AFTER], "1");
            let (_, body) = text(response).await;
            assert_eq!(body, r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32603}}"#);
        }
    }

    #[test]
    fn only_modern_errors_have_a_status_of_their_own() {
        let error = |code| Answer::Error {
            code,
            object: "{}".into(),
            is_for_load: false,
        };
        assert_eq!(status_of(Era::Modern, &error(-32601)), StatusCode::NOT_FOUND);
        assert_eq!(status_of(Era::Modern, &error(-32021)), StatusCode::BAD_REQUEST);
        assert_eq!(status_of(Era::Modern, &error(-32602)), StatusCode::OK);
        assert_eq!(status_of(Era::Legacy, &error(-32601)), StatusCode::OK);
    }
}
