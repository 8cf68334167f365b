//! The supervision tree of a node: which actors there are, in which order they start, and what they know of each
//! other. They stop in the reverse order.
//!
//! # Layout
//! - here: a node's life: store, then cluster, then services, and back;
//! - `cluster`: its place among other nodes; `services`: the actors that do its work;
//! - `ports`, `settings`: what they are given; `error`: why a node does not start;
//! - `routing`, `builtin`, `sealer`, `sources`: services that know several others.

mod builtin;
mod cluster;
mod error;
mod ports;
mod routing;
mod sealer;
mod services;
mod settings;
mod sources;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use tokio::time::Instant;
use troupe_actors::{
    access::{self, FirstStart},
    cluster::{StartedCluster, log::LogHandle},
    conversation, registry,
    runtime::{
        ActorPath, ChildSpec, Deadline, Root, Strategy, SupervisorHandle, SupervisorSpec, System,
        SystemConfig,
    },
    store::Store,
    vault,
};
use troupe_protocol::{cluster::NodeName, observe::ExitReason};

pub use error::{REMOVED, StartError};

use crate::{config::Config, edge::EdgeState};
use cluster::{Entered, Entrance};
use services::Ground;

/// Longest start of one child of the root; it only has to be taken in, not to have rebuilt its state.
const CHILD_START_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// A running node.
pub struct Node {
    /// What the edge knows: settings and handles.
    pub state: EdgeState,
    /// Its data folder.
    pub data: PathBuf,
    /// The administrator's key that this start has made: the cluster's first, or that of a machine that has joined.
    pub first_start: Option<FirstStart>,
    /// Whether this start brought the node into a cluster of others.
    pub has_joined: bool,
    foundation: Foundation,
}

impl Node {
    /// Starts every part of a node; with a join string, in the cluster that it leads to. Returns before all parts have
    /// rebuilt their state: `/readyz` tells.
    ///
    /// # Errors
    /// When the data folder or a port cannot be had, or the cluster does not take the node.
    pub async fn start(mut config: Config, join: Option<SecretString>) -> Result<Self, StartError> {
        let data = config.data_dir()?;
        let store = open_store(&data).await?;
        let listener = ports::listen(&mut config)?;
        let port = ports::node_port(&config.cluster, &store).await?;
        let system = System::new(SystemConfig::default());
        let top = ActorPath::new("node");
        let Entered {
            started,
            record,
            has_joined,
        } = cluster::enter(Entrance {
            config: &config,
            data: &data,
            store: &store,
            system: &system,
            path: top.child("cluster"),
            port,
            join: join.as_ref(),
        })
        .await?;
        let StartedCluster {
            handle: cluster,
            child,
            http,
            identity,
            links,
            log,
            ..
        } = started;
        // The log runs before the services do: what they write goes through it.
        let spec = SupervisorSpec::new(&system, top.clone())
            .strategy(Strategy::OneForOne)
            .intensity(settings::intensity(&config))
            .child(child);
        let supervisor = spec.handle();
        let root = system
            .start(spec)
            .await
            .map_err(|error| StartError::Tree(error.to_string()))?;
        let foundation = Foundation {
            log: log.clone(),
            store: store.clone(),
            root,
        };
        let raised = async {
            cluster::catch_up(&log, &links, record.id).await?;
            let node_name = cluster::name_of(&cluster, &record, &config)?;
            let first_start = prepare(&store, &node_name, has_joined).await?;
            let ground = Ground {
                system: &system,
                top: &top,
                store: &store,
                cluster,
                cluster_key: identity.cluster_key(),
                peer_streams: http,
                node_name,
                listener,
            };
            let (state, children) = services::build(config, ground).await?;
            start_all(&supervisor, children).await?;
            Ok((state, first_start))
        };
        match raised.await {
            Ok((state, first_start)) => Ok(Self {
                state,
                data,
                first_start,
                has_joined,
                foundation,
            }),
            Err(error) => {
                foundation.dismantle().await;
                Err(error)
            }
        }
    }

    /// Waits until the tree ends by itself, which it only does when a supervisor gives up.
    pub async fn ended(&mut self) -> ExitReason {
        self.foundation.root.ended().await
    }

    /// Waits until the cluster has removed this node.
    pub fn removed(&self) -> impl Future<Output = ()> + use<> {
        cluster::removed(self.state.cluster.clone())
    }

    /// Ends in order: others take over what runs here, no new requests are taken, those in hand finish, then every actor
    /// stops.
    pub async fn shutdown(self) -> ExitReason {
        self.state.leaving.cancel();
        let drain_within = self.state.config.cluster.drain_timeout_ms.millis();
        cluster::hand_over(&self.state.cluster, drain_within).await;
        let deadline = Instant::now() + self.state.config.node.shutdown_timeout_ms.millis();
        self.state.stopping.cancel();
        // What other nodes hand on is work in hand as well.
        let connections = || self.state.connections.open() + self.state.peer_connections.open();
        let drained = async {
            while connections() > 0 {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        if tokio::time::timeout_at(deadline, drained).await.is_err() {
            tracing::warn!(
                connections = connections(),
                "cutting connections that did not end in time"
            );
        }
        self.foundation.dismantle().await
    }
}

/// What stands before the services and after them.
struct Foundation {
    store: Store,
    log: LogHandle,
    root: Root,
}

impl Foundation {
    /// Stops every actor, then the log, and lets go of the data folder.
    async fn dismantle(self) -> ExitReason {
        let reason = self.root.shutdown().await;
        self.log.shut_down().await;
        self.store.end_replication();
        reason
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

/// Sees to it that the records which every cluster has are there, and that commands on this machine have a key.
async fn prepare(
    store: &Store,
    node_name: &NodeName,
    has_joined: bool,
) -> Result<Option<FirstStart>, StartError> {
    if !has_joined {
        let replicated = [registry::TREES, vault::TREES, access::TREES, conversation::TREES].concat();
        store.adopt_former_trees(&replicated).await?;
        if let Some(first) = access::prepare(store).await? {
            return Ok(Some(first));
        }
    }
    // At every start, because the one that joined may have been cut off before.
    Ok(access::prepare_joined(store, node_name).await?)
}

async fn start_all(supervisor: &SupervisorHandle, children: Vec<ChildSpec>) -> Result<(), StartError> {
    for child in children {
        let started = supervisor.start_child(child, Deadline::within(CHILD_START_TIMEOUT));
        started
            .await
            .map_err(|error| StartError::Tree(error.to_string()))?;
    }
    Ok(())
}
