//! What is written to the log.

use serde::{Deserialize, Serialize};
use troupe_protocol::cluster::{Generation, Member, MemberState, Role};
use troupe_protocol::id::NodeId;

use crate::store::RecordBatch;

/// One write: it happens on all nodes at the same place in the same order, or nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Changes records, if its guards hold.
    Records(RecordBatch),
    /// Changes the membership.
    Member(MemberCommand),
}

/// A change of the membership. One that changes anything makes the next [`Epoch`](troupe_protocol::cluster::Epoch).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberCommand {
    /// A new member. One that is already there under the same id is refused if its name differs, else left as it is.
    Add(Member),
    /// How the cluster sees a member. One that goes down while it drains, and comes back, goes on draining.
    SetState {
        /// Which.
        id: NodeId,
        /// How it was seen when this was decided; refused if that has changed.
        from: MemberState,
        /// How.
        state: MemberState,
    },
    /// What a member does for the log. The leader brings the voters to as many as there should be; to exchange one for
    /// another, use [`MemberCommand::Exchange`].
    SetRole {
        /// Which.
        id: NodeId,
        /// What.
        role: Role,
    },
    /// A learner becomes voter in the place of a voter.
    Exchange {
        /// Voter until now.
        voter: NodeId,
        /// Learner until now.
        learner: NodeId,
    },
    /// A member has started. It is up from now on, unless a later start of it is already known.
    Started {
        /// Which.
        id: NodeId,
        /// Its start.
        generation: Generation,
        /// Where other nodes reach it, as `host:port`.
        cluster_address: String,
        /// Where people reach it, as `host:port`.
        edge_address: String,
        /// The version of its program.
        version: String,
    },
    /// A member is none any more.
    Remove {
        /// Which.
        id: NodeId,
    },
}

/// A command that was committed and applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The entry of the log that holds it; this node has applied it.
    pub index: u64,
}

/// The turns of leaders are numbered; there is at most one leader to a term and a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Term(pub u64);

/// Names a write, so that it happens once however often it is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct RequestId(pub(super) u64);

/// A write with its name, as it is handed from node to node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) id: RequestId,
    /// The last entry that the node which made the request knew of. The log remembers requests for a bounded number of
    /// entries; one that was made before that is refused, because it could be a repetition.
    pub(super) made_after: u64,
    pub(super) command: Command,
}

/// What one entry of the log holds: requests that arrived together share it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) requests: Vec<Request>,
}

/// What became of a request, the same on every node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    /// It happened, now or when it was handed over before.
    Applied,
    /// A guard did not hold.
    Conflict { tree: String, key: String },
    /// The membership does not allow it.
    Refused(MemberRefusal),
    /// It was made too long ago to tell whether it is a repetition.
    TooOld,
}

/// Why a change of the membership is not possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MemberRefusal {
    /// No such member.
    #[error("no member has the id {0}")]
    NotFound(NodeId),
    /// Names are unique.
    #[error("member {holder} has the name {name:?}: choose another, or remove that member")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: NodeId,
    },
    /// An earlier start of the member than the one that is known.
    #[error("member {id} has started anew since (start {known}, this is start {given})")]
    Superseded {
        /// Which.
        id: NodeId,
        /// The start that is known.
        known: Generation,
        /// The start that was given.
        given: Generation,
    },
    /// Nobody would be left to vote.
    #[error("member {0} is the only voter that is up: promote another first")]
    LastVoter(NodeId),
    /// The member's state is another than the one on which the change was decided.
    #[error("the state of member {0} has changed meanwhile: look at it, then decide again")]
    StateChanged(NodeId),
    /// A cluster has so many members at most.
    #[error("the cluster has {members_max} members, and more are not possible: remove one first")]
    TooMany {
        /// At most.
        members_max: u32,
    },
    /// What a member says of itself is too long.
    #[error(
        "a member gives {what} of {bytes} bytes: at most {bytes_max} are possible, no quotes and no control characters"
    )]
    TooLong {
        /// What.
        what: String,
        /// How long it is.
        bytes: u32,
        /// At most.
        bytes_max: u32,
    },
}

impl Entry {
    /// How many requests it holds.
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }
}
