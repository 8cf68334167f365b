//! Receiving a snapshot from the leader, part by part, into a file.

use std::sync::Arc;

use openraft::raft::SnapshotResponse;
use tokio::sync::{Mutex, OwnedMutexGuard};
use troupe_protocol::id::NodeId;
use troupe_protocol::wire as encoding;

use super::core::Core;
use super::error::LogError;
use super::raft::{Raft, Snapshot, SnapshotMeta, Vote};
use super::snapshot::{SnapshotError, SnapshotFile, Snapshots};
use super::wire::{SnapshotAnswer, SnapshotPart};

/// At most one snapshot is received at a time: a leader that begins another gives up the first. One that is being installed
/// is not given up, and no other is begun meanwhile.
#[derive(Default)]
pub(super) struct Receiver {
    receiving: Mutex<Option<Receiving>>,
    /// Held while one is installed.
    installing: Arc<Mutex<()>>,
}

const IS_INSTALLING: &str = "a snapshot is being installed";

struct Receiving {
    from: NodeId,
    snapshot: u64,
    file: SnapshotFile,
    bytes: u64,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.file.discard();
    }
}

impl Receiver {
    /// Takes the next part.
    pub(super) async fn part(
        &self,
        core: &Core,
        from: NodeId,
        part: SnapshotPart,
    ) -> Result<SnapshotAnswer, LogError> {
        let own = own_vote(core).await?;
        if part.vote < own {
            return Ok(SnapshotAnswer::Taken { vote: own });
        }
        let mut receiving = self.receiving.lock().await;
        if part.offset == 0 {
            if self.installing.try_lock().is_err() {
                return Ok(restart(IS_INSTALLING));
            }
            let snapshots = core.machine.snapshots().clone();
            let begun = tokio::task::spawn_blocking(move || snapshots.begin()).await;
            let file = begun
                .map_err(|error| core.fatal(error))?
                .map_err(|error| core.fatal(error))?;
            *receiving = Some(Receiving {
                from,
                snapshot: part.snapshot,
                file,
                bytes: 0,
            });
        }
        let expected = receiving
            .as_mut()
            .filter(|receiving| receiving.is(from, part.snapshot) && receiving.bytes == part.offset);
        let Some(expected) = expected else {
            return Ok(restart("the part does not follow what was received"));
        };
        expected.bytes += part.bytes.len() as u64;
        let file = expected.file.clone();
        let written = tokio::task::spawn_blocking(move || file.append(&part.bytes)).await;
        let written = written.map_err(std::io::Error::other).and_then(|written| written);
        if let Err(error) = written {
            *receiving = None;
            return Ok(restart(&error.to_string()));
        }
        Ok(SnapshotAnswer::Taken { vote: part.vote })
    }

    /// All parts were sent: checks the file and has it installed, also when whoever asked for it waits no more.
    pub(super) async fn end(
        &self,
        core: &Core,
        from: NodeId,
        snapshot: u64,
        vote: Vote,
        meta: SnapshotMeta,
    ) -> Result<SnapshotAnswer, LogError> {
        let received = self.receiving.lock().await.take();
        let Some(received) = received.filter(|received| received.is(from, snapshot)) else {
            return Ok(restart("it was not received"));
        };
        let Ok(turn) = Arc::clone(&self.installing).try_lock_owned() else {
            return Ok(restart(IS_INSTALLING));
        };
        let installation = Installation {
            raft: core.raft.clone(),
            snapshots: core.machine.snapshots().clone(),
            received,
            _turn: turn,
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "it outlives whoever asked; the turn that it holds keeps it the only one"
        )]
        let done = tokio::spawn(installation.run(vote, meta)).await;
        done.map_err(|error| core.fatal(error))?
    }
}

/// A snapshot that was received, on its way into the state.
struct Installation {
    raft: Raft,
    snapshots: Snapshots,
    received: Receiving,
    _turn: OwnedMutexGuard<()>,
}

impl Installation {
    async fn run(self, vote: Vote, meta: SnapshotMeta) -> Result<SnapshotAnswer, LogError> {
        let stopped = |error: &dyn std::error::Error| LogError::Stopped {
            reason: error.to_string(),
        };
        let (file, expected) = (self.received.file.clone(), meta.clone());
        let snapshots = self.snapshots.clone();
        let kept = tokio::task::spawn_blocking(move || {
            check(&file, &expected)?;
            let kept = snapshots.keep_to_install(&file);
            kept.map_err(|error| error.to_string())
        });
        let file = match kept.await.map_err(|error| stopped(&error))? {
            Ok(file) => file,
            Err(reason) => return Ok(restart(&reason)),
        };
        let snapshot = Snapshot {
            meta,
            snapshot: Box::new(file),
        };
        let installed = self.raft.install_full_snapshot(vote, snapshot).await;
        let SnapshotResponse { vote } = installed.map_err(|error| stopped(&error))?;
        // It is there still if openraft had no need of it.
        self.snapshots.forget_to_install();
        Ok(SnapshotAnswer::Taken { vote })
    }
}

impl Receiving {
    fn is(&self, from: NodeId, snapshot: u64) -> bool {
        self.from == from && self.snapshot == snapshot
    }
}

async fn own_vote(core: &Core) -> Result<Vote, LogError> {
    let vote = core.raft.with_raft_state(|state| *state.vote_ref()).await;
    vote.map_err(|error| core.fatal(error))
}

fn restart(reason: &str) -> SnapshotAnswer {
    SnapshotAnswer::Restart {
        reason: reason.to_owned(),
    }
}

fn check(file: &SnapshotFile, expected: &SnapshotMeta) -> Result<(), String> {
    let describe = |error: SnapshotError| error.to_string();
    let reader = file.chunks().map_err(describe)?;
    let meta: SnapshotMeta = encoding::decode(reader.header()).map_err(|error| error.to_string())?;
    if meta != *expected {
        return Err("the file is of another snapshot".to_owned());
    }
    reader.verify().map_err(|error| describe(file.at(error)))
}
