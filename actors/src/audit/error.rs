//! What can go wrong when audit events are read.

use thiserror::Error;
use troupe_protocol::error::{Code, Coded};

use crate::runtime::AskError;
use crate::store::StoreError;

/// Why audit events cannot be listed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuditError {
    /// The limit is out of range.
    #[error("the limit {limit} is out of range: 1 to {limit_max}")]
    Limit {
        /// What was given.
        limit: u32,
        /// The most.
        limit_max: u32,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The actor did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The look-up itself died.
    #[error("looking up audit events failed: {reason}")]
    LookUp {
        /// Why.
        reason: String,
    },
}

impl Coded for AuditError {
    fn code(&self) -> Code {
        match self {
            Self::Limit { .. } => Code::InvalidField,
            Self::Store(error) => error.code(),
            Self::Ask(error) => error.code(),
            Self::LookUp { .. } => Code::Internal,
        }
    }
}
