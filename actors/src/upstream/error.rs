//! What can go wrong between a caller and a server.

use serde::{Deserialize, Serialize};
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::server::ServerName;

use super::log::LogRing;

/// Why a request got no answer from a server. A JSON-RPC error that the server gave is an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum UpstreamError {
    /// Nothing is registered under this name.
    #[error("no server {0} is registered")]
    NotFound(ServerName),
    /// The server is registered and disabled.
    #[error("server {0} is disabled")]
    Disabled(ServerName),
    /// The entry says neither a command nor a URL.
    #[error("server {0} has neither a command nor a URL")]
    NoTransport(ServerName),
    /// The command of a stdio server does not exist here.
    #[error("command {command:?} was not found on PATH ({path})")]
    CommandNotFound {
        /// The command as registered.
        command: String,
        /// The PATH that was searched.
        path: String,
    },
    /// The server could not be started, connected to, or did not shake hands.
    #[error("server {server} cannot be reached: {reason}")]
    Unreachable {
        /// The server.
        server: ServerName,
        /// Why.
        reason: String,
    },
    /// A secret that the server needs could not be had.
    #[error("server {server} needs a secret: {reason}")]
    Secret {
        /// The server.
        server: ServerName,
        /// The vault's words.
        reason: String,
        /// The vault's code.
        code: Code,
    },
    /// The connection ended while the request was in flight.
    #[error(
        "server {server} ended during {method}: {reason} (the request may have had effects; it can be repeated)"
    )]
    Died {
        /// The server.
        server: ServerName,
        /// The method of the request.
        method: String,
        /// How it ended.
        reason: String,
        /// Whether the same request may be answered by a new connection.
        retryable: bool,
    },
    /// The answer did not come in time. The server was told that nobody waits any more.
    #[error("server {server} did not answer {method} within {waited_ms} ms")]
    DeadlineExceeded {
        /// The server.
        server: ServerName,
        /// The method of the request.
        method: String,
        /// How long was waited, in milliseconds.
        waited_ms: u64,
    },
    /// Too many requests are in flight, or too many bytes wait to be written.
    #[error("server {server} is overloaded: {reason}")]
    Overloaded {
        /// The server.
        server: ServerName,
        /// Which bound was met.
        reason: String,
    },
    /// Somebody cancelled the request.
    #[error("{method} to server {server} was cancelled")]
    Cancelled {
        /// The server.
        server: ServerName,
        /// The method of the request.
        method: String,
    },
    /// A message is larger than the bound.
    #[error("a message to or from server {server} has more than {bytes_max} bytes")]
    TooLarge {
        /// The server.
        server: ServerName,
        /// The bound.
        bytes_max: usize,
    },
    /// The server sent something that is not MCP.
    #[error("server {server} broke the protocol: {reason}")]
    Protocol {
        /// The server.
        server: ServerName,
        /// What was wrong.
        reason: String,
    },
    /// The built-in server has no such tool, or the list that was asked for does not exist.
    #[error("server {server} has no tool {tool:?}")]
    ToolNotFound {
        /// The server.
        server: ServerName,
        /// The tool.
        tool: String,
    },
    /// The node that runs the server cannot be asked, or none does.
    #[error("server {server} cannot be asked now: {reason}")]
    NoOwner {
        /// The server.
        server: ServerName,
        /// Why.
        reason: String,
        /// The cluster's code.
        code: Code,
    },
    /// The server was stopped while the request waited, or the node is stopping.
    #[error("server {0} was stopped")]
    Stopped(ServerName),
    /// The server asks for OAuth.
    #[error(
        "server {0} needs a login: log in on its page, /#/registry/servers/{0}, or with `troupe server login {0}`"
    )]
    NeedsLogin(ServerName),
    /// No call with this id is in flight.
    #[error("no call {0} is in flight")]
    CallNotFound(troupe_protocol::upstream::CallId),
    /// The server has only failed of late and is left alone for a while.
    #[error("server {server} is left alone for {retry_in_ms} ms more: its last calls were lost")]
    CircuitOpen {
        /// The server.
        server: ServerName,
        /// When it is tried again, in milliseconds.
        retry_in_ms: u64,
    },
}

impl Coded for UpstreamError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::ServerNotFound,
            Self::Disabled(_) => Code::ServerDisabled,
            Self::NoTransport(_) => Code::NoTransport,
            Self::CommandNotFound { .. } => Code::CommandNotFound,
            Self::Unreachable { .. } => Code::UpstreamUnreachable,
            Self::Secret { code, .. } => *code,
            Self::Died { .. } => Code::UpstreamDied,
            Self::DeadlineExceeded { .. } => Code::UpstreamTimeout,
            Self::Overloaded { .. } => Code::UpstreamOverloaded,
            Self::Cancelled { .. } => Code::CallCancelled,
            Self::TooLarge { .. } => Code::MessageTooLarge,
            Self::Protocol { .. } => Code::UpstreamProtocol,
            Self::ToolNotFound { .. } => Code::ToolNotFound,
            Self::NoOwner { code, .. } => *code,
            Self::Stopped(_) => Code::ShuttingDown,
            Self::NeedsLogin(_) => Code::UpstreamNeedsLogin,
            Self::CircuitOpen { .. } => Code::CircuitOpen,
            Self::CallNotFound(_) => Code::CallNotFound,
        }
    }
}

impl UpstreamError {
    /// The stable code.
    pub fn code(&self) -> Code {
        Coded::code(self)
    }

    /// Whether the same request may succeed when it is sent again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Died { retryable, .. } => *retryable,
            Self::Overloaded { .. }
            | Self::Unreachable { .. }
            | Self::NoOwner { .. }
            | Self::CircuitOpen { .. } => true,
            _ => false,
        }
    }
}

/// What a link to a server reports; it knows neither the server's name nor the method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Nothing of the request has reached the server: it may be sent again.
    NotSent(String),
    /// The request was sent, or may have been, and no answer will come.
    Lost(String),
    /// A message was over the bound.
    TooLarge(usize),
    /// A bound on what waits was met.
    Overloaded(String),
    /// The server answered with something that is not MCP.
    Protocol(String),
    /// An HTTP server asks for OAuth.
    NeedsLogin,
    /// An HTTP server refused: the status, and the beginning of what it said.
    Refused { status: u16, body: String },
}

impl Failure {
    /// The failure without the server's secrets: servers like to repeat the credentials that they refuse.
    pub(super) fn cleaned(self, log: &LogRing) -> Self {
        match self {
            Self::NotSent(reason) => Self::NotSent(log.clean(&reason)),
            Self::Lost(reason) => Self::Lost(log.clean(&reason)),
            Self::Overloaded(reason) => Self::Overloaded(log.clean(&reason)),
            Self::Protocol(reason) => Self::Protocol(log.clean(&reason)),
            Self::Refused { status, body } => Self::Refused {
                status,
                body: log.clean(&body),
            },
            same @ (Self::TooLarge(_) | Self::NeedsLogin) => same,
        }
    }

    /// The failure in the words of the caller's request.
    pub(super) fn into_error(self, server: &ServerName, method: &str) -> UpstreamError {
        let (server, method) = (server.clone(), method.to_owned());
        match self {
            Self::NotSent(reason) => UpstreamError::Unreachable { server, reason },
            Self::Lost(reason) => UpstreamError::Died {
                server,
                method,
                reason,
                retryable: true,
            },
            Self::TooLarge(bytes_max) => UpstreamError::TooLarge { server, bytes_max },
            Self::NeedsLogin => UpstreamError::NeedsLogin(server),
            Self::Overloaded(reason) => UpstreamError::Overloaded { server, reason },
            Self::Protocol(reason) => UpstreamError::Protocol { server, reason },
            Self::Refused { status, body } => UpstreamError::Unreachable {
                server,
                reason: refusal_in_words(status, &body),
            },
        }
    }

    /// The failure in words.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::NotSent(reason)
            | Self::Lost(reason)
            | Self::Overloaded(reason)
            | Self::Protocol(reason) => reason.clone(),
            Self::TooLarge(bytes_max) => format!("a message has more than {bytes_max} bytes"),
            Self::NeedsLogin => "it asks for a login".to_owned(),
            Self::Refused { status, body } => refusal_in_words(*status, body),
        }
    }
}

fn refusal_in_words(status: u16, body: &str) -> String {
    let advice = match status {
        401 => " (it wants credentials: give the server a header such as Authorization)",
        403 => " (the credentials do not suffice)",
        404 => " (is the path right? MCP servers often listen on /mcp)",
        _ => "",
    };
    let said = if body.is_empty() {
        String::new()
    } else {
        format!(": {body}")
    };
    format!("it answered with HTTP {status}{advice}{said}")
}
