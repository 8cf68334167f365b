//! What the handle, the actor and the connections of a node's links have in common.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{broadcast, mpsc, watch};
use troupe_protocol::cluster::frame::Hello;
use troupe_protocol::cluster::{LinkState, LinkStatus};
use troupe_protocol::id::NodeId;

use super::actor::LinksMessage;
use super::connection::{Connection, PeerStart};
use super::error::ServiceError;
use super::messages::{Gate, HttpStream, LinkEvent};
use super::service::{LinkService, SERVICES_MAX, Service};
use super::session::Supervisor;
use super::settings::LinkSettings;
use crate::cluster::identity::{ClusterIdentity, EnrolDesk};
use crate::runtime::Mailbox;

/// Who answers for what at this node.
#[derive(Default)]
pub(super) struct Services(ArcSwap<[Option<Arc<dyn LinkService>>; SERVICES_MAX]>);

impl Services {
    pub(super) fn get(&self, service: u8) -> Option<Arc<dyn LinkService>> {
        self.0.load().get(usize::from(service)).cloned().flatten()
    }

    pub(super) fn set(&self, service: Service, handler: &Arc<dyn LinkService>) {
        self.0.rcu(|services| {
            let mut services = (**services).clone();
            services[service as usize] = Some(Arc::clone(handler));
            services
        });
    }
}

/// What is known of a link beside its connection.
#[derive(Debug, Default, Clone)]
pub(super) struct Standing {
    /// Where the peer listens; nothing if it only ever dialled us.
    pub address: Option<String>,
    pub is_connecting: bool,
    pub opened: u32,
    pub last_error: Option<String>,
}

/// Under whom sessions run in this life of the actor.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub dispatcher: u64,
    pub supervisor: Supervisor,
}

pub(super) struct Shared {
    pub own: PeerStart,
    pub identity: Arc<ClusterIdentity>,
    pub settings: LinkSettings,
    pub services: Arc<Services>,
    pub mailbox: Mailbox<LinksMessage>,
    pub events: broadcast::Sender<LinkEvent>,
    pub http: mpsc::Sender<HttpStream>,
    pub desk: RwLock<Option<Arc<dyn EnrolDesk>>>,
    pub ground: RwLock<Option<Ground>>,
    /// The connection of each link that has one. Written by the actor only.
    pub live: ArcSwap<HashMap<NodeId, Arc<Connection>>>,
    /// Who of those with a certificate may come in.
    pub gate: RwLock<Option<Arc<dyn Gate>>>,
    /// What the first peer said that refused this node because it was removed.
    pub dismissed: watch::Sender<Option<String>>,
    by_key: RwLock<HashMap<u64, Arc<Connection>>>,
    /// Written by the actor only.
    pub board: Mutex<BTreeMap<NodeId, Standing>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Links({})", self.own.node)
    }
}

impl Shared {
    pub(super) fn new(
        own: PeerStart,
        identity: Arc<ClusterIdentity>,
        settings: LinkSettings,
        mailbox: Mailbox<LinksMessage>,
        events: broadcast::Sender<LinkEvent>,
        http: mpsc::Sender<HttpStream>,
    ) -> Arc<Self> {
        Arc::new(Self {
            own,
            identity,
            settings,
            services: Arc::default(),
            mailbox,
            events,
            http,
            desk: RwLock::default(),
            ground: RwLock::default(),
            live: ArcSwap::default(),
            gate: RwLock::default(),
            dismissed: watch::Sender::default(),
            by_key: RwLock::default(),
            board: Mutex::default(),
        })
    }

    /// The open connection to a node.
    pub(super) fn connection(&self, node: NodeId) -> Option<Arc<Connection>> {
        let live = self.live.load();
        let connection = live.get(&node).filter(|connection| !connection.has_ended());
        connection.cloned()
    }

    /// Whether a node may come in. Its certificate is good; so is that of one that was removed.
    pub(super) fn let_in(&self, node: NodeId) -> Result<(), ServiceError> {
        match self.gate.read().as_ref() {
            Some(gate) => gate.let_in(node),
            None => Ok(()),
        }
    }

    /// The connection whose batches carry this key.
    pub(super) fn by_key(&self, key: u64) -> Option<Arc<Connection>> {
        self.by_key.read().get(&key).cloned()
    }

    pub(super) fn enter(&self, connection: &Arc<Connection>) {
        let key = connection.agreement().own_key;
        self.by_key.write().insert(key, Arc::clone(connection));
    }

    /// Forgets connections that have ended.
    pub(super) fn sweep(&self) {
        self.by_key
            .write()
            .retain(|_, connection| !connection.has_ended());
    }

    /// Ends every connection: a new life of the actor begins with none.
    pub(super) fn end_all(&self, reason: &str) {
        for connection in self.by_key.write().drain().map(|(_, connection)| connection) {
            connection.end(reason);
        }
        self.live.store(Arc::default());
    }

    /// How this node introduces itself on a new connection, and the key it has drawn for it.
    pub(super) fn hello(&self, ground: &Ground) -> Hello {
        let (wire_min, wire_max) = self.settings.wire_versions;
        Hello {
            wire_min,
            wire_max,
            node: self.own.node,
            generation: self.own.generation,
            instance: self.own.instance,
            dispatcher: ground.dispatcher,
            key: fastrand::u64(1..),
            timing: self.settings.timing,
        }
    }

    pub(super) fn status(&self) -> Vec<LinkStatus> {
        let board = self.board.lock().clone();
        let status = |(node, standing): (NodeId, Standing)| {
            let connection = self.connection(node);
            let state = match (&connection, standing.is_connecting) {
                (Some(_), _) => LinkState::Up,
                (None, true) => LinkState::Connecting,
                (None, false) => LinkState::Down,
            };
            let connection = connection.as_deref();
            let pulse = connection.and_then(|connection| connection.pulse().last());
            let figure = |read: fn(&Connection) -> u64| connection.map_or(0, read);
            LinkStatus {
                node,
                state,
                round_trip_us: pulse.map(|(round_trip_us, _)| round_trip_us),
                clock_skew_ms: pulse.map(|(_, skew_ms)| skew_ms),
                bytes_out: figure(|connection| connection.traffic().bytes_out()),
                bytes_in: figure(|connection| connection.traffic().bytes_in()),
                in_flight_bytes: figure(|connection| connection.in_flight_bytes() as u64),
                wire_version: connection.map_or(0, |connection| connection.agreement().wire_version),
                opened: standing.opened,
                last_error: standing.last_error,
            }
        };
        board.into_iter().map(status).collect()
    }
}
