//! The whole replicated state at one position, in chunks, while writes go on; and the way back.
//!
//! The engine has no snapshots of its own. So one is read page by page, and whatever is about to change behind the
//! reader's back is first remembered as it was (`Beheld`). When that becomes too much, the snapshot is given up: whoever
//! reads it begins anew.
//!
//! A chunk is a row of records, then the CRC-32 of all that:
//! ```text
//! u32 key length | u32 record length | key | record   …   | u32 CRC-32, all little end
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::batch::{LogIndex, RecordBytes, RecordChange};
use super::core::{Applied, OWN_TREE, ReplicatedCore, split_raw_key};
use crate::store::engine::{EngineError, RawChange, Tree};
use crate::store::envelope::{self, Place};
use crate::store::{Store, StoreError};

/// A chunk is closed once it has so many bytes; the last record may take it above, but never to
/// [`SNAPSHOT_CHUNK_BYTES_MAX`].
const CHUNK_BYTES: usize = 96 * 1024;
/// No chunk is larger.
pub const SNAPSHOT_CHUNK_BYTES_MAX: usize = 224 * 1024;

/// What is remembered of records that were changed before they were read, in bytes; at more the snapshot is given up.
const REMEMBERED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A snapshot that is being read.
pub(super) struct Beheld {
    /// The last key that was read.
    read: Option<Vec<u8>>,
    /// Records that were changed before they were read, as they had been at the snapshot's position.
    before: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// What those take.
    before_bytes: usize,
    bytes_max: usize,
    /// Why it can be read no further.
    void: Option<&'static str>,
}

impl Beheld {
    fn remember(&mut self, key: &[u8], record: Option<&[u8]>) {
        let is_read = self.read.as_deref().is_some_and(|read| read >= key);
        if self.void.is_some() || is_read || self.before.contains_key(key) {
            return;
        }
        self.before_bytes += bytes_of(key, record);
        self.before.insert(key.to_vec(), record.map(<[u8]>::to_vec));
        if self.before_bytes > self.bytes_max {
            self.give_up("too much was changed before it was read");
        }
    }

    /// The first of the records that are remembered; it is not any more.
    fn take_first(&mut self) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let (key, record) = self.before.pop_first()?;
        self.before_bytes -= bytes_of(&key, record.as_deref());
        Some((key, record))
    }

    fn give_up(&mut self, reason: &'static str) {
        self.void = Some(reason);
        self.before = BTreeMap::new();
        self.before_bytes = 0;
    }
}

fn bytes_of(key: &[u8], record: Option<&[u8]>) -> usize {
    key.len() + record.map_or(0, <[u8]>::len)
}

impl Applied {
    /// Ends the snapshots that are being read: the raw tree that they read is about to be emptied.
    pub(super) fn void_snapshots(&mut self) {
        for snapshot in self.beheld.drain(..).filter_map(|snapshot| snapshot.upgrade()) {
            snapshot.lock().give_up("another state was installed");
        }
    }

    /// Remembers, for the snapshots that are being read, what is about to be changed.
    pub(super) fn remember_before<'a>(
        &mut self,
        raw: &dyn Tree,
        keys: impl Iterator<Item = &'a Vec<u8>>,
    ) -> Result<(), EngineError> {
        self.beheld.retain(|snapshot| snapshot.strong_count() > 0);
        if self.beheld.is_empty() {
            return Ok(());
        }
        for key in keys {
            let before = raw.get(key)?;
            for snapshot in self.beheld.iter().filter_map(Weak::upgrade) {
                snapshot.lock().remember(key, before.as_deref());
            }
        }
        Ok(())
    }
}

/// The replicated state as it was at one position. Read it in time: what changes meanwhile is kept in memory, and there is a
/// bound to that.
pub struct ReplicatedSnapshot {
    core: Arc<ReplicatedCore>,
    raw: Arc<dyn Tree>,
    position: Option<Vec<u8>>,
    beheld: Arc<Mutex<Beheld>>,
    is_over: bool,
}

impl ReplicatedSnapshot {
    pub(super) fn of(core: &Arc<ReplicatedCore>) -> Result<Self, StoreError> {
        let mut applied = core.lock();
        let beheld = Arc::new(Mutex::new(Beheld {
            read: None,
            before: BTreeMap::new(),
            before_bytes: 0,
            bytes_max: REMEMBERED_BYTES_MAX,
            void: None,
        }));
        applied.beheld.push(Arc::downgrade(&beheld));
        Ok(Self {
            core: Arc::clone(core),
            raw: core.raw(),
            position: core.applied()?,
            beheld,
            is_over: false,
        })
    }

    /// The position up to which the log is part of it; nothing when the log was never applied.
    pub fn position(&self) -> Option<&[u8]> {
        self.position.as_deref()
    }

    /// As when so many bytes of what changes are too much.
    #[cfg(test)]
    pub(super) fn remembering_at_most(self, bytes_max: usize) -> Self {
        self.beheld.lock().bytes_max = bytes_max;
        self
    }

    /// The next chunk, at most [`SNAPSHOT_CHUNK_BYTES_MAX`] bytes; nothing after the last. Reads the disk.
    ///
    /// # Errors
    /// When the engine cannot read; [`StoreError::Overtaken`] when another state was installed, or too much was changed,
    /// meanwhile.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        if self.is_over {
            return Ok(None);
        }
        let _applied = self.core.lock(); // nothing changes while this page is read
        let mut beheld = self.beheld.lock();
        if let Some(reason) = beheld.void {
            return Err(StoreError::Overtaken { reason });
        }
        let mut chunk = Chunk::default();
        let from = match &beheld.read {
            Some(read) => Bound::Excluded(read.clone()),
            None => Bound::Unbounded,
        };
        let mut stored = self.raw.range(from, Bound::Unbounded).peekable();
        loop {
            let in_tree = match stored.peek() {
                Some(Ok((key, _))) => Some(key.clone()),
                Some(Err(error)) => return Err(self.core.failed(error)),
                None => None,
            };
            let changed = beheld.before.first_key_value().map(|(key, _)| key.clone());
            // Of a record that was changed, what it was counts, whether it is still there or not.
            let (key, record) = match (in_tree, changed) {
                (None, None) => {
                    self.is_over = true;
                    break;
                }
                (Some(in_tree), changed) if changed.as_ref().is_none_or(|changed| in_tree < *changed) => {
                    let record = stored
                        .next()
                        .transpose()
                        .map_err(|error| self.core.failed(&error))?;
                    (in_tree, record.map(|(_, record)| record))
                }
                (in_tree, _) => {
                    let Some((key, before)) = beheld.take_first() else {
                        break;
                    };
                    if in_tree.as_ref() == Some(&key) {
                        stored.next();
                    }
                    (key, before)
                }
            };
            let is_own = split_raw_key(&key).is_none_or(|(tree, _)| tree == OWN_TREE);
            if let Some(record) = record.filter(|_| !is_own) {
                chunk.push(&key, &record);
            }
            beheld.read = Some(key);
            if chunk.0.len() >= CHUNK_BYTES {
                break;
            }
        }
        Ok(chunk.close())
    }
}

#[derive(Default)]
struct Chunk(Vec<u8>);

impl Chunk {
    fn push(&mut self, key: &[u8], record: &[u8]) {
        for part in [key, record] {
            let bytes = u32::try_from(part.len()).unwrap_or(u32::MAX); // both are bounded far below
            self.0.extend_from_slice(&bytes.to_le_bytes());
        }
        self.0.extend_from_slice(key);
        self.0.extend_from_slice(record);
    }

    fn close(mut self) -> Option<Vec<u8>> {
        if self.0.is_empty() {
            return None;
        }
        let checksum = crc32fast::hash(&self.0);
        self.0.extend_from_slice(&checksum.to_le_bytes());
        Some(self.0)
    }
}

/// The records of a chunk, each checked, as the changes that put them where they were; in the order of trees and keys.
///
/// # Errors
/// What is wrong with the chunk.
pub fn records_of_chunk(chunk: &[u8]) -> Result<Vec<RecordChange>, String> {
    let to_change = |record| match record {
        RawChange::Put { key, value } => {
            let (tree, key) = split_raw_key(&key).ok_or("a key names no tree")?;
            let key = std::str::from_utf8(key).map_err(|error| format!("a key is no text: {error}"))?;
            Ok(Some(RecordChange {
                tree: tree.to_owned(),
                key: key.to_owned(),
                record: Some(RecordBytes(value)),
            }))
        }
        RawChange::Remove { .. } => Ok(None),
    };
    read_chunk(chunk)?
        .into_iter()
        .map(to_change)
        .filter_map(Result::transpose)
        .collect()
}

/// The records of a chunk, each checked.
fn read_chunk(chunk: &[u8]) -> Result<Vec<RawChange>, String> {
    let (mut rest, checksum) = chunk.split_last_chunk::<4>().ok_or("it is too short")?;
    if crc32fast::hash(rest) != u32::from_le_bytes(*checksum) {
        return Err("its checksum is wrong".to_owned());
    }
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (key, value);
        let (key_bytes, after) = rest.split_first_chunk::<4>().ok_or("it ends in a length")?;
        let (value_bytes, after) = after.split_first_chunk::<4>().ok_or("it ends in a length")?;
        (key, rest) = cut(after, *key_bytes)?;
        (value, rest) = cut(rest, *value_bytes)?;
        let (tree, own_key) = split_raw_key(key).ok_or("a key names no tree")?;
        let place = Place { tree, key: own_key };
        envelope::open(place, value).map_err(|error| {
            let key = String::from_utf8_lossy(own_key);
            format!("record {key:?} of tree `{tree}`: {error}")
        })?;
        records.push(RawChange::Put {
            key: key.to_vec(),
            value: value.to_vec(),
        });
    }
    Ok(records)
}

fn cut(bytes: &[u8], length: [u8; 4]) -> Result<(&[u8], &[u8]), String> {
    usize::try_from(u32::from_le_bytes(length))
        .ok()
        .and_then(|length| bytes.split_at_checked(length))
        .ok_or_else(|| "it ends in a record".to_owned())
}

/// A snapshot that is being installed. Until [`finish`](Self::finish) the former state is in use, and stays so when this is
/// dropped.
pub struct Installation {
    store: Store,
    core: Arc<ReplicatedCore>,
}

impl Installation {
    pub(super) fn begin(store: Store, core: Arc<ReplicatedCore>) -> Result<Self, StoreError> {
        core.clear_spare()?;
        Ok(Self { store, core })
    }

    /// Takes the next chunk. Writes, but does not sync.
    ///
    /// # Errors
    /// When the chunk or a record in it is damaged, or the engine cannot write.
    pub fn take(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        let records = read_chunk(chunk).map_err(|reason| self.core.corrupt("a snapshot's chunk", reason))?;
        self.core
            .spare()
            .apply(records)
            .map_err(|error| self.core.failed(&error))
    }

    /// Puts the snapshot in the place of the state, with the position of its last entry. It is on the disk when this
    /// returns; followers read everything again.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn finish(self, index: LogIndex, position: Vec<u8>) -> Result<(), StoreError> {
        let Self { store, core } = self;
        // Its records come before the swap in the engine's one log, so that after a crash the swap is not there without them.
        store.committer().run(move || core.swap(index, &position)).await
    }
}
