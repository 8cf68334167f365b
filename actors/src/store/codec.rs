//! Between values and the bytes of records, for the trees that hold them.

use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;
use super::engine::EngineError;
use super::envelope::{self, HEADER_BYTES, Place};
use super::tree::{KEY_BYTES_MAX, Migration, RECORD_BYTES_MAX};

/// Encodes and decodes the records of one tree.
pub(super) struct Codec<V> {
    folder: Arc<Path>,
    tree: &'static str,
    schema_version: u16,
    migration: Option<Migration>,
    records: PhantomData<fn() -> V>,
}

impl<V> Clone for Codec<V> {
    fn clone(&self) -> Self {
        Self {
            folder: Arc::clone(&self.folder),
            ..*self
        }
    }
}

impl<V: Serialize + DeserializeOwned> Codec<V> {
    /// `folder` is the data folder, for what is said of damage.
    pub(super) fn new(folder: &Path, tree: &'static str, schema_version: u16) -> Self {
        Self {
            folder: folder.into(),
            tree,
            schema_version,
            migration: None,
            records: PhantomData,
        }
    }

    /// With a migration from earlier schema versions.
    pub(super) fn migrating(self, migration: Migration) -> Self {
        Self {
            migration: Some(migration),
            ..self
        }
    }

    /// The tree's name.
    pub(super) fn tree(&self) -> &'static str {
        self.tree
    }

    /// The record of a value.
    pub(super) fn encode(&self, key: &str, value: &V) -> Result<Vec<u8>, StoreError> {
        self.refuse_above("a key", key, key.len(), KEY_BYTES_MAX)?;
        let payload =
            serde_json::to_vec(value).map_err(|error| self.misshapen(key, self.schema_version, &error))?;
        self.refuse_above("the record", key, HEADER_BYTES + payload.len(), RECORD_BYTES_MAX)?;
        Ok(envelope::seal(
            self.place(key.as_bytes()),
            self.schema_version,
            &payload,
        ))
    }

    /// The value of a record; one of an earlier schema version is migrated.
    pub(super) fn decode(&self, key: &str, record: &[u8]) -> Result<V, StoreError> {
        let opened = envelope::open(self.place(key.as_bytes()), record)
            .map_err(|error| self.corrupt(key, error.to_string()))?;
        if opened.schema == self.schema_version {
            return serde_json::from_slice(opened.payload)
                .map_err(|error| self.misshapen(key, opened.schema, &error));
        }
        if opened.schema > self.schema_version {
            return Err(StoreError::SchemaTooNew {
                tree: self.tree.to_owned(),
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
            tree: self.tree.to_owned(),
            key: key.to_owned(),
            from: opened.schema,
            to: self.schema_version,
            reason,
        })
    }

    /// A key as text.
    pub(super) fn key_text(&self, key: Vec<u8>) -> Result<String, StoreError> {
        String::from_utf8(key).map_err(|error| {
            let key = String::from_utf8_lossy(error.as_bytes()).into_owned();
            self.corrupt(&key, "its key is not UTF-8".to_owned())
        })
    }

    pub(super) fn refuse_above(
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
            tree: self.tree.to_owned(),
            key,
            bytes,
            bytes_max,
        })
    }

    pub(super) fn failed(&self, error: &EngineError) -> StoreError {
        StoreError::engine(&self.folder, error)
    }

    fn place<'a>(&self, key: &'a [u8]) -> Place<'a> {
        Place { tree: self.tree, key }
    }

    fn corrupt(&self, key: &str, reason: String) -> StoreError {
        StoreError::Corrupt {
            folder: self.folder.to_path_buf(),
            tree: self.tree.to_owned(),
            key: key.to_owned(),
            reason,
        }
    }

    fn misshapen(&self, key: &str, schema: u16, error: &serde_json::Error) -> StoreError {
        StoreError::Shape {
            tree: self.tree.to_owned(),
            key: key.to_owned(),
            schema,
            reason: error.to_string(),
        }
    }
}
