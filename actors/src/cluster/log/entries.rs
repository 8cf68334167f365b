//! The log's entries and this node's vote on the disk.
//!
//! All is in one raw tree of the store, so that a change of several keys is one batch of the engine:
//! ```text
//! v                         the vote
//! p                         the last entry that was purged
//! e | index | part          a part of an entry, both numbers big end first; parts because records are small
//! ```
//! A write returns once it is on the disk; it shares its sync with whatever else the store writes at that moment. The last
//! entries are kept in memory too, because they are read again at once: to be replicated and to be applied.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogId, RaftLogReader};
use parking_lot::Mutex;
use troupe_protocol::wire;

use super::raft::{LogId, RaftEntry, StorageError, StorageIOError, Types, Vote};
use crate::store::{RAW_VALUE_BYTES_MAX, RawChange, RawTree, Store, StoreError};

const TREE: &str = "log";
const VOTE_KEY: &[u8] = b"v";
const PURGED_KEY: &[u8] = b"p";
const ENTRY_PREFIX: u8 = b'e';
/// Entries that one message carries take no more than this, so that it stays below
/// [`wire::MESSAGE_BYTES_MAX`] with what else is in it. A single larger entry goes alone.
pub(super) const REPLICATED_BYTES_MAX: usize = 192 * 1024;
/// Entries kept in memory.
const CACHE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Keys that are removed with one write.
const REMOVED_AT_ONCE: usize = 4_096;
/// The part number takes the first two bytes of an entry's first part.
const PART_BYTES_MAX: usize = 64 * 1024;
const _: () = assert!(PART_BYTES_MAX + 2 <= RAW_VALUE_BYTES_MAX);

/// The entries of this node. Cheap to clone.
#[derive(Clone)]
pub(super) struct LogEntries {
    tree: RawTree,
    cache: Arc<Mutex<Cache>>,
}

/// The last entries, without a gap.
#[derive(Default)]
struct Cache {
    entries: BTreeMap<u64, Cached>,
    bytes: usize,
}

struct Cached {
    entry: RaftEntry,
    bytes: usize,
}

impl LogEntries {
    pub(super) fn open(store: &Store) -> Result<Self, StoreError> {
        Ok(Self {
            tree: store.raw_tree(TREE)?,
            cache: Arc::default(),
        })
    }

    /// Entries in `range`, as many from its beginning as take no more than `bytes_max`, at least one if there is one.
    fn read(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> Result<Vec<RaftEntry>, ReadError> {
        let Some((first, last)) = ends(&range) else {
            return Ok(Vec::new());
        };
        if let Some(entries) = self.cache.lock().read(first, last, bytes_max) {
            return Ok(entries);
        }
        let keys = (entry_key(first, 0), entry_key(last, u16::MAX));
        let mut parts = self
            .tree
            .range(Bound::Included(keys.0), Bound::Included(keys.1));
        let mut entries = Vec::new();
        let mut bytes = 0;
        while let Some(part) = parts.next() {
            let (key, value) = part?;
            let encoded = join_parts(&key, value, &mut parts)?;
            bytes += encoded.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(wire::decode::<RaftEntry>(&encoded)?);
        }
        Ok(entries)
    }

    fn read_vote_record(&self) -> Result<Option<Vote>, ReadError> {
        let record = self.tree.get(VOTE_KEY)?;
        Ok(record.map(|record| wire::decode(&record)).transpose()?)
    }

    fn state(&self) -> Result<LogState<Types>, ReadError> {
        let purged = self.tree.get(PURGED_KEY)?;
        let purged: Option<LogId> = purged.map(|record| wire::decode(&record)).transpose()?;
        let first_key = Bound::Included(entry_key(0, 0));
        let last_key = Bound::Included(entry_key(u64::MAX, u16::MAX));
        let last = self.tree.keys(first_key, last_key).next_back().transpose()?;
        let last = match last.and_then(|key| entry_index(&key)) {
            Some(index) => self.read(index..=index, usize::MAX)?.pop(),
            None => None,
        };
        let last = last.map(|entry| *entry.get_log_id());
        Ok(LogState {
            last_purged_log_id: purged,
            // What a purge that was cut off left behind is none.
            last_log_id: last.max(purged),
        })
    }

    async fn write_entries(&self, entries: Vec<RaftEntry>) -> Result<(), ReadError> {
        let mut changes = Vec::with_capacity(entries.len());
        let mut cached = Vec::with_capacity(entries.len());
        for entry in entries {
            let encoded = wire::encode(&entry)?;
            split_parts(entry.log_id.index, &encoded, &mut changes);
            cached.push((entry, encoded.len()));
        }
        self.cache.lock().append(cached);
        Ok(self.tree.write(changes).await?)
    }

    /// Removes the entries between two indexes, both inclusive; `with` happens in the same batch as the first removals.
    async fn remove(&self, first: u64, last: u64, with: Option<RawChange>) -> Result<(), StoreError> {
        let keys = (
            Bound::Included(entry_key(first, 0)),
            Bound::Included(entry_key(last, u16::MAX)),
        );
        let keys: Result<Vec<Vec<u8>>, StoreError> = self.tree.keys(keys.0, keys.1).collect();
        let mut changes: Vec<RawChange> = with.into_iter().collect();
        // From the end, so that a removal that is cut off leaves no gap before what remains.
        for key in keys?.into_iter().rev() {
            changes.push(RawChange::Remove { key });
            if changes.len() >= REMOVED_AT_ONCE {
                self.tree.write(std::mem::take(&mut changes)).await?;
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.tree.write(changes).await
    }
}

impl RaftLogReader<Types> for LogEntries {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<RaftEntry>, StorageError> {
        self.read(range, usize::MAX)
            .map_err(|error| StorageIOError::read_logs(&error).into())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, StorageError> {
        self.read(start..end, REPLICATED_BYTES_MAX)
            .map_err(|error| StorageIOError::read_logs(&error).into())
    }
}

impl RaftLogStorage<Types> for LogEntries {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, StorageError> {
        self.state()
            .map_err(|error| StorageIOError::read_logs(&error).into())
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let value = wire::encode(vote).map_err(|error| StorageIOError::write_vote(&error))?;
        let change = RawChange::Put {
            key: VOTE_KEY.to_vec(),
            value,
        };
        let written = self.tree.write(vec![change]).await;
        written.map_err(|error| StorageIOError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        self.read_vote_record()
            .map_err(|error| StorageIOError::read_vote(&error).into())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<RaftEntry> = entries.into_iter().collect();
        match self.write_entries(entries).await {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => Err(StorageIOError::write_logs(&error).into()),
        }
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        self.cache.lock().truncate(since.index);
        let removed = self.remove(since.index, u64::MAX, None).await;
        removed.map_err(|error| StorageIOError::write_logs(&error).into())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        self.cache.lock().purge(upto.index);
        let value = wire::encode(&upto).map_err(|error| StorageIOError::write_logs(&error))?;
        let purged = RawChange::Put {
            key: PURGED_KEY.to_vec(),
            value,
        };
        let removed = self.remove(0, upto.index, Some(purged)).await;
        removed.map_err(|error| StorageIOError::write_logs(&error).into())
    }
}

impl Cache {
    /// The entries from `first` to `last`; nothing when not all of them are here.
    fn read(&self, first: u64, last: u64, bytes_max: usize) -> Option<Vec<RaftEntry>> {
        let (oldest, newest) = (
            self.entries.first_key_value()?.0,
            self.entries.last_key_value()?.0,
        );
        if first < *oldest || last > *newest {
            return None;
        }
        let mut bytes = 0;
        let within = self
            .entries
            .range(first..=last)
            .enumerate()
            .take_while(|(number, (_, cached))| {
                bytes += cached.bytes;
                *number == 0 || bytes <= bytes_max
            });
        Some(within.map(|(_, (_, cached))| cached.entry.clone()).collect())
    }

    fn append(&mut self, entries: Vec<(RaftEntry, usize)>) {
        if let (Some((first, _)), Some((newest, _))) = (entries.first(), self.entries.last_key_value())
            && first.log_id.index != newest + 1
        {
            *self = Self::default();
        }
        for (entry, bytes) in entries {
            self.bytes += bytes;
            self.entries.insert(entry.log_id.index, Cached { entry, bytes });
        }
        while self.bytes > CACHE_BYTES_MAX && self.entries.len() > 1 {
            if let Some((_, oldest)) = self.entries.pop_first() {
                self.bytes -= oldest.bytes;
            }
        }
    }

    fn truncate(&mut self, since: u64) {
        let removed = self.entries.split_off(&since);
        self.bytes -= removed.values().map(|cached| cached.bytes).sum::<usize>();
    }

    fn purge(&mut self, upto: u64) {
        let kept = self.entries.split_off(&(upto.saturating_add(1)));
        let removed = std::mem::replace(&mut self.entries, kept);
        self.bytes -= removed.values().map(|cached| cached.bytes).sum::<usize>();
    }
}

/// Why the log cannot be read or written.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("an entry cannot be encoded or decoded: {0}")]
    Wire(#[from] wire::WireError),
    #[error("a part of entry {0} is missing")]
    PartMissing(u64),
}

fn entry_key(index: u64, part: u16) -> Vec<u8> {
    let mut key = Vec::with_capacity(11);
    key.push(ENTRY_PREFIX);
    key.extend_from_slice(&index.to_be_bytes());
    key.extend_from_slice(&part.to_be_bytes());
    key
}

fn entry_index(key: &[u8]) -> Option<u64> {
    let index = key.strip_prefix(&[ENTRY_PREFIX])?.first_chunk::<8>()?;
    Some(u64::from_be_bytes(*index))
}

/// The first part begins with how many parts there are.
fn split_parts(index: u64, encoded: &[u8], changes: &mut Vec<RawChange>) {
    let count = encoded.len().div_ceil(PART_BYTES_MAX);
    for (number, part) in encoded.chunks(PART_BYTES_MAX).enumerate() {
        // An entry is below 256 KiB, so it has at most 4 parts.
        let mut value = Vec::with_capacity(part.len() + 2);
        if number == 0 {
            value.extend_from_slice(&u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes());
        }
        value.extend_from_slice(part);
        let key = entry_key(index, u16::try_from(number).unwrap_or(u16::MAX));
        changes.push(RawChange::Put { key, value });
    }
}

fn join_parts(
    first_key: &[u8],
    first: Vec<u8>,
    rest: &mut impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>>,
) -> Result<Vec<u8>, ReadError> {
    let index = entry_index(first_key).unwrap_or_default();
    let Some((count, begin)) = first.split_first_chunk::<2>() else {
        return Err(ReadError::PartMissing(index));
    };
    let mut encoded = begin.to_vec();
    for number in 1..u16::from_be_bytes(*count) {
        let (key, part) = rest.next().ok_or(ReadError::PartMissing(index))??;
        if key != entry_key(index, number) {
            return Err(ReadError::PartMissing(index));
        }
        encoded.extend_from_slice(&part);
    }
    Ok(encoded)
}

/// First and last of a range; nothing when it is empty.
fn ends(range: &impl RangeBounds<u64>) -> Option<(u64, u64)> {
    let first = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before.checked_add(1)?,
        Bound::Unbounded => 0,
    };
    let last = match range.end_bound() {
        Bound::Included(last) => *last,
        Bound::Excluded(after) => after.checked_sub(1)?,
        Bound::Unbounded => u64::MAX,
    };
    (first <= last).then_some((first, last))
}
