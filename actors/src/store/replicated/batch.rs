//! What is written to replicated trees: changes of records that happen all or not at all, and only if what they were
//! decided on still holds.

use std::fmt;

use futures::future::BoxFuture;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};
use thiserror::Error;
use troupe_protocol::error::{Code, Coded};

use crate::runtime::Deadline;
use crate::store::{KEY_BYTES_MAX, StoreError};

/// The most bytes of one batch: keys, guards and records. An entry of the log holds one batch.
pub const RECORD_BATCH_BYTES_MAX: usize = 192 * 1024;
/// The most changes and guards of one batch.
pub const RECORD_BATCH_CHANGES_MAX: usize = 2 * 1024;

/// The number of an entry of the log. Without a log, the number of the write since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LogIndex(pub u64);

/// Which state of a record: the first 16 bytes of the SHA-256 of its bytes, the same on every node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RecordVersion([u8; 16]);

impl RecordVersion {
    /// The version of these bytes.
    pub(super) fn of(record: &[u8]) -> Self {
        let digest: [u8; 32] = Sha256::digest(record).into();
        let mut version = [0; 16];
        version.copy_from_slice(&digest[..16]);
        Self(version)
    }
}

impl fmt::Debug for RecordVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecordVersion({})", hex::encode(self.0))
    }
}

/// What must hold for a batch to be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordGuard {
    /// The tree.
    pub tree: String,
    /// The record's key.
    pub key: String,
    /// The version that the record must have; nothing when there must be none.
    pub expected: Option<RecordVersion>,
}

/// One change of one record.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordChange {
    /// The tree.
    pub tree: String,
    /// The record's key.
    pub key: String,
    /// What to put there, envelope included; nothing to remove what is there.
    pub record: Option<RecordBytes>,
}

impl fmt::Debug for RecordChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.record.as_ref().map(|record| record.0.len());
        write!(f, "RecordChange({}/{}, {bytes:?} bytes)", self.tree, self.key)
    }
}

/// A record with its envelope. Travels as bytes, not as a list of numbers.
#[derive(Clone, PartialEq, Eq)]
pub struct RecordBytes(pub(super) Vec<u8>);

impl Serialize for RecordBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RecordBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(BytesVisitor).map(Self)
    }
}

struct BytesVisitor;

impl<'de> serde::de::Visitor<'de> for BytesVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes of a record")
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut numbers: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = numbers.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

/// Changes that happen together, in order, if all guards hold. [`ReplicatedTree`](super::ReplicatedTree) makes them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordBatch {
    /// What must hold.
    pub guards: Vec<RecordGuard>,
    /// What happens then.
    pub changes: Vec<RecordChange>,
}

impl RecordBatch {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Lets another batch happen with this one.
    pub fn append(&mut self, other: Self) {
        self.guards.extend(other.guards);
        self.changes.extend(other.changes);
    }

    /// Its size: keys, guards and records.
    pub fn bytes(&self) -> usize {
        let guards = self.guards.iter().map(RecordGuard::bytes);
        let changes = self.changes.iter().map(RecordChange::bytes);
        guards.chain(changes).sum()
    }

    /// Refuses a batch that is too large for one entry of the log, or has a key that is too long.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`].
    pub fn check(&self) -> Result<(), StoreError> {
        let count = self.guards.len() + self.changes.len();
        let guards = self.guards.iter().map(|guard| guard.key.len());
        let keys = guards.chain(self.changes.iter().map(|change| change.key.len()));
        let longest_key = keys.max().unwrap_or_default();
        let bounds = [
            ("a batch's number of changes", count, RECORD_BATCH_CHANGES_MAX),
            ("a batch", self.bytes(), RECORD_BATCH_BYTES_MAX),
            ("a key of a batch", longest_key, KEY_BYTES_MAX),
        ];
        let Some((what, is, max)) = bounds.into_iter().find(|(_, is, max)| is > max) else {
            return Ok(());
        };
        let tree = self.changes.first().map(|change| change.tree.clone());
        Err(StoreError::TooLarge {
            what,
            tree: tree.unwrap_or_default(),
            key: String::new(),
            bytes: is,
            bytes_max: max,
        })
    }
}

/// What naming a record takes besides its names, about.
const ITEM_BYTES: usize = 24;

impl RecordGuard {
    fn bytes(&self) -> usize {
        ITEM_BYTES + self.tree.len() + self.key.len()
    }
}

impl RecordChange {
    /// Its size: key and record.
    pub fn bytes(&self) -> usize {
        let record = self.record.as_ref().map_or(0, |record| record.0.len());
        ITEM_BYTES + self.tree.len() + self.key.len() + record
    }
}

/// The first guard of a batch that did not hold; nothing of the batch was applied.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
#[error("record {key:?} of tree `{tree}` was changed meanwhile")]
pub struct Conflict {
    /// The tree.
    pub tree: String,
    /// The record's key.
    pub key: String,
}

/// Why a write to replicated trees did not happen, or may not have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WriteError {
    /// A guard did not hold. What this node reads is at least as new as what the guard was compared with.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// No majority can be reached from here; nothing was written.
    #[error("no majority of the voters can be reached: {reason}")]
    NoQuorum {
        /// What is in the way.
        reason: String,
    },
    /// It was handed over, and nothing was heard in time of what became of it.
    #[error("the write was handed over, but whether it was committed was not heard in time")]
    OutcomeUnknown,
    /// The records cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something else of the log; nothing was written.
    #[error("{detail}")]
    Log {
        /// The stable code.
        code: Code,
        /// In words.
        detail: String,
    },
}

impl Coded for WriteError {
    fn code(&self) -> Code {
        match self {
            Self::Conflict(_) => Code::WriteConflict,
            Self::NoQuorum { .. } => Code::NoQuorum,
            Self::OutcomeUnknown => Code::WriteOutcomeUnknown,
            Self::Store(error) => error.code(),
            Self::Log { code, .. } => *code,
        }
    }
}

/// Takes writes to replicated trees: the replicated log.
pub trait ReplicatedWrites: Send + Sync {
    /// Returns once the batch is committed and applied on this node. A conflict, too, is answered only when this node has
    /// applied everything that the guard was compared with, so that who decides again sees it.
    fn write(&self, batch: RecordBatch, deadline: Deadline) -> BoxFuture<'_, Result<LogIndex, WriteError>>;

    /// Returns once this node has applied everything that was acknowledged anywhere before this was called.
    fn linearize(&self, deadline: Deadline) -> BoxFuture<'_, Result<(), WriteError>>;
}
