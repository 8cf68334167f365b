//! Puts the parts of the cluster on this node together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::Instant;
use troupe_protocol::cluster::frame::{ClusterTiming, WIRE_VERSION_MAX, WIRE_VERSION_MIN};
use troupe_protocol::cluster::{Epoch, Member, MemberState, Role};
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::id::{ActorPath, NodeId};

use super::admission::Admission;
use super::dispatcher::{Answerer, EntityService, ObserveService, ObserveTopic, encode};
use super::entrance::{self, EntranceParts, MembersOnly};
use super::handle::{ClusterHandle, Reach, Shared};
use super::identity::{Applicant, ClusterIdentity, EnrolError, IdentityError, JoinString, NodeRecord};
use super::lease::{self, LeaseHandle, LeaseParts, LeaseService, LeaseTiming, Tenant};
use super::link::{self, HttpStream, LinkSettings, LinksHandle, NodeLinks, NodePort, Service};
use super::log::{self, LogError, LogHandle, LogSettings};
use super::membership::{self, DetectionTiming, MembershipHandle};
use super::placement;
use crate::runtime::{ChildSpec, Strategy, SupervisorSpec, System};
use crate::store::{Store, StoreError};

/// What a node brings into its cluster.
pub struct ClusterParts {
    /// The node's actors.
    pub system: System,
    /// Where the cluster's supervisor stands in the tree.
    pub path: ActorPath,
    /// The data folder, which holds the identity.
    pub data: PathBuf,
    /// The store; from the start on, its replicated trees go through the log.
    pub store: Store,
    /// This start of the node.
    pub record: NodeRecord,
    /// The bound port for other nodes.
    pub port: NodePort,
    /// Where other nodes reach this one, as `host:port`.
    pub cluster_address: String,
    /// Where people and clients reach it, as `host:port`.
    pub edge_address: String,
    /// The version of the program.
    pub version: String,
    /// The way into a cluster, for a node that belongs to none.
    pub join: Option<JoinString>,
    /// How the parts behave.
    pub settings: ClusterSettings,
}

/// How the parts of the cluster behave.
#[derive(Debug, Clone, Default)]
pub struct ClusterSettings {
    /// The links.
    pub link: LinkSettings,
    /// The log.
    pub log: LogSettings,
    /// Leases.
    pub lease: LeaseTiming,
    /// Who is silent.
    pub detection: DetectionTiming,
}

/// The cluster on this node, put together; its actors start with `child`.
#[derive(Debug)]
pub struct StartedCluster {
    /// What the rest of the node uses.
    pub handle: ClusterHandle,
    /// The actors, to be started before all that writes to replicated trees.
    pub child: ChildSpec,
    /// Streams on which other nodes speak HTTP to this one, to be served by somebody.
    pub http: mpsc::Receiver<HttpStream>,
    /// Who this node is; holds the cluster's key.
    pub identity: Arc<ClusterIdentity>,
    /// The links.
    pub links: LinksHandle,
    /// The log.
    pub log: LogHandle,
}

/// Why the cluster could not be started on this node.
#[derive(Debug, thiserror::Error)]
pub enum ClusterStartError {
    /// The identity cannot be read or made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The cluster does not take this node.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Coded for ClusterStartError {
    fn code(&self) -> Code {
        match self {
            Self::Identity(error) => error.code(),
            Self::Enrol(error) => error.code(),
            Self::Log(error) => error.code(),
            Self::Store(error) => error.code(),
        }
    }
}

/// How this node came into its cluster; kept in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Entry {
    Founded,
    Joined { peers: BTreeMap<NodeId, String> },
}

const ENTRY_TREE: &str = "cluster";
const ENTRY_KEY: &str = "entry";

/// Founds a cluster, joins one, or comes back to the one this node belongs to.
///
/// # Errors
/// [`ClusterStartError`].
pub async fn start(parts: ClusterParts) -> Result<StartedCluster, ClusterStartError> {
    let (identity, entry) = enter(&parts).await?;
    let (system, path) = (parts.system.clone(), parts.path.clone());
    let node_id = parts.record.id;
    let NodeLinks {
        handle: links,
        child: links_child,
        http,
    } = link::links(
        &system,
        path.child("links"),
        Arc::clone(&identity),
        parts.record.generation,
        parts.port.clone(),
        LinkSettings {
            timing: Some(timing_of(&parts.settings)),
            ..parts.settings.link.clone()
        },
    );
    let log = LogHandle::open(
        node_id,
        parts.store.clone(),
        Arc::new(links.clone()),
        parts.settings.log.clone(),
    )
    .await?;
    if entry == Entry::Founded {
        log.initialize().await?;
    }
    parts.store.set_replication(Arc::new(log.clone()));

    let tenant = Tenant::new(node_id, Arc::clone(&log.membership().borrow()));
    let shared = Arc::new(Shared::new(tenant.view()));
    let admission = Admission::new(
        Arc::clone(&identity),
        log.clone(),
        parts.store.clone(),
        timing_of(&parts.settings),
    );
    links.enrol_with(Arc::new(admission.clone()));
    let reach = Reach {
        links: links.clone(),
        log: log.clone(),
        admission,
        cluster_address: parts.cluster_address.clone(),
        voters_max: parts.settings.log.voters_max,
    };
    let _ = shared.reach.set(reach); // it is set only here
    links.guard_with(Arc::new(MembersOnly {
        memberships: log.membership(),
        shared: Arc::downgrade(&shared),
    }));
    let lease = LeaseHandle::new(&system, path.child("lease"));
    let membership = MembershipHandle::new(&system, path.child("membership"));
    serve(&links, &log, &shared, &lease, &system, &path.child("dispatcher"));

    let handle = ClusterHandle {
        shared: Arc::clone(&shared),
    };
    observe_placed(&handle);
    let lease_parts = LeaseParts {
        shared: Arc::clone(&shared),
        log: log.clone(),
        links: links.clone(),
        membership: membership.clone(),
        timing: LeaseTiming {
            silence_before_election: Duration::from_millis(parts.settings.log.election_max_ms),
            ..parts.settings.lease
        },
        own_round_at: Arc::new(Mutex::new(Instant::now())),
    };
    let entrance_parts = EntranceParts {
        log: log.clone(),
        links: links.clone(),
        own: own_member(&parts),
        is_founder: entry == Entry::Founded,
        first_peers: match entry {
            Entry::Founded => BTreeMap::new(),
            Entry::Joined { peers } => peers,
        },
    };
    let spec = SupervisorSpec::new(&system, path.clone())
        .strategy(Strategy::OneForOne)
        .child(links_child)
        .child(log::child(&system, path.child("log"), log.clone()))
        .child(membership::child(
            membership,
            log.clone(),
            links.clone(),
            parts.settings.detection,
        ))
        .child(lease::child(lease.clone(), lease_parts))
        .child(placement::child(&system, path.child("placement"), shared, lease))
        .child(entrance::child(&system, path.child("entrance"), entrance_parts));
    Ok(StartedCluster {
        handle,
        child: ChildSpec::supervisor(spec),
        http,
        identity,
        links,
        log,
    })
}

/// Finds out, or brings about, to which cluster this node belongs.
async fn enter(parts: &ClusterParts) -> Result<(Arc<ClusterIdentity>, Entry), ClusterStartError> {
    let kept = parts.store.tree::<Entry>(ENTRY_TREE, 1)?;
    let node = parts.record.id;
    if let Some(identity) = ClusterIdentity::load(&parts.data, node)? {
        if parts.join.is_some() {
            tracing::warn!("this node belongs to a cluster already: the join string is not used");
        }
        // Without an entry it joined and ended before it could note whom it had met: others dial it.
        let entry = kept.get(ENTRY_KEY)?.unwrap_or(Entry::Joined {
            peers: BTreeMap::new(),
        });
        return Ok((identity, entry));
    }
    let Some(join) = &parts.join else {
        kept.put(ENTRY_KEY, &Entry::Founded).await?;
        return Ok((ClusterIdentity::create(&parts.data, node)?, Entry::Founded));
    };
    let applicant = Applicant {
        node,
        name: parts.record.name.clone(),
        generation: parts.record.generation,
        version: parts.version.clone(),
        wire_versions: (WIRE_VERSION_MIN, WIRE_VERSION_MAX),
        cluster_address: parts.cluster_address.clone(),
        edge_address: parts.edge_address.clone(),
        timing: Some(timing_of(&parts.settings)),
    };
    let (identity, grant) = ClusterIdentity::enrol(&parts.data, &applicant, join).await?;
    let others = grant.members.into_iter().filter(|member| member.id != node);
    let entry = Entry::Joined {
        peers: others.map(|member| (member.id, member.cluster_address)).collect(),
    };
    kept.put(ENTRY_KEY, &entry).await?;
    Ok((identity, entry))
}

/// What all nodes of a cluster must have alike.
fn timing_of(settings: &ClusterSettings) -> ClusterTiming {
    ClusterTiming {
        lease_ms: u64::try_from(settings.lease.lasts.as_millis()).unwrap_or(u64::MAX),
        election_timeout_ms: settings.log.election_min_ms,
    }
}

fn own_member(parts: &ClusterParts) -> Member {
    Member {
        id: parts.record.id,
        name: parts.record.name.clone(),
        generation: parts.record.generation,
        role: Role::Voter,
        state: MemberState::Up,
        cluster_address: parts.cluster_address.clone(),
        edge_address: parts.edge_address.clone(),
        version: parts.version.clone(),
        joined_at: jiff::Timestamp::now().into(),
    }
}

fn serve(
    links: &LinksHandle,
    log: &LogHandle,
    shared: &Arc<Shared>,
    lease: &LeaseHandle,
    system: &System,
    path: &ActorPath,
) {
    links.serve(Service::Log, Arc::new(log.clone()));
    links.serve(Service::Lease, Arc::new(LeaseService(lease.clone())));
    let answerer = Answerer {
        shared: Arc::clone(shared),
        system: system.clone(),
        path: path.clone(),
    };
    links.serve(Service::Observe, Arc::new(ObserveService(answerer.clone())));
    links.serve(Service::Entity, Arc::new(EntityService(answerer)));
}

fn observe_placed(handle: &ClusterHandle) {
    let shared = Arc::downgrade(&handle.shared);
    let answer = move |_, _| -> futures::future::BoxFuture<'static, _> {
        let counts = shared
            .upgrade()
            .map(|shared| shared.hosts.counts())
            .unwrap_or_default();
        Box::pin(async move { encode(&counts) })
    };
    handle.observe(ObserveTopic::PLACED, Arc::new(answer));
}

impl ClusterHandle {
    /// Waits until this node is a member that may act, or until the deadline. Answers whether it may.
    pub async fn ready(&self, deadline: crate::runtime::Deadline) -> bool {
        let mut epochs = self.epochs();
        let is_ready = epochs.wait_for(|(epoch, lease_held)| *lease_held && *epoch > Epoch(0));
        let waited = tokio::time::timeout_at(deadline.instant(), is_ready).await;
        matches!(waited, Ok(Ok(_)))
    }
}
