//! Something that stands for the log in tests: batches are applied to all nodes in one order, at once or when told.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::{LogIndex, RecordBatch, ReplicatedState, ReplicatedWrites, WriteError};
use crate::runtime::Deadline;
use crate::store::Store;

struct Together {
    states: Vec<ReplicatedState>,
    written: Mutex<u64>,
}

/// Lets stores replicate to each other. They keep each other open: call [`part`] before their folders are used again.
pub(crate) fn join(stores: &[Store]) {
    let log = Arc::new(Together {
        states: stores.iter().map(Store::replicated_state).collect(),
        written: Mutex::new(0),
    });
    for store in stores {
        store.set_replication(Arc::clone(&log) as Arc<dyn ReplicatedWrites>);
    }
}

/// Ends what [`join`] began.
pub(crate) fn part(stores: &[Store]) {
    stores.iter().for_each(Store::end_replication);
}

impl ReplicatedWrites for Together {
    fn write(&self, batch: RecordBatch, _: Deadline) -> BoxFuture<'_, Result<LogIndex, WriteError>> {
        Box::pin(async move {
            tokio::task::yield_now().await; // as a real one, let others in between
            let mut written = self.written.lock();
            *written += 1;
            let index = LogIndex(*written);
            let bytes = troupe_protocol::wire::encode(&batch).unwrap(); // as it travels
            let apply = |state: &ReplicatedState| {
                let batch = troupe_protocol::wire::decode(&bytes).unwrap();
                let position = index.0.to_be_bytes();
                state.apply(&position, vec![(index, batch)]).unwrap().remove(0)
            };
            let outcomes: Vec<_> = self.states.iter().map(apply).collect();
            assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "{outcomes:?}");
            outcomes.into_iter().next().unwrap()?;
            Ok(index)
        })
    }

    fn linearize(&self, _: Deadline) -> BoxFuture<'_, Result<(), WriteError>> {
        Box::pin(async { Ok(()) }) // what is written is applied everywhere at once
    }
}
