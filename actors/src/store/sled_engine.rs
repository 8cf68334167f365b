//! sled behind the engine's traits.
//!
//! What must be known of sled 0.34.7:
//! - `flush()` hands everything to the kernel but never syncs its file, so [`Engine::sync`] does, through a handle of its
//!   own (a sync covers the file, not the handle).
//! - A page that grows above a quarter of a segment is written as a file of its own, which is never synced. A leaf holds
//!   up to 16 records and, before it is split or after a merge, at most 20; so a segment is chosen that takes 20 of the
//!   largest records (`tree::RECORD_BYTES_MAX`) in its quarter. The size is fixed when a database is made.
//! - On a damaged file it may panic where it should return an error; a panic at opening is turned into one here. It may
//!   also silently come up with an earlier state; `identity` notices.

use std::fs::{File, OpenOptions};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::engine::{Engine, EngineError, RawChange, RawRange, Tree};
use super::{StoreError, files};

const DATABASE_FOLDER: &str = "store";
const DATABASE_FILE: &str = "db";
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
const CACHE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How long the database may still be held: by a former store of this process whose threads are ending, or by a child
/// process that has not come to its own program yet. Other nodes are kept out before, by the lock of the folder.
const HELD_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked whether it still is.
const HELD_LOOK: Duration = Duration::from_millis(10);
/// sled's own, always there.
const DEFAULT_TREE: &[u8] = b"__sled__default";

/// A sled database.
pub(super) struct SledEngine {
    database: sled::Db,
    file: File,
}

/// The file that holds the database of a data folder.
pub(super) fn database_file(data_folder: &Path) -> PathBuf {
    data_folder.join(DATABASE_FOLDER).join(DATABASE_FILE)
}

impl SledEngine {
    /// Opens the database of a data folder, or makes one.
    #[expect(clippy::disallowed_methods, reason = "opening blocks anyhow; see Store::open")]
    pub(super) fn open(data_folder: &Path) -> Result<Self, StoreError> {
        let folder = data_folder.join(DATABASE_FOLDER);
        files::create_private_folder(&folder)?;
        let config = sled::Config::new()
            .path(&folder)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(CACHE_BYTES_MAX)
            .flush_every_ms(None) // the commit thread does
            .mode(sled::Mode::HighThroughput);
        let unreadable = |reason: String| StoreError::Unreadable {
            folder: data_folder.to_owned(),
            reason,
        };
        let began = Instant::now();
        let database = loop {
            let opened = catch_unwind(AssertUnwindSafe(|| config.open()))
                .map_err(|panic| unreadable(panic_text(panic.as_ref())))?;
            match opened {
                Ok(database) => break database,
                Err(error) if is_held(&error) && began.elapsed() < HELD_WITHIN => thread::sleep(HELD_LOOK),
                Err(error) => return Err(unreadable(error.to_string())),
            }
        };
        let path = database_file(data_folder);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.map_err(|error| StoreError::file("open", &path, &error))?;
        // Its configuration and snapshots too: a database whose settings are gone does not open.
        files::sync_files_of(&folder)?;
        files::sync_folder(data_folder)?;
        Ok(Self { database, file })
    }
}

/// Whether the database's own lock is taken.
fn is_held(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

/// What a caught panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the database engine panicked").to_owned()
}

impl Engine for SledEngine {
    fn tree(&self, name: &str) -> Result<Arc<dyn Tree>, EngineError> {
        Ok(Arc::new(SledTree(self.database.open_tree(name)?)))
    }

    fn tree_names(&self) -> Vec<String> {
        let names = self.database.tree_names();
        let ours = names.iter().filter(|name| name.as_ref() != DEFAULT_TREE);
        ours.map(|name| String::from_utf8_lossy(name).into_owned())
            .collect()
    }

    fn sync(&self) -> Result<(), EngineError> {
        self.database.flush()?;
        self.file
            .sync_data()
            .map_err(|error| EngineError(format!("fdatasync: {error}")))
    }

    fn bytes_on_disk(&self) -> u64 {
        self.database.size_on_disk().unwrap_or(0) // a figure for people; reads and writes report the same error
    }
}

struct SledTree(sled::Tree);

impl Tree for SledTree {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.0.get(key)?.map(|value| value.to_vec()))
    }

    fn apply(&self, changes: Vec<RawChange>) -> Result<(), EngineError> {
        if let [change] = changes.as_slice() {
            match change {
                RawChange::Put { key, value } => self.0.insert(key, value.as_slice())?,
                RawChange::Remove { key } => self.0.remove(key)?,
            };
            return Ok(());
        }
        let mut batch = sled::Batch::default();
        for change in changes {
            match change {
                RawChange::Put { key, value } => batch.insert(key, value),
                RawChange::Remove { key } => batch.remove(key),
            }
        }
        Ok(self.0.apply_batch(batch)?)
    }

    fn range(&self, from: Bound<Vec<u8>>, to: Bound<Vec<u8>>) -> RawRange {
        let records = self.0.range::<Vec<u8>, _>((from, to));
        Box::new(records.map(|record| {
            let (key, value) = record?;
            Ok((key.to_vec(), value.to_vec()))
        }))
    }
}

impl From<sled::Error> for EngineError {
    fn from(error: sled::Error) -> Self {
        Self(error.to_string())
    }
}
