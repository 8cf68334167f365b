//! The ways to a server: directly over its own wire, or over HTTP through a node.

use std::{
    collections::HashMap,
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin},
    sync::{Mutex, oneshot},
};
use troupe_protocol::{
    jsonrpc::Message,
    mcp::{ProtocolVersion, header, method},
};

use super::{
    fixture::{Era, TOOL, Wire},
    process::{fixture_args, ourselves},
};
use crate::cli::error::CliError;

/// A way to call the fixture's tool. Shared by all callers of a round.
pub enum Peer {
    Http(HttpPeer),
    Stdio(StdioPeer),
}

impl Peer {
    /// Calls the tool once and returns what it says.
    pub async fn call(&self) -> Result<String, CliError> {
        match self {
            Self::Http(peer) => peer.call().await,
            Self::Stdio(peer) => peer.call().await,
        }
    }
}

/// Over HTTP: to the fixture, or to a node in front of it.
pub struct HttpPeer {
    http: reqwest::Client,
    url: String,
    headers: HeaderMap,
    era: Era,
    next_id: AtomicU64,
}

fn failed(reason: impl std::fmt::Display) -> CliError {
    CliError::Failed(format!("calling: {reason}"))
}

impl HttpPeer {
    /// Makes ready for calls: a legacy peer starts a session.
    pub async fn connect(url: &str, key: Option<&str>, era: Era) -> Result<Self, CliError> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .tcp_nodelay(true)
            .build()
            .map_err(failed)?;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(
            ACCEPT,
            HeaderValue::from_static("application/json, text/event-stream"),
        );
        if let Some(key) = key {
            let bearer = HeaderValue::try_from(format!("Bearer {key}")).map_err(failed)?;
            headers.insert(reqwest::header::AUTHORIZATION, bearer);
        }
        let mut peer = Self {
            http,
            url: url.to_owned(),
            headers,
            era,
            next_id: AtomicU64::new(1),
        };
        match era {
            Era::Legacy => peer.start_session().await?,
            Era::Modern => {
                peer.set(header::PROTOCOL_VERSION, ProtocolVersion::LATEST_MODERN.as_str());
                peer.set(header::METHOD, method::TOOLS_CALL);
                peer.set(header::NAME, TOOL);
            }
        }
        Ok(peer)
    }

    fn set(&mut self, name: &'static str, value: &'static str) {
        self.headers
            .insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }

    async fn start_session(&mut self) -> Result<(), CliError> {
        let version = ProtocolVersion::LATEST_LEGACY.as_str();
        let client = r#"{"name":"troupe-bench","version":"1"}"#;
        let initialize = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{{}},"clientInfo":{client}}}}}"#
        );
        let answer = self.post(initialize).await?;
        if !answer.status().is_success() {
            return Err(failed(format!(
                "initialize: {}",
                answer.text().await.unwrap_or_default()
            )));
        }
        if let Some(session) = answer.headers().get(header::SESSION_ID) {
            self.headers
                .insert(HeaderName::from_static(header::SESSION_ID), session.clone());
        }
        answer.bytes().await.map_err(failed)?;
        self.set(header::PROTOCOL_VERSION, version);
        let initialized = format!(r#"{{"jsonrpc":"2.0","method":"{}"}}"#, method::INITIALIZED);
        self.post(initialized).await?;
        Ok(())
    }

    async fn post(&self, body: String) -> Result<reqwest::Response, CliError> {
        self.http
            .post(&self.url)
            .headers(self.headers.clone())
            .body(body)
            .send()
            .await
            .map_err(failed)
    }

    async fn call(&self) -> Result<String, CliError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let answer = self.post(call_line(id, self.era)).await?;
        let body = answer.bytes().await.map_err(failed)?;
        // A node may answer as a stream of one event.
        let json = body
            .iter()
            .position(|&byte| byte == b'{')
            .map_or(&body[..], |start| &body[start..]);
        text_of(json.trim_ascii_end())
    }
}

/// Over the standard streams of a fixture of our own.
pub struct StdioPeer {
    era: Era,
    stdin: Mutex<ChildStdin>,
    waiting: Arc<std::sync::Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>>,
    next_id: AtomicU64,
    reader: tokio::task::JoinHandle<()>,
    _child: Child,
}

impl StdioPeer {
    pub fn start(folder: &Path, era: Era) -> Result<Self, CliError> {
        let mut command = ourselves(folder, &fixture_args(Wire::Stdio, era))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed("no standard streams"));
        };
        let waiting: Arc<std::sync::Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>> = Arc::default();
        let answered = Arc::clone(&waiting);
        let mut lines = BufReader::new(stdout);
        let reading = async move {
            let mut line = Vec::new();
            while lines
                .read_until(b'\n', &mut line)
                .await
                .is_ok_and(|bytes| bytes > 0)
            {
                let id = Message::parse(&line).ok().and_then(|message| message.id_u64());
                let caller = id.and_then(|id| answered.lock().ok()?.remove(&id));
                if let Some(caller) = caller {
                    let _ = caller.send(std::mem::take(&mut line));
                }
                line.clear();
            }
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the benchmark is no actor; the peer ends its own task"
        )]
        let reader = tokio::spawn(reading);
        let stdin = Mutex::new(stdin);
        Ok(Self {
            era,
            stdin,
            waiting,
            next_id: AtomicU64::new(1),
            reader,
            _child: child,
        })
    }

    async fn call(&self) -> Result<String, CliError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        if let Ok(mut waiting) = self.waiting.lock() {
            waiting.insert(id, sender);
        }
        let mut line = call_line(id, self.era);
        line.push('\n');
        self.stdin
            .lock()
            .await
            .write_all(line.as_bytes())
            .await
            .map_err(failed)?;
        text_of(&answer.await.map_err(failed)?)
    }
}

impl Drop for StdioPeer {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn call_line(id: u64, era: Era) -> String {
    let meta = match era {
        Era::Legacy => "",
        Era::Modern => {
            r#","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"troupe-bench","version":"1"},"io.modelcontextprotocol/clientCapabilities":{}}"#
        }
    };
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{TOOL}","arguments":{{"question":"what time is it in Tokyo?","limit":10}}{meta}}}}}"#
    )
}

fn text_of(body: &[u8]) -> Result<String, CliError> {
    let unexpected = || {
        failed(format!(
            "unexpected answer: {}",
            String::from_utf8_lossy(&body[..body.len().min(500)])
        ))
    };
    let message = Message::parse(body).map_err(|_| unexpected())?;
    let result: Value = serde_json::from_str(message.result.ok_or_else(unexpected)?.get()).map_err(failed)?;
    result["content"][0]["text"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(unexpected)
}
