//! One thread applies all writes, and syncs once for all that wait: group commit.
//!
//! While a sync runs, further writes queue up; the next sync is theirs together. So one writer pays one sync a write, and
//! sixteen pay about one among them. The thread also keeps the engine's blocking calls off the async threads.
//!
//! After a failed sync the kernel may have dropped the dirty pages and report the next sync as good (the "fsyncgate" of
//! PostgreSQL, 2018): so after the first failure every write is refused until the node starts anew and recovers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::engine::{Engine, EngineError, RawChange, Tree};
use super::identity::CommitCounter;
use super::sled_engine::panic_text;

/// Writes that wait for the thread; further writers wait for a place.
const QUEUE_WRITES_MAX: usize = 1024;
/// Writes that share one sync.
const GROUP_WRITES_MAX: usize = 512;

/// What the store did so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct StoreStatus {
    /// Syncs since the database was made.
    pub commits: u64,
    /// Writes since the node started; `writes / commits` shows how many share a sync.
    pub writes: u64,
    /// Syncs since the node started.
    pub syncs: u64,
    /// How long the last commit took, apply and sync, in microseconds.
    pub last_commit_us: u64,
    /// What the database takes on the disk, in bytes; looked up when a group is committed, every 1,024 groups.
    pub bytes_on_disk: u64,
    /// Why nothing more can be written, if so.
    pub failed: Option<String>,
}

/// What a write does to the database, on the commit thread.
type Work = Box<dyn FnOnce() -> Result<(), EngineError> + Send>;

struct Write {
    work: Work,
    reply: oneshot::Sender<Result<(), StoreError>>,
}

/// The way to the commit thread; ends it when dropped, after all that is queued.
pub(super) struct Committer {
    queue: Option<mpsc::Sender<Write>>,
    thread: Option<JoinHandle<()>>,
    status: Arc<Mutex<StoreStatus>>,
    folder: PathBuf,
}

impl Committer {
    pub(super) fn start(
        folder: &Path,
        engine: Arc<dyn Engine>,
        counter: CommitCounter,
    ) -> Result<Self, StoreError> {
        let (queue, writes) = mpsc::channel(QUEUE_WRITES_MAX);
        let status = Arc::new(Mutex::new(StoreStatus {
            commits: counter.commits(),
            bytes_on_disk: engine.bytes_on_disk(),
            ..StoreStatus::default()
        }));
        let worker = Worker {
            engine,
            counter,
            folder: folder.to_owned(),
            status: Arc::clone(&status),
            failed: None,
        };
        let thread = std::thread::Builder::new()
            .name("store-commit".to_owned())
            .spawn(move || worker.run(writes));
        let thread =
            thread.map_err(|error| StoreError::file("start the commit thread of", folder, &error))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            status,
            folder: folder.to_owned(),
        })
    }

    /// Returns once the changes are on the disk. When the caller gives up waiting, they may still be written.
    pub(super) async fn write(&self, tree: Arc<dyn Tree>, changes: Vec<RawChange>) -> Result<(), StoreError> {
        self.run(move || tree.apply(changes)).await
    }

    /// Returns once everything that was applied before, by whomever, is on the disk.
    pub(super) async fn sync(&self) -> Result<(), StoreError> {
        self.run(|| Ok(())).await
    }

    /// Does some work on the commit thread, and returns what it gave once what it applied is on the disk. An error of the
    /// work is one of the database: it fails the store.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (given, taken) = oneshot::channel();
        let work = move || {
            let _ = given.send(work()?); // the writer may have given up waiting
            Ok(())
        };
        let (reply, outcome) = oneshot::channel();
        let Some(queue) = &self.queue else {
            return Err(self.ended());
        };
        let write = Write {
            work: Box::new(work),
            reply,
        };
        queue.send(write).await.map_err(|_| self.ended())?;
        outcome.await.map_err(|_| self.ended())??;
        taken.await.map_err(|_| self.ended())
    }

    /// Refuses when nothing more can be written.
    pub(super) fn refuse_failed(&self) -> Result<(), StoreError> {
        match &self.status.lock().failed {
            Some(reason) => Err(StoreError::Failed {
                folder: self.folder.clone(),
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    pub(super) fn status(&self) -> StoreStatus {
        self.status.lock().clone()
    }

    fn ended(&self) -> StoreError {
        StoreError::Failed {
            folder: self.folder.clone(),
            reason: "the commit thread has ended".to_owned(),
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // its panics were reported to the writers
        }
    }
}

struct Worker {
    engine: Arc<dyn Engine>,
    counter: CommitCounter,
    folder: PathBuf,
    status: Arc<Mutex<StoreStatus>>,
    failed: Option<StoreError>,
}

impl Worker {
    fn run(mut self, mut writes: mpsc::Receiver<Write>) {
        let mut group = Vec::new();
        while writes.blocking_recv_many(&mut group, GROUP_WRITES_MAX) > 0 {
            self.commit(std::mem::take(&mut group));
        }
    }

    fn commit(&mut self, group: Vec<Write>) {
        let started = Instant::now();
        let writes = group.len() as u64;
        let (works, replies): (Vec<_>, Vec<_>) =
            group.into_iter().map(|write| (write.work, write.reply)).unzip();
        let outcome = match self.failed.clone() {
            Some(error) => Err(error),
            None => self.apply_and_sync(works),
        };
        if let Err(error) = &outcome {
            self.failed = Some(error.clone());
        }
        self.note(writes, started, outcome.as_ref().err());
        for reply in replies {
            let _ = reply.send(outcome.clone()); // the writer may have given up waiting
        }
    }

    /// Any failure fails the whole group and the store: what reached the disk is then unknown.
    fn apply_and_sync(&mut self, works: Vec<Work>) -> Result<(), StoreError> {
        let folder = self.folder.clone();
        let attempt = catch_unwind(AssertUnwindSafe(|| {
            let failed = |error| StoreError::engine(&folder, &error);
            for work in works {
                work().map_err(failed)?;
            }
            self.counter.advance(&folder)?;
            self.engine.sync().map_err(failed)?;
            self.counter.acknowledge()
        }));
        attempt.unwrap_or_else(|panic| {
            Err(StoreError::Failed {
                folder: self.folder.clone(),
                reason: panic_text(panic.as_ref()),
            })
        })
    }

    fn note(&self, writes: u64, started: Instant, error: Option<&StoreError>) {
        const LOOK_UP_SIZE_EVERY_SYNCS: u64 = 1024;
        let mut status = self.status.lock();
        if let Some(error) = error {
            tracing::error!(%error, "a commit failed");
            status.failed = Some(error.to_string());
            return;
        }
        status.commits = self.counter.commits();
        status.writes += writes;
        status.syncs += 1;
        status.last_commit_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        if status.syncs.is_multiple_of(LOOK_UP_SIZE_EVERY_SYNCS) {
            status.bytes_on_disk = self.engine.bytes_on_disk();
        }
    }
}
