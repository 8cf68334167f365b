//! The actor that tells the hosts of placed actors what they may act for.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use troupe_protocol::cluster::Epoch;
use troupe_protocol::id::ActorPath;

use crate::cluster::handle::Shared;
use crate::cluster::lease::{LeaseClock, LeaseHandle};
use crate::runtime::{Actor, ActorError, ChildSpec, Context, Mailbox, Message, System};

/// What the placement's actor is told.
#[derive(Debug, strum::IntoStaticStr)]
pub(in crate::cluster) enum PlacementMessage {
    /// What may be acted for has changed, or a host has come.
    Changed,
    /// The hosts keep to what was allowed at this epoch, after so many lapses.
    Settled {
        settling: u64,
        epoch: Epoch,
        lapses: u64,
    },
}

impl Message for PlacementMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

const MAILBOX_MESSAGES_MAX: u32 = 256;
/// How often it is looked whether there is a lease again, to watch its end.
const LEASE_LOOK: Duration = Duration::from_millis(50);

/// Cached state: everything is in the view.
pub(in crate::cluster) struct PlacementActor {
    shared: Arc<Shared>,
    lease: LeaseHandle,
    settling: Option<(AbortHandle, Instant)>,
    /// How often the hosts were told.
    settlings: u64,
    settled: Option<Epoch>,
}

/// The placement's actor, for the cluster's supervisor.
pub(in crate::cluster) fn child(
    system: &System,
    path: ActorPath,
    shared: Arc<Shared>,
    lease: LeaseHandle,
) -> ChildSpec {
    let mailbox = Mailbox::new(system, path, MAILBOX_MESSAGES_MAX);
    ChildSpec::actor(mailbox, move || PlacementActor {
        shared: Arc::clone(&shared),
        lease: lease.clone(),
        settling: None,
        settlings: 0,
        settled: None,
    })
}

impl Actor for PlacementActor {
    type Message = PlacementMessage;
    const KIND: &'static str = "placement";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let mut epochs = self.shared.epochs.subscribe();
        let mut hosts = self.shared.hosts.changes();
        let own = ctx.mailbox().clone();
        let shared = Arc::clone(&self.shared);
        ctx.spawn("follow the lease", async move {
            epochs.mark_changed();
            let mut was_held = false;
            loop {
                tokio::select! {
                    changed = epochs.changed() => if changed.is_err() { break },
                    changed = hosts.changed() => if changed.is_err() { break },
                    () = end_of_lease(&shared.lease, &mut was_held) => {}
                }
                let _ = own.tell(PlacementMessage::Changed);
            }
        });
        Ok(())
    }

    async fn handle(&mut self, message: PlacementMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            PlacementMessage::Changed => self.settle(ctx),
            PlacementMessage::Settled {
                settling,
                epoch,
                lapses,
            } => {
                if settling == self.settlings {
                    self.settling = None;
                }
                self.settled = Some(epoch);
                self.lease.settled(epoch, lapses);
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> serde_json::Value {
        json!({
            "epoch": self.shared.view.load().epoch(),
            "settled": self.settled,
            "settling_for_ms": self.settling.as_ref().map(|(_, since)| since.elapsed().as_millis() as u64),
            "placed": self.shared.hosts.counts(),
        })
    }
}

/// Returns when a lease that is held runs out. The lease's actor says so too, but only while it works.
async fn end_of_lease(lease: &LeaseClock, was_held: &mut bool) {
    loop {
        if let Some(ends_at) = lease.ends_at() {
            *was_held = true;
            tokio::time::sleep_until(ends_at).await;
        } else if std::mem::take(was_held) {
            return;
        } else {
            tokio::time::sleep(LEASE_LOOK).await;
        }
    }
}

impl PlacementActor {
    /// Has the hosts keep to what is allowed now, whatever they were told before.
    fn settle(&mut self, ctx: &Context<Self>) {
        if let Some((former, _)) = self.settling.take() {
            former.abort();
        }
        self.settlings += 1;
        let settling = self.settlings;
        let shared = Arc::clone(&self.shared);
        let task = ctx.spawn_to_self("settle", async move {
            let view = shared.view.load_full();
            let lease_held = shared.lease.is_held();
            shared.hosts.settle(&view, lease_held).await;
            PlacementMessage::Settled {
                settling,
                epoch: view.epoch(),
                lapses: view.lapses,
            }
        });
        self.settling = Some((task, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_lease_is_noticed_though_nobody_says_so() {
        let lease = LeaseClock::default();
        let mut was_held = false;
        lease.set(Some(Instant::now() + Duration::from_millis(300)));
        let early = tokio::time::timeout(Duration::from_millis(200), end_of_lease(&lease, &mut was_held));
        assert!(early.await.is_err(), "it is held");
        lease.set(Some(Instant::now() + Duration::from_millis(300)));
        let began = Instant::now();
        end_of_lease(&lease, &mut was_held).await;
        assert!(!lease.is_held());
        assert!(
            began.elapsed() < Duration::from_millis(310),
            "{:?}",
            began.elapsed()
        );
        let again = tokio::time::timeout(Duration::from_secs(9), end_of_lease(&lease, &mut was_held));
        assert!(again.await.is_err(), "it has ended once");
    }
}
