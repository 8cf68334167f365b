//! Why an ask, a tell or a link failed.

use troupe_protocol::error::{Code, Coded};
use troupe_protocol::id::NodeId;
use troupe_protocol::wire::MESSAGE_BYTES_MAX;

/// Why a message did not reach another node, or brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// There is no link to it now; nothing was sent.
    #[error("node {node} is unreachable: there is no link to it")]
    Unreachable {
        /// Who.
        node: NodeId,
    },
    /// The link ended while the answer was awaited: the other node may or may not have done what was asked.
    #[error("the link to node {node} was lost while it was asked")]
    Lost {
        /// Who.
        node: NodeId,
    },
    /// The deadline passed.
    #[error("node {node} did not answer before the deadline")]
    DeadlineExceeded {
        /// Who.
        node: NodeId,
    },
    /// As much is on its way to it as may be; nothing was sent.
    #[error("the link to node {node} is full: the node takes messages more slowly than they are sent")]
    Overloaded {
        /// Who.
        node: NodeId,
    },
    /// The message is larger than a link carries; nothing was sent.
    #[error("message of {bytes} bytes is over the limit of {MESSAGE_BYTES_MAX}: send large data over HTTP")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The other node answered with an error.
    #[error("{detail}")]
    Remote {
        /// The error's code there.
        code: Code,
        /// What it said.
        detail: String,
    },
}

impl Coded for LinkError {
    fn code(&self) -> Code {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } => Code::NodeUnreachable,
            Self::DeadlineExceeded { .. } => Code::DeadlineExceeded,
            Self::Overloaded { .. } => Code::PeerOverloaded,
            Self::TooLarge { .. } => Code::BodyTooLarge,
            Self::Remote { code, .. } => *code,
        }
    }
}

/// The error with which a service answers an ask; it travels to who asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct ServiceError {
    /// Its code.
    pub code: Code,
    /// What went wrong.
    pub detail: String,
}

impl ServiceError {
    /// An error with this code and text.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

impl ServiceError {
    /// The node is stopping: what would answer is there no more.
    pub fn stopping() -> Self {
        Self::new(Code::ShuttingDown, "the node is stopping")
    }
}

impl<E: Coded + std::error::Error> From<&E> for ServiceError {
    fn from(error: &E) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl Coded for ServiceError {
    fn code(&self) -> Code {
        self.code
    }
}
