//! What the actors of this family are told, and what they tell the rest of the node.

use std::sync::Arc;

use strum::IntoStaticStr;
use tokio::sync::mpsc;
use troupe_protocol::access::Principal;
use troupe_protocol::jsonrpc::RawMessage;
use troupe_protocol::mcp::{ClientCapabilities, Era, ListKind, Profile};
use troupe_protocol::server::{ServerName, Transport};

use crate::runtime::{Deadline, Message, Reply};

use super::circuit::Turn;
use super::connect::ConnectFailure;
use super::connection::Connection;
use super::error::{Failure, UpstreamError};
use super::questions::QuestionsTo;
use super::slot::Slot;
use super::wires::Notice;

/// How a request is made.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// Until when the answer is of use. On expiry the server is told to stop.
    pub deadline: Deadline,
    /// On whose behalf; nothing for Troupe itself.
    pub principal: Option<Principal>,
    /// Where progress and other notifications of this request go. Bounded by its capacity; what does not fit is
    /// dropped. Progress carries the caller's own token.
    pub progress: Option<mpsc::Sender<RawMessage>>,
    /// What a modern server may ask of the client in its results; legacy servers are asked on behalf of Troupe.
    pub client: ClientCapabilities,
    /// Where go what a legacy server asks meanwhile; without it such questions are refused.
    pub questions: Option<QuestionsTo>,
}

impl CallOptions {
    /// A request of Troupe's own.
    pub fn own(deadline: Deadline) -> Self {
        Self {
            deadline,
            principal: None,
            progress: None,
            client: ClientCapabilities::default(),
            questions: None,
        }
    }

    /// A request on somebody's behalf.
    pub fn on_behalf_of(principal: Principal, deadline: Deadline) -> Self {
        Self {
            principal: Some(principal),
            ..Self::own(deadline)
        }
    }
}

/// What happens to connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamEvent {
    /// Calls to the server are answered.
    Up {
        /// The server.
        server: ServerName,
        /// The era it speaks.
        era: Era,
    },
    /// The connection was lost, could not be made, or was ended.
    Down {
        /// The server.
        server: ServerName,
        /// Why.
        reason: String,
    },
    /// A list of the server's is not what it was.
    ListChanged {
        /// The server.
        server: ServerName,
        /// Which list.
        kind: ListKind,
    },
    /// A resource that was subscribed to has changed.
    ResourceUpdated {
        /// The server.
        server: ServerName,
        /// The resource.
        uri: String,
    },
}

/// What the actor of one server is told.
#[derive(IntoStaticStr)]
pub(super) enum UpstreamMessage {
    /// Somebody waits for a connection.
    Demanded,
    /// An attempt to connect has ended.
    Connected {
        attempt: u64,
        outcome: Result<Box<Connection>, UpstreamError>,
    },
    /// The server, or the link to it, says something unasked.
    Noticed(Notice),
    /// The pause before the next attempt is over.
    RetryDue(u64),
    /// The registered transport has changed.
    Reconfigured(Transport),
    /// Calls to the server are lost and it is left alone, or they are answered again.
    Turned(Turn),
    /// Answered when everything that was told before is done.
    Settled(Reply<()>),
}

/// What the starter is told.
#[derive(IntoStaticStr)]
pub(super) enum StarterMessage {
    /// Somebody needs a server that has no actor yet, for clients of this kind.
    Ensure(ServerName, Profile, Reply<Result<Arc<Slot>, UpstreamError>>),
    /// A server's entry has changed or is gone.
    ServerChanged(ServerName),
    /// Changes may have been missed.
    ServersChanged,
    /// Connections for a few clients may have become idle.
    SweepLanes,
    /// Servers may have come to this node: those that were in use go on here.
    TakeOver,
    /// Answered when everything that was asked before is done.
    Settled(Reply<()>),
}

impl Message for UpstreamMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

impl Message for StarterMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// The failure of an attempt in the words of the server's callers.
pub(super) fn connect_error(server: &ServerName, failure: ConnectFailure) -> UpstreamError {
    match failure {
        ConnectFailure::CommandNotFound { command, path } => UpstreamError::CommandNotFound { command, path },
        ConnectFailure::Other(Failure::NeedsLogin) => UpstreamError::NeedsLogin(server.clone()),
        ConnectFailure::Other(failure) => UpstreamError::Unreachable {
            server: server.clone(),
            reason: failure.reason(),
        },
    }
}
