//! Where the vault's key comes from, and the check that it is the right one before anything is sealed or opened with it.
//!
//! The record `meta` of the vault's tree holds a known text, sealed with the key, and how the key is come by: derived from a
//! passphrase, or kept there itself, sealed with the cluster's key. So a wrong key is found at the start of the node, not at the first use of a secret.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use super::cipher::{self, Derivation, MasterKey, Sealed};
use super::error::VaultError;
use super::state::{META_KEY, VaultMeta, VaultRecord};
use super::{VAULT_SCHEMA, VAULT_TREE};
use crate::runtime::Deadline;
use crate::store::replicated::{RecordVersion, WRITE_WITHIN};
use crate::store::{RecordBatch, ReplicatedTree, Store, WriteError, files};

/// What the key file's line begins with.
pub(super) const KEY_FILE_PREFIX: &str = "troupe-vault-key-1:";
/// The shortest passphrase that is taken.
pub(super) const PASSPHRASE_CHARS_MIN: usize = 12;

const KEY_FILE: &str = "vault.key";
/// No secret can have this name: it has a space.
const CHECK_NAME: &str = "vault check";
const CHECK_TEXT: &str = "the key fits";
const WRAPPED_NAME: &str = "vault key";
const CLUSTER: &str = "cluster key";
/// How often the key's record may be another than it was a moment ago.
const ATTEMPTS_MAX: u32 = 8;

/// The key that all nodes of a cluster have and nobody else. Wiped when dropped; shows itself to nobody.
#[derive(Clone)]
pub struct ClusterKey(Arc<MasterKey>);

impl ClusterKey {
    /// The key with these bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Arc::new(MasterKey::of(Zeroizing::new(bytes))))
    }
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(…)")
    }
}

/// Where the vault's key comes from (a setting of the node).
#[derive(Debug, Clone)]
pub enum KeySource {
    /// The file `vault.key` in the data folder, made at first start: a node that is not in a cluster.
    File,
    /// The vault itself, sealed with the cluster's key. That of a vault with a key file is taken over.
    Cluster(ClusterKey),
    /// A passphrase, the same at all nodes.
    Passphrase(SecretString),
}

/// The key of a vault, known to be the right one. Shows itself to nobody.
#[derive(Clone)]
pub struct VaultKey {
    master: Arc<MasterKey>,
    source: &'static str,
}

/// The vault's record `meta`, as it was read.
struct Meta {
    tree: ReplicatedTree<VaultRecord>,
    known: Option<VaultMeta>,
    version: Option<RecordVersion>,
    store: Store,
}

impl Meta {
    fn read(store: &Store) -> Result<Self, VaultError> {
        let tree = store.replicated::<VaultRecord>(VAULT_TREE, VAULT_SCHEMA);
        let record = tree.get_versioned(META_KEY)?;
        let version = record.as_ref().map(|record| record.version);
        let known = record.and_then(|record| match record.value {
            VaultRecord::Meta(meta) => Some(meta),
            VaultRecord::Secret(_) => None,
        });
        Ok(Self {
            tree,
            known,
            version,
            store: store.clone(),
        })
    }

    fn fits(&self, master: &MasterKey) -> bool {
        let check = self.known.as_ref().map(|meta| &meta.check);
        check.is_none_or(|check| cipher::open(master, CHECK_NAME, check).is_ok())
    }

    /// Writes the record, if it is still what was read.
    async fn write(&self, meta: VaultMeta) -> Result<(), VaultError> {
        let mut batch = RecordBatch::default();
        self.tree.guard_into(&mut batch, META_KEY, self.version);
        self.tree
            .put_into(&mut batch, META_KEY, &VaultRecord::Meta(meta))?;
        let deadline = Deadline::within(WRITE_WITHIN);
        Ok(self.store.write_records(batch, deadline).await?)
    }
}

impl VaultKey {
    /// Reads, makes or derives the key and checks that it is the one which the store's secrets are sealed with. In a
    /// cluster, call it once this node has caught up with the log.
    ///
    /// # Errors
    /// When the key file is missing although there are secrets, when others may read it, or when key or passphrase are
    /// not the right ones.
    pub async fn open(store: &Store, source: KeySource) -> Result<Self, VaultError> {
        let path = store.folder().join(KEY_FILE);
        for _ in 0..ATTEMPTS_MAX {
            let meta = Meta::read(store)?;
            let opened = match &source {
                KeySource::File => Self::open_with_file(meta, &path).await,
                KeySource::Cluster(key) => Self::open_with_cluster(meta, key, &path).await,
                KeySource::Passphrase(passphrase) => {
                    Self::open_with_passphrase(meta, passphrase.clone()).await
                }
            };
            match opened {
                // Another node was first: what it wrote counts.
                Err(VaultError::Write(WriteError::Conflict(_))) => {}
                opened => return opened,
            }
        }
        Err(VaultError::KeyContended)
    }

    async fn open_with_file(meta: Meta, path: &Path) -> Result<Self, VaultError> {
        let master = match &meta.known {
            Some(_) => key_in_file(&meta, path)?,
            None => match read_key(path)? {
                Some(master) => master, // the first start was cut off after the file
                None => make_key(path)?,
            },
        };
        let key = Self::new(master, KEY_FILE);
        if meta.known.is_none() {
            meta.write(key.meta(None, None)?).await?;
        }
        Ok(key)
    }

    async fn open_with_cluster(meta: Meta, cluster: &ClusterKey, path: &Path) -> Result<Self, VaultError> {
        let wrapped = meta.known.as_ref().and_then(|meta| meta.wrapped_key.as_ref());
        if let Some(wrapped) = wrapped {
            let text = cipher::open(&cluster.0, WRAPPED_NAME, wrapped);
            let master = text.ok().and_then(|text| MasterKey::from_text(&text));
            let master = master.filter(|master| meta.fits(master));
            return master
                .map(|master| Self::new(master, CLUSTER))
                .ok_or(VaultError::ClusterKeyWrong);
        }
        // A vault from before there was a cluster keeps its key, so that its secrets need not be sealed again.
        let master = match &meta.known {
            Some(_) => key_in_file(&meta, path)?,
            None => match read_key(path)? {
                Some(master) => master,
                None => MasterKey::generate()?,
            },
        };
        let wrapped = cipher::seal(&cluster.0, WRAPPED_NAME, master.to_text().as_bytes())?;
        let key = Self::new(master, CLUSTER);
        meta.write(key.meta(None, Some(wrapped))?).await?;
        Ok(key)
    }

    async fn open_with_passphrase(meta: Meta, passphrase: SecretString) -> Result<Self, VaultError> {
        if passphrase.expose_secret().chars().count() < PASSPHRASE_CHARS_MIN {
            return Err(VaultError::PassphraseShort);
        }
        let derivation = match &meta.known {
            Some(meta) => meta.derivation.clone().ok_or(VaultError::PassphraseUnneeded)?,
            None => Derivation::new()?,
        };
        let costs = derivation.clone();
        let derived = tokio::task::spawn_blocking(move || MasterKey::derive(&passphrase, &costs)).await;
        let failed = |reason| VaultError::Crypto {
            doing: "derive the key from the passphrase",
            reason,
        };
        let key = Self::new(derived.map_err(|error| failed(error.to_string()))??, "passphrase");
        if !meta.fits(&key.master) {
            return Err(VaultError::PassphraseWrong);
        }
        if meta.known.is_none() {
            meta.write(key.meta(Some(derivation), None)?).await?;
        }
        Ok(key)
    }

    fn new(master: MasterKey, source: &'static str) -> Self {
        Self {
            master: Arc::new(master),
            source,
        }
    }

    fn meta(
        &self,
        derivation: Option<Derivation>,
        wrapped_key: Option<Sealed>,
    ) -> Result<VaultMeta, VaultError> {
        Ok(VaultMeta {
            derivation,
            check: cipher::seal(&self.master, CHECK_NAME, CHECK_TEXT.as_bytes())?,
            wrapped_key,
        })
    }

    pub(super) fn master(&self) -> &MasterKey {
        &self.master
    }

    /// Where it comes from, for people.
    pub(super) fn describe(&self) -> &'static str {
        self.source
    }
}

/// The key in the file, for a vault that was made with one.
fn key_in_file(meta: &Meta, path: &Path) -> Result<MasterKey, VaultError> {
    let known = meta.known.as_ref();
    if known.is_some_and(|meta| meta.derivation.is_some()) {
        return Err(VaultError::PassphraseNeeded);
    }
    let Some(master) = read_key(path)? else {
        return Err(VaultError::KeyMissing {
            path: path.to_owned(),
        });
    };
    if meta.fits(&master) {
        return Ok(master);
    }
    Err(VaultError::KeyWrong {
        path: path.to_owned(),
    })
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
