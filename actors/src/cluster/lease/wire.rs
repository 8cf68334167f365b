//! What nodes and the leader say to each other about leases.

use serde::{Deserialize, Serialize};
use troupe_protocol::cluster::Epoch;
use troupe_protocol::id::NodeId;

/// A node asks the leader for its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cluster) struct Renewal {
    /// Up to which epoch it has given up what it does not own; nothing while it is still stopping after the end of a
    /// lease.
    pub settled: Option<Epoch>,
    /// The last cleared epoch that it knows.
    pub cleared: Epoch,
    /// Whether it holds a lease: who asks and never gets one cannot hear the leader.
    pub has_lease: bool,
}

/// What the leader answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cluster) enum Verdict {
    /// The lease lasts so long from when the node asked.
    Granted {
        /// In microseconds, from when the question arrived.
        lasts_us: u64,
        /// The last cleared epoch.
        cleared: Epoch,
    },
    /// The node has to settle for this epoch first.
    Behind(Epoch),
    /// Another one leads, perhaps this.
    NotLeader(Option<NodeId>),
}

/// What is told without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::cluster) enum Notice {
    /// The leader: an epoch is cleared.
    Cleared(Epoch),
    /// A node: it stops, acts no more and gives its lease back.
    Leaving,
}
