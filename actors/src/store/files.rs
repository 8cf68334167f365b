//! Files that must be there, whole and readable only by their owner, after a crash.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::StoreError;

const PRIVATE_FOLDER_MODE: u32 = 0o700;
const PRIVATE_FILE_MODE: u32 = 0o600;
const OTHERS_MASK: u32 = 0o077;
const PRIVATE_FILE_BYTES_MAX: u64 = 64 * 1024;

/// Makes a folder (and its parents) which only its owner can enter. One that exists is left as it is.
///
/// # Errors
/// When the system refuses.
pub fn create_private_folder(folder: &Path) -> Result<(), StoreError> {
    if folder.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_FOLDER_MODE)
        .create(folder);
    made.map_err(|error| StoreError::file("create the folder", folder, &error))?;
    sync_folder(folder.parent().unwrap_or(folder))
}

/// Writes a file with mode 0600 so that after a crash it is there whole or not at all: into a temporary file beside it,
/// synced, renamed, and the folder synced. Replaces what was there.
///
/// # Errors
/// When the system refuses any of these.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    let mut temporary_name = path.file_name().unwrap_or_default().to_owned();
    temporary_name.push(format!(".{:016x}.tmp", fastrand::u64(..)));
    let temporary = folder.join(temporary_name);
    let written = write_new(&temporary, content).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary); // best effort: the error below is what matters
        return Err(StoreError::file("write", path, &error));
    }
    sync_folder(folder)
}

/// Removes a file, for good when this returns.
///
/// # Errors
/// When the system refuses; that there is none is no error.
pub fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::file("remove", path, &error))
        }
        _ => sync_folder(path.parent().unwrap_or_else(|| Path::new("."))),
    }
}

/// Reads a small text file that only its owner may read; `None` when there is none.
///
/// # Errors
/// When others may read it too (its secret may be known), when it is too large, or not text.
pub fn read_private(path: &Path) -> Result<Option<String>, StoreError> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::file("read", path, &error)),
    };
    let metadata = file
        .metadata()
        .map_err(|error| StoreError::file("read", path, &error))?;
    let refuse = |reason: String| StoreError::File {
        doing: "use",
        path: path.to_owned(),
        reason,
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & OTHERS_MASK != 0 {
        return Err(refuse(format!(
            "others may read it (mode {mode:o}): `chmod 600` it, and replace what it holds"
        )));
    }
    if metadata.len() > PRIVATE_FILE_BYTES_MAX {
        return Err(refuse(format!(
            "it has {} bytes, expected at most {PRIVATE_FILE_BYTES_MAX}",
            metadata.len()
        )));
    }
    let mut text = String::new();
    file.read_to_string(&mut text)
        .map_err(|error| StoreError::file("read", path, &error))?;
    Ok(Some(text))
}

/// Makes the names in a folder durable: new, renamed and removed files.
///
/// # Errors
/// When the system refuses.
pub fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    // The parent of a relative path such as `data` is the empty path: the current folder.
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| StoreError::file("sync the folder", folder, &error))
}

/// Makes the files directly in a folder durable, and their names.
///
/// # Errors
/// When the system refuses.
pub fn sync_files_of(folder: &Path) -> Result<(), StoreError> {
    let failed = |error: std::io::Error| StoreError::file("sync the files of", folder, &error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_file() {
            File::open(entry.path())
                .and_then(|file| file.sync_all())
                .map_err(failed)?;
        }
    }
    sync_folder(folder)
}

/// Writes and syncs a file that must not exist yet, with mode 0600.
pub(super) fn write_new(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE_FILE_MODE)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_private_file_is_its_owners_alone_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.key");
        assert_eq!(read_private(&path).unwrap(), None);
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(read_private(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_private_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vault.key");
        write_private(&path, b"one").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_private(&path).unwrap_err().to_string();
        assert!(
            error.contains("mode 640") && error.contains("chmod 600"),
            "{error}"
        );
    }
}
