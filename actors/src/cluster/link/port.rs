//! The port on which other nodes reach this one.
//!
//! Accepting never waits for anybody: each connection shakes hands in a task of its own, for a few seconds at most. When
//! too many do so at once, the oldest is ended: honest peers take milliseconds, so the oldest are those that waste time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
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

/// Accepts connections until it is dropped, and all handshakes with it.
pub(super) async fn serve(shared: Arc<Shared>, port: NodePort) {
    let mut handshakes = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            accepted = port.listener.accept() => match accepted {
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the node port");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Ok((tcp, from)) => {
                    let shared = Arc::clone(&shared);
                    oldest_first.push_back(handshakes.spawn(async move {
                        if let Err(error) = handshake::accept(shared, tcp).await {
                            tracing::debug!(%from, %error, "a connection to the node port came to nothing");
                        }
                    }));
                }
            },
            Some(_) = handshakes.join_next() => {}
        }
        oldest_first.retain(|handshake| !handshake.is_finished());
        while oldest_first.len() > HANDSHAKES_MAX {
            if let Some(oldest) = oldest_first.pop_front() {
                oldest.abort();
            }
        }
    }
}
