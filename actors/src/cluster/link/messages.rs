//! How the rest of the node talks to other nodes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast;
use troupe_protocol::cluster::{Generation, LinkStatus};
use troupe_protocol::id::NodeId;

use super::error::LinkError;
use super::service::{LinkService, Service};
use super::stream::LinkStream;
use crate::runtime::Deadline;

/// Another node of the cluster and where it listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Who.
    pub id: NodeId,
    /// Where, as `host:port`.
    pub address: String,
}

/// A link came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// It is open.
    Up {
        /// To whom.
        node: NodeId,
        /// Which of the other node's starts.
        generation: Generation,
    },
    /// It is closed; another attempt follows.
    Down {
        /// To whom.
        node: NodeId,
    },
}

/// A stream of bytes to or from another node, whose certificate has been checked.
pub type NodeStream = tokio_rustls::TlsStream<tokio::net::TcpStream>;

/// A stream on which another node speaks HTTP to this one.
#[derive(Debug)]
pub struct HttpStream {
    /// Who, as its certificate says.
    pub from: NodeId,
    /// The stream.
    pub stream: NodeStream,
}

/// This node's links to all others. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LinksHandle {
    _private: (),
}

impl LinksHandle {
    /// Asks a service of another node. It ends in any case: with the answer, at the deadline, or when the link ends.
    ///
    /// # Errors
    /// See [`LinkError`].
    pub async fn ask(
        &self,
        to: NodeId,
        service: Service,
        request: Bytes,
        deadline: Deadline,
    ) -> Result<Bytes, LinkError> {
        let _ = (service, request, deadline);
        Err(LinkError::Unreachable { node: to })
    }

    /// Asks as [`ask`](Self::ask), with parts (progress, pieces of a long answer, events) before the answer.
    ///
    /// # Errors
    /// See [`LinkError`]; what goes wrong later comes as the stream's end.
    pub async fn stream(
        &self,
        to: NodeId,
        service: Service,
        request: Bytes,
        deadline: Deadline,
    ) -> Result<LinkStream, LinkError> {
        let _ = (service, request, deadline);
        Err(LinkError::Unreachable { node: to })
    }

    /// Tells a service of another node something: at most once, without an answer.
    ///
    /// # Errors
    /// [`LinkError::Unreachable`], [`LinkError::Overloaded`], [`LinkError::TooLarge`].
    pub fn tell(&self, to: NodeId, service: Service, message: Bytes) -> Result<(), LinkError> {
        let _ = (service, message);
        Err(LinkError::Unreachable { node: to })
    }

    /// Says who answers for a service at this node.
    pub fn serve(&self, service: Service, handler: Arc<dyn LinkService>) {
        let _ = (service, handler);
    }

    /// Says which nodes there are: the whole set, at each change of it. Of two nodes the one with the lower id dials.
    /// Links to nodes that are no longer among them are closed and not accepted again.
    pub fn connect_to(&self, peers: Vec<Peer>) {
        let _ = peers;
    }

    /// Where each link stands.
    pub fn status(&self) -> Vec<LinkStatus> {
        Vec::new()
    }

    /// Links that come and go. Who lags reads [`status`](Self::status) again.
    pub fn subscribe(&self) -> broadcast::Receiver<LinkEvent> {
        broadcast::channel(1).1
    }

    /// Opens a stream to the HTTP service of another node (`troupe-http/1`).
    ///
    /// # Errors
    /// [`LinkError::Unreachable`], [`LinkError::DeadlineExceeded`].
    pub async fn connect_http(&self, to: NodeId, deadline: Deadline) -> Result<NodeStream, LinkError> {
        let _ = deadline;
        Err(LinkError::Unreachable { node: to })
    }
}
