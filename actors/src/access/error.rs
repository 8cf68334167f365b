//! What can go wrong with keys and sessions. No message shows one.

use std::path::PathBuf;

use thiserror::Error;
use troupe_protocol::access::KeyId;
use troupe_protocol::error::{Code, Coded};

use super::state::{KEY_NAME_CHARS_MAX, KEYS_MAX};
use crate::runtime::AskError;
use crate::store::{StoreError, WriteError};

/// Why a key or session cannot be made, changed or used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AccessError {
    /// A key's name breaks the rule.
    #[error(
        "{name:?} is no name for a key: use 1 to {KEY_NAME_CHARS_MAX} letters, digits, spaces and . _ - @ / + without \
         spaces at the ends"
    )]
    Name {
        /// What was given (shortened).
        name: String,
    },
    /// The name is taken.
    #[error("there is a key named `{name}` already: choose another name, or revoke that key first")]
    Exists {
        /// The name.
        name: String,
    },
    /// No room for another.
    #[error("there are {KEYS_MAX} keys, which is the most: revoke some")]
    Full,
    /// No such key.
    #[error("there is no key {id}")]
    NotFound {
        /// Its id.
        id: KeyId,
    },
    /// Revoking it would lock everybody out.
    #[error(
        "key {id} is the last one with the role admin: make another administrator key before you revoke it"
    )]
    LastAdmin {
        /// Its id.
        id: KeyId,
    },
    /// The code is unknown, was used, or is too old.
    #[error(
        "the login link was used already, or is older than ten minutes: make another with `troupe key login-link`"
    )]
    LoginCode,
    /// Only a key can open a session.
    #[error("`{name}` has no key: a browser session needs one")]
    NoKey {
        /// The principal's name.
        name: String,
    },
    /// `admin.key` is not a key.
    #[error(
        "{} holds no administrator key: expected one line, `trp_` and 43 characters. Move it away to have a new one made",
        path.display()
    )]
    KeyFile {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("cannot get random bytes: {reason}")]
    Random {
        /// What the system said.
        reason: String,
    },
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

impl AccessError {
    /// Whether this is said because of what there is, which may be more at other nodes, and not because of what was asked.
    pub(super) fn is_of_the_state(&self) -> bool {
        matches!(
            self,
            Self::Exists { .. } | Self::NotFound { .. } | Self::LastAdmin { .. }
        )
    }
}

impl Coded for AccessError {
    fn code(&self) -> Code {
        match self {
            Self::Name { .. } => Code::InvalidName,
            Self::Exists { .. } => Code::KeyExists,
            Self::Full => Code::RecordTooLarge,
            Self::NotFound { .. } => Code::KeyNotFound,
            Self::LastAdmin { .. } => Code::LastAdminKey,
            Self::LoginCode => Code::LoginCodeInvalid,
            Self::NoKey { .. } => Code::Forbidden,
            Self::KeyFile { .. } => Code::StoreUnavailable,
            Self::Random { .. } => Code::Internal,
            Self::Store(error) => error.code(),
            Self::Write(error) => error.code(),
            Self::Ask(error) => error.code(),
        }
    }
}
