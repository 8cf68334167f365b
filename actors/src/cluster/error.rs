//! Why the cluster could not do what it was asked.

use troupe_protocol::cluster::Address;
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::id::NodeId;

use super::link::ServiceError;

/// Why there is no answer from the cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// This node, which owns the address, may not act: it does not follow a majority.
    #[error("this node owns {address} but does not follow a majority of the voters, so it does not act")]
    NoQuorum {
        /// What was asked.
        address: Address,
    },
    /// The address has no owner who may act, and found none in time.
    #[error("{address} is moving between nodes and no node could be asked in time ({detail})")]
    Elsewhere {
        /// What was asked.
        address: Address,
        /// What was tried.
        detail: String,
    },
    /// No such member.
    #[error("no member of the cluster is called {0:?}: `troupe node list` shows them")]
    NodeNotFound(String),
    /// There is no link to the node: it was not asked.
    #[error("node {node} cannot be reached")]
    Unreachable {
        /// Which.
        node: NodeId,
    },
    /// The link ended before the answer came: it may have done what it was asked.
    #[error("node {node} was lost while it worked on the question, which may have had effects")]
    Lost {
        /// Which.
        node: NodeId,
    },
    /// Too much is on its way to the node.
    #[error("too much is on its way to node {node}")]
    Overloaded {
        /// Which.
        node: NodeId,
    },
    /// The answer did not come in time.
    #[error("no answer came before the deadline")]
    DeadlineExceeded,
    /// Question or answer cannot travel.
    #[error("the message cannot travel between nodes: {0}")]
    Wire(String),
    /// Who was asked answered with an error of its own.
    #[error("{}", .0.detail)]
    Refused(ServiceError),
}

impl ClusterError {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::NoQuorum { .. } => Code::NoQuorum,
            Self::Elsewhere { .. } => Code::PlacedElsewhere,
            Self::NodeNotFound(_) => Code::NodeNotFound,
            Self::Unreachable { .. } | Self::Lost { .. } => Code::NodeUnreachable,
            Self::Overloaded { .. } => Code::PeerOverloaded,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Wire(_) => Code::Internal,
            Self::Refused(error) => error.code,
        }
    }

    /// Whether the question certainly reached nobody who could have acted on it, so that asking again does no harm.
    pub fn is_harmless_to_repeat(&self) -> bool {
        matches!(
            self,
            Self::NoQuorum { .. }
                | Self::Elsewhere { .. }
                | Self::NodeNotFound(_)
                | Self::Unreachable { .. }
                | Self::Overloaded { .. }
        )
    }
}

impl Coded for ClusterError {
    fn code(&self) -> Code {
        Self::code(self)
    }
}
