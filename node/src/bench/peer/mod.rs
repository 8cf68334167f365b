//! The ways to a server: directly over its own wire, or over HTTP through what stands in front of it.

mod http;
mod stdio;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use troupe_protocol::{jsonrpc::Message, mcp::meta};

pub use self::http::{HttpCaller, HttpPeer};
pub use self::stdio::StdioPeer;
use super::fixture::{Era, TOOL};
use crate::cli::error::CliError;

/// Who waits for longer has met a fault, not a slow machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A way to call the fixture's tool, and those who call over it.
pub struct Peer {
    way: Way,
    /// How large the results are.
    result_bytes: AtomicUsize,
    /// Callers that were here before: connections and sessions are made once.
    idle: Mutex<Vec<HttpCaller>>,
}

enum Way {
    Http(HttpPeer),
    Stdio(StdioPeer),
}

/// One of those who call. Gives its connection back when dropped.
pub struct Caller<'a> {
    peer: &'a Peer,
    /// Nothing over standard streams, which all share.
    http: Option<HttpCaller>,
}

impl Peer {
    pub fn http(peer: HttpPeer) -> Self {
        Self::new(Way::Http(peer))
    }

    pub fn stdio(peer: StdioPeer) -> Self {
        Self::new(Way::Stdio(peer))
    }

    fn new(way: Way) -> Self {
        Self {
            way,
            result_bytes: AtomicUsize::new(0),
            idle: Mutex::default(),
        }
    }

    /// From now on results are of this size.
    pub fn set_result_bytes(&self, bytes: usize) {
        self.result_bytes.store(bytes, Ordering::Relaxed);
    }

    /// One who calls: with a connection of its own, and a session of its own where there are sessions.
    pub async fn caller(&self) -> Result<Caller<'_>, CliError> {
        let idle = self.idle.lock().pop();
        let http = match (&self.way, idle) {
            (Way::Stdio(_), _) => None,
            (Way::Http(_), Some(idle)) => Some(idle),
            (Way::Http(peer), None) => Some(peer.connect().await?),
        };
        Ok(Caller { peer: self, http })
    }
}

impl Caller<'_> {
    /// Calls the tool once. The answer is looked at only as far as it must be: what the caller does costs time too.
    pub async fn call(&mut self) -> Result<(), CliError> {
        let wanted_bytes = self.peer.result_bytes.load(Ordering::Relaxed);
        let answer = self.answer(wanted_bytes).await?;
        let beginning = &answer[..answer.len().min(512)];
        let is_result = beginning.windows(9).any(|bytes| bytes == b"\"result\":");
        if is_result && answer.len() > wanted_bytes {
            return Ok(());
        }
        Err(failed(format!(
            "unexpected answer: {}",
            String::from_utf8_lossy(beginning)
        )))
    }

    /// The process that answers.
    pub async fn pid_of_server(&mut self) -> Result<u32, CliError> {
        let answer = self.answer(0).await?;
        let unexpected = || failed(format!("unexpected answer: {}", String::from_utf8_lossy(&answer)));
        // Streams have lines before the message.
        let json = answer.split(|&byte| byte == b'\n').find_map(|line| {
            let line = line.strip_prefix(b"data:").unwrap_or(line).trim_ascii();
            line.starts_with(b"{").then_some(line)
        });
        let message = Message::parse(json.ok_or_else(unexpected)?).map_err(|_| unexpected())?;
        let result: Value =
            serde_json::from_str(message.result.ok_or_else(unexpected)?.get()).map_err(failed)?;
        let text = result["content"][0]["text"].as_str().unwrap_or_default();
        text.trim().parse().map_err(|_| unexpected())
    }

    async fn answer(&mut self, wanted_bytes: usize) -> Result<Vec<u8>, CliError> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.answer_at_last(wanted_bytes)).await;
        answer.unwrap_or_else(|_| Err(failed(format!("no answer within {} s", ANSWER_WITHIN.as_secs()))))
    }

    async fn answer_at_last(&mut self, wanted_bytes: usize) -> Result<Vec<u8>, CliError> {
        match (&self.peer.way, &mut self.http) {
            (Way::Stdio(peer), _) => peer.call(wanted_bytes).await,
            (Way::Http(_), Some(caller)) => caller.call(wanted_bytes).await.map(|body| body.to_vec()),
            (Way::Http(_), None) => Err(failed("this caller has no connection")),
        }
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        if let Some(caller) = self.http.take().filter(HttpCaller::is_usable) {
            self.peer.idle.lock().push(caller);
        }
    }
}

fn failed(reason: impl std::fmt::Display) -> CliError {
    CliError::Failed(format!("calling: {reason}"))
}

fn call_line(id: u64, era: Era, result_bytes: usize) -> String {
    let meta = match era {
        Era::Legacy => String::new(),
        Era::Modern => format!(
            r#","_meta":{{"{}":"2026-07-28","{}":{{"name":"troupe-bench","version":"1"}},"{}":{{}}}}"#,
            meta::PROTOCOL_VERSION,
            meta::CLIENT_INFO,
            meta::CLIENT_CAPABILITIES
        ),
    };
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{TOOL}","arguments":{{"question":"what time is it in Tokyo?","bytes":{result_bytes}}}{meta}}}}}"#
    )
}
