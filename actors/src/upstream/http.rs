//! A link to a server over streamable HTTP, both eras.
//!
//! Each request is a POST made in the caller's own task, so a call costs no hop at all, and dropping the call closes
//! its stream, which is how a modern server learns that it was cancelled. Legacy sessions are renewed when the server
//! has forgotten them: it answers 404, has acted upon nothing, and gets the same request again within a new session.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use parking_lot::RwLock;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use troupe_protocol::jsonrpc::{ErrorObject, Kind, Message, RawReply};
use troupe_protocol::mcp::{Era, header, method};
use url::Url;

use super::endpoint::{Endpoint, UpstreamSettings};
use super::error::Failure;
use super::frame::{self, Dialect};
use super::incoming::{Incoming, decide};
use super::wires::{Notice, Wires, reply_of};

mod answer;
mod client;
mod listen;
mod mirror;

use answer::Body;
use client::{Target, in_words};
pub(super) use mirror::{Mirror, headers_for, mirrors_of};

/// How long the farewell to a server may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// Cancellations on their way to one server; more are not sent, as a server that takes so few would not act upon them.
const FAREWELLS_MAX: usize = 256;

/// How often the stream of one request is taken up again.
const RESUMPTIONS_MAX: usize = 1_000;
/// The longest pause before that, whatever the server wishes.
const RESUME_PAUSE_MAX: Duration = Duration::from_secs(60);

/// A request as it goes out.
pub(super) struct Outgoing<'a> {
    pub id: u64,
    pub method: &'a str,
    /// `params.name` or `params.uri`.
    pub name: Option<&'a str>,
    /// Arguments that are mirrored into headers.
    pub mirrored: HeaderMap,
    /// Shared, as it may be sent again within a new session.
    pub line: Bytes,
}

impl<'a> Outgoing<'a> {
    /// A request that names nothing.
    pub fn plain(id: u64, method: &'a str, line: Bytes) -> Self {
        Self {
            id,
            method,
            name: None,
            mirrored: HeaderMap::new(),
            line,
        }
    }
}

/// A session that a legacy server gave us.
struct Session {
    id: HeaderValue,
}

/// A link to an HTTP server. Cheap to share; its streams end with the last [`HttpLink`].
pub(super) struct HttpLink {
    shared: Arc<Shared>,
    /// The stream on which the server talks unasked.
    listening: parking_lot::Mutex<Option<AbortOnDropHandle<()>>>,
    /// Cancellations on their way.
    farewells: parking_lot::Mutex<JoinSet<()>>,
}

struct Shared {
    target: Target,
    /// The headers that the entry gives; some hold secrets.
    headers: HeaderMap,
    message_bytes_max: usize,
    wires: Arc<Wires>,
    dialect: RwLock<Dialect>,
    session: ArcSwapOption<Session>,
    /// Held while a session is made, so that many calls that meet a forgotten session make one new one.
    renewal: tokio::sync::Mutex<()>,
    renewed: tokio::sync::Notify,
}

impl HttpLink {
    /// Makes the link. Nothing is sent yet.
    pub fn new(
        endpoint: &Endpoint,
        settings: &UpstreamSettings,
        wires: &Arc<Wires>,
    ) -> Result<Self, Failure> {
        let Endpoint::StreamableHttp { url, headers } = endpoint else {
            return Err(Failure::NotSent("not an HTTP server".to_owned()));
        };
        let url = Url::parse(url).map_err(|error| Failure::NotSent(format!("not a URL: {error}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Failure::NotSent(format!(
                "not an http or https URL: {}",
                url.scheme()
            )));
        }
        let client = client::for_address(&url).map_err(Failure::NotSent)?;
        let mut map = HeaderMap::with_capacity(headers.len());
        for (name, value) in headers {
            let invalid = || {
                Failure::NotSent(format!(
                    "header {name:?} has a name or value that HTTP does not allow"
                ))
            };
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| invalid())?;
            let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| invalid())?;
            value.set_sensitive(true);
            map.insert(name, value);
        }
        let shared = Shared {
            target: Target {
                client,
                url: Arc::new(url),
            },
            headers: map,
            message_bytes_max: settings.message_bytes_max,
            wires: Arc::clone(wires),
            dialect: RwLock::new(Dialect::MODERN),
            session: ArcSwapOption::empty(),
            renewal: tokio::sync::Mutex::new(()),
            renewed: tokio::sync::Notify::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            listening: parking_lot::Mutex::default(),
            farewells: parking_lot::Mutex::default(),
        })
    }

    /// Speaks this dialect from now on.
    pub fn set_dialect(&self, dialect: Dialect) {
        *self.shared.dialect.write() = dialect;
    }

    /// Sends a request and reads its answer.
    pub async fn call(&self, outgoing: Outgoing<'_>) -> Result<RawReply, Failure> {
        if outgoing.line.len() > self.shared.message_bytes_max {
            return Err(Failure::TooLarge(self.shared.message_bytes_max));
        }
        self.shared.call(&outgoing).await
    }

    /// Sends `initialize` and keeps the session that the server gives.
    pub async fn initialize(&self, outgoing: Outgoing<'_>) -> Result<RawReply, Failure> {
        self.shared.session.store(None);
        self.shared.initialize(&outgoing).await
    }

    /// Sends a message that gets no answer.
    pub async fn send(&self, method: &str, line: String) -> Result<(), Failure> {
        self.shared.send(method, line.into()).await
    }

    /// Opens the stream on which the server talks unasked; `listen` is the line that asks a modern server for it.
    #[expect(
        clippy::disallowed_methods,
        reason = "the task is owned by the link and ends with it"
    )]
    pub fn listen(&self, listen: Option<Outgoing<'static>>) {
        let task = tokio::spawn(listen::run(Arc::clone(&self.shared), listen));
        *self.listening.lock() = Some(AbortOnDropHandle::new(task));
    }

    /// Tells a server that a call was given up: a modern one sees the stream close, a legacy one is told.
    pub fn cancelled(&self, id: u64, reason: &str) {
        let dialect = *self.shared.dialect.read();
        if dialect.era() == Era::Modern {
            return;
        }
        let line = dialect.cancelled(id, reason);
        let shared = Arc::clone(&self.shared);
        // The caller is gone already, so the link owns what is left to do.
        let mut farewells = self.farewells.lock();
        while farewells.try_join_next().is_some() {}
        if farewells.len() >= FAREWELLS_MAX {
            return;
        }
        farewells.spawn(async move {
            let farewell = shared.send(method::NOTIFICATION_CANCELLED, line.into());
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
        });
    }

    /// Ends the session.
    pub async fn close(&self) {
        drop(self.listening.lock().take());
        if let Some(session) = self.shared.session.swap(None) {
            let request = self
                .shared
                .request(Method::DELETE)
                .header(header::SESSION_ID, session.id.clone());
            let request = request.header(header::PROTOCOL_VERSION, self.shared.version());
            // A server need not support this; there is nothing to be done about a failure.
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, request.send()).await;
        }
        self.shared.wires.lost("the connection was closed");
    }
}

impl Shared {
    fn request(&self, http_method: Method) -> RequestBuilder {
        let request = self
            .target
            .client
            .request(http_method, self.target.url.as_ref().clone());
        request.headers(self.headers.clone())
    }

    fn version(&self) -> HeaderValue {
        HeaderValue::from_static(self.dialect.read().version.as_str())
    }

    async fn post(&self, outgoing: &Outgoing<'_>, session: Option<&Session>) -> Result<Response, Failure> {
        let mut request = self.request(Method::POST);
        request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request = request.header(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        if let Some(session) = session {
            request = request.header(header::SESSION_ID, session.id.clone());
        }
        if outgoing.method != method::INITIALIZE {
            request = request.header(header::PROTOCOL_VERSION, self.version());
        }
        if self.dialect.read().era() == Era::Modern {
            request = request.header(header::METHOD, header_value(outgoing.method));
            if let Some(name) = outgoing.name {
                request = request.header(header::NAME, header_value(name));
            }
            request = request.headers(outgoing.mirrored.clone());
        }
        request.body(outgoing.line.clone()).send().await.map_err(|error| {
            let words = in_words(&error);
            if !error.is_connect() {
                return Failure::Lost(words);
            }
            // Whoever owns the connection makes a new one; this request is free to wait for it.
            self.wires.lost(&words);
            Failure::NotSent(words)
        })
    }

    async fn call(&self, outgoing: &Outgoing<'_>) -> Result<RawReply, Failure> {
        let session = self.session.load_full();
        let response = self.post(outgoing, session.as_deref()).await?;
        if response.status() != StatusCode::NOT_FOUND || session.is_none() {
            return self.read_answer(outgoing, response).await;
        }
        // Either the session is forgotten, or the server has its own idea of which errors are 404.
        let body = answer::whole(response, self.message_bytes_max).await?;
        let ours = Message::parse_within(&body, self.message_bytes_max)
            .ok()
            .filter(|message| message.id_u64() == Some(outgoing.id));
        if let Some(reply) = ours.as_ref().and_then(reply_of) {
            return Ok(reply);
        }
        self.renew(session.as_ref()).await?;
        let session = self.session.load_full();
        let again = self.post(outgoing, session.as_deref()).await?;
        self.read_answer(outgoing, again).await
    }

    async fn send(&self, mcp_method: &str, line: Bytes) -> Result<(), Failure> {
        let session = self.session.load_full();
        let response = self
            .post(&Outgoing::plain(0, mcp_method, line), session.as_deref())
            .await?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(answer::refusal(response).await)
        }
    }

    async fn initialize(&self, outgoing: &Outgoing<'_>) -> Result<RawReply, Failure> {
        let response = self.post(outgoing, None).await?;
        let session = response.headers().get(header::SESSION_ID).cloned();
        let reply = self.read_answer(outgoing, response).await?;
        if matches!(reply, RawReply::Result(_)) {
            self.session.store(session.map(|id| Arc::new(Session { id })));
        }
        Ok(reply)
    }

    /// Makes a new session in place of one that the server has forgotten, unless another call has done so meanwhile.
    async fn renew(&self, forgotten: Option<&Arc<Session>>) -> Result<(), Failure> {
        let _only_one = self.renewal.lock().await;
        let current = self.session.load_full();
        let is_renewed = match (&current, forgotten) {
            (Some(current), Some(forgotten)) => !Arc::ptr_eq(current, forgotten),
            (current, forgotten) => current.is_some() != forgotten.is_some(),
        };
        if is_renewed {
            return Ok(());
        }
        self.wires
            .log
            .note("the server has forgotten the session; starting a new one");
        let id = super::calls::next_call_id();
        let line = frame::initialize(id).into();
        let outgoing = Outgoing::plain(id, method::INITIALIZE, line);
        if let RawReply::Error(error) = self.initialize(&outgoing).await? {
            return Err(Failure::NotSent(format!(
                "a new session was refused: {}",
                error.get()
            )));
        }
        let dialect = *self.dialect.read();
        self.send(
            method::INITIALIZED,
            dialect.notification(method::INITIALIZED, None).into(),
        )
        .await?;
        self.renewed.notify_waiters();
        // A server that forgets its sessions has probably been restarted: what it lists may have changed.
        use troupe_protocol::mcp::ListKind::{Prompts, ResourceTemplates, Resources, Tools};
        self.wires.notice(Notice::ListChanged(&[
            Tools,
            Resources,
            ResourceTemplates,
            Prompts,
        ]));
        Ok(())
    }

    async fn read_answer(&self, outgoing: &Outgoing<'_>, response: Response) -> Result<RawReply, Failure> {
        match (response.status().is_success(), answer::body_of(&response)) {
            (true, Body::Events) => self.read_events(outgoing, response).await,
            (true, Body::Json) => {
                let body = answer::whole(response, self.message_bytes_max).await?;
                let message = Message::parse_within(&body, self.message_bytes_max)
                    .map_err(|error| Failure::Protocol(error.to_string()))?;
                answer_in(outgoing.id, &message)
                    .ok_or_else(|| Failure::Protocol("its answer is to another request".into()))
            }
            (true, Body::Other) => {
                let status = response.status().as_u16();
                Err(Failure::Protocol(format!(
                    "HTTP {status} with neither JSON nor an event stream"
                )))
            }
            (false, _) => {
                let status = response.status().as_u16();
                let body = answer::whole(response, self.message_bytes_max).await?;
                let message = Message::parse_within(&body, self.message_bytes_max)
                    .ok()
                    .filter(|message| message.kind == Kind::Response);
                let error = message.as_ref().and_then(|message| message.error);
                match error.filter(|error| ErrorObject::read(error).is_some()) {
                    Some(error) => Ok(RawReply::Error(error.to_owned())),
                    None => Err(answer::refused(status, &body)),
                }
            }
        }
    }

    /// Reads the stream of one request up to its response. A legacy server may end the stream early and have it taken
    /// up again where it was, at the last event with an id.
    async fn read_events(&self, outgoing: &Outgoing<'_>, response: Response) -> Result<RawReply, Failure> {
        let mut resume = Resume::default();
        let mut response = response;
        for _ in 0..RESUMPTIONS_MAX {
            let ended = match self.read_stream(outgoing, response, &mut resume).await {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => Failure::Lost("the stream ended before the answer".to_owned()),
                Err(failure @ Failure::Lost(_)) => failure,
                Err(failure) => return Err(failure),
            };
            let is_legacy = self.dialect.read().era() == Era::Legacy;
            let Some(last_event_id) = resume.last_event_id.as_deref().filter(|_| is_legacy) else {
                return Err(ended);
            };
            tokio::time::sleep(resume.pause).await;
            let resumed = listen::open(self, Some(last_event_id)).await;
            let is_stream = |resumed: &Response| {
                answer::body_of(resumed) == Body::Events && resumed.status().is_success()
            };
            response = resumed.filter(is_stream).ok_or(ended)?;
        }
        Err(Failure::Lost(format!(
            "the stream ended {RESUMPTIONS_MAX} times before the answer"
        )))
    }

    async fn read_stream(
        &self,
        outgoing: &Outgoing<'_>,
        response: Response,
        resume: &mut Resume,
    ) -> Result<Option<RawReply>, Failure> {
        let mut events = answer::events(response, self.message_bytes_max);
        while let Some(event) = events.next().await {
            let event = event?;
            resume.last_event_id = event.id.or(resume.last_event_id.take());
            resume.pause = event
                .retry
                .map_or(resume.pause, Duration::from_millis)
                .min(RESUME_PAUSE_MAX);
            let Some(data) = event.data.filter(|data| !data.is_empty()) else {
                continue;
            };
            let message = Message::parse_str(&data).map_err(|error| Failure::Protocol(error.to_string()))?;
            if let Some(reply) = answer_in(outgoing.id, &message) {
                return Ok(Some(reply));
            }
            self.received_with_call(outgoing.id, &message).await;
        }
        Ok(None)
    }

    /// Handles a message that came on the stream of a call.
    async fn received_with_call(&self, call: u64, message: &Message<'_>) {
        match decide(message) {
            Incoming::Progress(id) => self.wires.calls.progress(id, message),
            Incoming::Log { level, text } => {
                self.wires
                    .log
                    .push(troupe_protocol::upstream::LogSource::Message, level, &text);
                self.wires.calls.forward(call, message);
            }
            _ => self.received(message).await,
        }
    }

    /// Handles a message and answers it if it is a request.
    async fn received(&self, message: &Message<'_>) {
        if let Some(line) = self.wires.received(message) {
            let session = self.session.load_full();
            let outgoing = Outgoing::plain(0, "", line.into());
            if let Err(failure) = self.post(&outgoing, session.as_deref()).await {
                tracing::debug!(
                    reason = failure.reason(),
                    "an answer to a server's request was not taken"
                );
            }
        }
    }
}

/// Where a stream that ended early is taken up again, and after what pause.
struct Resume {
    last_event_id: Option<String>,
    pause: Duration,
}

impl Default for Resume {
    fn default() -> Self {
        Self {
            last_event_id: None,
            pause: Duration::from_secs(1),
        }
    }
}

/// The reply, if the message is the response to this request. Some servers answer errors with `id: null`.
fn answer_in(id: u64, message: &Message<'_>) -> Option<RawReply> {
    let is_ours = message.id_u64() == Some(id);
    let is_nobodys_error = message.error.is_some() && message.id.is_none_or(|id| id.get() == "null");
    if message.kind == Kind::Response && (is_ours || is_nobodys_error) {
        reply_of(message)
    } else {
        None
    }
}

/// A value as the modern revision writes it into a header: as it is where that is safe, else in base64.
fn header_value(text: &str) -> HeaderValue {
    let is_plain = text
        .bytes()
        .all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\t');
    let is_padded = text.trim() != text;
    let looks_encoded = text.starts_with("=?base64?") && text.ends_with("?=");
    if is_plain
        && !is_padded
        && !looks_encoded
        && let Ok(value) = HeaderValue::from_str(text)
    {
        return value;
    }
    let encoded = format!("=?base64?{}?=", BASE64.encode(text));
    HeaderValue::try_from(encoded).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_are_encoded_as_the_revision_says() {
        for (text, expected) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ] {
            assert_eq!(header_value(text), expected);
        }
    }
}
