//! What every request handler can reach: the settings and the handles of the actors.

use std::{sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;
use troupe_protocol::access::Principal;

use super::{listener::ConnectionCounts, origin::Neighbourhood};
use crate::config::Config;

/// Shared by all handlers; cheap to clone.
#[derive(Clone)]
pub struct EdgeState(Arc<Shared>);

/// See [`EdgeState`].
pub struct Shared {
    /// The settings in force.
    pub config: Config,
    /// Which hosts and origins are ours.
    pub neighbourhood: Neighbourhood,
    /// When the node started.
    pub started: Instant,
    /// Open and refused connections.
    pub connections: ConnectionCounts,
    /// Cancelled when the node begins to stop: streams end themselves.
    pub stopping: CancellationToken,
}

impl std::ops::Deref for EdgeState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl EdgeState {
    /// The state for these settings.
    pub fn new(config: Config) -> Self {
        let edge = &config.edge;
        let neighbourhood = Neighbourhood::new(edge.listen, &edge.hosts_allowed, &edge.origins_allowed);
        Self(Arc::new(Shared {
            config,
            neighbourhood,
            started: Instant::now(),
            connections: ConnectionCounts::default(),
            stopping: CancellationToken::new(),
        }))
    }

    /// Who holds this key.
    pub fn authenticate_key(&self, _presented: &str) -> Option<Principal> {
        None
    }

    /// Whose browser session this is.
    pub fn authenticate_session(&self, _token: &str) -> Option<Principal> {
        None
    }
}
