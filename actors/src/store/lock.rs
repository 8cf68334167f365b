//! One node to a folder: an advisory lock which the kernel lets go of when the process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::StoreError;

/// A child process holds what its parent held from its fork to its exec, also when the parent has let go meanwhile.
const FORKED_WITHIN: Duration = Duration::from_millis(500);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Holds the folder until dropped.
pub(super) struct FolderLock {
    _file: File,
}

impl FolderLock {
    /// Takes the folder for this process and writes down which one it is.
    pub(super) fn take(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join("lock");
        let failed = |error: &std::io::Error| StoreError::file("lock", &path, error);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false) // the holder's process id is in it
            .open(&path)
            .map_err(|error| failed(&error))?;
        let give_up_at = Instant::now() + FORKED_WITHIN;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(failed(&error)),
                Err(TryLockError::WouldBlock) => {}
            }
            let holder = holder(&mut file);
            if holder != Some(std::process::id()) || Instant::now() >= give_up_at {
                let folder = folder.to_owned();
                return Err(StoreError::InUse { folder, holder });
            }
            pause();
        }
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|error| failed(&error))?;
        Ok(Self { _file: file })
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a store is opened where blocking is allowed"
)]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a thread that holds something for a while"
    )]
    fn what_this_process_lets_go_of_is_waited_for_and_what_it_keeps_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let held = FolderLock::take(folder.path()).unwrap();
        assert!(matches!(
            FolderLock::take(folder.path()),
            Err(StoreError::InUse { holder: Some(holder), .. }) if holder == std::process::id()
        ));
        let letting_go = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(held);
        });
        assert!(FolderLock::take(folder.path()).is_ok());
        letting_go.join().unwrap();
    }
}
