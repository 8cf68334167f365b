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

use parking_lot::RwLock;
use serde::Serialize;
use serde::de::DeserializeOwned;

mod blobs;
mod codec;
mod commit;
mod engine;
mod envelope;
mod error;
pub mod files;
mod identity;
mod lock;
mod raw_log;
pub mod replicated;
mod sled_engine;
mod tree;
mod verify;

pub use blobs::{BLOB_BYTES_MAX, BlobId, Blobs};
pub use commit::StoreStatus;
pub use engine::{Engine, EngineError, RawChange, RawRange, Tree};
pub use error::StoreError;
pub use raw_log::{Durable, LOG_ENTRY_BYTES_MAX, RawLog};
pub use replicated::{
    RecordBatch, ReplicatedState, ReplicatedTree, ReplicatedWrites, TreeChange, TreeFeed, Versioned,
    WriteError,
};
pub use tree::{
    BATCH_BYTES_MAX, BATCH_CHANGES_MAX, Change, KEY_BYTES_MAX, Migration, RECORD_BYTES_MAX, TypedTree,
};
pub use verify::{VerifyProblem, VerifyReport};

use crate::runtime::Deadline;
use commit::Committer;
use lock::FolderLock;
use replicated::ReplicatedCore;
use sled_engine::SledEngine;

/// The store of one node. Cheap to clone; the folder is released when the last clone (and tree) is gone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<StoreInner>,
}

/// Who orders writes to replicated trees.
enum Replication {
    /// The store itself.
    Alone,
    /// The log.
    Through(Arc<dyn ReplicatedWrites>),
    /// The log did, until it ended.
    Ended,
}

/// Fields are dropped in this order: the commit thread ends and lets go of the engine before the folder is unlocked.
struct StoreInner {
    committer: Committer,
    core: Arc<ReplicatedCore>,
    replication: RwLock<Replication>,
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
        let core = Arc::new(ReplicatedCore::open(data_folder, engine.as_ref())?);
        let blobs = Blobs::open(data_folder)?;
        Ok(Self {
            inner: Arc::new(StoreInner {
                committer,
                core,
                replication: RwLock::new(Replication::Alone),
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

    /// The replicated tree with this name, without a zero byte and not empty. `schema_version` is that of `V` as this
    /// program knows it.
    pub fn replicated<V>(&self, name: &'static str, schema_version: u16) -> ReplicatedTree<V>
    where
        V: Serialize + DeserializeOwned + Send,
    {
        ReplicatedTree::new(self.clone(), name, schema_version)
    }

    /// From now on writes to replicated trees go through this.
    pub fn set_replication(&self, writes: Arc<dyn ReplicatedWrites>) {
        *self.inner.replication.write() = Replication::Through(writes);
    }

    /// From now on writes to replicated trees are refused. Lets go of what [`set_replication`](Self::set_replication) was
    /// given, which may hold this store in turn.
    pub fn end_replication(&self) {
        *self.inner.replication.write() = Replication::Ended;
    }

    /// Writes a batch to replicated trees: all of it or, when a guard does not hold, nothing. Once it returns, reads on this
    /// node show it, and it is durable.
    ///
    /// # Errors
    /// When a guard does not hold, the batch is too large, or the log (or disk) does not take it.
    pub async fn write_records(&self, batch: RecordBatch, deadline: Deadline) -> Result<(), WriteError> {
        if batch.is_empty() {
            return Ok(());
        }
        let Some(log) = self.log()? else {
            return self.write_alone(batch).await;
        };
        batch.check()?;
        log.write(batch, deadline).await?;
        Ok(())
    }

    /// Waits until replicated trees show everything that was acknowledged anywhere before this was called: for who is about
    /// to refuse something because of what this node has seen so far.
    ///
    /// # Errors
    /// When no majority can be reached.
    pub async fn linearize(&self, deadline: Deadline) -> Result<(), WriteError> {
        match self.log()? {
            Some(log) => log.linearize(deadline).await,
            None => Ok(()),
        }
    }

    /// What writes go through; nothing in a store that is alone.
    fn log(&self) -> Result<Option<Arc<dyn ReplicatedWrites>>, WriteError> {
        match &*self.inner.replication.read() {
            Replication::Alone => Ok(None),
            Replication::Through(log) => Ok(Some(Arc::clone(log))),
            Replication::Ended => Err(WriteError::NoQuorum {
                reason: "this node is stopping".to_owned(),
            }),
        }
    }

    async fn write_alone(&self, batch: RecordBatch) -> Result<(), WriteError> {
        if self.core().applied()?.is_some() {
            let reason = "the store belongs to a cluster, whose log is not running".to_owned();
            return Err(WriteError::NoQuorum { reason });
        }
        let core = Arc::clone(self.core());
        let written = self.committer().run(move || core.write_direct(batch)).await?;
        written?;
        Ok(())
    }

    /// What changes in these replicated trees from now on.
    pub fn follow(&self, trees: &[&'static str]) -> TreeFeed {
        TreeFeed::new(trees, self.core().feed())
    }

    /// Where the log applies its entries.
    pub fn replicated_state(&self) -> ReplicatedState {
        ReplicatedState::new(self.clone(), Arc::clone(self.core()))
    }

    /// A log of this name: entries by number, for the replicated log.
    ///
    /// # Errors
    /// When the engine cannot open it.
    pub fn raw_log(&self, name: &'static str) -> Result<RawLog, StoreError> {
        RawLog::open(self.clone(), name)
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

    fn core(&self) -> &Arc<ReplicatedCore> {
        &self.inner.core
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
mod test_kill_apply;
#[cfg(test)]
mod test_raw_log;
#[cfg(test)]
mod tests;
