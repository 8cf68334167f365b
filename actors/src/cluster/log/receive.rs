//! Receiving a snapshot from the leader, part by part, into a file.

use openraft::raft::SnapshotResponse;
use tokio::sync::Mutex;
use troupe_protocol::id::NodeId;
use troupe_protocol::wire as encoding;

use super::core::Core;
use super::error::LogError;
use super::raft::{Snapshot, SnapshotMeta, Vote};
use super::snapshot::{SnapshotError, SnapshotFile};
use super::wire::{SnapshotAnswer, SnapshotPart};

/// At most one snapshot is received at a time: a leader that begins another gives up the first.
#[derive(Default)]
pub(super) struct Receiver {
    receiving: Mutex<Option<Receiving>>,
}

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

    /// All parts were sent: checks the file and has it installed.
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
        let (file, expected) = (received.file.clone(), meta.clone());
        let checked = tokio::task::spawn_blocking(move || check(&file, &expected)).await;
        if let Err(error) = checked.map_err(|error| core.fatal(error))? {
            return Ok(restart(&error));
        }
        let snapshot = Snapshot {
            meta,
            snapshot: Box::new(received.file.clone()),
        };
        let installed = core.raft.install_full_snapshot(vote, snapshot).await;
        let SnapshotResponse { vote } = installed.map_err(|error| core.fatal(error))?;
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
