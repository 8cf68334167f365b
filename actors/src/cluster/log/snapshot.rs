//! Snapshots of the replicated state as files in the data folder.
//!
//! A snapshot is only a way to send the state to a member that is far behind: the state itself is in the store. So one
//! that is damaged, or was cut off, is thrown away and made anew. There is at most one, `cluster/log/snapshot`.
//!
//! Except while one is installed: as soon as openraft knows of it, the entries that it stands for may be gone from the log.
//! So it is first kept durably, as `cluster/log/installing`, and what a kill has interrupted is done at the next start.

use std::fs::{self, File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use troupe_protocol::wire;

use super::image::{ImageError, ImageReader, ImageWriter};
use super::raft::{LogId, Snapshot, SnapshotMeta};
use crate::store::replicated::ReplicatedSnapshot;
use crate::store::{StoreError, files};

const FOLDER: [&str; 2] = ["cluster", "log"];
const CURRENT: &str = "snapshot";
const INSTALLING: &str = "installing";

/// A snapshot's content. The file stays readable when another takes its place.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    file: Arc<File>,
    path: Arc<Path>,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("snapshot {}: {error}", path.display())]
    File { path: PathBuf, error: ImageError },
    #[error("snapshot {}: its header is not one of a snapshot: {error}", path.display())]
    Header { path: PathBuf, error: wire::WireError },
}

/// The snapshots of this node. Cheap to clone.
#[derive(Clone)]
pub(super) struct Snapshots {
    folder: Arc<Path>,
    current: Arc<Mutex<Option<(SnapshotMeta, SnapshotFile)>>>,
    /// Held while one is made current: two come at the same time when one is built while another is installed.
    adopting: Arc<Mutex<()>>,
}

impl Snapshots {
    /// Opens the folder, removes what was left half done, and a snapshot that is damaged or newer than `applied`.
    pub(super) fn open(data_folder: &Path, applied: Option<LogId>) -> Result<Self, SnapshotError> {
        let folder: PathBuf = FOLDER
            .iter()
            .fold(data_folder.to_owned(), |path, name| path.join(name));
        for parent in [data_folder.join(FOLDER[0]), folder.clone()] {
            files::create_private_folder(&parent)?;
        }
        let current = folder.join(CURRENT);
        let installing = folder.join(INSTALLING);
        for entry in fs::read_dir(&folder)
            .map_err(|error| at(&folder, error.into()))?
            .flatten()
        {
            if entry.path() != current && entry.path() != installing {
                let _ = fs::remove_file(entry.path()); // what is left half done belongs to nobody
            }
        }
        let snapshots = Self {
            folder: folder.into(),
            current: Arc::default(),
            adopting: Arc::default(),
        };
        if !current.is_file() {
            return Ok(snapshots);
        }
        match read_meta(&current) {
            Ok(found) if found.0.last_log_id <= applied => *snapshots.current.lock() = Some(found),
            Ok(_) => snapshots.forget(&current), // the state it was made of is not on the disk
            Err(error) => {
                tracing::warn!(%error, "the log's snapshot is thrown away; another is made when it is needed");
                snapshots.forget(&current);
            }
        }
        Ok(snapshots)
    }

    /// The snapshot there is.
    pub(super) fn current(&self) -> Option<Snapshot> {
        let current = self.current.lock();
        let (meta, file) = current.as_ref()?;
        Some(Snapshot {
            meta: meta.clone(),
            snapshot: Box::new(file.clone()),
        })
    }

    /// Writes a snapshot of the state and makes it the current one. Blocks.
    pub(super) fn build(
        &self,
        meta: SnapshotMeta,
        state: ReplicatedSnapshot,
    ) -> Result<Snapshot, SnapshotError> {
        let unfinished = self.begin()?;
        if let Err(error) = write(&unfinished, &meta, state) {
            unfinished.discard();
            return Err(error);
        }
        self.adopt(meta, unfinished)
    }

    /// An empty file, to receive a snapshot into.
    pub(super) fn begin(&self) -> Result<SnapshotFile, SnapshotError> {
        let path = self
            .folder
            .join(format!("{CURRENT}.{:016x}.unfinished", fastrand::u64(..)));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        let file = file.map_err(|error| at(&path, error.into()))?;
        Ok(SnapshotFile {
            file: Arc::new(file),
            path: path.into(),
        })
    }

    /// Puts a whole file in the place of the current snapshot, durably, unless that one is later. Gives the one that is
    /// current then. Blocks.
    pub(super) fn adopt(&self, meta: SnapshotMeta, file: SnapshotFile) -> Result<Snapshot, SnapshotError> {
        let _turn = self.adopting.lock();
        let later = self
            .current()
            .filter(|current| current.meta.last_log_id > meta.last_log_id);
        if let Some(later) = later {
            file.discard();
            return Ok(later);
        }
        let adopted = self.move_to(CURRENT, &file)?;
        let snapshot = Snapshot {
            meta: meta.clone(),
            snapshot: Box::new(adopted.clone()),
        };
        *self.current.lock() = Some((meta, adopted));
        Ok(snapshot)
    }

    /// Keeps a whole file durably until it is installed: it is [adopted](Self::adopt) then. Blocks.
    pub(super) fn keep_to_install(&self, file: &SnapshotFile) -> Result<SnapshotFile, SnapshotError> {
        self.move_to(INSTALLING, file)
    }

    /// The snapshot whose installation was begun and, as far as is known, not finished. Blocks.
    pub(super) fn to_install(&self) -> Option<(SnapshotMeta, SnapshotFile)> {
        let path = self.folder.join(INSTALLING);
        if !path.is_file() {
            return None;
        }
        let found = read_meta(&path);
        if let Err(error) = &found {
            tracing::error!(%error, "a snapshot that was being installed is thrown away");
            self.forget_to_install();
        }
        found.ok()
    }

    /// There is nothing to install any more.
    pub(super) fn forget_to_install(&self) {
        let path = self.folder.join(INSTALLING);
        if let Err(error) = files::remove(&path) {
            tracing::warn!(%error, "a snapshot that need not be installed cannot be removed");
        }
    }

    /// Gives a file a name, both durably.
    fn move_to(&self, name: &str, file: &SnapshotFile) -> Result<SnapshotFile, SnapshotError> {
        let path = self.folder.join(name);
        let moved = file.file.sync_all().and_then(|()| fs::rename(&file.path, &path));
        moved.map_err(|error| at(&file.path, error.into()))?;
        files::sync_folder(&self.folder)?;
        Ok(SnapshotFile {
            file: Arc::clone(&file.file),
            path: path.into(),
        })
    }

    fn forget(&self, path: &Path) {
        *self.current.lock() = None;
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!(%error, path = %path.display(), "the log's snapshot cannot be removed");
        }
    }
}

impl SnapshotFile {
    /// Its bytes from `offset`, at most `bytes_max`; empty at the end. Blocks.
    pub(super) fn read_at(&self, offset: u64, bytes_max: usize) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; bytes_max];
        let mut filled = 0;
        while filled < bytes.len() {
            let read = self.file.read_at(&mut bytes[filled..], offset + filled as u64)?;
            if read == 0 {
                break;
            }
            filled += read;
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Appends bytes. Blocks.
    pub(super) fn append(&self, bytes: &[u8]) -> std::io::Result<()> {
        self.file.as_ref().write_all(bytes)
    }

    /// Its chunks, from the first. Blocks while they are read.
    pub(super) fn chunks(&self) -> Result<ImageReader<impl std::io::Read + use<>>, SnapshotError> {
        let failed = |error| at(&self.path, error);
        let reader = BufReader::new(Positioned {
            file: Arc::clone(&self.file),
            offset: 0,
        });
        ImageReader::begin(reader).map_err(failed)
    }

    pub(super) fn at(&self, error: ImageError) -> SnapshotError {
        at(&self.path, error)
    }

    /// Removes the file, if it is still where it was begun.
    pub(super) fn discard(&self) {
        let _ = fs::remove_file(&self.path); // best effort: what is left is removed at the next start
    }
}

/// Reads a file from its beginning, wherever others are in it.
struct Positioned {
    file: Arc<File>,
    offset: u64,
}

impl std::io::Read for Positioned {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(bytes, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

fn write(
    unfinished: &SnapshotFile,
    meta: &SnapshotMeta,
    mut state: ReplicatedSnapshot,
) -> Result<(), SnapshotError> {
    let failed = |error| at(&unfinished.path, error);
    let header = wire::encode(meta).map_err(|error| SnapshotError::Header {
        path: unfinished.path.to_path_buf(),
        error,
    })?;
    let mut writer = ImageWriter::begin(BufWriter::new(unfinished.file.as_ref()), &header).map_err(failed)?;
    while let Some(chunk) = state.next_chunk()? {
        writer.chunk(&chunk).map_err(failed)?;
    }
    writer.finish().map_err(failed)?;
    Ok(())
}

fn at(path: &Path, error: ImageError) -> SnapshotError {
    SnapshotError::File {
        path: path.to_owned(),
        error,
    }
}

fn read_meta(path: &Path) -> Result<(SnapshotMeta, SnapshotFile), SnapshotError> {
    let file = File::open(path).map_err(|error| at(path, error.into()))?;
    let file = SnapshotFile {
        file: Arc::new(file),
        path: path.into(),
    };
    let reader = file.chunks()?;
    let meta = wire::decode(reader.header()).map_err(|error| SnapshotError::Header {
        path: path.to_owned(),
        error,
    })?;
    reader.verify().map_err(|error| at(path, error))?;
    Ok((meta, file))
}
