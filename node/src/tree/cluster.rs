//! This node's place in its cluster: found one, join one, or come back to it; and leave it in order.

use std::{path::Path, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use troupe_actors::{
    cluster::{
        self, ClusterHandle, ClusterParts, ClusterStartError, StartedCluster,
        identity::{ClusterIdentity, EnrolError, JoinString, NodeRecord},
        link::{LinksHandle, NodePort},
        log::LogHandle,
    },
    runtime::{ActorPath, Deadline, System},
    store::Store,
};
use troupe_protocol::{
    cluster::{Epoch, MemberState, Membership, NodeName},
    id::NodeId,
};

use super::{StartError, settings};
use crate::config::{Config, ConfigError};

/// Longest wait of a node that has nothing yet for what its cluster has agreed on.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest wait of a node that comes back for a majority that knows what was acknowledged.
const COME_BACK_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a running node that a member calls removed may find a majority that does not: that member may lag behind.
const DISMISSED_AFTER: Duration = Duration::from_secs(5);

/// A cluster that this node takes part in, before its actors start.
pub struct Entered {
    /// Its parts.
    pub started: StartedCluster,
    /// This node.
    pub record: NodeRecord,
    /// Whether this start brought the node into a cluster of others.
    pub has_joined: bool,
}

/// What the node brings along.
pub struct Entrance<'a> {
    pub config: &'a Config,
    pub data: &'a Path,
    pub store: &'a Store,
    pub system: &'a System,
    pub path: ActorPath,
    pub port: NodePort,
    pub join: Option<&'a SecretString>,
}

/// Founds a cluster, joins one, or comes back to the one that the node belongs to.
pub async fn enter(entrance: Entrance<'_>) -> Result<Entered, StartError> {
    let Entrance {
        config, data, store, ..
    } = entrance;
    let join = entrance.join.map(parse_join).transpose()?;
    let record = NodeRecord::begin_start(data, former_id(store)?, config.node.name.chosen().cloned())?;
    let was_member = ClusterIdentity::load(data, record.id)?.is_some();
    let has_joined = !was_member && join.is_some();
    let bound = entrance.port.address();
    let parts = ClusterParts {
        system: entrance.system.clone(),
        path: entrance.path,
        data: data.to_owned(),
        store: store.clone(),
        record: record.clone(),
        port: entrance.port,
        cluster_address: config
            .cluster
            .advertise
            .get()
            .map_or_else(|| bound.to_string(), str::to_owned),
        edge_address: config.edge.listen.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        join: join.clone().filter(|_| !was_member),
        settings: settings::cluster(&config.cluster),
    };
    let started = cluster::start(parts).await?;
    if let Some(join) = join.filter(|_| was_member) {
        refuse_other_cluster(&started.identity, &join, data)?;
    }
    Ok(Entered {
        started,
        record,
        has_joined,
    })
}

fn parse_join(join: &SecretString) -> Result<JoinString, StartError> {
    let parsed = join.expose_secret().parse::<JoinString>();
    parsed.map_err(|error| StartError::Cluster(ClusterStartError::Enrol(EnrolError::Join(error))))
}

/// The id of a node whose data folder is older than clusters.
fn former_id(store: &Store) -> Result<Option<NodeId>, StartError> {
    Ok(store.tree::<NodeId>("node", 1)?.get("node_id")?)
}

/// A string of the node's own cluster may stay where it was given (in a unit file, say); that of another is a mistake.
fn refuse_other_cluster(
    identity: &ClusterIdentity,
    join: &JoinString,
    data: &Path,
) -> Result<(), StartError> {
    if identity.is_invited_by(join) {
        tracing::info!("this node has its place in this cluster already: --join is not used");
        return Ok(());
    }
    Err(StartError::Config(ConfigError::Conflict(format!(
        "--join leads to another cluster than the one that {} belongs to; join with a fresh folder (--data DIR), or start without --join",
        data.display()
    ))))
}

/// Waits until this node knows what its cluster has agreed on: what it had acknowledged itself before it died may not be
/// applied yet. A node that comes back and reaches no majority goes on with what it has.
pub async fn catch_up(log: &LogHandle, links: &LinksHandle, own: NodeId) -> Result<(), StartError> {
    let mut memberships = log.membership();
    if memberships.borrow().epoch > Epoch(0) {
        let Err(error) = log.linearize(Deadline::within(COME_BACK_TIMEOUT)).await else {
            return Ok(());
        };
        if was_removed(&memberships.borrow(), links, own) {
            return Err(StartError::Removed);
        }
        tracing::warn!(%error, "no majority yet: this node goes on with what it has");
        return Ok(());
    }
    let deadline = Deadline::within(CATCH_UP_TIMEOUT);
    let is_member = memberships.wait_for(|membership| membership.members.contains_key(&own));
    let _ = tokio::time::timeout_at(deadline.instant(), is_member).await; // if not, linearizing fails and says why
    match log.linearize(deadline).await {
        Ok(_) => Ok(()),
        Err(_) if was_removed(&memberships.borrow(), links, own) => Err(StartError::Removed),
        Err(error) => Err(StartError::CatchUp(error)),
    }
}

/// Whether the cluster has removed this node, as far as it has been told.
fn was_removed(membership: &Membership, links: &LinksHandle, own: NodeId) -> bool {
    let knows_itself = membership.removed.contains_key(&own) && !membership.members.contains_key(&own);
    knows_itself || links.dismissed().borrow().is_some()
}

/// Ends when this node, which runs, has been removed from its cluster.
pub async fn removed(cluster: ClusterHandle) {
    let Some(links) = cluster.links() else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(DISMISSED_AFTER).await;
        if cluster.holds_lease() || !was_removed(&cluster.membership(), links, cluster.node_id()) {
            links.forget_dismissal();
            continue;
        }
        tokio::time::sleep(DISMISSED_AFTER).await;
        if !cluster.holds_lease() {
            return;
        }
    }
}

/// What the cluster calls this node.
pub fn name_of(
    cluster: &ClusterHandle,
    record: &NodeRecord,
    config: &Config,
) -> Result<NodeName, StartError> {
    let membership = cluster.membership();
    let Some(member) = membership.members.get(&record.id) else {
        return Ok(record.name.clone());
    };
    match config.node.name.chosen() {
        Some(wished) if *wished != member.name => Err(StartError::Config(ConfigError::Conflict(format!(
            "node.name (--name) is {wished}, but this node is a member of its cluster as {}, and a member keeps its name",
            member.name
        )))),
        _ => Ok(member.name.clone()),
    }
}

/// Before the node stops: others take over what it runs and, if it led, the lead. Bounded; a node that is alone or cut
/// off just stops.
pub async fn hand_over(cluster: &ClusterHandle, within: Duration) {
    let own = cluster.node_id();
    let membership = cluster.membership();
    let others_up = membership.eligible().any(|member| member.id != own);
    if !others_up || within.is_zero() || !cluster.holds_lease() {
        return;
    }
    let deadline = Deadline::within(within);
    let is_up = membership
        .members
        .get(&own)
        .is_some_and(|member| member.state == MemberState::Up);
    if is_up {
        tracing::info!("handing over what this node runs");
        if let Err(error) = cluster.drain(own, deadline).await {
            tracing::warn!(%error, "not everything was handed over");
        }
    }
    let Some(log) = cluster.log() else { return };
    if let Err(error) = log.step_down(deadline).await {
        tracing::warn!(%error, "no other node leads yet");
    }
}
