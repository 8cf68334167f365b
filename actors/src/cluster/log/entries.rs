//! The log's entries and this node's vote on the disk.
//!
//! A write returns once it is on the disk; it shares its sync with whatever else the store writes at that moment. The last
//! entries are kept in memory too, because they are read again at once: to be replicated and to be applied.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogId, RaftLogReader};
use parking_lot::Mutex;
use troupe_protocol::wire;

use super::raft::{LogId, RaftEntry, StorageError, StorageIOError, Types, Vote};
use crate::store::{Durable, RawLog, Store, StoreError};

const LOG: &str = "log";
const VOTE: &str = "vote";
const PURGED: &str = "purged";
/// Entries that one message carries take no more than this, so that it stays below
/// [`wire::MESSAGE_BYTES_MAX`] with what else is in it. A single larger entry goes alone.
pub(super) const REPLICATED_BYTES_MAX: usize = 192 * 1024;
/// Entries kept in memory.
const CACHE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The entries of this node. Cheap to clone.
#[derive(Clone)]
pub(super) struct LogEntries {
    log: RawLog,
    cache: Arc<Mutex<Cache>>,
    /// Bytes of entries that were written since somebody last asked.
    written_bytes: Arc<AtomicU64>,
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

/// Why the log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum EntriesError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("an entry cannot be encoded or decoded: {0}")]
    Wire(#[from] wire::WireError),
}

impl LogEntries {
    pub(super) fn open(store: &Store) -> Result<Self, StoreError> {
        Ok(Self {
            log: store.raw_log(LOG)?,
            cache: Arc::default(),
            written_bytes: Arc::default(),
        })
    }

    /// Whether so many bytes of entries were written since this last said so.
    pub(super) fn have_grown_by(&self, bytes: u64) -> bool {
        let written = self.written_bytes.load(Ordering::Relaxed);
        let have_grown = written >= bytes;
        if have_grown {
            self.written_bytes.fetch_sub(written, Ordering::Relaxed);
        }
        have_grown
    }

    /// Of a log that does not lead to `last`, which was committed, removes the end that was not.
    pub(super) async fn forget_others_than(&self, last: LogId) -> Result<(), EntriesError> {
        let there = self.read(last.index..=last.index, usize::MAX)?.pop();
        match there {
            Some(other) if other.log_id != last => self.truncate_entries(last.index).await,
            _ => Ok(()),
        }
    }

    /// Entries in `range`, as many from its beginning as take no more than `bytes_max`, at least one if there is one.
    fn read(&self, range: impl RangeBounds<u64>, bytes_max: usize) -> Result<Vec<RaftEntry>, EntriesError> {
        let Some((first, last)) = ends(&range) else {
            return Ok(Vec::new());
        };
        if let Some(entries) = self.cache.lock().read(first, last, bytes_max) {
            return Ok(entries);
        }
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in self.log.range(first..=last) {
            let (_, encoded) = entry?;
            bytes += encoded.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(wire::decode::<RaftEntry>(&encoded)?);
        }
        Ok(entries)
    }

    fn state(&self) -> Result<LogState<Types>, EntriesError> {
        let purged: Option<LogId> = self.value(PURGED)?;
        let last = match self.log.last()? {
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

    fn value<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, EntriesError> {
        let value = self.log.value(name)?;
        Ok(value.map(|value| wire::decode(&value)).transpose()?)
    }

    fn write_entries(&self, entries: Vec<RaftEntry>) -> Result<Durable, EntriesError> {
        let encoded: Result<Vec<Vec<u8>>, wire::WireError> = entries.iter().map(wire::encode).collect();
        let encoded = encoded?;
        let numbered = entries.iter().map(|entry| entry.log_id.index);
        let durable = self.log.append(numbered.zip(encoded.iter().map(Vec::as_slice)))?;
        let bytes: usize = encoded.iter().map(Vec::len).sum();
        self.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        let sizes = encoded.iter().map(Vec::len);
        self.cache.lock().append(entries.into_iter().zip(sizes).collect());
        Ok(durable)
    }

    async fn write_vote(&self, vote: &Vote) -> Result<(), EntriesError> {
        let value = wire::encode(vote)?;
        Ok(self.log.put_values(&[(VOTE, &value)])?.wait().await?)
    }

    async fn truncate_entries(&self, since: u64) -> Result<(), EntriesError> {
        self.cache.lock().truncate(since);
        Ok(self.log.remove(since.., true, &[])?.wait().await?)
    }

    async fn purge_entries(&self, upto: LogId) -> Result<(), EntriesError> {
        self.cache.lock().purge(upto.index);
        let purged = wire::encode(&upto)?;
        let removed = self.log.remove(..=upto.index, false, &[(PURGED, &purged)])?;
        Ok(removed.wait().await?)
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
        let written = self.write_vote(vote).await;
        written.map_err(|error| StorageIOError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote = self.value(VOTE);
        vote.map_err(|error| StorageIOError::read_vote(&error).into())
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<Types>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let failed = |error: EntriesError| StorageIOError::write_logs(&error);
        let durable = self
            .write_entries(entries.into_iter().collect())
            .map_err(failed)?;
        let written = durable.wait().await;
        written.map_err(|error| failed(error.into()))?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let removed = self.truncate_entries(since.index).await;
        removed.map_err(|error| StorageIOError::write_logs(&error).into())
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let removed = self.purge_entries(upto).await;
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
