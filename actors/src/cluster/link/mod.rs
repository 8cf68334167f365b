//! Links: how the nodes of a cluster talk.
//!
//! A link is what one node has to another for as long as both are members: a connection at a time, made again whenever
//! it is lost. Over it nodes ask each other's services, with deadlines, and every ask ends: answered, at its deadline, or
//! at once when the connection ends.
//!
//! # Layout
//! - `messages`: [`LinksHandle`], with which the rest of the node asks, tells and streams
//! - `service`: [`LinkService`], what a node implements to be asked; `stream`: parts before the answer
//! - `actor`: the actor that keeps the links; `state` decides which there are, who dials and who is let in
//! - `port`: accepts; `handshake`: TLS, hellos, session, on both sides
//! - `connection`: one connection: what is asked over it; `serving`: what is answered; `incoming`: what comes in
//! - `outbox`: what goes when: small ahead of large, and no more under way than the window; `assembly`: its counterpart
//! - `pulse`: round trips, clocks, and when a silent peer is dead
//! - [`bench`]: what a link costs
//! - `session`: ractor_cluster, which carries the batches; `transport`: the stream as it gets it; `crypt`: its TLS
//!
//! State here is cached. The path of an ask touches no mailbox but those of ractor_cluster.

mod actor;
mod assembly;
pub mod bench;
mod connection;
mod crypt;
mod error;
mod handshake;
mod incoming;
mod messages;
mod outbox;
mod port;
mod pulse;
mod service;
mod serving;
mod session;
mod settings;
mod shared;
mod state;
mod stream;
mod transport;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};
use troupe_protocol::cluster::Generation;
use troupe_protocol::id::ActorPath;

use crate::cluster::identity::ClusterIdentity;
use crate::runtime::{ChildSpec, Mailbox, System, mailbox};

pub use error::{LinkError, ServiceError};
pub use messages::{Gate, HttpStream, LinkEvent, LinksHandle, NodeStream, Peer};
pub use port::NodePort;
pub use service::{LinkContext, LinkService, Service};
pub use settings::LinkSettings;
pub use stream::{LinkStream, PartSender, StreamItem};

use actor::Links;
use connection::PeerStart;
use settings::HTTP_STREAMS_MAX;
use shared::Shared;

/// Events that may wait for one slow subscriber.
const EVENTS_MAX: usize = 256;

/// The links of a node, before they start.
#[derive(Debug)]
pub struct NodeLinks {
    /// With which the rest of the node talks to others; usable at once, reaching nobody before the actor runs.
    pub handle: LinksHandle,
    /// The actor.
    pub child: ChildSpec,
    /// Streams on which other nodes speak HTTP to this one, to be served by somebody.
    pub http: mpsc::Receiver<HttpStream>,
}

/// Makes the links of a node that has an identity, on a port that is bound.
pub fn links(
    system: &System,
    path: ActorPath,
    identity: Arc<ClusterIdentity>,
    generation: Generation,
    port: NodePort,
    settings: LinkSettings,
) -> NodeLinks {
    let mailbox = Mailbox::new(system, path, mailbox::MESSAGES_MAX);
    let (http, http_accepted) = mpsc::channel(HTTP_STREAMS_MAX);
    let own = PeerStart {
        node: identity.node(),
        generation,
        instance: fastrand::u64(..),
    };
    let events = broadcast::Sender::new(EVENTS_MAX);
    let shared = Shared::new(own, identity, settings, mailbox.clone(), events, http);
    let handle = LinksHandle {
        shared: Arc::clone(&shared),
    };
    let child = ChildSpec::actor(mailbox, move || Links::new(Arc::clone(&shared), port.clone()));
    NodeLinks {
        handle,
        child,
        http: http_accepted,
    }
}
