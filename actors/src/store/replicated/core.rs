//! The one raw tree that holds all replicated trees, and what is applied to it.
//!
//! The key of a record is the tree's name, a zero byte and the record's key; the position up to which the log was applied
//! is under an empty tree name. So one batch of the engine writes records and position together, and after a kill they
//! agree. There are two such raw trees, one of them in use: a snapshot is installed into the other, and only when it is
//! whole and on the disk does one write change which is which.

use std::collections::HashMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::broadcast;

use super::batch::{Conflict, LogIndex, RecordBatch, RecordChange, RecordGuard, RecordVersion};
use super::feed::{AppliedChanges, FEED_BATCHES_MAX, RecordKey};
use super::snapshot::Beheld;
use crate::store::StoreError;
use crate::store::engine::{Engine, EngineError, RawChange, RawRange, Tree};
use crate::store::envelope::{self, Place};

/// The raw trees.
pub(in crate::store) const RAW_TREES: [&str; 2] = ["replicated", "replicated.other"];
/// Says which raw tree is in use.
pub(in crate::store) const CHOICE_TREE: &str = "replicated.choice";
const CHOICE_KEY: &[u8] = b"in_use";
/// The name that stands for the store's own records among the replicated trees.
pub(in crate::store) const OWN_TREE: &str = "";
const POSITION_KEY: &str = "applied";
const OWN_SCHEMA: u16 = 1;

/// A key of the raw tree.
pub(in crate::store) fn raw_key(tree: &str, key: &str) -> Vec<u8> {
    let mut raw = Vec::with_capacity(tree.len() + 1 + key.len());
    raw.extend_from_slice(tree.as_bytes());
    raw.push(0);
    raw.extend_from_slice(key.as_bytes());
    raw
}

/// Tree and key of a key of the raw tree.
pub(in crate::store) fn split_raw_key(raw: &[u8]) -> Option<(&str, &[u8])> {
    let end = raw.iter().position(|byte| *byte == 0)?;
    let tree = std::str::from_utf8(raw.get(..end)?).ok()?;
    Some((tree, raw.get(end + 1..)?))
}

/// What all replicated trees of a store share.
pub(in crate::store) struct ReplicatedCore {
    folder: PathBuf,
    raw: [Arc<dyn Tree>; 2],
    choice: Arc<dyn Tree>,
    in_use: RwLock<usize>,
    /// Held while something is applied or a part of a snapshot is read.
    applying: Mutex<Applied>,
    feed: broadcast::Sender<Arc<AppliedChanges>>,
    direct_writes: AtomicU64,
}

#[derive(Default)]
pub(super) struct Applied {
    /// Snapshots that are being read.
    pub(super) beheld: Vec<std::sync::Weak<Mutex<Beheld>>>,
}

impl ReplicatedCore {
    pub(in crate::store) fn open(folder: &Path, engine: &dyn Engine) -> Result<Self, StoreError> {
        let tree = |name| {
            engine
                .tree(name)
                .map_err(|error| StoreError::engine(folder, &error))
        };
        let [first, second] = RAW_TREES;
        let core = Self {
            folder: folder.to_owned(),
            raw: [tree(first)?, tree(second)?],
            choice: tree(CHOICE_TREE)?,
            in_use: RwLock::new(0),
            applying: Mutex::default(),
            feed: broadcast::Sender::new(FEED_BATCHES_MAX),
            direct_writes: AtomicU64::new(0),
        };
        let choice = core.choice.get(CHOICE_KEY).map_err(|error| core.failed(&error))?;
        if let Some(record) = choice {
            let place = Place {
                tree: CHOICE_TREE,
                key: CHOICE_KEY,
            };
            let opened =
                envelope::open(place, &record).map_err(|error| core.corrupt("in_use", error.to_string()))?;
            *core.in_use.write() = usize::from(opened.payload == b"1");
        }
        core.clear_spare()?; // what a snapshot that was cut off left behind, or the state before one
        Ok(core)
    }

    /// The raw tree in use.
    pub(super) fn raw(&self) -> Arc<dyn Tree> {
        Arc::clone(&self.raw[*self.in_use.read()])
    }

    pub(super) fn spare(&self) -> Arc<dyn Tree> {
        Arc::clone(&self.raw[1 - *self.in_use.read()])
    }

    pub(super) fn get(&self, tree: &str, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.raw()
            .get(&raw_key(tree, key))
            .map_err(|error| self.failed(&error))
    }

    /// The records of a tree between two keys; the keys that come are without the tree's name.
    pub(super) fn range(&self, tree: &'static str, from: Bound<&str>, to: Bound<Vec<u8>>) -> RawRange {
        let prefix_bytes = tree.len() + 1;
        let from = match from {
            Bound::Included(key) => Bound::Included(raw_key(tree, key)),
            Bound::Excluded(key) => Bound::Excluded(raw_key(tree, key)),
            Bound::Unbounded => Bound::Included(raw_key(tree, "")),
        };
        let within = |key: Vec<u8>| [tree.as_bytes(), &[0], &key].concat();
        let to = match to {
            Bound::Included(key) => Bound::Included(within(key)),
            Bound::Excluded(key) => Bound::Excluded(within(key)),
            Bound::Unbounded => Bound::Excluded([tree.as_bytes(), &[1]].concat()),
        };
        Box::new(self.raw().range(from, to).map(move |record| {
            let (mut key, record) = record?;
            key.drain(..prefix_bytes);
            Ok((key, record))
        }))
    }

    pub(in crate::store) fn feed(&self) -> broadcast::Receiver<Arc<AppliedChanges>> {
        self.feed.subscribe()
    }

    /// Up to where the log was applied; nothing when none was.
    pub(in crate::store) fn applied(&self) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(record) = self.get(OWN_TREE, POSITION_KEY)? else {
            return Ok(None);
        };
        let opened = envelope::open(own_place(), &record)
            .map_err(|error| self.corrupt(POSITION_KEY, error.to_string()))?;
        Ok(Some(opened.payload.to_vec()))
    }

    /// Applies a write without a log, on the commit thread.
    pub(in crate::store) fn write_direct(
        &self,
        batch: RecordBatch,
    ) -> Result<Result<LogIndex, Conflict>, EngineError> {
        let mut applied = self.applying.lock();
        let index = LogIndex(self.direct_writes.fetch_add(1, Ordering::Relaxed) + 1);
        let raw = self.raw();
        let mut applying = Applying::new(raw.as_ref());
        if let Err(conflict) = applying.take(index, batch)? {
            return Ok(Err(conflict));
        }
        self.carry_out(&mut applied, raw.as_ref(), applying, None)?;
        Ok(Ok(index))
    }

    /// Applies entries of the log, and notes the position with them.
    pub(super) fn apply<T>(
        &self,
        position: &[u8],
        decide: impl FnOnce(&mut Applying<'_>) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let mut applied = self.applying.lock();
        let raw = self.raw();
        let mut applying = Applying::new(raw.as_ref());
        let answer = decide(&mut applying)?;
        self.carry_out(&mut applied, raw.as_ref(), applying, Some(position))?;
        Ok(answer)
    }

    fn carry_out(
        &self,
        applied: &mut Applied,
        raw: &dyn Tree,
        applying: Applying<'_>,
        position: Option<&[u8]>,
    ) -> Result<(), EngineError> {
        let Applying {
            mut changed, told, ..
        } = applying;
        if let Some(position) = position {
            changed.insert(raw_key(OWN_TREE, POSITION_KEY), Some(sealed_position(position)));
        }
        applied.remember_before(raw, changed.keys())?;
        let changes = changed.into_iter().map(|(key, record)| match record {
            Some(value) => RawChange::Put { key, value },
            None => RawChange::Remove { key },
        });
        raw.apply(changes.collect())?;
        for changes in told {
            let _ = self.feed.send(Arc::new(changes)); // nobody may be listening
        }
        Ok(())
    }

    pub(super) fn lock(&self) -> parking_lot::MutexGuard<'_, Applied> {
        self.applying.lock()
    }

    /// Makes the spare raw tree the one in use. It must be on the disk.
    pub(super) fn swap(&self, index: LogIndex, position: &[u8]) -> Result<(), EngineError> {
        let mut applied = self.applying.lock();
        applied.void_snapshots();
        let next = 1 - *self.in_use.read();
        self.raw[next].apply(vec![RawChange::Put {
            key: raw_key(OWN_TREE, POSITION_KEY),
            value: sealed_position(position),
        }])?;
        let place = Place {
            tree: CHOICE_TREE,
            key: CHOICE_KEY,
        };
        self.choice.apply(vec![RawChange::Put {
            key: CHOICE_KEY.to_vec(),
            value: envelope::seal(place, OWN_SCHEMA, next.to_string().as_bytes()),
        }])?;
        *self.in_use.write() = next;
        let _ = self.feed.send(Arc::new(AppliedChanges { index, keys: None }));
        Ok(())
    }

    /// Empties the raw tree that is not in use.
    pub(super) fn clear_spare(&self) -> Result<(), StoreError> {
        const REMOVED_AT_ONCE: usize = 1_024;
        let spare = self.spare();
        loop {
            let keys = spare
                .range(Bound::Unbounded, Bound::Unbounded)
                .take(REMOVED_AT_ONCE);
            let removals: Result<Vec<RawChange>, EngineError> = keys
                .map(|record| Ok(RawChange::Remove { key: record?.0 }))
                .collect();
            let removals = removals.map_err(|error| self.failed(&error))?;
            if removals.is_empty() {
                return Ok(());
            }
            spare.apply(removals).map_err(|error| self.failed(&error))?;
        }
    }

    pub(super) fn failed(&self, error: &EngineError) -> StoreError {
        StoreError::engine(&self.folder, error)
    }

    pub(super) fn corrupt(&self, key: &str, reason: String) -> StoreError {
        StoreError::Corrupt {
            folder: self.folder.clone(),
            tree: RAW_TREES[0].to_owned(),
            key: key.to_owned(),
            reason,
        }
    }
}

fn own_place() -> Place<'static> {
    Place {
        tree: OWN_TREE,
        key: POSITION_KEY.as_bytes(),
    }
}

fn sealed_position(position: &[u8]) -> Vec<u8> {
    envelope::seal(own_place(), OWN_SCHEMA, position)
}

/// Entries that are being applied: reads see what the entries before have changed.
pub struct Applying<'a> {
    raw: &'a dyn Tree,
    changed: HashMap<Vec<u8>, Option<Vec<u8>>>,
    told: Vec<AppliedChanges>,
}

impl<'a> Applying<'a> {
    fn new(raw: &'a dyn Tree) -> Self {
        Self {
            raw,
            changed: HashMap::new(),
            told: Vec::new(),
        }
    }

    pub(super) fn record(&self, tree: &str, key: &str) -> Result<Option<Vec<u8>>, EngineError> {
        let key = raw_key(tree, key);
        match self.changed.get(&key) {
            Some(changed) => Ok(changed.clone()),
            None => self.raw.get(&key),
        }
    }

    /// Takes the batch of an entry, if all its guards hold.
    pub(super) fn take(
        &mut self,
        index: LogIndex,
        batch: RecordBatch,
    ) -> Result<Result<(), Conflict>, EngineError> {
        for guard in &batch.guards {
            if !self.holds(guard)? {
                let RecordGuard { tree, key, .. } = guard.clone();
                return Ok(Err(Conflict { tree, key }));
            }
        }
        let mut keys = Vec::with_capacity(batch.changes.len());
        for RecordChange { tree, key, record } in batch.changes {
            self.changed
                .insert(raw_key(&tree, &key), record.map(|record| record.0));
            keys.push(RecordKey { tree, key });
        }
        self.told.push(AppliedChanges {
            index,
            keys: Some(keys),
        });
        Ok(Ok(()))
    }

    fn holds(&self, guard: &RecordGuard) -> Result<bool, EngineError> {
        let record = self.record(&guard.tree, &guard.key)?;
        Ok(record.as_deref().map(RecordVersion::of) == guard.expected)
    }
}
