//! One request over HTTP: sent, within a session if there is one, and its answer read.

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, StatusCode};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;
use troupe_protocol::jsonrpc::{ErrorObject, Kind, Message, RawReply};
use troupe_protocol::mcp::{Era, header, method};

use crate::upstream::calls;
use crate::upstream::error::Failure;
use crate::upstream::frame::{self, Dialect};
use crate::upstream::incoming::{Incoming, decide};
use crate::upstream::questions::AnswerTo;
use crate::upstream::wires::{Notice, Wires, reply_of};

use super::Outgoing;
use super::answer::{self, Body};
use super::kept::Failed;
use super::listen;
use super::mirror::header_value;
use super::response::Response;
use super::way::Target;

pub(super) const SESSION_ID: HeaderName = HeaderName::from_static(header::SESSION_ID);
pub(super) const PROTOCOL_VERSION: HeaderName = HeaderName::from_static(header::PROTOCOL_VERSION);
const METHOD: HeaderName = HeaderName::from_static(header::METHOD);
const NAME: HeaderName = HeaderName::from_static(header::NAME);

/// How often the stream of one request is taken up again.
const RESUMPTIONS_MAX: usize = 1_000;
/// The longest pause before that, whatever the server wishes.
const RESUME_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Answers on their way to one server; it gets no more, as it does not take them.
const ANSWERS_MAX: usize = 256;
/// How long a server may take to take an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A session that a legacy server gave us.
pub(super) struct Session {
    pub id: HeaderValue,
}

/// What a link and its streams share.
pub(super) struct Shared {
    pub target: Target,
    pub message_bytes_max: usize,
    pub wires: Arc<Wires>,
    pub dialect: RwLock<Dialect>,
    pub session: ArcSwapOption<Session>,
    /// Held while a session is made, so that many calls that meet a forgotten session make one new one.
    pub renewal: tokio::sync::Mutex<()>,
    pub renewed: tokio::sync::Notify,
    /// The stream on which the server talks unasked was opened, or could not be.
    pub has_listened: tokio::sync::SetOnce<()>,
    /// What was asked of clients and is being answered.
    pub answers: Mutex<JoinSet<()>>,
    pub itself: Weak<Shared>,
}

impl Shared {
    pub fn version(&self) -> HeaderValue {
        HeaderValue::from_static(self.dialect.read().version.as_str())
    }

    pub async fn post(
        &self,
        outgoing: &Outgoing<'_>,
        session: Option<&Session>,
    ) -> Result<Response, Failure> {
        let dialect = *self.dialect.read();
        let headers = || {
            let mut headers = self.target.headers();
            headers.append(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            headers.append(
                ACCEPT,
                HeaderValue::from_static("application/json, text/event-stream"),
            );
            if let Some(session) = session {
                headers.append(SESSION_ID, session.id.clone());
            }
            if outgoing.method != method::INITIALIZE {
                let version = HeaderValue::from_static(dialect.version.as_str());
                headers.append(PROTOCOL_VERSION, version);
            }
            if dialect.era() == Era::Modern {
                headers.append(METHOD, header_value(outgoing.method));
                if let Some(name) = outgoing.name {
                    headers.append(NAME, header_value(name));
                }
                headers.extend(outgoing.mirrored.clone());
            }
            headers
        };
        let sent = self.target.send(Method::POST, headers, outgoing.line.clone());
        sent.await.map_err(|failed| match failed {
            Failed::Broken(words) => Failure::Lost(words),
            Failed::NotConnected(words) => {
                // Whoever owns the connection makes a new one; this request is free to wait for it.
                self.wires.lost(&words);
                Failure::NotSent(words)
            }
        })
    }

    pub async fn call(&self, outgoing: &Outgoing<'_>) -> Result<RawReply, Failure> {
        let session = self.session.load_full();
        let response = self.post(outgoing, session.as_deref()).await?;
        if response.status() != StatusCode::NOT_FOUND || session.is_none() {
            return self.read_answer(outgoing, response).await;
        }
        Box::pin(self.call_again(outgoing, response, session)).await
    }

    /// A call within a session was answered with 404.
    async fn call_again(
        &self,
        outgoing: &Outgoing<'_>,
        response: Response,
        session: Option<Arc<Session>>,
    ) -> Result<RawReply, Failure> {
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

    pub async fn send(&self, mcp_method: &str, line: Bytes) -> Result<(), Failure> {
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

    pub async fn initialize(&self, outgoing: &Outgoing<'_>) -> Result<RawReply, Failure> {
        let response = self.post(outgoing, None).await?;
        let session = response.headers().get(SESSION_ID).cloned();
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
        let id = calls::next_call_id();
        let line = frame::initialize(id, self.wires.profile).into();
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
        self.wires.notice(Notice::SessionRenewed);
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
            (true, Body::Events) => Box::pin(self.read_events(outgoing, response)).await,
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
            (false, _) if self.target.wants_login(&response) => Err(self.target.challenged()),
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
            _ => self.received(message, Some(call)).await,
        }
    }

    /// Handles a message, which may have come on the stream of a call.
    pub async fn received(&self, message: &Message<'_>, call: Option<u64>) {
        if let Some(line) = self.wires.received(message, call, || self.answer_to()) {
            self.answer(line).await;
        }
    }

    /// Answers a request of the server's.
    async fn answer(&self, line: String) {
        let session = self.session.load_full();
        let outgoing = Outgoing::plain(0, "", line.into());
        if let Err(failure) = self.post(&outgoing, session.as_deref()).await {
            tracing::debug!(
                reason = failure.reason(),
                "an answer to a server's request was not taken"
            );
        }
    }

    /// The way back for an answer that comes later.
    fn answer_to(&self) -> AnswerTo {
        let (shared, runtime) = (self.itself.clone(), Handle::current());
        Box::new(move |line| {
            let Some(shared) = shared.upgrade() else {
                return;
            };
            let answering = Arc::clone(&shared);
            let mut answers = shared.answers.lock();
            while answers.try_join_next().is_some() {}
            if answers.len() < ANSWERS_MAX {
                let answering = async move {
                    // What is not taken in time is not taken.
                    let _ = timeout(ANSWER_TIMEOUT, answering.answer(line)).await;
                };
                answers.spawn_on(answering, &runtime);
            } else {
                let words = format!("{ANSWERS_MAX} answers wait for this server: one more was dropped");
                shared.wires.log.note(&words);
            }
        })
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
