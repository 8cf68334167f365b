//! Where the vault's key comes from, and the check that it is the right one before anything is sealed or opened with it.
//!
//! The record `meta` of the vault's tree holds a known text, sealed with the key, and how the key is derived when it comes
//! from a passphrase. So a wrong key is found at the start of the node, not at the first use of a secret.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::cipher::{self, Derivation, MasterKey};
use super::error::VaultError;
use super::state::{META_KEY, VaultMeta, VaultRecord};
use super::{VAULT_SCHEMA, VAULT_TREE};
use crate::store::{Store, TypedTree, files};

/// What the key file's line begins with.
pub(super) const KEY_FILE_PREFIX: &str = "troupe-vault-key-1:";
/// The shortest passphrase that is taken.
pub(super) const PASSPHRASE_CHARS_MIN: usize = 12;

const KEY_FILE: &str = "vault.key";
/// No secret can have this name: it has a space.
const CHECK_NAME: &str = "vault check";
const CHECK_TEXT: &str = "the key fits";

/// Where the vault's key comes from (a setting of the node).
#[derive(Debug, Clone)]
pub enum KeySource {
    /// The file `vault.key` in the data folder, made at first start.
    File,
    /// A passphrase.
    Passphrase(SecretString),
}

/// The key of a vault, known to be the right one. Shows itself to nobody.
#[derive(Clone)]
pub struct VaultKey {
    master: Arc<MasterKey>,
    from_passphrase: bool,
}

impl VaultKey {
    /// Reads, makes or derives the key and checks that it is the one which the store's secrets are sealed with.
    ///
    /// # Errors
    /// When the key file is missing although there are secrets, when others may read it, or when key or passphrase are
    /// not the right ones.
    pub async fn open(store: &Store, source: KeySource) -> Result<Self, VaultError> {
        let tree = store.tree::<VaultRecord>(VAULT_TREE, VAULT_SCHEMA)?;
        let meta = match tree.get(META_KEY)? {
            Some(VaultRecord::Meta(meta)) => Some(meta),
            _ => None,
        };
        match source {
            KeySource::File => Self::open_with_file(&tree, meta, &store.folder().join(KEY_FILE)).await,
            KeySource::Passphrase(passphrase) => Self::open_with_passphrase(&tree, meta, passphrase).await,
        }
    }

    async fn open_with_file(
        tree: &TypedTree<VaultRecord>,
        meta: Option<VaultMeta>,
        path: &Path,
    ) -> Result<Self, VaultError> {
        let in_file = read_key(path)?;
        let master = match (in_file, &meta) {
            (_, Some(meta)) if meta.derivation.is_some() => return Err(VaultError::PassphraseNeeded),
            (None, Some(_)) => {
                return Err(VaultError::KeyMissing {
                    path: path.to_owned(),
                });
            }
            (Some(master), Some(meta)) => {
                let fits = cipher::open(&master, CHECK_NAME, &meta.check).is_ok();
                if fits {
                    master
                } else {
                    return Err(VaultError::KeyWrong {
                        path: path.to_owned(),
                    });
                }
            }
            (Some(master), None) => master, // the first start was cut off after the file
            (None, None) => make_key(path)?,
        };
        let key = Self {
            master: Arc::new(master),
            from_passphrase: false,
        };
        if meta.is_none() {
            key.write_meta(tree, None).await?;
        }
        Ok(key)
    }

    async fn open_with_passphrase(
        tree: &TypedTree<VaultRecord>,
        meta: Option<VaultMeta>,
        passphrase: SecretString,
    ) -> Result<Self, VaultError> {
        if passphrase.expose_secret().chars().count() < PASSPHRASE_CHARS_MIN {
            return Err(VaultError::PassphraseShort);
        }
        let derivation = match &meta {
            Some(meta) => meta.derivation.clone().ok_or(VaultError::PassphraseUnneeded)?,
            None => Derivation::new()?,
        };
        let costs = derivation.clone();
        let derived = tokio::task::spawn_blocking(move || MasterKey::derive(&passphrase, &costs)).await;
        let failed = |reason| VaultError::Crypto {
            doing: "derive the key from the passphrase",
            reason,
        };
        let master = derived.map_err(|error| failed(error.to_string()))??;
        let key = Self {
            master: Arc::new(master),
            from_passphrase: true,
        };
        match meta {
            Some(meta) if cipher::open(&key.master, CHECK_NAME, &meta.check).is_err() => {
                return Err(VaultError::PassphraseWrong);
            }
            Some(_) => {}
            None => key.write_meta(tree, Some(derivation)).await?,
        }
        Ok(key)
    }

    async fn write_meta(
        &self,
        tree: &TypedTree<VaultRecord>,
        derivation: Option<Derivation>,
    ) -> Result<(), VaultError> {
        let check = cipher::seal(&self.master, CHECK_NAME, CHECK_TEXT.as_bytes())?;
        Ok(tree
            .put(META_KEY, &VaultRecord::Meta(VaultMeta { derivation, check }))
            .await?)
    }

    pub(super) fn master(&self) -> &MasterKey {
        &self.master
    }

    /// Where it comes from, for people.
    pub(super) fn describe(&self) -> &'static str {
        if self.from_passphrase {
            "passphrase"
        } else {
            KEY_FILE
        }
    }
}

fn read_key(path: &Path) -> Result<Option<MasterKey>, VaultError> {
    let Some(text) = files::read_private(path)?.map(Zeroizing::new) else {
        return Ok(None);
    };
    let key = text
        .trim()
        .strip_prefix(KEY_FILE_PREFIX)
        .and_then(MasterKey::from_text);
    key.map(Some).ok_or_else(|| VaultError::KeyUnreadable {
        path: PathBuf::from(path),
    })
}

fn make_key(path: &Path) -> Result<MasterKey, VaultError> {
    let master = MasterKey::generate()?;
    let line = Zeroizing::new(format!("{KEY_FILE_PREFIX}{}\n", *master.to_text()));
    files::write_private(path, line.as_bytes())?;
    Ok(master)
}
