//! What openraft needs to know of us: the types of the log, and its timing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use openraft::{EmptyNode, SnapshotPolicy};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use troupe_protocol::id::NodeId;
use ulid::Ulid;

use super::command::{Entry, Outcome};
use super::snapshot::SnapshotFile;

/// A node's id as openraft wants one. Travels as 128 bits, since every entry and every heartbeat holds some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RaftNode(pub(super) NodeId);

impl Default for RaftNode {
    fn default() -> Self {
        Self(NodeId::from_ulid(Ulid::nil()))
    }
}

impl fmt::Display for RaftNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for RaftNode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // JSON has no 128-bit numbers that all readers take, and wants strings as keys.
        if serializer.is_human_readable() {
            return self.0.serialize(serializer);
        }
        serializer.serialize_u128(self.0.as_ulid().0)
    }
}

impl<'de> Deserialize<'de> for RaftNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return NodeId::deserialize(deserializer).map(Self);
        }
        u128::deserialize(deserializer).map(|bits| Self(NodeId::from_ulid(Ulid(bits))))
    }
}

/// What became of the requests of an entry, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcomes(pub(super) Vec<Outcome>);

openraft::declare_raft_types!(
    /// The types of our log. Members' addresses are in the membership record, not in the log's configuration.
    pub(super) Types:
        D = Entry,
        R = Outcomes,
        NodeId = RaftNode,
        Node = EmptyNode,
        SnapshotData = SnapshotFile,
);

pub(super) type Raft = openraft::Raft<Types>;
pub(super) type RaftEntry = openraft::Entry<Types>;
pub(super) type LogId = openraft::LogId<RaftNode>;
pub(super) type Vote = openraft::Vote<RaftNode>;
pub(super) type StoredMembership = openraft::StoredMembership<RaftNode, EmptyNode>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<RaftNode, EmptyNode>;
pub(super) type Snapshot = openraft::Snapshot<Types>;
pub(super) type StorageError = openraft::StorageError<RaftNode>;
pub(super) type StorageIOError = openraft::StorageIOError<RaftNode>;
pub(super) type Metrics = openraft::RaftMetrics<RaftNode, EmptyNode>;

/// How the log behaves. Times are in milliseconds.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// How often a leader tells the others that it lives, about (openraft: every 1.5 of these).
    pub heartbeat_ms: u64,
    /// A voter that has not heard of the leader for `election_max_ms` plus a random time between these two stands for
    /// election.
    pub election_min_ms: u64,
    /// See there.
    pub election_max_ms: u64,
    /// Most voters; an odd number.
    pub voters_max: usize,
    /// A voter that is down so long is replaced by a learner that is up.
    pub replace_voter_after: Duration,
    /// Entries after which the log is compacted into a snapshot.
    pub snapshot_every_entries: u64,
    /// Entries before the last snapshot that are kept, for members that are a little behind.
    pub keep_entries: u64,
    /// How long a write waits for a leader to be elected. After that long without one, writes are refused at once.
    pub leaderless_ms_max: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            heartbeat_ms: 130,
            election_min_ms: 300,
            election_max_ms: 600,
            voters_max: 5,
            replace_voter_after: Duration::from_secs(30),
            snapshot_every_entries: 5_000,
            keep_entries: 1_000,
            leaderless_ms_max: 2_500,
        }
    }
}

/// Entries that one message replicates; their bytes are bounded too, by the reader of the log.
const PAYLOAD_ENTRIES_MAX: u64 = 256;

impl LogSettings {
    pub(super) fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    /// How long voters that have heard of a leader vote for no other.
    pub(super) fn silence_before_election(&self) -> Duration {
        Duration::from_millis(self.election_max_ms)
    }

    /// A leader that has not heard of a majority for so long takes no writes.
    pub(super) fn quorum_lost_after(&self) -> Duration {
        Duration::from_millis(self.election_max_ms * 2)
    }

    pub(super) fn raft(&self) -> Result<Arc<openraft::Config>, Box<openraft::ConfigError>> {
        let config = openraft::Config {
            cluster_name: "troupe".to_owned(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            install_snapshot_timeout: 10_000,
            max_payload_entries: PAYLOAD_ENTRIES_MAX,
            replication_lag_threshold: self.keep_entries,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            purge_batch_size: 256,
            ..openraft::Config::default()
        };
        Ok(Arc::new(config.validate()?))
    }
}
