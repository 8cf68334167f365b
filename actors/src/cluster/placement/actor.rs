//! The actor that tells the hosts of placed actors what they may act for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use troupe_protocol::cluster::Epoch;
use troupe_protocol::id::ActorPath;

use crate::cluster::handle::Shared;
use crate::cluster::lease::{LeaseClock, LeaseHandle};
use crate::runtime::{Actor, ActorError, ChildSpec, Context, Mailbox, Message, SendError, System};

/// What the placement's actor is told.
#[derive(Debug, strum::IntoStaticStr)]
pub(in crate::cluster) enum PlacementMessage {
    /// What may be acted for has changed, or a host has come.
    Changed,
    /// The hosts keep to what was allowed at this epoch, after so many lapses.
    Settled(Settled),
}

/// The hosts were told for the `number`th time, and keep to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster) struct Settled {
    number: u64,
    epoch: Epoch,
    /// How often the lease had been lost.
    lapses: u64,
}

impl Message for PlacementMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

const MAILBOX_MESSAGES_MAX: u32 = 256;
/// How soon an actor whose mailbox is full is told again.
const TELL_AGAIN: Duration = Duration::from_millis(20);
/// How long the lease's actor may take to say that the lease is over.
const SAID_WITHIN: Duration = Duration::from_millis(20);
/// How often it is looked whether there is a lease again, to watch its end.
const LEASE_LOOK: Duration = Duration::from_millis(50);

/// Cached state: everything is in the view.
pub(in crate::cluster) struct PlacementActor {
    shared: Arc<Shared>,
    lease: LeaseHandle,
    settlings: Settlings,
}

/// What the hosts were told, and what has become of it.
///
/// Whoever was told to give something away goes on with that when he is told something else; so the hosts keep to what they
/// were told last when all that they were told before is done too.
#[derive(Default)]
struct Settlings {
    told: u64,
    under_way: BTreeMap<u64, Instant>,
    last_done: Option<Settled>,
}

impl Settlings {
    /// The hosts are told. Which time it is.
    fn begin(&mut self) -> u64 {
        self.told += 1;
        self.under_way.insert(self.told, Instant::now());
        self.told
    }

    /// That is done. To what the hosts keep now, if that is known.
    fn done(&mut self, settled: Settled) -> Option<Settled> {
        self.under_way.remove(&settled.number);
        let last = self.last_done.filter(|last| last.number > settled.number);
        self.last_done = Some(last.unwrap_or(settled));
        let first_under_way = self.under_way.first_key_value().map(|(number, _)| *number);
        self.last_done
            .filter(|last| first_under_way.is_none_or(|first| first > last.number))
    }
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
        settlings: Settlings::default(),
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
                    changed = epochs.changed() => match changed {
                        Ok(()) => was_held = shared.lease.is_held(),
                        Err(_) => break,
                    },
                    changed = hosts.changed() => if changed.is_err() { break },
                    () = end_of_lease(&shared.lease, &mut was_held) => {}
                }
                tell_surely(&own, || PlacementMessage::Changed).await;
            }
        });
        Ok(())
    }

    async fn handle(&mut self, message: PlacementMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            PlacementMessage::Changed => self.settle(ctx),
            PlacementMessage::Settled(settled) => {
                if let Some(Settled { epoch, lapses, .. }) = self.settlings.done(settled) {
                    self.lease.settled(epoch, lapses);
                }
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> serde_json::Value {
        let settling_since = self.settlings.under_way.values().next();
        json!({
            "epoch": self.shared.view.load().epoch(),
            "settled": self.settlings.last_done.map(|settled| settled.epoch),
            "settling_for_ms": settling_since.map(|since| since.elapsed().as_millis() as u64),
            "placed": self.shared.hosts.counts(),
        })
    }
}

/// Tells what nothing would make up for: again and again until the actor has room for it.
async fn tell_surely(own: &Mailbox<PlacementMessage>, message: impl Fn() -> PlacementMessage) {
    while let Err(SendError::Overloaded { .. }) = own.tell(message()) {
        tokio::time::sleep(TELL_AGAIN).await;
    }
}

/// Returns when a lease that was held has run out, and the lease's actor, which should have said so, has not.
async fn end_of_lease(lease: &LeaseClock, was_held: &mut bool) {
    loop {
        if let Some(ends_at) = lease.ends_at() {
            *was_held = true;
            tokio::time::sleep_until(ends_at).await;
        } else if *was_held {
            tokio::time::sleep(SAID_WITHIN).await;
            *was_held = lease.is_held();
            if !*was_held {
                return;
            }
        } else {
            tokio::time::sleep(LEASE_LOOK).await;
        }
    }
}

impl PlacementActor {
    /// Has the hosts keep to what is allowed now, whatever they were told before.
    fn settle(&mut self, ctx: &Context<Self>) {
        let number = self.settlings.begin();
        let (shared, own) = (Arc::clone(&self.shared), ctx.mailbox().clone());
        ctx.spawn("settle", async move {
            let view = shared.view.load_full();
            let lease_held = shared.lease.is_held();
            shared.hosts.settle(&view, lease_held).await;
            let settled = Settled {
                number,
                epoch: view.epoch(),
                lapses: view.lapses,
            };
            tell_surely(&own, || PlacementMessage::Settled(settled)).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hosts_were_told_last_is_kept_to_when_all_before_is_done_too() {
        let settled = |number, lapses| Settled {
            number,
            epoch: Epoch(number),
            lapses,
        };
        let mut settlings = Settlings::default();
        let (first, second, third) = (settlings.begin(), settlings.begin(), settlings.begin());
        assert_eq!(
            settlings.done(settled(second, 1)),
            None,
            "the first is still giving away"
        );
        assert_eq!(settlings.done(settled(first, 0)), Some(settled(second, 1)));
        assert_eq!(settlings.done(settled(third, 1)), Some(settled(third, 1)));
    }

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
            began.elapsed() < Duration::from_millis(330),
            "{:?}",
            began.elapsed()
        );
        let again = tokio::time::timeout(Duration::from_secs(9), end_of_lease(&lease, &mut was_held));
        assert!(again.await.is_err(), "it has ended once");
    }
}
