//! The replicated state into a file, while everything goes on; and back.
//!
//! A backup holds all records as they were at one position of the log. A restore makes the records of a running cluster
//! those of a backup, by ordinary writes: so it works the same for a cluster of one that was just made, after everything
//! was lost, and for one of many nodes that is to be set back; and no node has to be stopped or emptied. Its price: it is
//! many writes, not one. Who reads meanwhile sees some records restored and others not yet. Once begun it goes on to its
//! end, whether or not who asked for it waits; one that was cut off by the end of its node is completed by running it again.
//!
//! The log's own records (members, who votes) are in no restore: they say what this cluster is, not what it holds.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::iter::Peekable;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;
use troupe_protocol::cluster::Epoch;
use troupe_protocol::id::NodeId;
use troupe_protocol::time::Timestamp;
use troupe_protocol::wire;

use super::command::Command;
use super::core::Core;
use super::error::LogError;
use super::forward;
use super::image::{ImageError, ImageReader, ImageWriter};
use super::machine::{OWN_TREES, number};
use super::raft::LogId;
use crate::runtime::Deadline;
use crate::store::replicated::{
    RECORD_BATCH_BYTES_MAX, RECORD_BATCH_CHANGES_MAX, RecordChange, ReplicatedSnapshot, records_of_chunk,
};
use crate::store::{RecordBatch, StoreError};

/// Writes that wait for the log while the next ones are found out.
const BATCHES_READY_MAX: usize = 4;
/// Restores that wait for their turn.
const RESTORES_WAITING_MAX: usize = 4;
/// How long one write of a restore may take, and for how long it is tried again while nobody leads.
const WRITE_WITHIN: Duration = Duration::from_secs(30);
/// The pause before that.
const WRITE_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupHeader {
    /// The last entry of the log that is in it.
    pub position: u64,
    /// The membership at that position; for people only.
    pub epoch: Epoch,
    /// The node that wrote it.
    pub node: NodeId,
    /// What names the cluster, which alone can open its secrets.
    pub authority: String,
    /// When.
    pub made_at: Timestamp,
    /// The version of the program that wrote it.
    pub version: String,
}

/// What a restore did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Records that were put.
    pub put: u64,
    /// Records that are in no backup and were removed.
    pub removed: u64,
    /// Records that were as in the backup already.
    pub unchanged: u64,
}

/// Writes a backup; gives what it is of. Needs no majority: what this node has applied is what is written.
pub(super) async fn backup<W: Write + Send + 'static>(
    core: &Core,
    out: W,
    authority: String,
    made_at: Timestamp,
) -> Result<BackupHeader, LogError> {
    let state = core.store.replicated_state().snapshot()?;
    let position: Option<LogId> = match state.position() {
        Some(position) => wire::decode(position).map_err(|error| unusable(&error))?,
        None => None,
    };
    let header = BackupHeader {
        position: number(position.as_ref()),
        epoch: core.membership().epoch,
        node: core.own,
        authority,
        made_at,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let encoded = serde_json::to_vec(&header).map_err(|error| unusable(&error))?;
    let written = tokio::task::spawn_blocking(move || write_image(out, &encoded, state));
    written.await.map_err(|error| unusable(&error))??;
    Ok(header)
}

fn write_image(out: impl Write, header: &[u8], mut state: ReplicatedSnapshot) -> Result<(), LogError> {
    let mut writer = ImageWriter::begin(BufWriter::new(out), header).map_err(|error| unusable(&error))?;
    while let Some(chunk) = state.next_chunk()? {
        writer.chunk(&chunk).map_err(|error| unusable(&error))?;
    }
    let mut out = writer.finish().map_err(|error| unusable(&error))?;
    out.flush().map_err(|error| unusable(&error))
}

/// What a backup is of; reads and checks all of it. Blocks.
///
/// # Errors
/// When it is no whole backup.
pub fn inspect_backup(backup: &mut File) -> Result<BackupHeader, LogError> {
    backup.rewind().map_err(|error| unusable(&error))?;
    let reader = ImageReader::begin(BufReader::new(&*backup)).map_err(|error| unusable(&error))?;
    let header = serde_json::from_slice(reader.header()).map_err(|error| {
        unusable_because(format!("it is of something else than a cluster's state: {error}"))
    })?;
    reader.verify().map_err(|error| unusable(&error))?;
    backup.rewind().map_err(|error| unusable(&error))?;
    Ok(header)
}

/// What of the cluster's records a restore leaves as it is.
#[derive(Debug, Clone, Default)]
pub struct Spared {
    /// All of these trees.
    pub trees: &'static [&'static str],
    /// And these records, by tree and key.
    pub records: HashSet<(String, String)>,
}

impl Spared {
    fn includes(&self, change: &RecordChange) -> bool {
        let tree = change.tree.as_str();
        OWN_TREES.contains(&tree)
            || self.trees.contains(&tree)
            || self.records.contains(&(change.tree.clone(), change.key.clone()))
    }
}

/// Restores on their way: one after the other, to the end, whether or not who asked for them still waits.
pub(super) struct Restores {
    queue: mpsc::Sender<Asked>,
    /// Taken by whoever runs them; by the next life of the actor too.
    waiting: Mutex<mpsc::Receiver<Asked>>,
}

struct Asked {
    backup: File,
    spared: Spared,
    deadline: Deadline,
    reply: oneshot::Sender<Result<Restored, LogError>>,
}

impl Default for Restores {
    fn default() -> Self {
        let (queue, waiting) = mpsc::channel(RESTORES_WAITING_MAX);
        Self {
            queue,
            waiting: Mutex::new(waiting),
        }
    }
}

impl Restores {
    /// Has the records of the cluster made those of a backup.
    pub(super) async fn ask(
        &self,
        backup: File,
        spared: Spared,
        deadline: Deadline,
    ) -> Result<Restored, LogError> {
        let (reply, restored) = oneshot::channel();
        let asked = Asked {
            backup,
            spared,
            deadline,
            reply,
        };
        self.queue.try_send(asked).map_err(|_| LogError::Overloaded {
            waiting: RESTORES_WAITING_MAX,
        })?;
        restored.await.map_err(|_| LogError::OutcomeUnknown {
            reason: "the restore was cut off; run it again".to_owned(),
        })?
    }
}

/// Carries out restores, until cancelled.
pub(super) async fn run(core: &Core) {
    let mut waiting = core.restores.waiting.lock().await;
    while let Some(asked) = waiting.recv().await {
        let restored = restore(core, asked.backup, asked.spared, asked.deadline).await;
        match &restored {
            Ok(restored) => tracing::info!(?restored, "a backup was restored"),
            Err(error) => tracing::warn!(%error, "a backup could not be restored"),
        }
        let _ = asked.reply.send(restored); // who asked may have left
    }
}

/// Makes the records those of a backup, except those that are spared.
async fn restore(
    core: &Core,
    mut backup: File,
    spared: Spared,
    deadline: Deadline,
) -> Result<Restored, LogError> {
    forward::linearize(core, deadline).await?;
    let state = core.store.replicated_state();
    let (batches, mut ready) = mpsc::channel(BATCHES_READY_MAX);
    let found_out = tokio::task::spawn_blocking(move || {
        inspect_backup(&mut backup)?; // nothing is written unless all of it is right
        let wanted = ImageReader::begin(BufReader::new(backup)).map_err(|error| unusable(&error))?;
        let is_meant = |change: &Result<RecordChange, LogError>| {
            change.as_ref().map_or(true, |change| !spared.includes(change))
        };
        let wanted = of_image(wanted).filter(is_meant);
        let current = of_state(state.snapshot()?).filter(is_meant);
        find_differences(wanted.peekable(), current.peekable(), &batches)
    });
    while let Some(batch) = ready.recv().await {
        write_for_sure(core, batch, deadline).await?;
    }
    found_out.await.map_err(|error| unusable(&error))?
}

/// What a restore writes may be written twice: so it is, while another node comes to lead.
async fn write_for_sure(core: &Core, batch: RecordBatch, deadline: Deadline) -> Result<(), LogError> {
    let deadline = deadline.earlier(Deadline::within(WRITE_WITHIN));
    loop {
        let written = forward::write(core, Command::Records(batch.clone()), deadline).await;
        let may_pass = matches!(
            written,
            Err(LogError::NoQuorum { .. } | LogError::OutcomeUnknown { .. } | LogError::Overloaded { .. })
        );
        if !may_pass || deadline.instant() <= Instant::now() + WRITE_AGAIN_AFTER {
            return written.map(drop);
        }
        tokio::time::sleep(WRITE_AGAIN_AFTER).await;
    }
}

type Changes<I> = Peekable<I>;

/// Walks both in the order of trees and keys, and sends what makes the second like the first.
fn find_differences(
    mut wanted: Changes<impl Iterator<Item = Result<RecordChange, LogError>>>,
    mut current: Changes<impl Iterator<Item = Result<RecordChange, LogError>>>,
    batches: &mpsc::Sender<RecordBatch>,
) -> Result<Restored, LogError> {
    let mut restored = Restored::default();
    let mut batch = RecordBatch::default();
    let mut bytes = 0;
    loop {
        let order = match (wanted.peek(), current.peek()) {
            (None, None) => break,
            (Some(Ok(wanted)), Some(Ok(current))) => {
                (&wanted.tree, &wanted.key).cmp(&(&current.tree, &current.key))
            }
            (Some(Ok(_)), None) => std::cmp::Ordering::Less,
            (None, Some(Ok(_))) => std::cmp::Ordering::Greater,
            (Some(Err(_)), _) => return Err(failure(wanted.next())),
            (_, Some(Err(_))) => return Err(failure(current.next())),
        };
        let put = match order {
            std::cmp::Ordering::Greater => None,
            _ => wanted.next().transpose()?,
        };
        let old = match order {
            std::cmp::Ordering::Less => None,
            _ => current.next().transpose()?,
        };
        let change = match (put, old) {
            (Some(put), Some(old)) if put == old => {
                restored.unchanged += 1;
                continue;
            }
            (Some(put), _) => {
                restored.put += 1;
                put
            }
            (None, Some(old)) => {
                restored.removed += 1;
                RecordChange { record: None, ..old }
            }
            (None, None) => continue,
        };
        let is_full = bytes + change.bytes() > RECORD_BATCH_BYTES_MAX
            || batch.changes.len() >= RECORD_BATCH_CHANGES_MAX;
        if is_full {
            bytes = 0;
            send(batches, std::mem::take(&mut batch))?;
        }
        bytes += change.bytes();
        batch.changes.push(change);
    }
    if !batch.is_empty() {
        send(batches, batch)?;
    }
    Ok(restored)
}

fn send(batches: &mpsc::Sender<RecordBatch>, batch: RecordBatch) -> Result<(), LogError> {
    let sent = batches.blocking_send(batch);
    sent.map_err(|_| unusable_because("the restore was given up".to_owned()))
}

fn failure(result: Option<Result<RecordChange, LogError>>) -> LogError {
    match result {
        Some(Err(error)) => error,
        _ => unusable_because("it ended early".to_owned()),
    }
}

fn of_image<R: Read>(mut image: ImageReader<R>) -> impl Iterator<Item = Result<RecordChange, LogError>> {
    records(move || image.next_chunk().map_err(|error: ImageError| unusable(&error)))
}

fn of_state(mut state: ReplicatedSnapshot) -> impl Iterator<Item = Result<RecordChange, LogError>> {
    records(move || state.next_chunk().map_err(|error: StoreError| error.into()))
}

/// The records of chunks, one by one; ends with the first error.
fn records(
    mut next_chunk: impl FnMut() -> Result<Option<Vec<u8>>, LogError>,
) -> impl Iterator<Item = Result<RecordChange, LogError>> {
    let mut of_chunk = Vec::new().into_iter();
    let mut is_over = false;
    std::iter::from_fn(move || {
        loop {
            if let Some(record) = of_chunk.next() {
                return Some(Ok(record));
            }
            if is_over {
                return None;
            }
            let chunk = next_chunk().and_then(|chunk| match chunk {
                Some(chunk) => records_of_chunk(&chunk).map(Some).map_err(unusable_because),
                None => Ok(None),
            });
            match chunk {
                Ok(Some(records)) => of_chunk = records.into_iter(),
                Ok(None) => is_over = true,
                Err(error) => {
                    is_over = true;
                    return Some(Err(error));
                }
            }
        }
    })
}

fn unusable(error: &dyn std::error::Error) -> LogError {
    unusable_because(error.to_string())
}

fn unusable_because(reason: String) -> LogError {
    LogError::Backup { reason }
}
