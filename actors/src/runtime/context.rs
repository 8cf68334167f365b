//! What an actor may do while it works.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinSet};
use troupe_protocol::observe::ExitReason;
use troupe_protocol::trace::Outcome;

use super::actor::{Actor, Message};
use super::mailbox::{Channel, Mailbox};
use super::system::System;
use super::trace::{self, Step};

/// An actor's hold on the world during one life.
pub struct Context<A: Actor> {
    mailbox: Mailbox<A::Message>,
    pub(super) life: ractor::ActorCell,
    /// Aborted when this life ends, so that no task outlives its owner.
    tasks: Mutex<JoinSet<()>>,
}

/// A message that will be sent later.
#[derive(Debug)]
pub struct TimerHandle(AbortHandle);

impl TimerHandle {
    /// Takes the message back, if it has not been sent.
    pub fn cancel(&self) {
        self.0.abort();
    }
}

impl<A: Actor> Context<A> {
    pub(super) fn new(mailbox: Mailbox<A::Message>, life: ractor::ActorCell) -> Self {
        Self {
            mailbox,
            life,
            tasks: Mutex::new(JoinSet::new()),
        }
    }

    /// The actor's own mailbox.
    pub fn mailbox(&self) -> &Mailbox<A::Message> {
        &self.mailbox
    }

    /// The node's actors, traces and dead letters.
    pub fn system(&self) -> &System {
        &self.mailbox.channel().system
    }

    /// Runs a future beside the actor. It belongs to the trace of the message in hand, shows there as a step named
    /// `name`, and ends with the actor. A panic in it is counted as the actor's error but does not end the actor.
    pub fn spawn(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let channel = Arc::clone(self.mailbox.channel());
        let cause = trace::current();
        let counted = CountedTask::new(&channel);
        let owned = async move {
            let _counted = counted;
            let guarded = AssertUnwindSafe(future).catch_unwind();
            let result = match cause {
                None => guarded.await,
                Some(cause) => {
                    let step = Step {
                        actor: &channel.record.path,
                        kind: "task",
                        message: name.into(),
                        waited: Duration::ZERO,
                    };
                    let span = channel
                        .system
                        .traces()
                        .begin(cause.correlation_id, Some(cause.span), step);
                    span.run(guarded, |result| match result {
                        Ok(()) => Outcome::Done,
                        Err(panic) => Outcome::Panicked {
                            error: panic_text(panic.as_ref()),
                        },
                    })
                    .await
                }
            };
            if let Err(panic) = result {
                channel
                    .record
                    .failed(name, format!("task panicked: {}", panic_text(panic.as_ref())));
            }
        };
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(owned)
    }

    /// Runs a future beside the actor and sends its output to the actor.
    pub fn spawn_to_self(
        &self,
        name: &'static str,
        future: impl Future<Output = A::Message> + Send + 'static,
    ) -> AbortHandle {
        let mailbox = self.mailbox.clone();
        self.spawn(name, async move {
            // A refusal is on record as a dead letter.
            let _ = mailbox.tell(future.await);
        })
    }

    /// Sends a message to the actor itself after a while. Timers begin work of their own: they carry no trace.
    pub fn send_after(&self, delay: Duration, message: A::Message) -> TimerHandle {
        let mailbox = self.mailbox.clone();
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        TimerHandle(tasks.spawn(async move {
            tokio::time::sleep(delay).await;
            let _ = mailbox.tell(message);
        }))
    }

    /// Ends the actor after the message in hand: its work is done.
    pub fn stop(&self) {
        self.stop_with(ExitReason::Normal);
    }

    pub(super) fn stop_with(&self, reason: ExitReason) {
        self.mailbox.channel().record.will_exit(reason);
    }
}

/// Counts a task for as long as it exists, however it ends.
struct CountedTask<M: Message>(Arc<Channel<M>>);

impl<M: Message> CountedTask<M> {
    fn new(owner: &Arc<Channel<M>>) -> Self {
        owner.record.tasks.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(owner))
    }
}

impl<M: Message> Drop for CountedTask<M> {
    fn drop(&mut self) {
        self.0.record.tasks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a message".to_owned())
}
