//! Reading what an HTTP server answers: one JSON message, or a stream of events.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use sse_stream::{Sse, SseByteStream};

use crate::upstream::error::Failure;

use super::response::Response;

/// Bytes of an error body that are repeated to people.
const REFUSAL_BYTES_MAX: usize = 300;

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Json,
    Events,
    Other,
}

/// What the response says its body is.
pub(super) fn body_of(response: &Response) -> Body {
    let value = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    let ends_with = |suffix: &str| {
        let at = essence.len().checked_sub(suffix.len());
        at.and_then(|at| essence.get(at..))
            .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
    };
    if essence.eq_ignore_ascii_case("application/json") || ends_with("+json") {
        Body::Json
    } else if essence.eq_ignore_ascii_case("text/event-stream") {
        Body::Events
    } else {
        Body::Other
    }
}

/// Whether the server asks for OAuth: it wants a token and says where one can be had.
pub(super) fn needs_login(response: &Response) -> bool {
    let asks = |value: &reqwest::header::HeaderValue| {
        let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        text.starts_with("bearer") && (text.contains("resource_metadata") || text.contains("invalid_token"))
    };
    response.status() == StatusCode::UNAUTHORIZED
        && response.headers().get_all(WWW_AUTHENTICATE).iter().any(asks)
}

/// The whole body, if it is not larger than the bound.
pub(super) async fn whole(mut response: Response, bytes_max: usize) -> Result<Bytes, Failure> {
    let expected = response.bytes_expected();
    if expected.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(Failure::TooLarge(bytes_max));
    }
    let Some(first) = response.chunk().await.map_err(Failure::Lost)? else {
        return Ok(Bytes::new());
    };
    if expected == Some(first.len() as u64) {
        return Ok(first);
    }
    let Some(second) = response.chunk().await.map_err(Failure::Lost)? else {
        return Ok(first);
    };
    let announced = expected.and_then(|bytes| usize::try_from(bytes).ok());
    let mut body = BytesMut::with_capacity(announced.unwrap_or(2 * (first.len() + second.len())));
    body.extend_from_slice(&first);
    body.extend_from_slice(&second);
    while let Some(chunk) = response.chunk().await.map_err(Failure::Lost)? {
        if body.len() + chunk.len() > bytes_max {
            return Err(Failure::TooLarge(bytes_max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

/// The beginning of a body that explains a refusal, in one line.
pub(super) async fn refusal(response: Response) -> Failure {
    let status = response.status().as_u16();
    let body = whole(response, 64 * 1024).await.unwrap_or_default();
    refused(status, &body)
}

/// The refusal with the beginning of its body.
pub(super) fn refused(status: u16, body: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(&body[..body.len().min(REFUSAL_BYTES_MAX)]);
    let looks_like_a_page = text.trim_start().starts_with('<');
    let words = if looks_like_a_page {
        String::new()
    } else {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    Failure::Refused { status, body: words }
}

/// Events of a stream; an event larger than the bound ends it.
pub(super) struct Events<S> {
    events: S,
    since_last: Arc<AtomicUsize>,
}

#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("{0}")]
    Broken(String),
    #[error("an event has more than {0} bytes")]
    TooLarge(usize),
}

/// The events in a response's body.
pub(super) fn events(
    response: Response,
    bytes_max: usize,
) -> Events<impl Stream<Item = Result<Sse, sse_stream::Error>> + Send + Unpin> {
    let since_last = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&since_last);
    let bytes = response.into_stream().map_err(StreamError::Broken);
    // The parser buffers an event until it is whole, so what comes in between events is bounded here.
    let bounded = bytes.and_then(move |chunk| {
        let total = counter.fetch_add(chunk.len(), Ordering::Relaxed) + chunk.len();
        std::future::ready(if total > bytes_max {
            Err(StreamError::TooLarge(bytes_max))
        } else {
            Ok(chunk)
        })
    });
    Events {
        events: SseByteStream::new(Box::pin(bounded)),
        since_last,
    }
}

impl<S: Stream<Item = Result<Sse, sse_stream::Error>> + Unpin> Events<S> {
    /// The next event; nothing at the end of the stream.
    pub async fn next(&mut self) -> Option<Result<Sse, Failure>> {
        let event = self.events.next().await?;
        self.since_last.store(0, Ordering::Relaxed);
        Some(event.map_err(|error| match error {
            sse_stream::Error::Body(source) => match source.downcast_ref::<StreamError>() {
                Some(StreamError::TooLarge(bytes_max)) => Failure::TooLarge(*bytes_max),
                _ => Failure::Lost(format!("the stream broke: {source}")),
            },
            other => Failure::Protocol(format!("not an event stream: {other}")),
        }))
    }
}
