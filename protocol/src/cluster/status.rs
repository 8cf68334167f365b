//! What people see of the cluster.

use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::ToSchema;

use super::member::{Epoch, Member};
use crate::id::NodeId;

/// How far the log of a node is. Positions count entries from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct LogStatus {
    /// The leader's term.
    #[ts(type = "number")]
    pub term: u64,
    /// The leader, as this node knows it.
    pub leader: Option<NodeId>,
    /// The last entry in this node's log.
    #[ts(type = "number")]
    pub last: u64,
    /// The last entry this node has applied.
    #[ts(type = "number")]
    pub applied: u64,
    /// The last entry of its latest snapshot.
    #[ts(type = "number")]
    pub snapshot: u64,
    /// How long ago a majority was last known to follow the leader, in milliseconds; on followers, since its last word.
    #[ts(type = "number")]
    pub quorum_age_ms: u64,
    /// How many vote, by the last configuration in this node's log, which follows the members' roles a moment later. While
    /// it changes, majorities of two groups are needed; the smaller is counted.
    pub voters: u32,
}

/// Where a link to another node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(rename_all = "snake_case")]
#[ts(export)]
pub enum LinkState {
    /// Open.
    Up,
    /// Being dialled, or waited for.
    Connecting,
    /// Closed; another attempt follows.
    Down,
}

/// A link to another node, as this one sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct LinkStatus {
    /// The node at the other end.
    pub node: NodeId,
    /// Where it stands.
    pub state: LinkState,
    /// The last round trip, in microseconds.
    #[ts(type = "number | null")]
    pub round_trip_us: Option<u64>,
    /// The other's clock minus ours, in milliseconds, give or take half a round trip.
    #[ts(type = "number | null")]
    pub clock_skew_ms: Option<i64>,
    /// Bytes written since the link opened.
    #[ts(type = "number")]
    pub bytes_out: u64,
    /// Bytes read since the link opened.
    #[ts(type = "number")]
    pub bytes_in: u64,
    /// Bytes on their way that the other has not yet taken.
    #[ts(type = "number")]
    pub in_flight_bytes: u64,
    /// The version of the wire that both speak.
    pub wire_version: u16,
    /// How often the link was opened.
    pub opened: u32,
    /// Why it last closed.
    pub last_error: Option<String>,
}

/// A member and how this node reaches it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct MemberStatus {
    /// The member.
    #[serde(flatten)]
    pub member: Member,
    /// Whether it is the node that answers.
    pub is_self: bool,
    /// Whether it leads.
    pub is_leader: bool,
    /// How many placed actors it runs; nothing when it did not say.
    pub placed: Option<u32>,
    /// The link to it; nothing to oneself.
    pub link: Option<LinkStatus>,
}

/// Something an operator should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[ts(export)]
pub enum ClusterWarning {
    /// No majority: writes are refused, placed actors stand still.
    NoQuorum,
    /// The node's own log takes no part any more; only a restart makes it.
    LogStopped {
        /// Why.
        reason: String,
    },
    /// The node cannot reach the majority although there may be one.
    Isolated,
    /// Fewer voters are up than the cluster should have.
    UnderReplicated {
        /// Voters that are up.
        voters_up: u32,
        /// Voters there should be.
        voters_wanted: u32,
    },
    /// Clocks differ.
    ClockSkew {
        /// Whose clock.
        node: NodeId,
        /// By how much, in milliseconds.
        #[ts(type = "number")]
        skew_ms: i64,
    },
    /// Nodes run different versions.
    VersionSkew {
        /// The versions, ascending.
        versions: Vec<String>,
    },
    /// A member is not heard of.
    MemberDown {
        /// Which.
        node: NodeId,
    },
}

/// The cluster as one of its nodes sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, TS, ToSchema)]
#[ts(export)]
pub struct ClusterStatus {
    /// The node that answers.
    pub node_id: NodeId,
    /// The state of the membership.
    pub epoch: Epoch,
    /// Whether this node follows a majority: it takes writes and runs placed actors.
    pub has_quorum: bool,
    /// Its log.
    pub log: LogStatus,
    /// All members, by name.
    pub members: Vec<MemberStatus>,
    /// What to look at.
    pub warnings: Vec<ClusterWarning>,
}
