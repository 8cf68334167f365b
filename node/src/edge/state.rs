//! What every request handler can reach: the settings and the handles of the actors.

use std::{
    borrow::Cow,
    fmt::Display,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use tokio_util::sync::CancellationToken;
use troupe_actors::{
    access::AccessHandle,
    audit::{AuditHandle, NewAuditEvent},
    cluster::ClusterHandle,
    conversation::ConversationsHandle,
    health::HealthHandle,
    registry::{RegistryHandle, VirtualServersHandle},
    router::RouterHandle,
    runtime::{ActorPath, Deadline, System},
    session::{Gateway, SessionsHandle},
    upstream::UpstreamsHandle,
    vault::VaultHandle,
};
use troupe_protocol::{
    access::Principal,
    cluster::{Epoch, NodeName},
    id::NodeId,
};

use super::mcp::OpenStreams;
use super::{
    Caller,
    audited::{Audited, FailedSignIns},
    body::BodyBudget,
    listener::ConnectionCounts,
    live::LiveChannels,
    origin::Neighbourhood,
    peer::PeerConnections,
};
use crate::config::Config;

/// Shared by all handlers; cheap to clone.
#[derive(Clone)]
pub struct EdgeState(Arc<Shared>);

/// What reaches the actors of the node.
pub struct Handles {
    /// This node.
    pub node_id: NodeId,
    /// What people call it.
    pub node_name: NodeName,
    /// The cluster it belongs to.
    pub cluster: ClusterHandle,
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
    /// Parts of several servers, offered as one.
    pub virtual_servers: VirtualServersHandle,
    /// Live connections to servers.
    pub upstreams: UpstreamsHandle,
    /// Legacy MCP clients' sessions.
    pub sessions: SessionsHandle,
    /// Answers MCP clients.
    pub gateway: Gateway,
    /// How servers fare.
    pub health: HealthHandle,
    /// Finds and chooses tools.
    pub router: RouterHandle,
    /// Questions and answers.
    pub conversations: ConversationsHandle,
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
    /// Open connections of other nodes.
    pub peer_connections: ConnectionCounts,
    /// Where events for live clients go.
    pub live: LiveChannels,
    /// Connections to other nodes.
    pub peers: PeerConnections,
    /// The streams of MCP clients of the first revision.
    pub first_revision: OpenStreams,
    failed_sign_ins: FailedSignIns,
    live_clients: Arc<AtomicUsize>,
    has_been_ready: AtomicBool,
    /// What the bodies of all requests in hand may hold together.
    pub bodies: BodyBudget,
    /// Cancelled when the node begins to leave: it still answers, and others take over what it runs.
    pub leaving: CancellationToken,
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
        let live = LiveChannels::new(edge.live_queue_events_max.count());
        let neighbourhood = Neighbourhood::new(edge.listen, &edge.hosts_allowed, &edge.origins_allowed);
        Self(Arc::new(Shared {
            config,
            handles,
            edge_path,
            neighbourhood,
            started: Instant::now(),
            connections: ConnectionCounts::default(),
            peer_connections: ConnectionCounts::default(),
            live,
            peers: PeerConnections::default(),
            first_revision: OpenStreams::default(),
            failed_sign_ins: FailedSignIns::default(),
            live_clients: Arc::default(),
            has_been_ready: AtomicBool::new(false),
            bodies: BodyBudget::default(),
            leaving: CancellationToken::new(),
            stopping: CancellationToken::new(),
        }))
    }

    /// Whether every part has started, on a state that the cluster has agreed on. A part that is started again later does
    /// not make the node unready.
    pub fn is_ready(&self) -> bool {
        if self.leaving.is_cancelled() || self.stopping.is_cancelled() {
            return false;
        }
        let has_state = self.cluster.membership().epoch > Epoch(0);
        let ready = self.has_been_ready.load(Ordering::Relaxed)
            || (has_state && self.system.directory().all_started());
        self.has_been_ready.store(ready, Ordering::Relaxed);
        ready
    }

    /// A place for one more live client, if there is one.
    pub fn enter_live(&self) -> Option<LiveClient> {
        let places_max = self.config.edge.live_clients_max.count();
        let enter = |taken| (taken < places_max).then_some(taken + 1);
        let entered = self
            .live_clients
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter);
        entered
            .is_ok()
            .then(|| LiveClient(Arc::clone(&self.live_clients)))
    }

    /// Live clients there are.
    pub fn live_clients(&self) -> usize {
        self.live_clients.load(Ordering::Relaxed)
    }

    /// To be made before somebody changes something: whatever becomes of the request, it is written down.
    pub fn auditing(&self, caller: &Caller, action: impl Into<Cow<'static, str>>, subject: &str) -> Audited {
        Audited::begin(&self.audit_log, &caller.principal, action, subject)
    }

    /// Writes down who did what, and how it ended; for what is done at once.
    pub fn audit<T, E: Display>(&self, caller: &Caller, action: &str, subject: &str, outcome: &Result<T, E>) {
        self.auditing(caller, action.to_owned(), subject).ended(outcome);
    }

    /// Writes down that somebody could not sign in, if there were not too many of them.
    pub fn audit_failed_sign_in(&self, from: Option<SocketAddr>, error: &impl Display) {
        if self.failed_sign_ins.count(Instant::now()) {
            let subject = from.map_or_else(String::new, |from| from.ip().to_string());
            let event = NewAuditEvent::new(&Principal::anonymous(), "session.open", subject);
            self.audit_log.record(event.refused(error));
        }
    }

    /// For how long an actor may work on a request: the refusal is to come before the request's own time is over.
    pub fn work_deadline(&self) -> Deadline {
        Deadline::within(self.config.edge.request_timeout_ms.millis() * 9 / 10)
    }

    /// Writes down that somebody did something, and succeeded.
    pub fn record(&self, principal: &Principal, action: &'static str, subject: &str) {
        self.audit_log
            .record(NewAuditEvent::new(principal, action, subject));
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

/// The place of a live client; free again when dropped.
pub struct LiveClient(Arc<AtomicUsize>);

impl Drop for LiveClient {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
