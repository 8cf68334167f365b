//! How the rest of the node talks to other nodes.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use troupe_protocol::cluster::{Generation, LinkStatus};
use troupe_protocol::id::NodeId;
use troupe_protocol::wire::MESSAGE_BYTES_MAX;

use super::actor::LinksMessage;
use super::connection::Connection;
use super::error::{LinkError, ServiceError};
use super::handshake;
use super::service::{LinkContext, LinkService, Service};
use super::shared::Shared;
use super::stream::{LinkStream, PartSender, remote_error};
use crate::cluster::identity::{EnrolDesk, Protocol};
use crate::runtime::{Deadline, trace};

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

/// Decides which other nodes may have connections to this one.
pub trait Gate: Send + Sync + 'static {
    /// Lets a node in whose certificate is good, or says why not.
    ///
    /// # Errors
    /// Why it may not come in: it is told so.
    fn let_in(&self, node: NodeId) -> Result<(), ServiceError>;
}

/// This node's links to all others. Cheap to clone.
///
/// A node may also ask itself: its services answer directly.
#[derive(Debug, Clone)]
pub struct LinksHandle {
    pub(super) shared: Arc<Shared>,
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
        if to == self.shared.own.node {
            return self.ask_self(service, request, deadline).await;
        }
        self.connection(to)?.ask(service, request, deadline).await
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
        if to == self.shared.own.node {
            let handler = self.own_service(service)?;
            let begin = |parts| handler.ask(to, request, context(deadline, parts));
            return Ok(LinkStream::local(to, deadline, begin));
        }
        let connection = self.connection(to)?;
        let (question, items) = connection.open_stream(service, request, deadline).await?;
        Ok(LinkStream::remote(to, deadline, question, items))
    }

    /// Tells a service of another node something: at most once, without an answer. Messages of up to 4 KiB overtake
    /// larger ones.
    ///
    /// # Errors
    /// [`LinkError::Unreachable`], [`LinkError::Overloaded`], [`LinkError::TooLarge`].
    pub fn tell(&self, to: NodeId, service: Service, message: Bytes) -> Result<(), LinkError> {
        if to == self.shared.own.node {
            self.own_service(service)?.tell(to, message);
            return Ok(());
        }
        self.connection(to)?.tell(service, &message)
    }

    /// Says who answers for a service at this node.
    pub fn serve(&self, service: Service, handler: Arc<dyn LinkService>) {
        self.shared.services.set(service, &handler);
    }

    /// Says who decides about newcomers. Without it none is taken in.
    pub fn enrol_with(&self, desk: Arc<dyn EnrolDesk>) {
        *self.shared.desk.write() = Some(desk);
    }

    /// Says which nodes there are: the whole set, at each change of it. Of two nodes the one with the lower id dials
    /// first.
    /// Links to nodes that are no longer among them are closed and not accepted again.
    pub fn connect_to(&self, peers: Vec<Peer>) {
        // Refused only when the node is stopping or hopelessly behind; the next change brings the whole set again.
        let _ = self.shared.mailbox.tell(LinksMessage::ConnectTo(peers));
    }

    /// Says who decides which nodes may have connections. Without it all may that have a certificate of the cluster.
    pub fn guard_with(&self, gate: Arc<dyn Gate>) {
        *self.shared.gate.write() = Some(gate);
    }

    /// What another node said when it refused this one because it was removed from the cluster; nothing when none did.
    pub fn dismissed(&self) -> watch::Receiver<Option<String>> {
        self.shared.dismissed.subscribe()
    }

    /// Ends the connection to a node that is known to be gone, so that nobody waits for its answers; another is tried.
    pub fn cut(&self, node: NodeId, reason: &str) {
        let reason = reason.to_owned();
        let _ = self.shared.mailbox.tell(LinksMessage::Cut { node, reason });
    }

    /// Whether there is an open link to a node.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.shared.connection(node).is_some()
    }

    /// Since when the link to a node has been open, if it is.
    pub fn open_since(&self, node: NodeId) -> Option<Instant> {
        self.shared
            .connection(node)
            .map(|connection| connection.opened_at())
    }

    /// Where each link stands.
    pub fn status(&self) -> Vec<LinkStatus> {
        self.shared.status()
    }

    /// Links that come and go. Who lags reads [`status`](Self::status) again.
    pub fn subscribe(&self) -> broadcast::Receiver<LinkEvent> {
        self.shared.events.subscribe()
    }

    /// Completes when the link to a node goes down after this was called. A link notices that its peer is silent, which
    /// other connections to it do not.
    pub fn lost(&self, node: NodeId) -> impl Future<Output = ()> + Send + use<> {
        let mut events = self.subscribe();
        let links = self.clone();
        async move {
            loop {
                match events.recv().await {
                    Ok(LinkEvent::Down { node: lost }) if lost == node => return,
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) if links.is_up(node) => {}
                    Err(_) => return,
                }
            }
        }
    }

    /// Opens a stream to the HTTP service of another node (`troupe-http/1`).
    ///
    /// # Errors
    /// [`LinkError::Unreachable`], [`LinkError::DeadlineExceeded`].
    pub async fn connect_http(&self, to: NodeId, deadline: Deadline) -> Result<NodeStream, LinkError> {
        let address = self
            .shared
            .board
            .lock()
            .get(&to)
            .and_then(|standing| standing.address.clone());
        let unreachable = LinkError::Unreachable { node: to };
        let Some(address) = address else {
            return Err(unreachable);
        };
        let peer = Peer { id: to, address };
        let dialling = handshake::dial_tls(&self.shared, &peer, Protocol::Http);
        match tokio::time::timeout_at(deadline.instant(), dialling).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => {
                tracing::debug!(node = %to, %error, "no HTTP stream to the node");
                Err(unreachable)
            }
            Err(_) => Err(LinkError::DeadlineExceeded { node: to }),
        }
    }

    /// Takes no notice of what has been said until now of this node's removal: a majority knows better.
    pub fn forget_dismissal(&self) {
        self.shared.dismissed.send_replace(None);
    }

    fn connection(&self, to: NodeId) -> Result<Arc<Connection>, LinkError> {
        let connection = self.shared.connection(to);
        connection.ok_or(LinkError::Unreachable { node: to })
    }

    fn own_service(&self, service: Service) -> Result<Arc<dyn LinkService>, LinkError> {
        let node = self.shared.own.node;
        let handler = self.shared.services.get(service as u8);
        handler.ok_or(LinkError::Unreachable { node })
    }

    async fn ask_self(
        &self,
        service: Service,
        request: Bytes,
        deadline: Deadline,
    ) -> Result<Bytes, LinkError> {
        let node = self.shared.own.node;
        if request.len() > MESSAGE_BYTES_MAX {
            let bytes = request.len();
            return Err(LinkError::TooLarge { bytes });
        }
        let handler = self.own_service(service)?;
        let answering = handler.ask(node, request, context(deadline, PartSender::unwanted()));
        match tokio::time::timeout_at(deadline.instant(), answering).await {
            Ok(answered) => answered.map_err(remote_error),
            Err(_) => Err(LinkError::DeadlineExceeded { node }),
        }
    }
}

fn context(deadline: Deadline, parts: PartSender) -> LinkContext {
    LinkContext {
        deadline,
        trace: trace::current(),
        parts,
    }
}
