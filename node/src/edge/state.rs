//! What every request handler can reach: the settings and the handles of the actors.

use std::{sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;
use troupe_actors::{
    access::AccessHandle,
    audit::{AuditHandle, NewAuditEvent},
    registry::RegistryHandle,
    router::RouterHandle,
    runtime::{ActorPath, System},
    session::{Gateway, SessionsHandle},
    upstream::UpstreamsHandle,
    vault::VaultHandle,
};
use troupe_protocol::{
    access::Principal,
    id::NodeId,
};

use super::{Caller, body::BodyBudget, listener::ConnectionCounts, origin::Neighbourhood};
use crate::config::Config;

/// Shared by all handlers; cheap to clone.
#[derive(Clone)]
pub struct EdgeState(Arc<Shared>);

/// What reaches the actors of the node.
pub struct Handles {
    /// This node.
    pub node_id: NodeId,
    /// All actors: reports, traces, dead letters.
    pub system: System,
    /// Keys, login codes, browser sessions.
    pub access: AccessHandle,
    /// Who did what.
    pub audit_log: AuditHandle,
    /// Secrets.
    pub vault: VaultHandle,
    /// Registered servers.
    pub registry: RegistryHandle,
    /// Live connections to servers.
    pub upstreams: UpstreamsHandle,
    /// Legacy MCP clients' sessions.
    pub sessions: SessionsHandle,
    /// Answers MCP clients.
    pub gateway: Gateway,
    /// Finds and chooses tools.
    pub router: RouterHandle,
}

/// See [`EdgeState`].
pub struct Shared {
    /// The settings in force.
    pub config: Config,
    /// The actors.
    pub handles: Handles,
    /// Where the edge stands in the supervision tree.
    pub edge_path: ActorPath,
    /// Which hosts and origins are ours.
    pub neighbourhood: Neighbourhood,
    /// When the node started.
    pub started: Instant,
    /// Open and refused connections.
    pub connections: ConnectionCounts,
    /// What the bodies of all requests in hand may hold together.
    pub bodies: BodyBudget,
    /// Cancelled when the node begins to stop: streams end themselves.
    pub stopping: CancellationToken,
}

impl std::ops::Deref for EdgeState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl std::ops::Deref for Shared {
    type Target = Handles;

    fn deref(&self) -> &Handles {
        &self.handles
    }
}

impl EdgeState {
    /// The state for these settings.
    pub fn new(config: Config, handles: Handles, edge_path: ActorPath) -> Self {
        let edge = &config.edge;
        let neighbourhood = Neighbourhood::new(edge.listen, &edge.hosts_allowed, &edge.origins_allowed);
        Self(Arc::new(Shared {
            config,
            handles,
            edge_path,
            neighbourhood,
            started: Instant::now(),
            connections: ConnectionCounts::default(),
            bodies: BodyBudget::default(),
            stopping: CancellationToken::new(),
        }))
    }

    /// Writes down who did what, and how it ended.
    pub fn audit<T, E: std::fmt::Display>(
        &self,
        caller: &Caller,
        action: &str,
        subject: &str,
        outcome: &Result<T, E>,
    ) {
        let event = NewAuditEvent::new(&caller.principal, action.to_owned(), subject);
        self.audit_log.record(match outcome {
            Ok(_) => event,
            Err(error) => event.failed(error),
        });
    }

    /// Writes down that somebody did something, and succeeded.
    pub fn record(&self, principal: &Principal, action: &'static str, subject: &str) {
        self.audit_log.record(NewAuditEvent::new(principal, action, subject));
    }

    /// What opens the UI and signs in with this code.
    pub fn login_url(&self, code: &str) -> String {
        format!("http://{}/#/login?code={code}", self.config.edge.listen)
    }

    /// Who holds this key.
    pub fn authenticate_key(&self, presented: &str) -> Option<Principal> {
        self.access.authenticate(presented)
    }

    /// Whose browser session this is.
    pub fn authenticate_session(&self, token: &str) -> Option<Principal> {
        self.access.authenticate_session(token)
    }
}
