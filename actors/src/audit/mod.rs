//! Who did what: the audit log of a node.
//!
//! Recording never makes the caller wait or fail: an event goes into the actor's mailbox, and one that finds it full is
//! counted as lost and said so in the log. The actor writes what has gathered in one batch while the next gathers. The
//! oldest events make room when there are more than [`AuditSettings::events_max`].
//!
//! State: owned by the node's store (tree `audit`, by ULID, so in the order of time).

use std::sync::Arc;

use serde_json::json;
use troupe_protocol::access::AuditEvent;

use crate::runtime::{Actor, ActorError, ActorPath, ChildSpec, Context, ExitReason, Mailbox, System};
use crate::store::{Change, Store, StoreError, TypedTree};

mod error;
mod messages;
mod query;
mod state;

#[cfg(test)]
mod tests;

pub use error::AuditError;
pub use messages::{AuditHandle, AuditMessage, NewAuditEvent};

use messages::Counters;
use state::AuditState;

/// Events that wait to be written, in the mailbox; as many may be gathered for the next batch.
const MAILBOX_MESSAGES_MAX: u32 = 4096;
const AUDIT_TREE: &str = "audit";
const AUDIT_SCHEMA: u16 = 1;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditSettings {
    /// The most events.
    pub events_max: u64,
}

impl Default for AuditSettings {
    fn default() -> Self {
        Self { events_max: 100_000 }
    }
}

/// The handle, and how to start the actor.
///
/// # Errors
/// When the store cannot open or read the log.
pub fn actor(
    system: &System,
    path: ActorPath,
    store: &Store,
    settings: AuditSettings,
) -> Result<(AuditHandle, ChildSpec), AuditError> {
    let tree = store.tree::<AuditEvent>(AUDIT_TREE, AUDIT_SCHEMA)?;
    let counters = Arc::new(Counters::default());
    counters.set_kept(AuditState::restore(settings.events_max, &tree)?.kept());
    let mailbox = Mailbox::new(system, path, MAILBOX_MESSAGES_MAX);
    let handle = AuditHandle::new(mailbox.clone(), tree.clone(), Arc::clone(&counters));
    let factory = move || Audit {
        tree: tree.clone(),
        counters: Arc::clone(&counters),
        state: AuditState::new(settings.events_max),
    };
    Ok((handle, ChildSpec::actor(mailbox, factory)))
}

/// The actor.
struct Audit {
    tree: TypedTree<AuditEvent>,
    counters: Arc<Counters>,
    state: AuditState,
}

impl Actor for Audit {
    type Message = AuditMessage;
    const KIND: &'static str = "audit";

    async fn started(&mut self, _: &Context<Self>) -> Result<(), ActorError> {
        self.state = AuditState::restore(self.state.events_max(), &self.tree)?;
        self.counters.set_kept(self.state.kept());
        Ok(())
    }

    async fn handle(&mut self, message: AuditMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            AuditMessage::Record(event) => {
                if !self.state.gather(*event) {
                    self.counters.lose(1, "too many events at once");
                }
            }
            AuditMessage::Written(outcome) => {
                let written = self.state.written(outcome.is_ok());
                match outcome {
                    Ok(()) => self.counters.set_kept(self.state.kept()),
                    Err(error) => self.counters.lose(written, &error.to_string()),
                }
            }
            AuditMessage::Flush(reply) => self.state.await_flush(reply),
        }
        self.write(ctx);
        Ok(())
    }

    /// Nothing that was taken in is lost when the node stops; what was being written is written again, under the same keys.
    async fn stopped(&mut self, _: &ExitReason) {
        let events = self.state.take_all();
        let lost = events.len();
        if let Err(error) = self.tree.batch(puts(&events)).await {
            self.counters.lose(lost, &error.to_string());
        }
    }

    fn snapshot(&self) -> serde_json::Value {
        json!({
            "events": self.state.kept(),
            "events_max": self.state.events_max(),
            "gathered": self.state.gathered(),
            "lost": self.counters.lost(),
        })
    }
}

impl Audit {
    /// Writes what has gathered, if nothing is being written.
    fn write(&mut self, ctx: &Context<Self>) {
        let Some(batch) = self.state.next_batch() else {
            return;
        };
        let tree = self.tree.clone();
        ctx.spawn_to_self("write", async move {
            AuditMessage::Written(write(&tree, &batch.events, batch.surplus).await)
        });
    }
}

async fn write(
    tree: &TypedTree<AuditEvent>,
    events: &[AuditEvent],
    surplus: usize,
) -> Result<(), StoreError> {
    let mut changes = puts(events);
    for oldest in tree.keys().take(surplus) {
        changes.push(Change::Remove(oldest?));
    }
    tree.batch(changes).await
}

fn puts(events: &[AuditEvent]) -> Vec<Change<AuditEvent>> {
    events
        .iter()
        .map(|event| Change::Put(event.id.to_string(), event.clone()))
        .collect()
}
