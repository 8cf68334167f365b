//! The port on which other nodes reach this one.
//!
//! Accepting never waits for anybody: each connection shakes hands in a task of its own, for a few seconds at most. When
//! too many do so at once, the oldest is ended of those that have shown neither a certificate nor a join string that is
//! known: honest peers take milliseconds for that, so the oldest are those that waste time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{AbortHandle, JoinSet};

use super::handshake;
use super::settings::HANDSHAKES_MAX;
use super::shared::Shared;

/// The pause after the system refused to accept (it has no file descriptors left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The bound port of a node, before its links start.
#[derive(Debug, Clone)]
pub struct NodePort {
    listener: Arc<TcpListener>,
    address: SocketAddr,
}

impl NodePort {
    /// Binds an address; port 0 becomes one that the system gives.
    ///
    /// # Errors
    /// When the system refuses, as when the port is taken.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener: Arc::new(listener),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Whether a connection has shown that it is made by one that belongs here.
#[derive(Debug, Clone, Default)]
pub(super) struct Proof(Arc<AtomicBool>);

impl Proof {
    pub(super) fn give(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_given(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Accepts connections until it is dropped, and all handshakes with it.
pub(super) async fn serve(shared: Arc<Shared>, port: NodePort) {
    let mut handshakes = JoinSet::new();
    let mut oldest_first: VecDeque<(AbortHandle, Proof)> = VecDeque::new();
    loop {
        tokio::select! {
            accepted = port.listener.accept() => match accepted {
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the node port");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Ok((tcp, from)) => {
                    let (shared, proof) = (Arc::clone(&shared), Proof::default());
                    let given = proof.clone();
                    let handshake = handshakes.spawn(async move {
                        if let Err(error) = handshake::accept(shared, tcp, given).await {
                            tracing::debug!(%from, %error, "a connection to the node port came to nothing");
                        }
                    });
                    oldest_first.push_back((handshake, proof));
                }
            },
            Some(_) = handshakes.join_next() => {}
        }
        oldest_first.retain(|(handshake, proof)| !handshake.is_finished() && !proof.is_given());
        while oldest_first.len() > HANDSHAKES_MAX {
            if let Some((oldest, _)) = oldest_first.pop_front() {
                oldest.abort();
            }
        }
    }
}
