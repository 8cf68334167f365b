//! A link to a server over HTTP with server-sent events, the transport of protocol version 2024-11-05.
//!
//! A GET opens the one stream on which the server says everything. Its first event, `endpoint`, names the address that
//! messages are POSTed to, which must be of the same origin; answers come on the stream and find their callers by their
//! ids in the call table, as those of a child process do. The connection ends with the stream.
//!
//! Source: `docs/specification/2024-11-05/basic/transports` of the protocol's repository.

use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use sse_stream::Sse;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use troupe_protocol::jsonrpc::{Message, RawReply};
use url::Url;

use crate::upstream::endpoint::{Endpoint, UpstreamSettings};
use crate::upstream::error::Failure;
use crate::upstream::questions::AnswerTo;
use crate::upstream::wires::Wires;

use super::FAREWELL_TIMEOUT;
use super::answer::{self, Body, Events};
use super::kept::Failed;
use super::response::Response;
use super::way::Target;

/// How long the server may take to name its endpoint once the stream is open.
const ENDPOINT_WITHIN: Duration = Duration::from_secs(10);
/// Messages on their way to one server that no caller waits for: answers and cancellations. It gets no more, as it does
/// not take them.
const ASIDE_MAX: usize = 256;

/// A link to a server that answers on a stream. Ends with the last [`SseLink`].
pub(in crate::upstream) struct SseLink {
    shared: Arc<Shared>,
    reading: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// What the link and its stream share.
struct Shared {
    target: Target,
    /// Where messages are POSTed to.
    endpoint: Url,
    message_bytes_max: usize,
    wires: Arc<Wires>,
    /// What is sent without a caller that waits for it.
    aside: Mutex<JoinSet<()>>,
    itself: Weak<Shared>,
}

impl SseLink {
    /// Opens the stream and waits for the endpoint's address.
    #[expect(
        clippy::disallowed_methods,
        reason = "the task is owned by the link and ends with it"
    )]
    pub async fn open(
        endpoint: &Endpoint,
        settings: &UpstreamSettings,
        wires: &Arc<Wires>,
    ) -> Result<Self, Failure> {
        let target = super::target_of(endpoint)?;
        let message_bytes_max = settings.message_bytes_max;
        let mut headers = target.headers();
        headers.append(ACCEPT, HeaderValue::from_static("text/event-stream"));
        let asked = target.send_generally(Method::GET, target.url.clone(), headers, Bytes::new());
        let response = asked.await.map_err(|failed| match failed {
            Failed::NotConnected(words) | Failed::Broken(words) => Failure::NotSent(words),
        })?;
        // A redirect within the origin may have led elsewhere; relative addresses are relative to there.
        let base = response.url().clone();
        let response = Response::General(response);
        if target.wants_login(&response) {
            return Err(target.challenged());
        }
        if !response.status().is_success() {
            return Err(answer::refusal(response).await);
        }
        if answer::body_of(&response) != Body::Events {
            return Err(Failure::Protocol(
                "its answer to GET is not an event stream".to_owned(),
            ));
        }
        let mut events = answer::events(response, message_bytes_max);
        let endpoint = timeout(ENDPOINT_WITHIN, endpoint_of(&mut events, &base)).await;
        let endpoint = endpoint.unwrap_or_else(|_| {
            let within = ENDPOINT_WITHIN.as_secs();
            Err(Failure::Protocol(format!(
                "it did not name its endpoint within {within} s"
            )))
        })?;
        let shared = Arc::new_cyclic(|itself| Shared {
            target,
            endpoint,
            message_bytes_max,
            wires: Arc::clone(wires),
            aside: Mutex::default(),
            itself: itself.clone(),
        });
        let reading = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&shared).read(events)));
        Ok(Self {
            shared,
            reading: Mutex::new(Some(reading)),
        })
    }

    /// Sends a request and waits for its answer on the stream. The call must be in the table.
    pub async fn call(&self, id: u64, line: String) -> Result<RawReply, Failure> {
        let wires = &self.shared.wires;
        let mut answer = wires.calls.arm(id, wires.connection);
        if wires.is_gone() {
            return Err(Failure::NotSent(wires.reason()));
        }
        let lost = || Failure::Lost(wires.reason());
        wires.calls.mark_sent([id]);
        // The answer may come before the server has acknowledged the POST.
        tokio::select! {
            biased;
            answered = &mut answer => answered.unwrap_or_else(|_| Err(lost())),
            posted = self.shared.post(line) => {
                posted?;
                answer.await.unwrap_or_else(|_| Err(lost()))
            }
        }
    }

    /// Sends a message that gets no answer.
    pub async fn send(&self, line: String) -> Result<(), Failure> {
        self.shared.post(line).await
    }

    /// Sends a message for which nobody waits.
    pub fn send_aside(&self, line: String) {
        self.shared.post_aside(line);
    }

    /// Ends the stream, and with it the session.
    pub async fn close(&self) {
        let reading = self.reading.lock().take();
        if let Some(reading) = reading {
            reading.abort();
            let _ = reading.await;
        }
        self.shared.wires.lost("the connection was closed");
    }
}

impl Shared {
    async fn post(&self, line: String) -> Result<(), Failure> {
        if line.len() > self.message_bytes_max {
            return Err(Failure::TooLarge(self.message_bytes_max));
        }
        let mut headers = self.target.headers();
        headers.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let endpoint = self.endpoint.clone();
        let sent = self
            .target
            .send_generally(Method::POST, endpoint, headers, line.into());
        let response = sent.await.map_err(|failed| match failed {
            Failed::Broken(words) => Failure::Lost(words),
            Failed::NotConnected(words) => {
                self.wires.lost(&words);
                Failure::NotSent(words)
            }
        })?;
        let response = Response::General(response);
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        if self.target.wants_login(&response) {
            return Err(self.target.challenged());
        }
        let refusal = answer::refusal(response).await;
        // The session is named in the endpoint's address: a server that does not know it has forgotten the session.
        if matches!(status.as_u16(), 404 | 410) {
            self.wires.lost("the server has forgotten the session");
            return Err(Failure::NotSent(refusal.reason()));
        }
        Err(refusal)
    }

    fn post_aside(&self, line: String) {
        let Some(shared) = self.itself.upgrade() else {
            return;
        };
        let mut aside = self.aside.lock();
        while aside.try_join_next().is_some() {}
        if aside.len() < ASIDE_MAX {
            aside.spawn(async move {
                // What is not taken in time is not taken.
                let _ = timeout(FAREWELL_TIMEOUT, shared.post(line)).await;
            });
        }
    }

    /// The way back for an answer that comes later.
    fn answer_to(&self) -> AnswerTo {
        let (shared, runtime) = (self.itself.clone(), Handle::current());
        Box::new(move |line| {
            if let Some(shared) = shared.upgrade() {
                let _within = runtime.enter();
                shared.post_aside(line);
            }
        })
    }

    /// Reads the stream to its end, which is that of the connection.
    async fn read(
        self: Arc<Self>,
        mut events: Events<impl Stream<Item = Result<Sse, sse_stream::Error>> + Unpin>,
    ) {
        let reason = loop {
            match events.next().await {
                None => break "the server ended the stream".to_owned(),
                Some(Err(failure)) => break failure.reason(),
                Some(Ok(event)) => self.received(event),
            }
        };
        self.wires.lost(&reason);
    }

    fn received(&self, event: Sse) {
        let is_message = event.event.as_deref().is_none_or(|kind| kind == "message");
        let Some(data) = event.data.filter(|data| is_message && !data.is_empty()) else {
            return;
        };
        match Message::parse_str(&data) {
            Ok(message) => {
                if let Some(line) = self.wires.received(&message, None, || self.answer_to()) {
                    self.post_aside(line);
                }
            }
            Err(error) => self
                .wires
                .log
                .note(&format!("an event that is no message was dropped: {error}")),
        }
    }
}

/// Where messages are to be POSTed to, as the first event says it.
async fn endpoint_of(
    events: &mut Events<impl Stream<Item = Result<Sse, sse_stream::Error>> + Unpin>,
    base: &Url,
) -> Result<Url, Failure> {
    loop {
        let event = events.next().await.unwrap_or_else(|| {
            Err(Failure::Protocol(
                "the stream ended before it named its endpoint".to_owned(),
            ))
        })?;
        if event.event.as_deref() == Some("endpoint") {
            return endpoint_within(base, event.data.as_deref().unwrap_or_default().trim());
        }
    }
}

/// The endpoint's address, relative to the stream's. It must be of the same origin: what is sent there holds the
/// credentials that the entry has for this one.
fn endpoint_within(base: &Url, endpoint: &str) -> Result<Url, Failure> {
    let wrong = |why: &str| Failure::Protocol(format!("the endpoint that it named {why}"));
    if endpoint.is_empty() {
        return Err(wrong("is empty"));
    }
    let url = base.join(endpoint).map_err(|_| wrong("is not an address"))?;
    if url.origin() == base.origin() {
        Ok(url)
    } else {
        Err(wrong("is of another origin"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_endpoint_is_of_the_streams_origin() {
        let base = Url::parse("https://host.example:8443/a/sse?key=1").unwrap();
        let endpoint = |text: &str| endpoint_within(&base, text).map(String::from);
        for (named, meant) in [
            (
                "/messages?session=1",
                "https://host.example:8443/messages?session=1",
            ),
            (
                "messages?session=1",
                "https://host.example:8443/a/messages?session=1",
            ),
            ("https://host.example:8443/m", "https://host.example:8443/m"),
        ] {
            assert_eq!(endpoint(named).unwrap(), meant);
        }
        for elsewhere in [
            "",
            "//other.example/m",
            "https://host.example/m",
            "http://host.example:8443/m",
            "file:///etc/passwd",
        ] {
            assert!(endpoint(elsewhere).is_err(), "{elsewhere}");
        }
    }
}
