//! A replicated tree of records of one type.

use std::ops::Bound;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::batch::{RecordBatch, RecordBytes, RecordChange, RecordGuard, RecordVersion, WriteError};
use super::core::Applying;
use crate::runtime::Deadline;
use crate::store::codec::Codec;
use crate::store::tree::{Change, Migration, end_of_prefix};
use crate::store::{Store, StoreError};

/// How long a write may take when nobody says otherwise: the election of a leader fits in.
pub const WRITE_WITHIN: Duration = Duration::from_secs(8);

/// A value and the version of the record that holds it, to guard a write with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versioned<V> {
    /// The value.
    pub value: V,
    /// Its record's.
    pub version: RecordVersion,
}

/// Records of type `V` by key, in the order of keys, the same on all nodes. Cheap to clone.
///
/// Reads are local and synchronous, as those of [`TypedTree`](crate::store::TypedTree), and show what this node has applied.
/// Writes go through the log: when one returns, a majority has it on the disk and this node has applied it.
pub struct ReplicatedTree<V> {
    store: Store,
    codec: Codec<V>,
}

impl<V> Clone for ReplicatedTree<V> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            codec: self.codec.clone(),
        }
    }
}

impl<V> ReplicatedTree<V>
where
    V: Serialize + DeserializeOwned + Send,
{
    pub(in crate::store) fn new(store: Store, name: &'static str, schema_version: u16) -> Self {
        let codec = Codec::new(store.folder(), name, schema_version);
        Self { store, codec }
    }

    /// With a migration, as [`TypedTree::migrating`](crate::store::TypedTree::migrating).
    pub fn migrating(self, migration: Migration) -> Self {
        Self {
            codec: self.codec.migrating(migration),
            ..self
        }
    }

    /// The tree's name.
    pub fn name(&self) -> &'static str {
        self.codec.tree()
    }

    /// The record at a key.
    ///
    /// # Errors
    /// When it is damaged, of a later version, or cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<V>, StoreError> {
        let record = self.store.core().get(self.name(), key)?;
        record.map(|record| self.codec.decode(key, &record)).transpose()
    }

    /// The record at a key, with its version.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_versioned(&self, key: &str) -> Result<Option<Versioned<V>>, StoreError> {
        let record = self.store.core().get(self.name(), key)?;
        record.map(|record| self.versioned(key, &record)).transpose()
    }

    /// The record at a key as the entries before have left it, for who applies the log.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_applying(&self, applying: &Applying<'_>, key: &str) -> Result<Option<V>, StoreError> {
        let record = applying
            .record(self.name(), key)
            .map_err(|error| self.codec.failed(&error))?;
        record.map(|record| self.codec.decode(key, &record)).transpose()
    }

    /// Waits until reads show everything that was acknowledged at any node before this was called.
    ///
    /// # Errors
    /// When no majority can be reached.
    pub async fn linearize(&self, deadline: Deadline) -> Result<(), WriteError> {
        self.store.linearize(deadline).await
    }

    /// Writes a record.
    ///
    /// # Errors
    /// When it is too large, or the log does not take it.
    pub async fn put(&self, key: &str, value: &V) -> Result<(), WriteError> {
        let mut batch = RecordBatch::default();
        self.put_into(&mut batch, key, value)?;
        self.store
            .write_records(batch, Deadline::within(WRITE_WITHIN))
            .await
    }

    /// Removes a record, if there.
    ///
    /// # Errors
    /// When the log does not take it.
    pub async fn remove(&self, key: &str) -> Result<(), WriteError> {
        let mut batch = RecordBatch::default();
        self.remove_into(&mut batch, key);
        self.store
            .write_records(batch, Deadline::within(WRITE_WITHIN))
            .await
    }

    /// Applies changes in order, all or none.
    ///
    /// # Errors
    /// When a record or the batch is too large, or the log does not take it.
    pub async fn batch(&self, changes: Vec<Change<V>>) -> Result<(), WriteError> {
        let mut batch = RecordBatch::default();
        for change in &changes {
            match change {
                Change::Put(key, value) => self.put_into(&mut batch, key, value)?,
                Change::Remove(key) => self.remove_into(&mut batch, key),
            }
        }
        self.store
            .write_records(batch, Deadline::within(WRITE_WITHIN))
            .await
    }

    /// Makes a put part of a batch, to be written with [`Store::write_records`].
    ///
    /// # Errors
    /// When the record is too large.
    pub fn put_into(&self, batch: &mut RecordBatch, key: &str, value: &V) -> Result<(), StoreError> {
        let record = self.codec.encode(key, value)?;
        batch.changes.push(RecordChange {
            tree: self.name().to_owned(),
            key: key.to_owned(),
            record: Some(RecordBytes(record)),
        });
        Ok(())
    }

    /// Makes a removal part of a batch.
    pub fn remove_into(&self, batch: &mut RecordBatch, key: &str) {
        batch.changes.push(RecordChange {
            tree: self.name().to_owned(),
            key: key.to_owned(),
            record: None,
        });
    }

    /// Lets a batch be applied only if the record at `key` still has this version, or there is still none.
    pub fn guard_into(&self, batch: &mut RecordBatch, key: &str, expected: Option<RecordVersion>) {
        batch.guards.push(RecordGuard {
            tree: self.name().to_owned(),
            key: key.to_owned(),
            expected,
        });
    }

    /// The version that the record of this value has; nothing when it cannot be one.
    pub fn version_of(&self, key: &str, value: &V) -> Option<RecordVersion> {
        let record = self.codec.encode(key, value).ok()?;
        Some(RecordVersion::of(&record))
    }

    /// The records whose keys begin with `prefix` (all with `""`), in the order of keys; `rev()` walks from the end.
    pub fn scan_prefix(
        &self,
        prefix: &str,
    ) -> impl DoubleEndedIterator<Item = Result<(String, V), StoreError>> + use<V> {
        let codec = self.codec.clone();
        self.range(Bound::Included(prefix), end_of_prefix(prefix))
            .map(move |record| {
                let (key, record) = record?;
                let value = codec.decode(&key, &record)?;
                Ok((key, value))
            })
    }

    /// As [`scan_prefix`](Self::scan_prefix), with the records' versions.
    pub fn scan_versioned(
        &self,
        prefix: &str,
    ) -> impl DoubleEndedIterator<Item = Result<(String, Versioned<V>), StoreError>> + use<V> {
        let tree = self.clone();
        self.range(Bound::Included(prefix), end_of_prefix(prefix))
            .map(move |record| {
                let (key, record) = record?;
                let value = tree.versioned(&key, &record)?;
                Ok((key, value))
            })
    }

    /// The keys, in order; records are not decoded.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = Result<String, StoreError>> + use<V> {
        self.range(Bound::Unbounded, Bound::Unbounded)
            .map(|record| record.map(|(key, _)| key))
    }

    /// How many records there are. Walks over them all.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn len(&self) -> Result<usize, StoreError> {
        self.keys().try_fold(0, |count, key| key.map(|_| count + 1))
    }

    /// Whether there is no record.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn is_empty(&self) -> Result<bool, StoreError> {
        self.keys().next().transpose().map(|first| first.is_none())
    }

    fn range(
        &self,
        from: Bound<&str>,
        to: Bound<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<(String, Vec<u8>), StoreError>> + use<V> {
        let codec = self.codec.clone();
        self.store
            .core()
            .range(self.codec.tree(), from, to)
            .map(move |record| {
                let (key, record) = record.map_err(|error| codec.failed(&error))?;
                Ok((codec.key_text(key)?, record))
            })
    }

    fn versioned(&self, key: &str, record: &[u8]) -> Result<Versioned<V>, StoreError> {
        Ok(Versioned {
            value: self.codec.decode(key, record)?,
            version: RecordVersion::of(record),
        })
    }
}
