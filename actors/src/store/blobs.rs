//! Large bytes, each in a file named by its SHA-256: documents, frames, audio, large results.
//!
//! A blob never changes. It is written into a temporary file, synced, renamed, and its folder synced: so a file under its
//! name is whole. What is read is checked against the name.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{StoreError, files};

/// The largest blob that is taken whole.
pub const BLOB_BYTES_MAX: usize = 256 * 1024 * 1024;

const ID_HEX_CHARS: usize = 64;

/// The SHA-256 of a blob's content, written as 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobId(String);

impl BlobId {
    /// The id of this content.
    pub fn of(content: &[u8]) -> Self {
        Self(hex::encode(Sha256::digest(content)))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BlobId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if text.len() == ID_HEX_CHARS && text.bytes().all(is_digit) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(format!(
            "{shown:?} is no blob id: expected {ID_HEX_CHARS} lower-case hex digits"
        ))
    }
}

impl TryFrom<String> for BlobId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<BlobId> for String {
    fn from(id: BlobId) -> Self {
        id.0
    }
}

/// The folder of blobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Blobs {
    data_folder: Arc<Path>,
}

impl Blobs {
    pub(super) fn open(data_folder: &Path) -> Result<Self, StoreError> {
        let blobs = Self {
            data_folder: data_folder.into(),
        };
        let unfinished = blobs.unfinished();
        files::create_private_folder(&unfinished)?;
        files::sync_folder(data_folder)?;
        // What a killed node left half written belongs to nobody.
        for entry in fs::read_dir(&unfinished)
            .map_err(|error| StoreError::file("read", &unfinished, &error))?
            .flatten()
        {
            let _ = fs::remove_file(entry.path());
        }
        Ok(blobs)
    }

    /// Keeps the content; it is on the disk when this returns. The same content is kept once.
    ///
    /// # Errors
    /// When it is above [`BLOB_BYTES_MAX`] or the disk fails.
    pub async fn put(&self, content: Bytes) -> Result<BlobId, StoreError> {
        let blobs = self.clone();
        self.off_the_async_threads(move || blobs.put_blocking(&content))
            .await
    }

    /// The content of a blob, or `None` when there is no such blob.
    ///
    /// # Errors
    /// When its content is not what its id says, or the disk fails.
    pub async fn get(&self, id: &BlobId) -> Result<Option<Bytes>, StoreError> {
        let (blobs, id) = (self.clone(), id.clone());
        self.off_the_async_threads(move || blobs.get_blocking(&id)).await
    }

    /// Whether there is such a blob.
    pub async fn contains(&self, id: &BlobId) -> bool {
        tokio::fs::try_exists(self.path(id)).await.unwrap_or(false)
    }

    /// Removes a blob, if there.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn remove(&self, id: &BlobId) -> Result<(), StoreError> {
        let path = self.path(id);
        match tokio::fs::remove_file(&path).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::file("remove", &path, &error)),
        }
    }

    async fn off_the_async_threads<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|failure| {
            let reason = failure.to_string();
            Err(StoreError::File {
                doing: "work in",
                path: self.data_folder.join("blobs"),
                reason,
            })
        })
    }

    fn put_blocking(&self, content: &[u8]) -> Result<BlobId, StoreError> {
        let id = BlobId::of(content);
        if content.len() > BLOB_BYTES_MAX {
            return Err(StoreError::TooLarge {
                what: "the content",
                tree: "blobs".to_owned(),
                key: id.0,
                bytes: content.len(),
                bytes_max: BLOB_BYTES_MAX,
            });
        }
        let path = self.path(&id);
        let folder = path.parent().unwrap_or(&self.data_folder);
        files::create_private_folder(folder)?;
        if path.is_file() {
            files::sync_folder(folder)?; // whoever wrote it may not have come so far yet
            return Ok(id);
        }
        let temporary = self.unfinished().join(format!("{id}.{:016x}", fastrand::u64(..)));
        let written = files::write_new(&temporary, content).and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary); // best effort: the error below is what matters
            return Err(StoreError::file("write", &path, &error));
        }
        files::sync_folder(folder)?;
        Ok(id)
    }

    fn get_blocking(&self, id: &BlobId) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(id);
        let content = match fs::read(&path) {
            Ok(content) => content,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::file("read", &path, &error)),
        };
        if BlobId::of(&content) != *id {
            return Err(StoreError::CorruptBlob {
                folder: self.data_folder.to_path_buf(),
                id: id.to_string(),
            });
        }
        Ok(Some(content.into()))
    }

    fn path(&self, id: &BlobId) -> PathBuf {
        self.data_folder.join("blobs").join(&id.0[..2]).join(&id.0)
    }

    fn unfinished(&self) -> PathBuf {
        self.data_folder.join("blobs").join("unfinished")
    }
}
