//! The replicated state as the log sees it: what it applies its entries to.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::batch::{Conflict, LogIndex, RecordBatch};
use super::core::{Applying, ReplicatedCore};
use super::feed::AppliedChanges;
use super::snapshot::{Installation, ReplicatedSnapshot};
use crate::store::{Store, StoreError};

/// Where the log applies its entries. Everything here is deterministic: the same entries in the same order leave the same
/// records on every node.
///
/// What is applied is not synced: the log is the truth. After a power cut [`applied`](Self::applied) may be an earlier
/// position; the log applies what follows again. Records and position always agree.
#[derive(Clone)]
pub struct ReplicatedState {
    store: Store,
    core: Arc<ReplicatedCore>,
}

impl ReplicatedState {
    pub(in crate::store) fn new(store: Store, core: Arc<ReplicatedCore>) -> Self {
        Self { store, core }
    }

    /// Applies the batches of some entries in order, each if its guards hold, and notes the position of the last entry;
    /// all in one step, also after a kill. Entries without records only move the position.
    ///
    /// # Errors
    /// When the engine cannot write: stop, since other nodes have gone on.
    pub fn apply(
        &self,
        position: &[u8],
        batches: Vec<(LogIndex, RecordBatch)>,
    ) -> Result<Vec<Result<(), Conflict>>, StoreError> {
        self.apply_with(position, |applying| {
            let take = |(index, batch)| applying.records(index, batch);
            batches.into_iter().map(take).collect()
        })
    }

    /// As [`apply`](Self::apply), for entries whose changes depend on what is there.
    ///
    /// # Errors
    /// As [`apply`](Self::apply), and what `decide` says; nothing is applied then.
    pub fn apply_with<T>(
        &self,
        position: &[u8],
        decide: impl FnOnce(&mut Entries<'_, '_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.store.committer().refuse_failed()?;
        let core = &self.core;
        let mut failure = None;
        let applied = core.apply(position, |applying| {
            let mut entries = Entries { core, applying };
            decide(&mut entries).map_err(|error| {
                let text = error.to_string();
                failure = Some(error);
                crate::store::EngineError(text)
            })
        });
        applied.map_err(|error| failure.unwrap_or_else(|| core.failed(&error)))
    }

    /// Up to which position the log was applied, as it was given to [`apply`](Self::apply); nothing when it never was.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn applied(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.core.applied()
    }

    /// The state at this moment, to be read in chunks while writes go on.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn snapshot(&self) -> Result<ReplicatedSnapshot, StoreError> {
        ReplicatedSnapshot::of(&self.core)
    }

    /// Begins to put a snapshot in the place of the state. One at a time.
    ///
    /// # Errors
    /// When the engine cannot write.
    pub fn install(&self) -> Result<Installation, StoreError> {
        Installation::begin(self.store.clone(), Arc::clone(&self.core))
    }

    /// What is applied from now on. Who lags behind reads everything again.
    pub fn feed(&self) -> broadcast::Receiver<Arc<AppliedChanges>> {
        self.core.feed()
    }
}

/// Entries of the log that are being applied together.
pub struct Entries<'a, 'b> {
    core: &'a ReplicatedCore,
    applying: &'a mut Applying<'b>,
}

impl<'b> Entries<'_, 'b> {
    /// Takes the batch of an entry, if its guards hold.
    ///
    /// # Errors
    /// When the engine cannot read.
    pub fn records(
        &mut self,
        index: LogIndex,
        batch: RecordBatch,
    ) -> Result<Result<(), Conflict>, StoreError> {
        self.applying
            .take(index, batch)
            .map_err(|error| self.core.failed(&error))
    }

    /// For [`ReplicatedTree::get_applying`](super::ReplicatedTree::get_applying).
    pub fn applying(&self) -> &Applying<'b> {
        self.applying
    }
}
