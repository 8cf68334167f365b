//! What can go wrong with a write, said so that the writer knows whether it happened.

use thiserror::Error;
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::id::NodeId;

use super::command::MemberRefusal;
use crate::store::replicated::Conflict;
use crate::store::{StoreError, WriteError};

/// Why a command was not written, or may not have been.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LogError {
    /// No majority can be reached from here; nothing was written.
    #[error("no majority of the voters can be reached from here: {reason}")]
    NoQuorum {
        /// What is in the way.
        reason: String,
    },
    /// It was handed over, and nothing was heard in time.
    #[error("the write was handed over, but whether it was committed was not heard in time: {reason}")]
    OutcomeUnknown {
        /// What was heard last.
        reason: String,
    },
    /// A guard did not hold; nothing was written. This node has applied what the guard was compared with.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The membership does not allow it; nothing was written.
    #[error(transparent)]
    Refused(#[from] MemberRefusal),
    /// Without the vote of this member there would be no majority.
    #[error(
        "the vote of member {0} is still needed: too few of the other voters are up; start or remove those first"
    )]
    VoteNeeded(NodeId),
    /// Too many writes wait already; nothing was written.
    #[error("too many writes wait for the log ({waiting}): try again")]
    Overloaded {
        /// How many.
        waiting: usize,
    },
    /// Only the leader can tell, and this node is not it.
    #[error("this node does not lead the log{}", leader.map(|leader| format!(", {leader} does")).unwrap_or_default())]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// This node's log has stopped: its disk failed.
    #[error("the log of this node has stopped until the node is started again: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// Another node asked something that is no question to a log.
    #[error("node {from} asked the log something it does not understand: {reason}")]
    Misunderstood {
        /// Who.
        from: NodeId,
        /// What is wrong.
        reason: String,
    },
    /// The records cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A backup is not whole, or cannot be read or written.
    #[error("the backup cannot be used: {reason}")]
    Backup {
        /// What is wrong.
        reason: String,
    },
}

impl Coded for LogError {
    fn code(&self) -> Code {
        match self {
            Self::NoQuorum { .. } | Self::NotLeader { .. } => Code::NoQuorum,
            Self::OutcomeUnknown { .. } => Code::WriteOutcomeUnknown,
            Self::Conflict(_) => Code::WriteConflict,
            Self::Refused(MemberRefusal::NameTaken { .. }) => Code::NodeNameTaken,
            Self::Refused(MemberRefusal::NotFound(_)) => Code::NodeNotFound,
            Self::Refused(MemberRefusal::Superseded { .. } | MemberRefusal::StateChanged(_)) => {
                Code::WriteConflict
            }
            Self::Refused(MemberRefusal::LastVoter(_)) => Code::MajorityNeeded,
            Self::Refused(MemberRefusal::TooMany { .. } | MemberRefusal::TooLong { .. }) => Code::JoinRefused,
            Self::VoteNeeded(_) => Code::MajorityNeeded,
            Self::Overloaded { .. } => Code::PeerOverloaded,
            Self::Stopped { .. } => Code::StoreUnavailable,
            Self::Misunderstood { .. } => Code::WireVersionUnsupported,
            Self::Store(error) => error.code(),
            Self::Backup { .. } => Code::BackupInvalid,
        }
    }
}

impl From<LogError> for WriteError {
    fn from(error: LogError) -> Self {
        match error {
            LogError::Conflict(conflict) => Self::Conflict(conflict),
            LogError::NoQuorum { reason } => Self::NoQuorum { reason },
            LogError::OutcomeUnknown { .. } => Self::OutcomeUnknown,
            LogError::Store(error) => Self::Store(error),
            other => Self::Log {
                code: other.code(),
                detail: other.to_string(),
            },
        }
    }
}
