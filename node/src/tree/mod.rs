//! The supervision tree of a node: which actors there are, in which order they start, and what they know of each
//! other. They stop in the reverse order.

mod builtin;
mod routing;
mod sealer;
mod sources;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::TcpListener as StdListener,
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::SecretString;
use tokio::{net::TcpSocket, time::Instant};
use troupe_actors::{
    access::{self, AccessError, FirstStart},
    audit::{self, AuditError, AuditSettings},
    cluster::ClusterHandle,
    conversation::{ConversationError, ConversationServices, ConversationsHandle},
    health::{self, HealthSettings},
    registry,
    runtime::{
        ActorPath, ChildSpec, Intensity, Mailbox, Root, Strategy, SupervisorSpec, System, SystemConfig,
    },
    session::{self, Gateway, GatewayLimits, SessionLimits, SessionsHandle},
    store::{Store, StoreError, WriteError},
    upstream::{UpstreamSettings, UpstreamsHandle},
    vault::{self, KeySource, VaultError, VaultKey},
};
use troupe_protocol::{id::NodeId, observe::ExitReason};
use ulid::Ulid;

use sealer::VaultSealer;
use sources::{RegisteredServers, VaultSecrets};

use crate::{
    config::{Config, ConfigError, read_secret_file},
    edge::{self, EdgeState, actor::Edge, listener::ConnectionLimits, live, state::Handles},
};

const EDGE_MAILBOX_MESSAGES_MAX: u32 = 16;
/// Connections that wait to be accepted. The standard library's 128 overflow when many clients come at once, and those
/// over it try again only after a second.
const CONNECTIONS_WAITING_MAX: u32 = 4_096;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The replicated records.
    #[error(transparent)]
    Records(#[from] WriteError),
    /// The vault.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The keys.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The audit log.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The conversations.
    #[error(transparent)]
    Conversations(#[from] ConversationError),
    /// The port.
    #[error("cannot listen on {address}: {reason}; choose another address with --listen")]
    Listen {
        /// As configured.
        address: std::net::SocketAddr,
        /// The system's words.
        reason: io::Error,
    },
    /// An actor.
    #[error("cannot start the supervision tree: {0}")]
    Tree(String),
}

/// A running node.
pub struct Node {
    /// What the edge knows: settings and handles.
    pub state: EdgeState,
    /// Its data folder.
    pub data: PathBuf,
    /// The first administrator's key, when there was none before.
    pub first_start: Option<FirstStart>,
    root: Root,
}

impl Node {
    /// Starts every part of a node. Returns before all of them have rebuilt their state: `/readyz` tells.
    ///
    /// # Errors
    /// When the data folder or the port cannot be had.
    pub async fn start(mut config: Config, join: Option<SecretString>) -> Result<Self, StartError> {
        if join.is_some() {
            return Err(StartError::Tree(
                "this version cannot join a cluster yet".to_owned(),
            ));
        }
        let data = config.data_dir()?;
        let store = open_store(&data).await?;
        let listener = listen(&mut config)?;
        let system = System::new(SystemConfig::default());
        let top = ActorPath::new("node");
        let intensity = Intensity {
            restarts_max: u32::try_from(config.runtime.restarts_max.get()).unwrap_or(u32::MAX),
            within: config.runtime.restart_window_ms.millis(),
        };
        let limits = ConnectionLimits::new(&config.edge);
        let replicated = [registry::TREES, vault::TREES, access::TREES].concat();
        store.adopt_former_trees(&replicated).await?;
        let first_start = access::prepare(&store).await?;
        let (access, access_child) = access::actor(&system, top.child("access"), &store)?;
        let events_max = config.audit.entries_max.get();
        let (audit_log, audit_child) =
            audit::actor(&system, top.child("audit"), &store, AuditSettings { events_max })?;
        let vault_key = VaultKey::open(&store, key_source(&config)?).await?;
        let (vault, vault_child) = vault::actor(&system, top.child("vault"), &store, vault_key)?;
        let sealer = Arc::new(VaultSealer(vault.clone()));
        let (registry_child, registry) = registry::child(&system, &store, sealer)?;
        let cluster = ClusterHandle::alone(node_id(&store).await?);
        let (upstreams, upstreams_child) = UpstreamsHandle::build(
            &system,
            top.child("upstreams"),
            upstream_settings(&config),
            Arc::new(RegisteredServers(registry.clone())),
            Arc::new(VaultSecrets(vault.clone())),
            cluster,
        );
        let (router, router_child) = routing::build(
            &system,
            top.child("router"),
            &config,
            &store,
            &registry,
            &upstreams,
        )?;
        let (sessions_child, sessions) = sessions_child(&system, top.child("sessions"), &config);
        let limits_of_calls = gateway_limits(&config);
        let gateway = Gateway::new(
            upstreams.clone(),
            registry.clone(),
            sessions.clone(),
            limits_of_calls,
        );
        let (health_child, health) = health::child(
            &system,
            top.child("health"),
            health_settings(&config),
            registry.clone(),
            upstreams.clone(),
        );
        let fares = health.clone();
        builtin::register(&system, &registry, &router, &upstreams, move || fares.view())?;
        let services = ConversationServices {
            store: store.clone(),
            router: router.clone(),
            caller: Arc::new(upstreams.clone()),
            call_within: config.upstream.call_timeout_ms.millis(),
        };
        let (conversations, conversations_child) =
            ConversationsHandle::build(&system, top.child("conversations"), services)?;
        let node_id = node_id(&store).await?;
        let cluster = ClusterHandle::alone(node_id);
        let node_name = cluster.membership().members[&node_id].name.clone();
        let handles = Handles {
            node_id,
            node_name,
            cluster,
            links: None,
            system: system.clone(),
            access,
            audit_log,
            vault,
            registry,
            upstreams,
            sessions,
            gateway,
            health,
            router,
            conversations,
        };
        let state = EdgeState::new(config, handles, top.child("edge"));
        let spec = SupervisorSpec::new(&system, top.clone())
            .strategy(Strategy::OneForOne)
            .intensity(intensity)
            .child(audit_child)
            .child(access_child)
            .child(vault_child)
            .child(registry_child)
            .child(upstreams_child)
            .child(health_child)
            .child(router_child)
            .child(conversations_child)
            .child(sessions_child)
            .child(live::child(&state, top.child("live")))
            .child(edge_child(&state, limits, listener));
        let root = system
            .start(spec)
            .await
            .map_err(|error| StartError::Tree(error.to_string()))?;
        Ok(Self {
            state,
            data,
            first_start,
            root,
        })
    }

    /// Waits until the tree ends by itself, which it only does when a supervisor gives up.
    pub async fn ended(&mut self) -> ExitReason {
        self.root.ended().await
    }

    /// Ends in order: takes no new requests, lets those in hand finish, then stops every actor.
    pub async fn shutdown(self) -> ExitReason {
        let deadline = Instant::now() + self.state.config.node.shutdown_timeout_ms.millis();
        self.state.stopping.cancel();
        let drained = async {
            while self.state.connections.open() > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout_at(deadline, drained).await.is_err() {
            tracing::warn!(
                connections = self.state.connections.open(),
                "cutting connections that did not end in time"
            );
        }
        self.root.shutdown().await
    }
}

async fn open_store(data: &Path) -> Result<Store, StartError> {
    let folder = data.to_owned();
    // Recovery after a crash reads the whole log: not on the runtime's threads.
    let opened = tokio::task::spawn_blocking(move || Store::open(&folder)).await;
    opened
        .map_err(|panic| StartError::Tree(panic.to_string()))?
        .map_err(StartError::Store)
}

fn upstream_settings(config: &Config) -> UpstreamSettings {
    let settings = &config.upstream;
    UpstreamSettings {
        message_bytes_max: settings.message_bytes_max.count(),
        calls_in_flight_max: settings.calls_in_flight_max.count(),
        start_timeout_ms: settings.start_timeout_ms.get(),
        probe_timeout_ms: settings.probe_timeout_ms.get(),
        stop_timeout_ms: settings.stop_timeout_ms.get(),
        restart_wait_ms_max: settings.restart_wait_ms_max.get(),
        backoff_ms_max: settings.backoff_ms_max.get(),
        list_age_ms_max: settings.list_age_ms_max.get(),
    }
}

fn health_settings(config: &Config) -> HealthSettings {
    HealthSettings {
        probe_interval: config.health.probe_interval_ms.millis(),
        probe_timeout: config.health.probe_timeout_ms.millis(),
        slow_from: config.health.slow_from_ms.millis(),
    }
}

fn gateway_limits(config: &Config) -> GatewayLimits {
    GatewayLimits {
        call_time_max: config.upstream.call_timeout_ms.millis(),
        ..GatewayLimits::default()
    }
}

fn sessions_child(system: &System, path: ActorPath, config: &Config) -> (ChildSpec, SessionsHandle) {
    let limits = SessionLimits {
        sessions_max: config.mcp.sessions_max.count(),
        idle_ms_max: config.mcp.session_idle_timeout_ms.get(),
        ..SessionLimits::default()
    };
    session::sessions(system, path, limits)
}

/// The node's identity: made at the first start, kept from then on.
async fn node_id(store: &Store) -> Result<NodeId, StoreError> {
    const KEY: &str = "node_id";
    let identity = store.tree::<NodeId>("node", 1)?;
    if let Some(known) = identity.get(KEY)? {
        return Ok(known);
    }
    let made = NodeId::from_ulid(Ulid::generate());
    identity.put(KEY, &made).await?;
    Ok(made)
}

fn key_source(config: &Config) -> Result<KeySource, ConfigError> {
    let file = config.vault.passphrase_file.as_str();
    if file.is_empty() {
        return Ok(KeySource::File);
    }
    Ok(KeySource::Passphrase(read_secret_file(
        "vault.passphrase_file",
        file,
    )?))
}

/// Binds the port; port 0 becomes the one that the system gave.
fn listen(config: &mut Config) -> Result<Arc<StdListener>, StartError> {
    let address = config.edge.listen;
    let bind = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // As the standard library does: a node that is started again need not wait for old connections to time out.
        #[cfg(not(windows))]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(CONNECTIONS_WAITING_MAX)?;
        Ok((listener.local_addr()?, listener.into_std()?))
    };
    let (bound, listener) = bind().map_err(|reason| StartError::Listen { address, reason })?;
    config.edge.listen = bound;
    Ok(Arc::new(listener))
}

fn edge_child(state: &EdgeState, limits: ConnectionLimits, listener: Arc<StdListener>) -> ChildSpec {
    let mailbox = Mailbox::new(&state.system, state.edge_path.clone(), EDGE_MAILBOX_MESSAGES_MAX);
    let router = edge::router(state.clone());
    let state = state.clone();
    ChildSpec::actor(mailbox, move || {
        Edge::new(
            state.clone(),
            router.clone(),
            limits.clone(),
            Arc::clone(&listener),
        )
    })
}
