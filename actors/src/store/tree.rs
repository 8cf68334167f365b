//! A tree of records of one type.

use std::ops::Bound;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::Codec;
use super::engine::{RawChange, Tree};
use super::{Store, StoreError};

/// The largest record, header included. Chosen with `sled_engine::SEGMENT_BYTES`; see there.
pub const RECORD_BYTES_MAX: usize = 96 * 1024;
/// The longest key.
pub const KEY_BYTES_MAX: usize = 512;
/// The most changes of one batch.
pub const BATCH_CHANGES_MAX: usize = 16 * 1024;
/// The most bytes of one batch, keys and records.
pub const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Brings the JSON of an earlier schema version (the first argument) to that of the present one.
pub type Migration = fn(u16, serde_json::Value) -> Result<serde_json::Value, String>;

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<V> {
    /// Insert or replace.
    Put(String, V),
    /// Remove, if there.
    Remove(String),
}

/// Records of type `V` by key, in the order of keys. Cheap to clone.
///
/// Reads are synchronous: they come from the engine's cache, or from one short read of the file. Writes return once they
/// are on the disk.
pub struct TypedTree<V> {
    store: Store,
    raw: Arc<dyn Tree>,
    codec: Codec<V>,
}

impl<V> Clone for TypedTree<V> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            raw: Arc::clone(&self.raw),
            codec: self.codec.clone(),
        }
    }
}

impl<V> TypedTree<V>
where
    V: Serialize + DeserializeOwned + Send,
{
    pub(super) fn new(store: Store, raw: Arc<dyn Tree>, name: &'static str, schema_version: u16) -> Self {
        let codec = Codec::new(store.folder(), name, schema_version);
        Self { store, raw, codec }
    }

    /// With a migration: records of earlier schema versions are brought to the present one as they are read, and stay as
    /// they are on the disk until they are written again.
    pub fn migrating(self, migration: Migration) -> Self {
        Self {
            codec: self.codec.migrating(migration),
            ..self
        }
    }

    /// The record at a key.
    ///
    /// # Errors
    /// When it is damaged, of a later version, or cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<V>, StoreError> {
        let record = self
            .raw
            .get(key.as_bytes())
            .map_err(|error| self.codec.failed(&error))?;
        record.map(|record| self.codec.decode(key, &record)).transpose()
    }

    /// Writes a record. It is on the disk when this returns.
    ///
    /// # Errors
    /// When it is above [`RECORD_BYTES_MAX`], or the disk fails.
    pub async fn put(&self, key: &str, value: &V) -> Result<(), StoreError> {
        let value = self.codec.encode(key, value)?;
        self.write(vec![RawChange::Put {
            key: key.as_bytes().to_vec(),
            value,
        }])
        .await
    }

    /// Removes a record, if there. It is gone from the disk when this returns.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn remove(&self, key: &str) -> Result<(), StoreError> {
        self.write(vec![RawChange::Remove {
            key: key.as_bytes().to_vec(),
        }])
        .await
    }

    /// Applies changes in order, all or none, also if the node is killed meanwhile. Durable when this returns.
    ///
    /// # Errors
    /// When a record is above [`RECORD_BYTES_MAX`], the batch above [`BATCH_CHANGES_MAX`] or [`BATCH_BYTES_MAX`] (then
    /// nothing is written), or the disk fails.
    pub async fn batch(&self, changes: Vec<Change<V>>) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.codec.refuse_above(
            "a batch's number of changes",
            "",
            changes.len(),
            BATCH_CHANGES_MAX,
        )?;
        let mut raw_changes = Vec::with_capacity(changes.len());
        let mut bytes = 0;
        for change in changes {
            let raw_change = match change {
                Change::Put(key, value) => RawChange::Put {
                    value: self.codec.encode(&key, &value)?,
                    key: key.into_bytes(),
                },
                Change::Remove(key) => RawChange::Remove {
                    key: key.into_bytes(),
                },
            };
            bytes += raw_change.bytes();
            raw_changes.push(raw_change);
        }
        self.codec.refuse_above("a batch", "", bytes, BATCH_BYTES_MAX)?;
        self.write(raw_changes).await
    }

    /// The records whose keys begin with `prefix` (all with `""`), in the order of keys; `rev()` walks from the end.
    pub fn scan_prefix(
        &self,
        prefix: &str,
    ) -> impl DoubleEndedIterator<Item = Result<(String, V), StoreError>> + use<V> {
        self.scan(Bound::Included(prefix.as_bytes().to_vec()), end_of_prefix(prefix))
    }

    /// The records whose keys come before `key`, in the order of keys; `rev()` walks back from it.
    pub fn scan_before(
        &self,
        key: &str,
    ) -> impl DoubleEndedIterator<Item = Result<(String, V), StoreError>> + use<V> {
        self.scan(Bound::Unbounded, Bound::Excluded(key.as_bytes().to_vec()))
    }

    /// The records whose keys come after `key`, in the order of keys.
    pub fn scan_after(
        &self,
        key: &str,
    ) -> impl DoubleEndedIterator<Item = Result<(String, V), StoreError>> + use<V> {
        self.scan(Bound::Excluded(key.as_bytes().to_vec()), Bound::Unbounded)
    }

    /// The keys, in order; records are not decoded.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = Result<String, StoreError>> + use<V> {
        let codec = self.codec.clone();
        let records = self.raw.range(Bound::Unbounded, Bound::Unbounded);
        records.map(move |record| {
            let (key, _) = record.map_err(|error| codec.failed(&error))?;
            codec.key_text(key)
        })
    }

    /// How many records there are. Walks over them all: keep a count where it is needed often.
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

    fn scan(
        &self,
        from: Bound<Vec<u8>>,
        to: Bound<Vec<u8>>,
    ) -> impl DoubleEndedIterator<Item = Result<(String, V), StoreError>> + use<V> {
        let codec = self.codec.clone();
        self.raw.range(from, to).map(move |record| {
            let (key, record) = record.map_err(|error| codec.failed(&error))?;
            let key = codec.key_text(key)?;
            let value = codec.decode(&key, &record)?;
            Ok((key, value))
        })
    }

    async fn write(&self, changes: Vec<RawChange>) -> Result<(), StoreError> {
        self.store.committer().write(Arc::clone(&self.raw), changes).await
    }
}

impl RawChange {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value } => key.len() + value.len(),
            Self::Remove { key } => key.len(),
        }
    }
}

/// The first key after all that begin with `prefix`. In UTF-8 no byte is 0xff, so one such byte comes after all of them.
pub(super) fn end_of_prefix(prefix: &str) -> Bound<Vec<u8>> {
    if prefix.is_empty() {
        return Bound::Unbounded;
    }
    let mut end = prefix.as_bytes().to_vec();
    end.push(0xff);
    Bound::Excluded(end)
}
