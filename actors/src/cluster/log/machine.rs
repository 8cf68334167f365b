//! What the log's entries do to the replicated state.
//!
//! The same entries leave the same state on every node: whatever decides here is in the entries or in the state itself.
//! Beside the records of others, the state holds three trees of the log's own: the membership, the log's configuration
//! (who votes), and the requests of the last entries.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use parking_lot::Mutex;
use tokio::sync::watch;
use troupe_protocol::cluster::Membership;
use troupe_protocol::id::NodeId;
use troupe_protocol::wire;

use super::command::{Command, Outcome, Request, RequestId};
use super::entries::{EntriesError, LogEntries};
use super::members;
use super::raft::{
    LogId, Outcomes, RaftEntry, Snapshot, SnapshotMeta, StorageError, StorageIOError, StoredMembership, Types,
};
use super::requests::{RequestRecord, Requests, record_key};
use super::snapshot::{SnapshotError, SnapshotFile, Snapshots};
use crate::store::replicated::{Entries, LogIndex, ReplicatedSnapshot};
use crate::store::{RecordBatch, ReplicatedState, ReplicatedTree, Store, StoreError};

/// Replicated trees that are the log's own: no part of a backup.
pub(super) const OWN_TREES: [&str; 3] = [MEMBERSHIP_TREE, CONFIGURATION_TREE, REQUESTS_TREE];
const MEMBERSHIP_TREE: &str = "log.membership";
const CONFIGURATION_TREE: &str = "log.configuration";
const REQUESTS_TREE: &str = "log.requests";
/// The key of the only record of a tree.
const ONLY_KEY: &str = "now";
const SCHEMA: u16 = 1;

/// The state machine. Cheap to clone.
#[derive(Clone)]
pub(super) struct Machine {
    inner: Arc<Mutex<Inner>>,
    state: ReplicatedState,
    snapshots: Snapshots,
}

/// What follows from the entries, where others read it.
pub(super) struct MachineViews {
    /// How many entries are applied.
    pub(super) applied: watch::Receiver<u64>,
    /// The membership.
    pub(super) membership: watch::Receiver<Arc<Membership>>,
    /// Who votes in the log's own configuration; in either, while one gives way to another.
    pub(super) voters: watch::Receiver<BTreeSet<NodeId>>,
}

struct Inner {
    state: ReplicatedState,
    trees: Trees,
    applied: Option<LogId>,
    membership: Arc<Membership>,
    configuration: StoredMembership,
    requests: Requests,
    applied_view: watch::Sender<u64>,
    membership_view: watch::Sender<Arc<Membership>>,
    voters_view: watch::Sender<BTreeSet<NodeId>>,
}

struct Trees {
    membership: ReplicatedTree<Membership>,
    configuration: ReplicatedTree<StoredMembership>,
    requests: ReplicatedTree<RequestRecord>,
}

/// Why the state cannot be read, written or replaced.
#[derive(Debug, thiserror::Error)]
pub(super) enum MachineError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the applied position is unreadable: {0}")]
    Position(#[from] wire::WireError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Entries(#[from] EntriesError),
    #[error("the work on the state ended early: {0}")]
    Ended(#[from] tokio::task::JoinError),
}

/// The number of an entry: they count from 1, openraft's indexes from 0.
pub(super) fn number(log_id: Option<&LogId>) -> u64 {
    log_id.map_or(0, |log_id| log_id.index + 1)
}

impl Machine {
    pub(super) fn open(store: &Store) -> Result<(Self, MachineViews), MachineError> {
        let state = store.replicated_state();
        let trees = Trees {
            membership: store.replicated(MEMBERSHIP_TREE, SCHEMA),
            configuration: store.replicated(CONFIGURATION_TREE, SCHEMA),
            requests: store.replicated(REQUESTS_TREE, SCHEMA),
        };
        let (applied_view, applied) = watch::channel(0);
        let (membership_view, membership) = watch::channel(Arc::default());
        let (voters_view, voters) = watch::channel(BTreeSet::new());
        let mut inner = Inner {
            state: state.clone(),
            trees,
            applied: None,
            membership: Arc::default(),
            configuration: StoredMembership::default(),
            requests: Requests::default(),
            applied_view,
            membership_view,
            voters_view,
        };
        inner.load()?;
        let snapshots = Snapshots::open(store.folder(), inner.applied)?;
        let machine = Self {
            inner: Arc::new(Mutex::new(inner)),
            state,
            snapshots,
        };
        let views = MachineViews {
            applied,
            membership,
            voters,
        };
        Ok((machine, views))
    }

    pub(super) fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// The state at this moment, and what it is; [`StoreError::Overtaken`] while another is being installed.
    pub(super) fn behold(&self) -> (SnapshotMeta, Result<ReplicatedSnapshot, StoreError>) {
        let inner = self.inner.lock();
        let meta = SnapshotMeta {
            last_log_id: inner.applied,
            last_membership: inner.configuration.clone(),
            snapshot_id: format!("{}-{:08x}", number(inner.applied.as_ref()), fastrand::u32(..)),
        };
        let state = self.state.snapshot().and_then(|state| {
            let position = state.position().map(wire::decode::<Option<LogId>>);
            // Between the moment when another state is in the store and the one when it is known here, they differ.
            match position.transpose() {
                Ok(position) if position.flatten() == inner.applied => Ok(state),
                _ => Err(StoreError::Overtaken {
                    reason: "another state is being installed",
                }),
            }
        });
        (meta, state)
    }

    /// Installs the snapshot whose installation was cut off, if there is one: the entries before it may be gone already.
    /// To be done before openraft looks at the state.
    pub(super) async fn finish_installing(&self, entries: &LogEntries) -> Result<(), MachineError> {
        let snapshots = self.snapshots.clone();
        let Some((meta, file)) = tokio::task::spawn_blocking(move || snapshots.to_install()).await? else {
            return Ok(());
        };
        let applied = self.inner.lock().applied;
        let Some(last) = meta.last_log_id.filter(|last| Some(*last) > applied) else {
            self.snapshots.forget_to_install();
            return Ok(());
        };
        tracing::info!(%last, "the installation of a snapshot is finished that was cut off");
        entries.forget_others_than(last).await?;
        self.install(&meta, file).await
    }

    async fn install(&self, meta: &SnapshotMeta, file: SnapshotFile) -> Result<(), MachineError> {
        let position = wire::encode(&meta.last_log_id)?;
        let state = self.state.clone();
        let chunks = file.clone();
        let installation = tokio::task::spawn_blocking(move || {
            let mut installation = state.install()?;
            let mut reader = chunks.chunks()?;
            while let Some(chunk) = reader.next_chunk().map_err(|error| chunks.at(error))? {
                installation.take(&chunk)?;
            }
            Ok::<_, MachineError>(installation)
        });
        let index = LogIndex(number(meta.last_log_id.as_ref()));
        installation.await??.finish(index, position).await?;
        let machine = self.clone();
        let meta = meta.clone();
        let adopted = tokio::task::spawn_blocking(move || {
            machine.inner.lock().load()?;
            if let Err(error) = machine.snapshots.adopt(meta, file) {
                tracing::warn!(%error, "the snapshot is installed, but cannot be passed on");
            }
            Ok::<_, MachineError>(())
        });
        adopted.await?
    }
}

impl Inner {
    /// Reads what is kept.
    fn load(&mut self) -> Result<(), MachineError> {
        self.applied = match self.state.applied()? {
            Some(position) => wire::decode(&position)?,
            None => None,
        };
        self.membership = Arc::new(self.trees.membership.get(ONLY_KEY)?.unwrap_or_default());
        self.configuration = self.trees.configuration.get(ONLY_KEY)?.unwrap_or_default();
        let records: Result<Vec<_>, StoreError> = self.trees.requests.scan_prefix("").collect();
        let records = records?.into_iter().map(|(_, record)| record);
        self.requests = Requests::load(records, number(self.applied.as_ref()));
        self.publish();
        Ok(())
    }

    fn publish(&self) {
        let epoch = self.membership.epoch;
        // Who sees an entry applied sees the membership that it made.
        self.membership_view.send_if_modified(|seen| {
            let is_new = seen.epoch != epoch || seen.members.len() != self.membership.members.len();
            if is_new {
                *seen = Arc::clone(&self.membership);
            }
            is_new
        });
        self.voters_view.send_if_modified(|seen| {
            let voters = self.configuration.voter_ids().map(|voter| voter.0).collect();
            let is_new = *seen != voters;
            *seen = voters;
            is_new
        });
        self.applied_view.send_replace(number(self.applied.as_ref()));
    }

    /// Applies entries; all of them are one batch of the store.
    fn apply(&mut self, entries: Vec<RaftEntry>) -> Result<Vec<Outcomes>, MachineError> {
        let Some(last) = entries.last().map(|entry| entry.log_id) else {
            return Ok(Vec::new());
        };
        let position = wire::encode(&Some(last))?;
        let state = self.state.clone();
        let outcomes = state.apply_with(&position, |applying| {
            let mut own = RecordBatch::default();
            let mut outcomes = Vec::with_capacity(entries.len());
            for entry in entries {
                outcomes.push(self.apply_entry(entry, applying, &mut own)?);
            }
            if !own.is_empty() {
                let unguarded = applying.records(LogIndex(number(Some(&last))), own)?;
                debug_assert!(unguarded.is_ok(), "a batch without guards has no conflicts");
            }
            Ok(outcomes)
        })?;
        self.applied = Some(last);
        self.publish();
        Ok(outcomes)
    }

    fn apply_entry(
        &mut self,
        entry: RaftEntry,
        applying: &mut Entries<'_, '_>,
        own: &mut RecordBatch,
    ) -> Result<Outcomes, StoreError> {
        let at = number(Some(&entry.log_id));
        let requests = match entry.payload {
            EntryPayload::Blank => Vec::new(),
            EntryPayload::Membership(configuration) => {
                self.configuration = StoredMembership::new(Some(entry.log_id), configuration);
                self.trees
                    .configuration
                    .put_into(own, ONLY_KEY, &self.configuration)?;
                Vec::new()
            }
            EntryPayload::Normal(entry) => entry.requests,
        };
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut to_remember: Vec<(RequestId, Outcome)> = Vec::with_capacity(requests.len());
        for request in requests {
            let id = request.id;
            let repeated = to_remember.iter().find(|(other, _)| *other == id);
            let known = repeated.map(|(_, outcome)| outcome.clone());
            let outcome = match known.or_else(|| self.requests.outcome(id, at).cloned()) {
                Some(outcome) => outcome,
                None => {
                    let outcome = self.apply_request(request, at, applying, own)?;
                    to_remember.push((id, outcome.clone()));
                    outcome
                }
            };
            outcomes.push(outcome);
        }
        if let Some(record) = self.requests.remember(at, &to_remember) {
            self.trees.requests.put_into(own, &record_key(at), &record)?;
        }
        Ok(Outcomes(outcomes))
    }

    fn apply_request(
        &mut self,
        request: Request,
        at: u64,
        applying: &mut Entries<'_, '_>,
        own: &mut RecordBatch,
    ) -> Result<Outcome, StoreError> {
        if Requests::is_too_old(request.made_after, at) {
            return Ok(Outcome::TooOld);
        }
        match request.command {
            Command::Records(batch) => match applying.records(LogIndex(at), batch)? {
                Ok(()) => Ok(Outcome::Applied),
                Err(conflict) => Ok(Outcome::Conflict {
                    tree: conflict.tree,
                    key: conflict.key,
                }),
            },
            Command::Member(command) => match members::after(&self.membership, &command) {
                Ok(None) => Ok(Outcome::Applied),
                Ok(Some(next)) => {
                    self.trees.membership.put_into(own, ONLY_KEY, &next)?;
                    self.membership = Arc::new(next);
                    Ok(Outcome::Applied)
                }
                Err(refusal) => Ok(Outcome::Refused(refusal)),
            },
        }
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let inner = self.inner.lock();
        Ok((inner.applied, inner.configuration.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<RaftEntry> = entries.into_iter().collect();
        let inner = Arc::clone(&self.inner);
        let applied = tokio::task::spawn_blocking(move || inner.lock().apply(entries)).await;
        let applied = applied.map_err(MachineError::from).and_then(|applied| applied);
        applied.map_err(|error| StorageIOError::write_state_machine(&error).into())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let (meta, state) = self.behold();
        Builder {
            machine: self.clone(),
            meta,
            state: Some(state),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotFile>, StorageError> {
        let begun = self.snapshots.begin();
        begun
            .map(Box::new)
            .map_err(|error| StorageIOError::write_snapshot(None, &error).into())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotFile>,
    ) -> Result<(), StorageError> {
        let installed = self.install(meta, *snapshot).await;
        installed.map_err(|error| StorageIOError::write_snapshot(Some(meta.signature()), &error).into())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        Ok(self.snapshots.current())
    }
}

/// Makes a snapshot of the state as it was when this was made, while entries go on being applied; of the state as it is
/// later when so much was changed meanwhile that the former is no longer to be had.
pub(super) struct Builder {
    machine: Machine,
    meta: SnapshotMeta,
    state: Option<Result<ReplicatedSnapshot, StoreError>>,
}

/// How long changes are given to become fewer before a snapshot is begun anew.
const BUILD_AGAIN_AFTER: Duration = Duration::from_secs(2);

impl Builder {
    async fn build(&mut self) -> Result<Snapshot, MachineError> {
        loop {
            let begun = self.state.take();
            let (meta, state) = match begun {
                Some(state) => (self.meta.clone(), state),
                None => self.machine.behold(),
            };
            self.meta = meta.clone();
            let snapshots = self.machine.snapshots.clone();
            let built = tokio::task::spawn_blocking(move || snapshots.build(meta, state?)).await?;
            match built {
                Err(SnapshotError::Store(StoreError::Overtaken { reason })) => {
                    tracing::warn!(reason, "the log's snapshot is begun anew");
                    tokio::time::sleep(BUILD_AGAIN_AFTER).await;
                }
                built => return Ok(built?),
            }
        }
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let built = self.build().await;
        built.map_err(|error| StorageIOError::write_snapshot(Some(self.meta.signature()), &error).into())
    }
}
