//! A link to a server over streamable HTTP, both eras.
//!
//! Each request is a POST made in the caller's own task, so a call costs no hop at all, and dropping the call closes
//! its stream, which is how a modern server learns that it was cancelled. Legacy sessions are renewed when the server
//! has forgotten them: it answers 404, has acted upon nothing, and gets the same request again within a new session.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use parking_lot::RwLock;
use reqwest::Method;
use reqwest::header::HeaderMap;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{Era, method};
use url::Url;

use super::endpoint::{Endpoint, UpstreamSettings};
use super::error::Failure;
use super::frame::Dialect;
use super::wires::Wires;

mod answer;
pub(crate) mod client;
mod exchange;
mod kept;
mod listen;
mod mirror;
mod response;
mod sse;
mod way;

use exchange::{PROTOCOL_VERSION, SESSION_ID, Shared};
pub use mirror::ParamHeaders;
pub(super) use mirror::{Mirror, check, check_call, headers_for, mirrors_of};
pub(super) use sse::SseLink;
use way::Target;

/// How long a server may take to open the stream on which it talks unasked, before it is called.
const LISTENS_WITHIN: Duration = Duration::from_secs(2);
/// How long the farewell to a server may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// Cancellations on their way to one server; more are not sent, as a server that takes so few would not act upon them.
const FAREWELLS_MAX: usize = 256;

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

/// A link to an HTTP server. Cheap to share; its streams end with the last [`HttpLink`].
pub(super) struct HttpLink {
    shared: Arc<Shared>,
    /// The stream on which the server talks unasked.
    listening: parking_lot::Mutex<Option<AbortOnDropHandle<()>>>,
    /// The stream on which a modern server tells of resources.
    listening_to_resources: parking_lot::Mutex<Option<AbortOnDropHandle<()>>>,
    /// Cancellations on their way.
    farewells: parking_lot::Mutex<JoinSet<()>>,
}

impl HttpLink {
    /// Makes the link. Nothing is sent yet.
    pub fn new(
        endpoint: &Endpoint,
        settings: &UpstreamSettings,
        wires: &Arc<Wires>,
    ) -> Result<Self, Failure> {
        let target = target_of(endpoint)?;
        let shared = Arc::new_cyclic(|itself| Shared {
            target,
            message_bytes_max: settings.message_bytes_max,
            wires: Arc::clone(wires),
            dialect: RwLock::new(Dialect::MODERN),
            session: ArcSwapOption::empty(),
            renewal: tokio::sync::Mutex::new(()),
            renewed: tokio::sync::Notify::new(),
            has_listened: tokio::sync::SetOnce::new(),
            answers: parking_lot::Mutex::default(),
            itself: itself.clone(),
        });
        Ok(Self {
            shared,
            listening: parking_lot::Mutex::default(),
            listening_to_resources: parking_lot::Mutex::default(),
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

    /// Returns once the stream on which the server talks unasked is open, or cannot be opened, or takes too long.
    pub async fn has_listened(&self) {
        let _ = tokio::time::timeout(LISTENS_WITHIN, self.shared.has_listened.wait()).await;
    }

    /// Opens the stream on which a modern server tells of resources. Who drops what this answers closes the stream that
    /// was open until now.
    #[expect(
        clippy::disallowed_methods,
        reason = "the task is owned by the link and ends with it"
    )]
    pub fn listen_to_resources(&self, listen: Option<Outgoing<'static>>) -> Option<AbortOnDropHandle<()>> {
        let task = listen.map(|listen| {
            let running = listen::run(Arc::clone(&self.shared), Some(listen));
            AbortOnDropHandle::new(tokio::spawn(running))
        });
        std::mem::replace(&mut *self.listening_to_resources.lock(), task)
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
        drop(self.listening_to_resources.lock().take());
        if let Some(session) = self.shared.session.swap(None) {
            let target = &self.shared.target;
            let headers = || {
                let mut headers = target.headers();
                headers.append(SESSION_ID, session.id.clone());
                headers.append(PROTOCOL_VERSION, self.shared.version());
                headers
            };
            let farewell = target.send(Method::DELETE, headers, Bytes::new());
            // A server need not support this; there is nothing to be done about a failure.
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, farewell).await;
        }
        self.shared.wires.lost("the connection was closed");
    }
}

/// The server, with the headers that its entry gives.
fn target_of(endpoint: &Endpoint) -> Result<Target, Failure> {
    let (Endpoint::StreamableHttp { url, headers, bearer } | Endpoint::Sse { url, headers, bearer }) =
        endpoint
    else {
        return Err(Failure::NotSent("not an HTTP server".to_owned()));
    };
    let url = Url::parse(url).map_err(|error| Failure::NotSent(format!("not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Failure::NotSent(format!(
            "not an http or https URL: {}",
            url.scheme()
        )));
    }
    let headers = client::headers_of(headers).map_err(Failure::NotSent)?;
    Target::new(url, headers, bearer.clone())
}
