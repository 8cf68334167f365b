//! What can go wrong with virtual servers.

use thiserror::Error;
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::server::ServerName;
use troupe_protocol::virtual_server::VirtualItem;

use super::VIRTUAL_SERVERS_MAX;
use crate::runtime::AskError;
use crate::store::{StoreError, WriteError};

/// Why a virtual server cannot be kept, or is not there.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VirtualServerError {
    /// There is none of this name.
    #[error("there is no virtual server {0}; `troupe virtual list` names them all")]
    NotFound(ServerName),
    /// A part of the definition is wrong.
    #[error("{field} {reason}")]
    Invalid {
        /// Where.
        field: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A tool or prompt could not be called.
    #[error(
        "{field} hides the argument {argument:?}, which {server} requires: give it a fixed value, or do not hide it"
    )]
    HiddenRequired {
        /// Where.
        field: String,
        /// The argument.
        argument: String,
        /// The server.
        server: ServerName,
    },
    /// No room for another.
    #[error("there are {VIRTUAL_SERVERS_MAX} virtual servers, which is the most: remove some")]
    Full,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The write was not taken.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The actor did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl VirtualServerError {
    /// The thing at this place hides an argument that is required.
    pub(crate) fn hidden_required(index: usize, item: &VirtualItem, argument: String) -> Self {
        Self::HiddenRequired {
            field: super::check::place(index, item),
            argument,
            server: item.server.clone(),
        }
    }

    pub(super) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

impl Coded for VirtualServerError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::VirtualServerNotFound,
            Self::Invalid { .. } => Code::InvalidVirtualServer,
            Self::HiddenRequired { .. } => Code::HiddenArgumentRequired,
            Self::Full => Code::TooManyVirtualServers,
            Self::Store(error) => error.code(),
            Self::Write(error) => error.code(),
            Self::Ask(error) => error.code(),
        }
    }
}
