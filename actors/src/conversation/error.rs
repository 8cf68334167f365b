//! What can go wrong with a conversation, apart from what its answers say.

use troupe_protocol::error::{Code, Coded};
use troupe_protocol::id::ConversationId;

use crate::runtime::{AskError, StartChildError};
use crate::store::{StoreError, WriteError};

/// Why a conversation could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    /// There is none, or it belongs to somebody else.
    #[error("no conversation {0} among yours")]
    NotFound(ConversationId),
    /// It is answering still.
    #[error("conversation {0} is still answering; wait for the answer or cancel it")]
    TurnInProgress(ConversationId),
    /// The text is empty or too long, or the title is.
    #[error("{field} must have 1 to {bytes_max} bytes, not {bytes}")]
    InvalidText {
        /// Which.
        field: &'static str,
        /// How many there are.
        bytes: usize,
        /// How many there may be.
        bytes_max: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It could not be written down.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The actor could not be started.
    #[error(transparent)]
    Start(#[from] StartChildError),
    /// The actor did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The answer did not come in time; the conversation goes on.
    #[error("the answer did not come in time; it will be in conversation {0}")]
    DeadlineExceeded(ConversationId),
    /// The node that has it answered with an error, or none could be asked.
    #[error("{detail}")]
    Elsewhere {
        /// Its code.
        code: Code,
        /// In words.
        detail: String,
    },
    /// The conversation was deleted while it was answering.
    #[error("conversation {0} was deleted")]
    Deleted(ConversationId),
}

impl Coded for ConversationError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) | Self::Deleted(_) => Code::ConversationNotFound,
            Self::TurnInProgress(_) => Code::TurnInProgress,
            Self::InvalidText { .. } => Code::InvalidField,
            Self::Store(error) => error.code(),
            Self::Write(error) => error.code(),
            Self::Start(_) => Code::Internal,
            Self::Ask(error) => error.code(),
            Self::DeadlineExceeded(_) => Code::DeadlineExceeded,
            Self::Elsewhere { code, .. } => *code,
        }
    }
}

impl ConversationError {
    /// The stable code.
    pub fn code(&self) -> Code {
        Coded::code(self)
    }

    /// Another node's answer is not one to the question: its program is of another version.
    pub(super) fn unexpected() -> Self {
        let detail = "the conversation's node gave another kind of answer than was asked for".to_owned();
        Self::Elsewhere {
            code: Code::Internal,
            detail,
        }
    }
}
