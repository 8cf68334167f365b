//! How long it is waited for an address to have an owner that can be asked.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use troupe_protocol::cluster::Epoch;

use super::ClusterHandle;
use crate::runtime::Deadline;

/// Longer than a dead node takes to be noticed and what it had to be taken over, and than something that moves takes to be
/// given away.
const PATIENCE: Duration = Duration::from_secs(8);
/// On a node that follows no majority: others may have to do the work.
const PATIENCE_WITHOUT_LEASE: Duration = Duration::from_secs(2);
/// The longest pause before it is looked again who the owner is.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// One that waits for an owner.
#[derive(Debug)]
pub struct Patience {
    cluster: ClusterHandle,
    epochs: watch::Receiver<(Epoch, bool)>,
    began: Instant,
    deadline: Deadline,
}

impl Patience {
    /// Begins to wait; never longer than until the deadline.
    pub fn begin(cluster: &ClusterHandle, deadline: Deadline) -> Self {
        Self {
            epochs: cluster.epochs(),
            cluster: cluster.clone(),
            began: Instant::now(),
            deadline,
        }
    }

    /// Waits until it is worth looking again who the owner is. False when it has been waited for long enough.
    pub async fn wait(&mut self) -> bool {
        let patience = match self.cluster.holds_lease() {
            true => PATIENCE,
            false => PATIENCE_WITHOUT_LEASE,
        };
        let until = (self.began + patience).min(self.deadline.instant());
        let now = Instant::now();
        if now >= until {
            return false;
        }
        // The end of the wait alone says nothing: whoever looks again sees.
        let _ = tokio::time::timeout_at(until.min(now + LOOK_AGAIN_AFTER), self.epochs.changed()).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use troupe_protocol::id::NodeId;

    #[tokio::test(start_paused = true)]
    async fn it_ends_and_not_after_the_deadline() {
        let cluster = ClusterHandle::alone(NodeId::from_ulid(ulid::Ulid(1)));
        for (within, waited) in [
            (Duration::from_secs(3), Duration::from_secs(3)),
            (PATIENCE * 2, PATIENCE),
        ] {
            let began = Instant::now();
            let mut patience = Patience::begin(&cluster, Deadline::within(within));
            while patience.wait().await {}
            assert_eq!(began.elapsed(), waited);
        }
        cluster.shared.lease.set(None);
        let began = Instant::now();
        let mut patience = Patience::begin(&cluster, Deadline::within(PATIENCE));
        while patience.wait().await {}
        assert_eq!(began.elapsed(), PATIENCE_WITHOUT_LEASE);
    }
}
