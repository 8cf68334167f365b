//! Trees that were of one node before they were replicated: their records move, once.

use std::ops::Bound;

use super::batch::{RECORD_BATCH_BYTES_MAX, RecordBatch, RecordBytes, RecordChange, WriteError};
use super::tree::WRITE_WITHIN;
use crate::runtime::Deadline;
use crate::store::engine::{EngineError, RawChange, Tree};
use crate::store::envelope::{self, Place};
use crate::store::{Store, StoreError};

/// So many bytes of records are moved at once.
const BATCH_BYTES: usize = RECORD_BATCH_BYTES_MAX / 2;
const REMOVED_AT_ONCE: usize = 1_024;

impl Store {
    /// Moves the records of these trees of this node into the replicated trees of the same names. A tree that has none
    /// costs one look. Gives how many were moved.
    ///
    /// To be called where a cluster is made, after [`set_replication`](Store::set_replication) and before anything else
    /// writes: when it is cut off, the next call writes the same records again.
    ///
    /// # Errors
    /// When a record is damaged, or the log does not take it; nothing is lost then.
    pub async fn adopt_former_trees(&self, names: &[&'static str]) -> Result<u64, WriteError> {
        let mut moved = 0;
        for name in names {
            let raw = self.inner.engine.tree(name);
            let raw = raw.map_err(|error| StoreError::engine(self.folder(), &error))?;
            let copied = self.copy_former(name, raw.as_ref()).await?;
            if copied > 0 {
                self.remove_former(&raw).await?;
                tracing::info!(tree = name, records = copied, "moved into the replicated state");
            }
            moved += copied;
        }
        Ok(moved)
    }

    async fn copy_former(&self, name: &'static str, raw: &dyn Tree) -> Result<u64, WriteError> {
        let mut copied = 0;
        let mut last: Bound<Vec<u8>> = Bound::Unbounded;
        loop {
            let mut batch = RecordBatch::default();
            let mut bytes = 0;
            for record in raw.range(last.clone(), Bound::Unbounded) {
                let (key, record) = record.map_err(|error| StoreError::engine(self.folder(), &error))?;
                let change = self.former_change(name, &key, record)?;
                bytes += change.bytes();
                batch.changes.push(change);
                last = Bound::Excluded(key);
                if bytes >= BATCH_BYTES || batch.changes.len() >= REMOVED_AT_ONCE {
                    break;
                }
            }
            if batch.is_empty() {
                return Ok(copied);
            }
            copied += batch.changes.len() as u64;
            self.write_records(batch, Deadline::within(WRITE_WITHIN)).await?;
        }
    }

    /// The envelope covers the names of tree and key, and both stay: the record moves as it is.
    fn former_change(
        &self,
        name: &'static str,
        key: &[u8],
        record: Vec<u8>,
    ) -> Result<RecordChange, StoreError> {
        let text = String::from_utf8_lossy(key).into_owned();
        let checked = envelope::open(Place { tree: name, key }, &record);
        let reason = checked.err().map(|error| error.to_string());
        if let Some(reason) = reason {
            return Err(StoreError::Corrupt {
                folder: self.folder().to_owned(),
                tree: name.to_owned(),
                key: text,
                reason,
            });
        }
        Ok(RecordChange {
            tree: name.to_owned(),
            key: text,
            record: Some(RecordBytes(record)),
        })
    }

    async fn remove_former(&self, raw: &std::sync::Arc<dyn Tree>) -> Result<(), StoreError> {
        loop {
            let keys = raw
                .range(Bound::Unbounded, Bound::Unbounded)
                .take(REMOVED_AT_ONCE);
            let removals: Result<Vec<RawChange>, EngineError> = keys
                .map(|record| Ok(RawChange::Remove { key: record?.0 }))
                .collect();
            let removals = removals.map_err(|error| StoreError::engine(self.folder(), &error))?;
            if removals.is_empty() {
                return Ok(());
            }
            self.committer()
                .write(std::sync::Arc::clone(raw), removals)
                .await?;
        }
    }
}
