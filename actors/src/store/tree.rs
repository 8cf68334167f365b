//! A tree of records of one type.

use std::marker::PhantomData;
use std::ops::Bound;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::{EngineError, RawChange, Tree};
use super::envelope::{self, HEADER_BYTES, Place};
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
    name: &'static str,
    schema_version: u16,
    migration: Option<Migration>,
    records: PhantomData<fn() -> V>,
}

impl<V> Clone for TypedTree<V> {
    fn clone(&self) -> Self {
        Self {
            store: self.store.clone(),
            raw: Arc::clone(&self.raw),
            records: PhantomData,
            ..*self
        }
    }
}

impl<V> TypedTree<V>
where
    V: Serialize + DeserializeOwned + Send,
{
    pub(super) fn new(store: Store, raw: Arc<dyn Tree>, name: &'static str, schema_version: u16) -> Self {
        Self {
            store,
            raw,
            name,
            schema_version,
            migration: None,
            records: PhantomData,
        }
    }

    /// With a migration: records of earlier schema versions are brought to the present one as they are read, and stay as
    /// they are on the disk until they are written again.
    pub fn migrating(mut self, migration: Migration) -> Self {
        self.migration = Some(migration);
        self
    }

    /// The record at a key.
    ///
    /// # Errors
    /// When it is damaged, of a later version, or cannot be read.
    pub fn get(&self, key: &str) -> Result<Option<V>, StoreError> {
        let record = self
            .raw
            .get(key.as_bytes())
            .map_err(|error| self.failed(&error))?;
        record.map(|record| self.decode(key, &record)).transpose()
    }

    /// Writes a record. It is on the disk when this returns.
    ///
    /// # Errors
    /// When it is above [`RECORD_BYTES_MAX`], or the disk fails.
    pub async fn put(&self, key: &str, value: &V) -> Result<(), StoreError> {
        let value = self.encode(key, value)?;
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
        self.refuse_above(
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
                    value: self.encode(&key, &value)?,
                    key: key.into_bytes(),
                },
                Change::Remove(key) => RawChange::Remove {
                    key: key.into_bytes(),
                },
            };
            bytes += raw_change.bytes();
            raw_changes.push(raw_change);
        }
        self.refuse_above("a batch", "", bytes, BATCH_BYTES_MAX)?;
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
        let tree = self.clone();
        let records = self.raw.range(Bound::Unbounded, Bound::Unbounded);
        records.map(move |record| {
            let (key, _) = record.map_err(|error| tree.failed(&error))?;
            tree.key_text(key)
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
        let tree = self.clone();
        self.raw.range(from, to).map(move |record| {
            let (key, record) = record.map_err(|error| tree.failed(&error))?;
            let key = tree.key_text(key)?;
            let value = tree.decode(&key, &record)?;
            Ok((key, value))
        })
    }

    async fn write(&self, changes: Vec<RawChange>) -> Result<(), StoreError> {
        self.store.committer().write(Arc::clone(&self.raw), changes).await
    }

    fn encode(&self, key: &str, value: &V) -> Result<Vec<u8>, StoreError> {
        self.refuse_above("a key", key, key.len(), KEY_BYTES_MAX)?;
        let payload =
            serde_json::to_vec(value).map_err(|error| self.misshapen(key, self.schema_version, &error))?;
        self.refuse_above("the record", key, HEADER_BYTES + payload.len(), RECORD_BYTES_MAX)?;
        Ok(envelope::seal(
            Place {
                tree: self.name,
                key: key.as_bytes(),
            },
            self.schema_version,
            &payload,
        ))
    }

    fn decode(&self, key: &str, record: &[u8]) -> Result<V, StoreError> {
        let place = Place {
            tree: self.name,
            key: key.as_bytes(),
        };
        let opened = envelope::open(place, record).map_err(|error| self.corrupt(key, error.to_string()))?;
        if opened.schema == self.schema_version {
            return serde_json::from_slice(opened.payload)
                .map_err(|error| self.misshapen(key, opened.schema, &error));
        }
        if opened.schema > self.schema_version {
            return Err(StoreError::SchemaTooNew {
                tree: self.name.to_owned(),
                key: key.to_owned(),
                found: opened.schema,
                known: self.schema_version,
            });
        }
        let earlier = serde_json::from_slice(opened.payload)
            .map_err(|error| self.misshapen(key, opened.schema, &error))?;
        let migrated = match self.migration {
            Some(migrate) => migrate(opened.schema, earlier),
            None => Err("this troupe has no migration for the tree".to_owned()),
        };
        let migrated =
            migrated.and_then(|present| serde_json::from_value(present).map_err(|error| error.to_string()));
        migrated.map_err(|reason| StoreError::Migration {
            tree: self.name.to_owned(),
            key: key.to_owned(),
            from: opened.schema,
            to: self.schema_version,
            reason,
        })
    }

    fn key_text(&self, key: Vec<u8>) -> Result<String, StoreError> {
        String::from_utf8(key).map_err(|error| {
            let key = String::from_utf8_lossy(error.as_bytes()).into_owned();
            self.corrupt(&key, "its key is not UTF-8".to_owned())
        })
    }

    fn refuse_above(
        &self,
        what: &'static str,
        key: &str,
        bytes: usize,
        bytes_max: usize,
    ) -> Result<(), StoreError> {
        if bytes <= bytes_max {
            return Ok(());
        }
        let key = key.chars().take(80).collect();
        Err(StoreError::TooLarge {
            what,
            tree: self.name.to_owned(),
            key,
            bytes,
            bytes_max,
        })
    }

    fn corrupt(&self, key: &str, reason: String) -> StoreError {
        let folder = self.store.folder().to_owned();
        StoreError::Corrupt {
            folder,
            tree: self.name.to_owned(),
            key: key.to_owned(),
            reason,
        }
    }

    fn misshapen(&self, key: &str, schema: u16, error: &serde_json::Error) -> StoreError {
        StoreError::Shape {
            tree: self.name.to_owned(),
            key: key.to_owned(),
            schema,
            reason: error.to_string(),
        }
    }

    fn failed(&self, error: &EngineError) -> StoreError {
        StoreError::engine(self.store.folder(), error)
    }
}

impl RawChange {
    fn bytes(&self) -> usize {
        match self {
            Self::Put { key, value } => key.len() + value.len(),
            Self::Remove { key } => key.len(),
        }
    }
}

/// The first key after all that begin with `prefix`. In UTF-8 no byte is 0xff, so one such byte comes after all of them.
fn end_of_prefix(prefix: &str) -> Bound<Vec<u8>> {
    if prefix.is_empty() {
        return Bound::Unbounded;
    }
    let mut end = prefix.as_bytes().to_vec();
    end.push(0xff);
    Bound::Excluded(end)
}
