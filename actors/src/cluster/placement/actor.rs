//! The actor that tells the hosts of placed actors what they may act for.

use std::sync::Arc;

use serde_json::json;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use troupe_protocol::cluster::Epoch;
use troupe_protocol::id::ActorPath;

use crate::cluster::handle::Shared;
use crate::cluster::lease::LeaseHandle;
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
        ctx.spawn("follow the lease", async move {
            epochs.mark_changed();
            loop {
                tokio::select! {
                    changed = epochs.changed() => if changed.is_err() { break },
                    changed = hosts.changed() => if changed.is_err() { break },
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
