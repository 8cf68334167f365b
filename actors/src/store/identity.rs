//! Which database belongs to a folder, and how far it had come: so that a lost or damaged one is noticed instead of
//! being taken for a fresh start.
//!
//! The identity is written into the database and into `store.json` beside it. The number of each commit is written into
//! the database with the commit, and into the file `commits` once it is synced. The file itself is not synced: it may lag
//! behind after a power cut, and never runs ahead of what was acknowledged.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::engine::{Engine, RawChange, Tree};
use super::envelope::{self, Place};
use super::{StoreError, files, sled_engine};

const META_TREE: &str = "store_meta";
const META_SCHEMA: u16 = 1;
const IDENTITY_KEY: &[u8] = b"identity";
const COMMITS_KEY: &[u8] = b"commits";
const IDENTITY_FILE: &str = "store.json";
const COMMITS_FILE: &str = "commits";
const LAYOUT_VERSION: u32 = 1;

/// `store.json`, and the record `identity`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    /// Made at first start.
    store_id: String,
    /// Of the data folder as a whole.
    layout_version: u32,
}

/// The commit counter of a database that was found to be the right one.
pub(super) struct CommitCounter {
    tree: Arc<dyn Tree>,
    file: File,
    path: PathBuf,
    commits: u64,
}

/// Before the engine opens: a folder that had a database must have one still, or opening would make an empty one.
pub(super) fn refuse_missing_database(folder: &Path) -> Result<(), StoreError> {
    let database = sled_engine::database_file(folder);
    if read_identity_file(folder)?.is_none() || database.is_file() {
        return Ok(());
    }
    Err(StoreError::Lost {
        folder: folder.to_owned(),
        reason: format!("there is no file {}", database.display()),
    })
}

/// After the engine opened: checks that this is the folder's database and that no acknowledged commit is missing; gives a
/// new database its identity.
pub(super) fn adopt(folder: &Path, engine: &dyn Engine) -> Result<CommitCounter, StoreError> {
    let tree = engine
        .tree(META_TREE)
        .map_err(|error| StoreError::engine(folder, &error))?;
    let meta = Meta {
        folder,
        tree: tree.as_ref(),
    };
    let in_database: Option<Identity> = meta.read(IDENTITY_KEY)?;
    match (read_identity_file(folder)?, in_database) {
        (None, None) => {
            let identity = Identity {
                store_id: Ulid::generate().to_string(),
                layout_version: LAYOUT_VERSION,
            };
            meta.write(IDENTITY_KEY, &identity)?;
            engine
                .sync()
                .map_err(|error| StoreError::engine(folder, &error))?;
            write_identity_file(folder, &identity)?;
        }
        // The first start was cut off between the two writes.
        (None, Some(identity)) => write_identity_file(folder, &identity)?,
        (Some(_), None) => return Err(lost(folder, "the database is empty".to_owned())),
        (Some(file), Some(database)) if file != database => {
            let reason = format!(
                "store.json names {}, the database is {}",
                file.store_id, database.store_id
            );
            return Err(lost(folder, reason));
        }
        (Some(_), Some(_)) => {}
    }
    let commits = meta.read::<u64>(COMMITS_KEY)?.unwrap_or(0);
    CommitCounter::open(folder, tree, commits)
}

fn lost(folder: &Path, reason: String) -> StoreError {
    StoreError::Lost {
        folder: folder.to_owned(),
        reason,
    }
}

fn read_identity_file(folder: &Path) -> Result<Option<Identity>, StoreError> {
    let path = folder.join(IDENTITY_FILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::file("read", &path, &error)),
    };
    let identity: Identity = serde_json::from_str(&text)
        .map_err(|error| lost(folder, format!("{} is damaged ({error})", path.display())))?;
    if identity.layout_version > LAYOUT_VERSION {
        let reason = format!(
            "the folder has layout version {}, this troupe knows up to {LAYOUT_VERSION}: use the later version",
            identity.layout_version
        );
        return Err(StoreError::Unreadable {
            folder: folder.to_owned(),
            reason,
        });
    }
    Ok(Some(identity))
}

fn write_identity_file(folder: &Path, identity: &Identity) -> Result<(), StoreError> {
    let path = folder.join(IDENTITY_FILE);
    let text = serde_json::to_string(identity).map_err(|error| StoreError::File {
        doing: "write",
        path: path.clone(),
        reason: error.to_string(),
    })?;
    files::write_private(&path, format!("{text}\n").as_bytes())
}

/// The store's own few records.
struct Meta<'a> {
    folder: &'a Path,
    tree: &'a dyn Tree,
}

impl Meta<'_> {
    fn read<T: for<'de> Deserialize<'de>>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        let record = self
            .tree
            .get(key)
            .map_err(|error| StoreError::engine(self.folder, &error))?;
        let Some(record) = record else { return Ok(None) };
        let corrupt = |reason: String| StoreError::Corrupt {
            folder: self.folder.to_owned(),
            tree: META_TREE.to_owned(),
            key: String::from_utf8_lossy(key).into_owned(),
            reason,
        };
        let opened = envelope::open(Place { tree: META_TREE, key }, &record)
            .map_err(|error| corrupt(error.to_string()))?;
        serde_json::from_slice(opened.payload)
            .map(Some)
            .map_err(|error| corrupt(error.to_string()))
    }

    fn write<T: Serialize>(&self, key: &[u8], value: &T) -> Result<(), StoreError> {
        let failed = |reason: String| StoreError::Failed {
            folder: self.folder.to_owned(),
            reason,
        };
        let payload = serde_json::to_vec(value).map_err(|error| failed(error.to_string()))?;
        let value = envelope::seal(Place { tree: META_TREE, key }, META_SCHEMA, &payload);
        let change = RawChange::Put {
            key: key.to_vec(),
            value,
        };
        self.tree
            .apply(vec![change])
            .map_err(|error| failed(error.to_string()))
    }
}

impl CommitCounter {
    fn open(folder: &Path, tree: Arc<dyn Tree>, commits: u64) -> Result<Self, StoreError> {
        let path = folder.join(COMMITS_FILE);
        let acknowledged = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse::<u64>().ok(),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(StoreError::file("read", &path, &error)),
        };
        if let Some(acknowledged) = acknowledged
            && acknowledged > commits
        {
            return Err(StoreError::RolledBack {
                folder: folder.to_owned(),
                found: commits,
                acknowledged,
            });
        }
        let options = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let file = options.map_err(|error| StoreError::file("open", &path, &error))?;
        Ok(Self {
            tree,
            file,
            path,
            commits,
        })
    }

    /// The last commit.
    pub(super) fn commits(&self) -> u64 {
        self.commits
    }

    /// Numbers the commit under way: into the database, to be synced with it.
    pub(super) fn advance(&mut self, folder: &Path) -> Result<(), StoreError> {
        let next = self.commits + 1;
        Meta {
            folder,
            tree: self.tree.as_ref(),
        }
        .write(COMMITS_KEY, &next)?;
        self.commits = next;
        Ok(())
    }

    /// Notes that the commit is on the disk.
    pub(super) fn acknowledge(&self) -> Result<(), StoreError> {
        // Fixed width, so that each write covers the one before.
        let text = format!("{:020}\n", self.commits);
        self.file
            .write_all_at(text.as_bytes(), 0)
            .map_err(|error| StoreError::file("write", &self.path, &error))
    }
}
