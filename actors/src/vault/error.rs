//! What can go wrong with secrets. No message shows one.

use std::path::PathBuf;

use thiserror::Error;
use troupe_protocol::access::{SecretName, TemplateError};
use troupe_protocol::error::{Code, Coded};

use super::{SECRET_BYTES_MAX, SECRETS_MAX};
use crate::runtime::AskError;
use crate::store::{StoreError, WriteError};

/// Why a secret cannot be kept or used, or why the vault does not open.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VaultError {
    /// A secret that is referred to does not exist.
    #[error("there is no secret `{name}`: set it with `troupe secret set {name}`")]
    NotFound {
        /// Its name.
        name: SecretName,
    },
    /// A template or name that cannot be read.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The value is too large.
    #[error("the value of secret `{name}` has {bytes} bytes, the most is {SECRET_BYTES_MAX}")]
    TooLarge {
        /// Its name.
        name: SecretName,
        /// Its size.
        bytes: usize,
    },
    /// It is another value's place by now.
    #[error("secret `{name}` was changed or removed meanwhile: what was to take its place is not kept")]
    Changed {
        /// Its name.
        name: SecretName,
    },
    /// No room for another.
    #[error("the vault holds {SECRETS_MAX} secrets, which is the most: remove some")]
    Full,
    /// There are sealed secrets and no key file.
    #[error(
        "the vault's key file {} is missing, but secrets are sealed with it: restore it from a backup. Without it they \
         cannot be read; to give them up, remove them with the data folder's `store`", path.display()
    )]
    KeyMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The key file is not the one.
    #[error("the key in {} is not the one that the secrets are sealed with: restore the right file", path.display())]
    KeyWrong {
        /// Where it is.
        path: PathBuf,
    },
    /// The key file cannot be read as a key.
    #[error("{} holds no vault key: expected one line, `{format}` and 43 characters of base64", path.display(), format = super::key::KEY_FILE_PREFIX)]
    KeyUnreadable {
        /// Where it is.
        path: PathBuf,
    },
    /// The passphrase is not the one.
    #[error("the passphrase is not the one that the vault's secrets are sealed with")]
    PassphraseWrong,
    /// Sealed with a passphrase, and none is given.
    #[error("the vault is sealed with a passphrase: give it (setting `vault.passphrase_file`)")]
    PassphraseNeeded,
    /// A passphrase is given for a vault with a key file.
    #[error(
        "the vault is sealed with the key file vault.key, not with a passphrase: start without the passphrase"
    )]
    PassphraseUnneeded,
    /// A passphrase that protects nothing.
    #[error(
        "the passphrase has fewer than {} characters",
        super::key::PASSPHRASE_CHARS_MIN
    )]
    PassphraseShort,
    /// A sealed secret does not open with the right key: its record was tampered with.
    #[error("secret `{name}` does not open with the vault's key: its record was changed; set it again")]
    Tampered {
        /// Its name.
        name: String,
    },
    /// Sealing itself failed.
    #[error("cannot {doing}: {reason}")]
    Crypto {
        /// What was tried.
        doing: &'static str,
        /// What the library said.
        reason: String,
    },
    /// The vault was made with the key of another cluster.
    #[error(
        "the vault's key does not open with this cluster's key: the node's folder `cluster` and its secrets are of \
         different clusters; restore both from the same backup"
    )]
    ClusterKeyWrong,
    /// Others changed the vault's key again and again while this node was opening it.
    #[error("the vault is being set up by other nodes: start this node again")]
    KeyContended,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The write was not taken.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The vault did not answer.
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl Coded for VaultError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound { .. } => Code::SecretNotFound,
            Self::Template(TemplateError::Name { .. }) => Code::InvalidName,
            Self::Template(_) => Code::InvalidSecretTemplate,
            Self::TooLarge { .. } | Self::Full => Code::RecordTooLarge,
            Self::KeyMissing { .. }
            | Self::KeyWrong { .. }
            | Self::KeyUnreadable { .. }
            | Self::PassphraseWrong
            | Self::PassphraseNeeded
            | Self::PassphraseUnneeded
            | Self::ClusterKeyWrong
            | Self::Tampered { .. } => Code::VaultSealed,
            Self::PassphraseShort => Code::InvalidSetting,
            Self::Crypto { .. } => Code::Internal,
            Self::KeyContended | Self::Changed { .. } => Code::WriteConflict,
            Self::Store(error) => error.code(),
            Self::Write(error) => error.code(),
            Self::Ask(error) => error.code(),
        }
    }
}
