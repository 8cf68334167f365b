//! Lines to requests, and answers to lines.

use std::{
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder, Response};
use sse_stream::SseByteStream;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use troupe_protocol::{
    error::Problem,
    jsonrpc::{Kind, Message, edit, push_line},
    mcp::header,
};
use url::Url;

use super::line::Line;
use super::session::{Session, Sessions};
use crate::cli::{
    Target,
    client::{CONNECT_TIMEOUT, Client},
    error::CliError,
};

/// How long a node is looked for before a request is given up: one that restarts is back by then.
const NODE_WAIT_MAX: Duration = Duration::from_secs(30);
/// The pauses between two looks, and between two openings of the stream on which a server talks unasked.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long ending the session may take.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Where the node is, and the key to present.
#[derive(Debug)]
struct Way {
    url: Url,
    key: Option<String>,
}

/// Why a request has no answer.
enum Trouble {
    /// It was not sent: it may be sent again.
    NotSent(String),
    /// It was sent, or can never be.
    Failed(String),
}

/// Between a client's standard streams and a node.
pub struct Bridge {
    target: Target,
    server: Option<String>,
    way: Mutex<Option<Arc<Way>>>,
    sessions: Sessions,
    out: mpsc::Sender<Vec<u8>>,
    http: reqwest::Client,
    /// The stream on which servers talk unasked, of a legacy client.
    listening: Mutex<JoinSet<()>>,
}

impl Bridge {
    /// # Errors
    /// When this machine cannot make HTTP requests.
    pub fn new(target: Target, server: Option<String>, out: mpsc::Sender<Vec<u8>>) -> Result<Self, CliError> {
        // No limit on an answer's time: calls and streams may take as long as the node lets them.
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .no_proxy()
            .build()
            .map_err(|error| CliError::Failed(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self {
            target,
            server,
            way: Mutex::default(),
            sessions: Sessions::default(),
            out,
            http,
            listening: Mutex::default(),
        })
    }

    /// Writes a message for the client.
    pub async fn print(&self, message: &str) {
        let mut line = Vec::with_capacity(message.len() + 1);
        push_line(&mut line, message);
        let _ = self.out.send(line).await; // nobody reads: the command ends
    }

    /// Has a request answered: by the server, or by what went wrong.
    pub async fn ask(&self, line: &Line) {
        if let Err(why) = self.try_ask(line).await
            && let Some(answer) = line.failure(&why)
        {
            self.print(&answer).await;
        }
    }

    /// Passes on a notification or a response.
    pub async fn notify(self: &Arc<Self>, line: &Line) {
        if self.sessions.current().is_none() && line.version.is_none() {
            return note("a message outside of a session was dropped");
        }
        match self.post_in_session(line).await {
            Ok(response) if response.status().is_success() => {
                if line.is_initialized() {
                    self.sessions.note_initialized(line);
                    self.listen();
                }
            }
            Ok(response) => note(&format!("a {:?} was refused: {}", line.kind, response.status())),
            Err(why) => note(&why),
        }
    }

    /// Ends the session.
    pub async fn end(&self) {
        self.listening.lock().abort_all();
        let Some(session) = self.sessions.end() else {
            return;
        };
        let Ok(way) = self.way() else { return };
        let request = in_session(self.request(Method::DELETE, &way), &session);
        let _ = request.timeout(END_WITHIN).send().await; // it expires anyway
    }

    async fn try_ask(&self, line: &Line) -> Result<(), String> {
        if line.is_initialize() {
            return self.initialize(line, true).await;
        }
        let response = self.post_in_session(line).await?;
        self.pass_on(line, response, true).await.map(drop)
    }

    /// Begins a session.
    async fn initialize(&self, line: &Line, is_told: bool) -> Result<(), String> {
        let response = self.post(line, None).await?;
        let id = response.headers().get(header::SESSION_ID).cloned();
        let version = self.pass_on(line, response, is_told).await?;
        if let Some(id) = id {
            let version = version.and_then(|version| HeaderValue::from_str(&version).ok());
            self.sessions.begin(line, Session { id, version });
        }
        Ok(())
    }

    /// Sends a line within the session, which is made again if it has been forgotten.
    async fn post_in_session(&self, line: &Line) -> Result<Response, String> {
        let session = self.sessions.current().filter(|_| line.version.is_none());
        let response = self.post(line, session.as_deref()).await?;
        match session {
            Some(forgotten) if response.status() == StatusCode::NOT_FOUND => {
                self.renew(&forgotten).await?;
                let session = self.sessions.current();
                self.post(line, session.as_deref()).await
            }
            _ => Ok(response),
        }
    }

    /// Makes a new session in place of a forgotten one, unless another request has done so.
    async fn renew(&self, forgotten: &Arc<Session>) -> Result<(), String> {
        let _only_one = self.sessions.renewal.lock().await;
        let is_renewed = !self
            .sessions
            .current()
            .is_some_and(|current| Arc::ptr_eq(&current, forgotten));
        let Some((initialize, initialized)) = self.sessions.beginning().filter(|_| !is_renewed) else {
            return Ok(());
        };
        self.initialize(&initialize, false).await?;
        if let Some(initialized) = initialized {
            let session = self.sessions.current();
            self.post(&initialized, session.as_deref()).await?;
        }
        note("the session was forgotten; a new one was begun");
        Ok(())
    }

    /// Sends a line, and waits for a node to send it to.
    async fn post(&self, line: &Line, session: Option<&Session>) -> Result<Response, String> {
        let until = Instant::now() + NODE_WAIT_MAX;
        loop {
            let why = match self.try_post(line, session).await {
                Ok(response) => return Ok(response),
                Err(Trouble::Failed(why)) => return Err(why),
                Err(Trouble::NotSent(why)) => why,
            };
            if Instant::now() >= until {
                return Err(why);
            }
            *self.way.lock() = None; // a node that restarts may listen elsewhere
            tokio::time::sleep(PAUSE_MIN).await;
        }
    }

    async fn try_post(&self, line: &Line, session: Option<&Session>) -> Result<Response, Trouble> {
        let way = self.way()?;
        let request = self
            .request(Method::POST, &way)
            .header(CONTENT_TYPE, "application/json")
            .headers(line.headers())
            .body(line.text.clone());
        let request = match session {
            Some(session) => in_session(request, session),
            None => request,
        };
        request.send().await.map_err(|error| {
            if error.is_connect() {
                Trouble::NotSent(format!("no node answers at {}", way.url))
            } else {
                Trouble::Failed(format!("the node at {} was lost while it was asked", way.url))
            }
        })
    }

    fn way(&self) -> Result<Arc<Way>, Trouble> {
        let mut way = self.way.lock();
        if let Some(way) = way.as_ref() {
            return Ok(Arc::clone(way));
        }
        let client = Client::find(&self.target).map_err(|error| match error {
            CliError::NoNode(why) => Trouble::NotSent(why),
            other => Trouble::Failed(other.to_string()),
        })?;
        let (url, key) = client.mcp_endpoint(self.server.as_deref());
        Ok(Arc::clone(way.insert(Arc::new(Way { url, key }))))
    }

    fn request(&self, http_method: Method, way: &Way) -> RequestBuilder {
        let request = self.http.request(http_method, way.url.clone());
        let request = request.header(ACCEPT, "application/json, text/event-stream");
        match &way.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Prints what a response brings up to the answer. The revision agreed on, if it answers `initialize`.
    async fn pass_on(
        &self,
        line: &Line,
        response: Response,
        is_told: bool,
    ) -> Result<Option<String>, String> {
        let status = response.status();
        if is_event_stream(response.headers()) {
            let mut events = SseByteStream::new(Box::pin(response.bytes_stream()));
            while let Some(event) = events.next().await {
                let event = event.map_err(|error| format!("the node's answer broke off: {error}"))?;
                let Some(data) = event.data.filter(|data| !data.is_empty()) else {
                    continue;
                };
                if is_told {
                    self.print(&data).await;
                }
                if let Ok(message) = Message::parse_str(&data)
                    && line.is_answered_by(&message)
                {
                    return Ok(version_in(&message));
                }
            }
            return Err("the node's answer ended too early".to_owned());
        }
        let lost = |error: reqwest::Error| format!("the node's answer broke off: {error}");
        let body = response.bytes().await.map_err(lost)?;
        match Message::parse(&body) {
            Ok(message) if line.is_answered_by(&message) => {
                if is_told {
                    self.print(message.text).await;
                }
                Ok(version_in(&message))
            }
            // An error that the node could not tie to the request; it knows better than we what went wrong.
            Ok(Message {
                kind: Kind::Response,
                error: Some(error),
                ..
            }) if line.id.is_some() => {
                let id = line.id.as_deref().unwrap_or("null");
                self.print(&edit::response(id, "error", error.get())).await;
                Ok(None)
            }
            _ => Err(refusal(status, &body)),
        }
    }

    /// Opens the stream on which a server talks unasked, once.
    fn listen(self: &Arc<Self>) {
        let mut listening = self.listening.lock();
        while listening.try_join_next().is_some() {}
        if listening.is_empty() {
            let bridge = Arc::clone(self);
            listening.spawn(async move { bridge.keep_listening().await });
        }
    }

    async fn keep_listening(&self) {
        let mut pause = PAUSE_MIN;
        while let Some(session) = self.sessions.current() {
            match self.open(&session).await {
                Ok(response) if response.status().is_success() => {
                    pause = PAUSE_MIN;
                    self.pass_on_notices(response).await;
                }
                Ok(response) if response.status() == StatusCode::NOT_FOUND => {
                    if let Err(why) = self.renew(&session).await {
                        note(&why);
                    }
                }
                Ok(response) if response.status().is_client_error() => return,
                Ok(_) | Err(_) => *self.way.lock() = None,
            }
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn open(&self, session: &Session) -> Result<Response, Trouble> {
        let request = self.request(Method::GET, &*self.way()?);
        let opened = in_session(request, session).send().await;
        opened.map_err(|error| Trouble::NotSent(error.to_string()))
    }

    async fn pass_on_notices(&self, response: Response) {
        let mut events = SseByteStream::new(Box::pin(response.bytes_stream()));
        while let Some(Ok(event)) = events.next().await {
            if let Some(data) = event.data.filter(|data| !data.is_empty()) {
                self.print(&data).await;
            }
        }
    }
}

fn in_session(request: RequestBuilder, session: &Session) -> RequestBuilder {
    let request = request.header(header::SESSION_ID, session.id.clone());
    match &session.version {
        Some(version) => request.header(header::PROTOCOL_VERSION, version.clone()),
        None => request,
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|form| form.as_bytes().starts_with(b"text/event-stream"))
}

fn version_in(answer: &Message<'_>) -> Option<String> {
    edit::string_member(answer.result?, "protocolVersion").map(|version| version.into_owned())
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    match serde_json::from_slice::<Problem>(body) {
        Ok(problem) => format!("{}: {}", problem.code, problem.detail),
        Err(_) => format!("the node answered HTTP {status}"),
    }
}

/// Says something to whoever reads the client's log; standard output is for messages alone.
fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "troupe: {text}");
}
