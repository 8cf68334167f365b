//! What survives: typed trees of small records, and a folder of content-addressed blobs.
//!
//! A write is acknowledged only once it is on the disk: the records are applied, the database is flushed, its file is
//! synced, and only then does `put` return. Writers that arrive together share one sync (`commit`). Reads go straight to
//! the engine's cache and may see a write a moment before it is acknowledged.
//!
//! Each record is JSON in an envelope with schema version and checksum (`envelope`), so that what comes back is what was
//! written, or a clear error. The database engine sits behind two small traits (`engine`), so that another can take its
//! place. Here is no knowledge of what the records mean: that is with the actors which own the trees.
//!
//! # Layout of the data folder
//! | file | what |
//! |---|---|
//! | `lock` | held while a node uses the folder; says which process |
//! | `store/` | the database |
//! | `store.json` | which database belongs here, so that an empty one is never taken for it |
//! | `commits` | number of the last acknowledged commit, so that a database which lost some is noticed |
//! | `blobs/` | large bytes by their SHA-256 |
//!
//! The vault and the access actor keep `vault.key` and `admin.key` beside these.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

mod blobs;
mod commit;
mod engine;
mod envelope;
mod error;
pub mod files;
mod identity;
mod lock;
mod sled_engine;
mod tree;
mod verify;

pub use blobs::{BLOB_BYTES_MAX, BlobId, Blobs};
pub use commit::StoreStatus;
pub use engine::{Engine, EngineError, RawChange, RawRange, Tree};
pub use error::StoreError;
pub use tree::{
    BATCH_BYTES_MAX, BATCH_CHANGES_MAX, Change, KEY_BYTES_MAX, Migration, RECORD_BYTES_MAX, TypedTree,
};
pub use verify::{VerifyProblem, VerifyReport};

use commit::Committer;
use lock::FolderLock;
use sled_engine::SledEngine;

/// The store of one node. Cheap to clone; the folder is released when the last clone (and tree) is gone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<StoreInner>,
}

/// Fields are dropped in this order: the commit thread ends and lets go of the engine before the folder is unlocked.
struct StoreInner {
    committer: Committer,
    engine: Arc<dyn Engine>,
    blobs: Blobs,
    folder: PathBuf,
    _lock: FolderLock,
}

impl Store {
    /// Opens the store in a node's data folder, making both when there is nothing yet. Blocks while it recovers.
    ///
    /// # Errors
    /// When another process uses the folder, when the database does not open, when it is not the one that belongs here,
    /// or when it has lost acknowledged writes. It never starts empty where something had been.
    pub fn open(data_folder: &Path) -> Result<Self, StoreError> {
        files::create_private_folder(data_folder)?;
        let lock = FolderLock::take(data_folder)?;
        identity::refuse_missing_database(data_folder)?;
        let engine: Arc<dyn Engine> = Arc::new(SledEngine::open(data_folder)?);
        let meta = identity::adopt(data_folder, engine.as_ref())?;
        let committer = Committer::start(data_folder, Arc::clone(&engine), meta)?;
        let blobs = Blobs::open(data_folder)?;
        Ok(Self {
            inner: Arc::new(StoreInner {
                committer,
                engine,
                blobs,
                folder: data_folder.to_owned(),
                _lock: lock,
            }),
        })
    }

    /// The tree with this name, made when there is none. `schema_version` is that of `V` as this program knows it.
    ///
    /// # Errors
    /// When the engine cannot open it.
    pub fn tree<V>(&self, name: &'static str, schema_version: u16) -> Result<TypedTree<V>, StoreError>
    where
        V: Serialize + DeserializeOwned + Send,
    {
        let raw = self
            .inner
            .engine
            .tree(name)
            .map_err(|error| StoreError::engine(&self.inner.folder, &error))?;
        Ok(TypedTree::new(self.clone(), raw, name, schema_version))
    }

    /// The blobs of this node.
    pub fn blobs(&self) -> &Blobs {
        &self.inner.blobs
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// What the store did so far and how it fares.
    pub fn status(&self) -> StoreStatus {
        self.inner.committer.status()
    }

    /// Reads every record and checks its checksum. Blocks; for `troupe doctor`.
    ///
    /// # Errors
    /// When the engine cannot list or read its trees at all; a bad record is a line in the report instead.
    pub fn verify(&self) -> Result<VerifyReport, StoreError> {
        verify::verify(self.inner.engine.as_ref(), &self.inner.folder)
    }

    fn committer(&self) -> &Committer {
        &self.inner.committer
    }
}

#[cfg(test)]
mod figures;
#[cfg(test)]
mod test_commit;
#[cfg(test)]
mod test_damage;
#[cfg(test)]
mod test_kill;
#[cfg(test)]
mod tests;
