//! The actors that do a node's work, from the keys to the edge: each made with the handles of those it knows.

use std::{net::TcpListener as StdListener, sync::Arc};

use tokio::sync::{Mutex, mpsc};
use troupe_actors::{
    access,
    audit::{self, AuditSettings},
    cluster::{ClusterHandle, ServiceError, identity::ClusterKey, link::HttpStream},
    conversation::{ConversationServices, ConversationsHandle},
    health,
    openapi::Documents,
    registry::{self, virtual_servers},
    runtime::{ActorPath, ChildSpec, Mailbox, System},
    session::{
        self, Gateway,
        parked::{self, ParkingLimits, StateKey},
    },
    store::Store,
    upstream::UpstreamsHandle,
    vault::{self, VaultKey},
};
use troupe_protocol::cluster::NodeName;

use super::{
    StartError, builtin, routing,
    sealer::VaultSealer,
    settings,
    sources::{KeptSecrets, RegisteredServers},
};
use crate::{
    config::Config,
    edge::{self, EdgeState, actor::Edge, listener::ConnectionLimits, live, peer, state::Handles},
};

const EDGE_MAILBOX_MESSAGES_MAX: u32 = 16;

/// What the services stand on.
pub struct Ground<'a> {
    pub system: &'a System,
    /// Where they stand in the tree.
    pub top: &'a ActorPath,
    pub store: &'a Store,
    pub cluster: ClusterHandle,
    /// With which the vault's key is sealed.
    pub cluster_key: &'a ClusterKey,
    /// Streams on which other nodes speak HTTP to this one.
    pub peer_streams: mpsc::Receiver<HttpStream>,
    /// What people call this node.
    pub node_name: NodeName,
    /// The bound port for people and clients.
    pub listener: Arc<StdListener>,
}

/// Makes all services, and the actors in the order in which they are to be started.
pub async fn build(config: Config, ground: Ground<'_>) -> Result<(EdgeState, Vec<ChildSpec>), StartError> {
    let Ground {
        system,
        top,
        store,
        cluster,
        ..
    } = ground;
    let (access, access_child) = access::actor(system, top.child("access"), store)?;
    let keys = access.clone();
    cluster.before_removal(Arc::new(move |node| {
        let keys = keys.clone();
        Box::pin(async move {
            let revoked = keys.revoke_keys_of_node(node).await;
            revoked.map(drop).map_err(|error| ServiceError::from(&error))
        })
    }));
    let events_max = config.audit.entries_max.get();
    let (audit_log, audit_child) =
        audit::actor(system, top.child("audit"), store, AuditSettings { events_max })?;
    let key_source = settings::vault_key(&config, ground.cluster_key.as_bytes())?;
    let vault_key = VaultKey::open(store, key_source).await?;
    let (vault, vault_child) = vault::actor(system, top.child("vault"), store, vault_key)?;
    let sealer = Arc::new(VaultSealer(vault.clone()));
    let (registry_child, registry) = registry::child(system, store, sealer)?;
    let (virtual_servers_child, virtual_servers) =
        virtual_servers::child(system, top.child("virtual_servers"), store);
    let (upstreams, upstreams_child) = UpstreamsHandle::build(
        system,
        top.child("upstreams"),
        settings::upstreams(&config),
        Arc::new(RegisteredServers(registry.clone())),
        Arc::new(KeptSecrets {
            vault: vault.clone(),
            documents: Documents::new(store),
        }),
        cluster.clone(),
    );
    let (router, router_child) =
        routing::build(system, top.child("router"), &config, store, &registry, &upstreams)?;
    let (sessions_child, sessions) = session::sessions(
        system,
        top.child("sessions"),
        settings::sessions(&config),
        store,
        cluster.clone(),
    );
    let (parking_child, parking) = parked::parking(
        system,
        top.child("parking"),
        cluster.node_id(),
        StateKey::derive(ground.cluster_key.as_bytes()),
        ParkingLimits::default(),
    );
    let gateway = Gateway::new(
        upstreams.clone(),
        registry.clone(),
        virtual_servers.clone(),
        sessions.clone(),
        parking,
        settings::gateway(&config),
    );
    let (health_child, health) = health::child(
        system,
        top.child("health"),
        settings::health(&config),
        registry.clone(),
        upstreams.clone(),
        cluster.clone(),
    );
    let fares = health.clone();
    builtin::register(system, &registry, &router, &upstreams, move || fares.view())?;
    let services = ConversationServices {
        store: store.clone(),
        router: router.clone(),
        caller: Arc::new(upstreams.clone()),
        call_within: config.upstream.call_timeout_ms.millis(),
        cluster: cluster.clone(),
    };
    let (conversations, conversations_child) =
        ConversationsHandle::build(system, top.child("conversations"), services)?;
    let handles = Handles {
        node_id: cluster.node_id(),
        node_name: ground.node_name,
        cluster,
        system: system.clone(),
        access,
        audit_log,
        vault,
        registry,
        virtual_servers,
        upstreams,
        sessions,
        gateway,
        health,
        router,
        conversations,
    };
    let limits = ConnectionLimits::new(&config.edge);
    let state = EdgeState::new(config, handles, top.child("edge"));
    let pages = edge::router(state.clone());
    let peer_streams = Arc::new(Mutex::new(ground.peer_streams));
    let peers = peer::child(&state, top.child("peers"), pages.clone(), peer_streams);
    let children = vec![
        audit_child,
        access_child,
        vault_child,
        registry_child,
        virtual_servers_child,
        upstreams_child,
        health_child,
        router_child,
        conversations_child,
        sessions_child,
        parking_child,
        live::child(&state, top.child("live")),
        peers,
        edge_child(&state, pages, limits, ground.listener),
    ];
    Ok((state, children))
}

fn edge_child(
    state: &EdgeState,
    router: axum::Router,
    limits: ConnectionLimits,
    listener: Arc<StdListener>,
) -> ChildSpec {
    let mailbox = Mailbox::new(&state.system, state.edge_path.clone(), EDGE_MAILBOX_MESSAGES_MAX);
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
