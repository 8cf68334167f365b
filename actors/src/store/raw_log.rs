//! A log on the disk: entries by number, and a few values beside them. The replicated log keeps its entries here.
//!
//! An entry may be larger than a record: it is then kept in parts. Values are of whoever owns the log. In the raw tree:
//! ```text
//! 'e' number (u64, big end) part (u16, big end)   part 0 begins with the number of parts (u16, big end)
//! 'v' name                                        a value
//! ```
//! Each is in an envelope, whose checksum covers its place.

use std::ops::{Bound, RangeBounds};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::engine::{EngineError, RawChange, Tree};
use super::envelope::{self, Place};
use super::sled_engine::panic_text;
use super::{Store, StoreError};

/// The largest entry.
pub const LOG_ENTRY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What of an entry is kept in one record.
const PART_BYTES: usize = 64 * 1024;
const SCHEMA: u16 = 1;
const ENTRY: u8 = b'e';
const VALUE: u8 = b'v';
const REMOVED_AT_ONCE: usize = 4_096;

type RawRecord = Result<(Vec<u8>, Vec<u8>), EngineError>;

/// A log. Cheap to clone. What its methods write is visible when they return, and survives a power cut once the
/// [`Durable`] that they give says so; durability is shared with whatever else is written at the time (group commit).
#[derive(Clone)]
pub struct RawLog {
    store: Store,
    raw: Arc<dyn Tree>,
    name: &'static str,
}

/// A write that is visible but perhaps not yet on the disk.
#[must_use = "what was written is lost in a power cut unless this is waited for"]
pub struct Durable {
    store: Store,
}

impl Durable {
    /// Returns once the write is on the disk.
    ///
    /// # Errors
    /// When the disk fails; what it holds is then unknown.
    pub async fn wait(self) -> Result<(), StoreError> {
        self.store.committer().sync().await
    }
}

impl RawLog {
    pub(super) fn open(store: Store, name: &'static str) -> Result<Self, StoreError> {
        let raw = store.inner.engine.tree(name);
        let raw = raw.map_err(|error| StoreError::engine(store.folder(), &error))?;
        Ok(Self { store, raw, name })
    }

    /// Puts entries, in place of those with the same numbers: all or none, also after a crash.
    ///
    /// # Errors
    /// When an entry is above [`LOG_ENTRY_BYTES_MAX`], or the engine fails.
    pub fn append<'a>(
        &self,
        entries: impl IntoIterator<Item = (u64, &'a [u8])>,
    ) -> Result<Durable, StoreError> {
        let mut changes = Vec::new();
        for (number, entry) in entries {
            self.put_entry(&mut changes, number, entry)?;
        }
        self.apply(changes)
    }

    /// Puts values by name, all or none.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn put_values(&self, values: &[(&str, &[u8])]) -> Result<Durable, StoreError> {
        let put = |(name, value): &(&str, &[u8])| self.sealed(value_key(name), value);
        self.apply(values.iter().map(put).collect())
    }

    /// A value.
    ///
    /// # Errors
    /// When it is damaged or cannot be read.
    pub fn value(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = value_key(name);
        let record = self.raw.get(&key).map_err(|error| self.failed(&error))?;
        record.map(|record| self.opened(&key, &record)).transpose()
    }

    /// The entries in a range of numbers, in order. Stop when you have enough: they may be many.
    pub fn range<R: RangeBounds<u64>>(
        &self,
        numbers: R,
    ) -> impl Iterator<Item = Result<(u64, Vec<u8>), StoreError>> + use<R> {
        let log = self.clone();
        let (from, to) = bounds(&numbers);
        let mut records = self.raw.range(from, to);
        std::iter::from_fn(move || log.next_entry(&mut records).transpose())
    }

    /// The number of the first entry.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn first(&self) -> Result<Option<u64>, StoreError> {
        let (from, to) = bounds(&..);
        self.number_of(self.raw.range(from, to).next())
    }

    /// The number of the last entry.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn last(&self) -> Result<Option<u64>, StoreError> {
        let (from, to) = bounds(&..);
        self.number_of(self.raw.range(from, to).next_back())
    }

    /// Removes the entries in a range of numbers and puts some values, the values first. A crash may leave a part of the
    /// entries: from the end when `from_end`, so that the log ends early and has no hole; else from the beginning.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn remove(
        &self,
        numbers: impl RangeBounds<u64>,
        from_end: bool,
        values: &[(&str, &[u8])],
    ) -> Result<Durable, StoreError> {
        let _shared_with_what_follows = self.put_values(values)?;
        let (from, to) = bounds(&numbers);
        loop {
            let mut records = self.raw.range(from.clone(), to.clone());
            let removals = std::iter::from_fn(|| {
                if from_end {
                    records.next_back()
                } else {
                    records.next()
                }
            });
            let removals: Result<Vec<RawChange>, EngineError> = removals
                .take(REMOVED_AT_ONCE)
                .map(|record| Ok(RawChange::Remove { key: record?.0 }))
                .collect();
            let removals = removals.map_err(|error| self.failed(&error))?;
            if removals.is_empty() {
                return Ok(self.durable());
            }
            let _shared_with_what_follows = self.apply(removals)?;
        }
    }

    fn put_entry(&self, changes: &mut Vec<RawChange>, number: u64, entry: &[u8]) -> Result<(), StoreError> {
        if entry.len() > LOG_ENTRY_BYTES_MAX {
            return Err(StoreError::TooLarge {
                what: "an entry",
                tree: self.name.to_owned(),
                key: number.to_string(),
                bytes: entry.len(),
                bytes_max: LOG_ENTRY_BYTES_MAX,
            });
        }
        let parts = entry.len().div_ceil(PART_BYTES).max(1) as u16; // at most 64
        let mut rest = entry;
        for part in 0..parts {
            let (here, after) = rest.split_at(rest.len().min(PART_BYTES));
            rest = after;
            let key = entry_key(number, part);
            changes.push(match part {
                0 => self.sealed(key, &[&parts.to_be_bytes(), here].concat()),
                _ => self.sealed(key, here),
            });
        }
        // Of a larger entry that this one replaces.
        let left_over = (
            Bound::Included(entry_key(number, parts)),
            Bound::Included(entry_key(number, u16::MAX)),
        );
        for record in self.raw.range(left_over.0, left_over.1) {
            let (key, _) = record.map_err(|error| self.failed(&error))?;
            changes.push(RawChange::Remove { key });
        }
        Ok(())
    }

    fn next_entry(&self, records: &mut super::RawRange) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let Some(record) = records.next() else {
            return Ok(None);
        };
        let (key, record) = record.map_err(|error| self.failed(&error))?;
        let first = self.opened(&key, &record)?;
        let (number, part) = split_entry_key(&key).ok_or_else(|| self.corrupt(&key, "is no entry's key"))?;
        let (0, Some((parts, entry))) = (part, first.split_first_chunk::<2>()) else {
            return Err(self.corrupt(&key, "its first part is missing"));
        };
        let mut entry = entry.to_vec();
        for part in 1..u16::from_be_bytes(*parts) {
            let next = records.next().transpose().map_err(|error| self.failed(&error))?;
            let (key_of_part, record) = next
                .filter(|(key, _)| *key == entry_key(number, part))
                .ok_or_else(|| self.corrupt(&key, "a part is missing"))?;
            entry.extend(self.opened(&key_of_part, &record)?);
        }
        Ok(Some((number, entry)))
    }

    /// On the caller's thread, so that it is visible at once.
    fn apply(&self, changes: Vec<RawChange>) -> Result<Durable, StoreError> {
        if changes.is_empty() {
            return Ok(self.durable());
        }
        self.store.committer().refuse_failed()?;
        let applied = catch_unwind(AssertUnwindSafe(|| self.raw.apply(changes)));
        let applied = applied.unwrap_or_else(|panic| Err(EngineError(panic_text(panic.as_ref()))));
        applied.map_err(|error| self.failed(&error))?;
        Ok(self.durable())
    }

    fn durable(&self) -> Durable {
        Durable {
            store: self.store.clone(),
        }
    }

    fn number_of(&self, record: Option<RawRecord>) -> Result<Option<u64>, StoreError> {
        let record = record.transpose().map_err(|error| self.failed(&error))?;
        Ok(record
            .and_then(|(key, _)| split_entry_key(&key))
            .map(|(number, _)| number))
    }

    fn sealed(&self, key: Vec<u8>, payload: &[u8]) -> RawChange {
        let place = Place {
            tree: self.name,
            key: &key,
        };
        RawChange::Put {
            value: envelope::seal(place, SCHEMA, payload),
            key,
        }
    }

    fn opened(&self, key: &[u8], record: &[u8]) -> Result<Vec<u8>, StoreError> {
        let place = Place { tree: self.name, key };
        let opened = envelope::open(place, record).map_err(|error| self.corrupt(key, &error.to_string()))?;
        Ok(opened.payload.to_vec())
    }

    fn corrupt(&self, key: &[u8], reason: &str) -> StoreError {
        let key = match split_entry_key(key) {
            Some((number, _)) => number.to_string(),
            None => String::from_utf8_lossy(key).into_owned(),
        };
        StoreError::Corrupt {
            folder: self.store.folder().to_owned(),
            tree: self.name.to_owned(),
            key,
            reason: reason.to_owned(),
        }
    }

    fn failed(&self, error: &EngineError) -> StoreError {
        StoreError::engine(self.store.folder(), error)
    }
}

fn value_key(name: &str) -> Vec<u8> {
    [&[VALUE], name.as_bytes()].concat()
}

fn entry_key(number: u64, part: u16) -> Vec<u8> {
    [&[ENTRY], number.to_be_bytes().as_slice(), &part.to_be_bytes()].concat()
}

fn split_entry_key(key: &[u8]) -> Option<(u64, u16)> {
    let (number, part) = key.strip_prefix(&[ENTRY])?.split_first_chunk::<8>()?;
    Some((
        u64::from_be_bytes(*number),
        u16::from_be_bytes(part.try_into().ok()?),
    ))
}

fn bounds(numbers: &impl RangeBounds<u64>) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let from = match numbers.start_bound() {
        Bound::Included(number) => Bound::Included(entry_key(*number, 0)),
        Bound::Excluded(number) => Bound::Excluded(entry_key(*number, u16::MAX)),
        Bound::Unbounded => Bound::Included(vec![ENTRY]),
    };
    let to = match numbers.end_bound() {
        Bound::Included(number) => Bound::Included(entry_key(*number, u16::MAX)),
        Bound::Excluded(number) => Bound::Excluded(entry_key(*number, 0)),
        Bound::Unbounded => Bound::Excluded(vec![ENTRY + 1]),
    };
    (from, to)
}
