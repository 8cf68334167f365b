//! What can be wrong with identities and invitations.

use std::path::PathBuf;

use troupe_protocol::error::{Code, Coded};

use super::join::JoinStringError;
use crate::store::StoreError;

/// Why an identity cannot be made, kept or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] StoreError),
    /// A file is there but does not hold what it should.
    #[error("{} is damaged: {reason}. Restore it from a backup, or let the node join anew with an empty data folder", file.display())]
    Damaged {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate cannot be made or read.
    #[error("certificate: {0}")]
    Certificate(String),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
    /// The invitation cannot be written.
    #[error(transparent)]
    Join(#[from] JoinStringError),
}

impl From<rcgen::Error> for IdentityError {
    fn from(error: rcgen::Error) -> Self {
        Self::Certificate(error.to_string())
    }
}

impl From<rustls::Error> for IdentityError {
    fn from(error: rustls::Error) -> Self {
        Self::Certificate(error.to_string())
    }
}

impl Coded for IdentityError {
    fn code(&self) -> Code {
        match self {
            Self::File(error) => error.code(),
            Self::Damaged { .. } => Code::StoreCorrupt,
            Self::Certificate(_) | Self::Random(_) => Code::Internal,
            Self::Join(error) => error.code(),
        }
    }
}

/// Why a newcomer was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The join string cannot be used.
    #[error(transparent)]
    Join(#[from] JoinStringError),
    /// None of the members that the join string names can be reached and decides.
    #[error("no member of the cluster can take this node in: {0}")]
    Unreachable(String),
    /// The member refused.
    #[error("the cluster refused: {detail}")]
    Refused {
        /// The error's code there.
        code: Code,
        /// What it said.
        detail: String,
    },
    /// The other side did not keep to the protocol.
    #[error("the exchange with {0} failed: {1}")]
    Protocol(String, String),
    /// The identity cannot be made or kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl Coded for EnrolError {
    fn code(&self) -> Code {
        match self {
            Self::Join(error) => error.code(),
            Self::Unreachable(_) => Code::NodeUnreachable,
            Self::Refused { code, .. } => *code,
            Self::Protocol(..) => Code::JoinRefused,
            Self::Identity(error) => error.code(),
        }
    }
}
