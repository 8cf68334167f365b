//! Trees that are the same on all nodes.
//!
//! Reads are local. Writes are [`RecordBatch`]es: changes of records, with guards that say what they were decided on. The
//! log ([`ReplicatedWrites`]) orders the batches of all nodes; each node applies them in that order to its
//! [`ReplicatedState`], and since a guard compares records and nothing else, all of them apply the same batches. Who keeps
//! in memory what such a tree says follows the feed ([`TreeFeed`]) and reads again what has changed.
//!
//! A store without a log ([`Store::set_replication`](super::Store::set_replication)) applies writes by itself, durably, as
//! the trees of one node do. Once a log was applied to a store, it takes no other writes.
//!
//! # Layout
//! - `batch`: what is written, what stands in its way
//! - `tree`: the typed view; `feed`: which records have changed
//! - `core`: the raw tree; `state`, `snapshot`: the log's view of it
//! - `former`: records from before there were replicated trees
//!
//! What is not here: how batches come to be ordered (`cluster::log`).

mod batch;
mod core;
mod feed;
mod former;
mod snapshot;
mod state;
mod tree;

pub use batch::{
    Conflict, LogIndex, RECORD_BATCH_BYTES_MAX, RECORD_BATCH_CHANGES_MAX, RecordBatch, RecordBytes,
    RecordChange, RecordGuard, RecordVersion, ReplicatedWrites, WriteError,
};
pub use core::Applying;
pub(super) use core::{RAW_TREES, ReplicatedCore, split_raw_key};
pub use feed::{AppliedChanges, RecordKey, TreeChange, TreeFeed, nudge};
pub use snapshot::{Installation, ReplicatedSnapshot, SNAPSHOT_CHUNK_BYTES_MAX, records_of_chunk};
pub use state::{Entries, ReplicatedState};
pub use tree::{ReplicatedTree, Versioned, WRITE_WITHIN};

#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
mod tests;
