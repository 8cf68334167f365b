//! Over HTTP/1.1: to the fixture, or to what stands in front of it.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Uri,
    client::conn::http1::{self, SendRequest},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use troupe_protocol::mcp::{ProtocolVersion, header, method};

use super::{Era, TOOL, call_line, failed};
use crate::cli::error::CliError;

/// Where to call, and as whom.
#[derive(Clone)]
pub struct HttpPeer {
    authority: String,
    path: Uri,
    headers: HeaderMap,
    era: Era,
}

/// One connection, in one session.
pub struct HttpCaller {
    peer: HttpPeer,
    sender: SendRequest<Full<Bytes>>,
    _connection: AbortOnDropHandle<()>,
}

/// Ids of requests, unique in this process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl HttpPeer {
    /// The way to this address, with this key.
    pub fn new(url: &str, key: Option<&str>, era: Era) -> Result<Self, CliError> {
        let url: Uri = url.parse().map_err(failed)?;
        let authority = url
            .authority()
            .ok_or_else(|| failed("no host in the URL"))?
            .to_string();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::try_from(&authority).map_err(failed)?);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        if let Some(key) = key {
            let bearer = HeaderValue::try_from(format!("Bearer {key}")).map_err(failed)?;
            headers.insert(AUTHORIZATION, bearer);
        }
        let mut peer = Self {
            authority,
            path: url.path().parse().map_err(failed)?,
            headers,
            era,
        };
        if era == Era::Modern {
            peer.set(header::PROTOCOL_VERSION, ProtocolVersion::LATEST_MODERN.as_str());
            peer.set(header::METHOD, method::TOOLS_CALL);
            peer.set(header::NAME, TOOL);
        }
        Ok(peer)
    }

    fn set(&mut self, name: &'static str, value: &'static str) {
        self.headers
            .insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }

    /// Makes ready for calls: a legacy caller starts a session.
    pub async fn connect(&self) -> Result<HttpCaller, CliError> {
        let stream = TcpStream::connect(&self.authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        #[expect(
            clippy::disallowed_methods,
            reason = "the benchmark is no actor; the caller owns its connection's task"
        )]
        let connection = tokio::spawn(async move {
            // Its end is noticed by who calls over it.
            let _ = connection.await;
        });
        let mut caller = HttpCaller {
            peer: self.clone(),
            sender,
            _connection: AbortOnDropHandle::new(connection),
        };
        if self.era == Era::Legacy {
            caller.start_session().await?;
        }
        Ok(caller)
    }
}

impl HttpCaller {
    /// Starts another session over the same connection; calls belong to it from now on.
    pub async fn start_session(&mut self) -> Result<(), CliError> {
        self.peer.headers.remove(header::SESSION_ID);
        self.peer.headers.remove(header::PROTOCOL_VERSION);
        let version = ProtocolVersion::LATEST_LEGACY.as_str();
        let client = r#"{"name":"troupe-bench","version":"1"}"#;
        let initialize = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{{}},"clientInfo":{client}}}}}"#
        );
        let (headers, _) = self.post(initialize).await?;
        if let Some(session) = headers.get(header::SESSION_ID) {
            let name = HeaderName::from_static(header::SESSION_ID);
            self.peer.headers.insert(name, session.clone());
        }
        self.peer.set(header::PROTOCOL_VERSION, version);
        let initialized = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, method::INITIALIZED);
        self.post(initialized).await?;
        Ok(())
    }

    /// Calls the tool once; the answer's body as it came.
    pub async fn call(&mut self, result_bytes: usize) -> Result<Bytes, CliError> {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let (_, body) = self.post(call_line(id, self.peer.era, result_bytes)).await?;
        Ok(body)
    }

    /// Whether its connection is open.
    pub fn is_usable(&self) -> bool {
        !self.sender.is_closed()
    }

    async fn post(&mut self, body: String) -> Result<(HeaderMap, Bytes), CliError> {
        self.sender.ready().await.map_err(failed)?;
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.peer.path.clone();
        *request.headers_mut() = self.peer.headers.clone();
        let answer = self.sender.send_request(request).await.map_err(failed)?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(failed)?.to_bytes();
        if parts.status.is_success() {
            return Ok((parts.headers, body));
        }
        Err(failed(format!(
            "{}: {}",
            parts.status,
            String::from_utf8_lossy(&body)
        )))
    }
}
