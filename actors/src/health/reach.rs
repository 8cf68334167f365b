//! How a server is reached: a trait, so that the judging of servers is tested without any.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use troupe_protocol::error::Code;
use troupe_protocol::mcp::{Era, ListKind, method};
use troupe_protocol::server::ServerName;
use troupe_protocol::upstream::{UpstreamInfo, UpstreamState};

use crate::runtime::Deadline;
use crate::upstream::{CallOptions, UpstreamError, UpstreamsHandle};

/// A server's answer to a probe.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The round-trip time of the exchange, without what a start took.
    pub latency: Duration,
    /// What the server said of itself.
    pub info: Arc<UpstreamInfo>,
    /// The names of its tools; nothing when they could not be had.
    pub tool_names: Option<Vec<String>>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What is wrong, for people.
    pub reason: String,
    /// The stable code.
    pub code: Code,
    /// Whether it stays wrong until somebody changes something.
    pub is_lasting: bool,
    /// Whether the server is still being started.
    pub is_starting: bool,
}

/// Reaches servers.
pub trait Reach: Send + Sync + 'static {
    /// Makes a cheap exchange with a server, which is started if need be.
    fn probe<'a>(
        &'a self,
        name: &'a ServerName,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Answer, Failure>>;
}

impl Reach for UpstreamsHandle {
    fn probe<'a>(
        &'a self,
        name: &'a ServerName,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(async move {
            let exchange = exchange(self, name, deadline).await;
            exchange.map_err(|error| Failure {
                reason: error.to_string(),
                code: error.code(),
                is_lasting: is_lasting(error.code()),
                is_starting: self.state(name) == UpstreamState::Connecting,
            })
        })
    }
}

async fn exchange(
    upstreams: &UpstreamsHandle,
    name: &ServerName,
    deadline: Deadline,
) -> Result<Answer, UpstreamError> {
    let server = upstreams.get(name, deadline).await?;
    let info = server.info();
    let method = match info.era {
        Era::Legacy => method::PING,
        Era::Modern => method::DISCOVER,
    };
    let began = Instant::now();
    // A JSON-RPC error is an answer too: there are servers that do not know ping.
    server.request(method, None, CallOptions::own(deadline)).await?;
    let latency = began.elapsed();
    let tool_names = if info.offers(ListKind::Tools) {
        let tools = server.tools(deadline).await.ok();
        tools.map(|tools| tools.iter().map(|tool| tool.name.clone()).collect())
    } else {
        Some(Vec::new())
    };
    Ok(Answer {
        latency,
        info,
        tool_names,
    })
}

/// Whether an error stays until somebody changes the entry, a secret, or the machine.
fn is_lasting(code: Code) -> bool {
    matches!(
        code,
        Code::CommandNotFound
            | Code::NoTransport
            | Code::SecretNotFound
            | Code::InvalidSecretTemplate
            | Code::VaultSealed
            | Code::ServerNotFound
            | Code::ServerDisabled
            | Code::UpstreamNeedsLogin
    )
}
