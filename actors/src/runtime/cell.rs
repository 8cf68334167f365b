//! The ractor shell that runs an actor: takes messages from the mailbox, times and traces their handling, catches
//! what goes wrong, and leaves the reason of the end where the supervisor finds it.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use ractor::{ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::time::Instant;
use troupe_protocol::observe::{DeadLetterReason, ExitReason};
use troupe_protocol::trace::Outcome;

use super::actor::{Actor, ActorError, ChildEnded, Message};
use super::context::{Context, panic_text};
use super::mailbox::{Control, Envelope, Mailbox, Next, Wake};
use super::metrics::record::Phase;
use super::testkit::Crash;
use super::trace::Step;

/// Messages handled before ractor gets its turn again, so that a kill or a child's end is not kept waiting.
const MESSAGES_PER_WAKE_MAX: usize = 32;

/// Makes the actor anew for each life.
pub(super) type Factory<A> = Arc<dyn Fn() -> A + Send + Sync>;

/// The shell.
pub(super) struct Cell<A: Actor> {
    pub mailbox: Mailbox<A::Message>,
    pub factory: Factory<A>,
}

/// One life of the actor.
pub(super) struct Life<A: Actor> {
    actor: A,
    ctx: Context<A>,
}

// ractor wants the state of an actor to be `Sync` nowhere, but its shell to be; the factory and mailbox are.
impl<A: Actor> ractor::Actor for Cell<A> {
    type Msg = Wake;
    type State = Life<A>;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<Wake>, (): ()) -> Result<Life<A>, ActorProcessingErr> {
        let channel = self.mailbox.channel();
        channel.record.set_phase(Phase::Starting);
        channel.attach(myself.clone());
        Ok(Life {
            actor: (self.factory)(),
            ctx: Context::new(self.mailbox.clone(), myself.get_cell()),
        })
    }

    async fn post_start(&self, _: ActorRef<Wake>, life: &mut Life<A>) -> Result<(), ActorProcessingErr> {
        let channel = self.mailbox.channel();
        let started = caught(life.actor.started(&life.ctx)).await;
        if let Err(error) = started {
            let error = error.into_text();
            channel.record.failed("started", error.clone());
            return Err(self.fail(life, ExitReason::StartFailed { error }));
        }
        channel.record.set_phase(Phase::Running);
        channel.begin();
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Wake>,
        _: Wake,
        life: &mut Life<A>,
    ) -> Result<(), ActorProcessingErr> {
        let channel = self.mailbox.channel();
        for _ in 0..MESSAGES_PER_WAKE_MAX {
            match channel.next() {
                Next::Nothing => return Ok(()),
                Next::Drained => channel.record.will_exit(ExitReason::Drained),
                Next::Control(Control::Stop(reason)) => channel.record.will_exit(reason),
                Next::Control(Control::Snapshot(reply)) => {
                    let snapshot = life.actor.snapshot();
                    channel.record.keep_snapshot(snapshot.clone());
                    let _ = reply.send(snapshot);
                }
                Next::Control(Control::Crash(crash)) => {
                    let crashed = caught(async { crash.happen() }).await;
                    self.account_for(life, Crash::NAME, crashed)?;
                }
                Next::Message(envelope) => self.handle_message(life, envelope).await?,
            }
            if channel.record.pending_exit().is_some() {
                myself.stop(None);
                return Ok(());
            }
        }
        let _ = myself.send_message(Wake);
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Wake>,
        event: SupervisionEvent,
        life: &mut Life<A>,
    ) -> Result<(), ActorProcessingErr> {
        let (SupervisionEvent::ActorTerminated(child, ..) | SupervisionEvent::ActorFailed(child, _)) = event
        else {
            return Ok(());
        };
        let heard = caught(
            life.actor
                .child_ended(ChildEnded { life: child.get_id() }, &life.ctx),
        )
        .await;
        self.account_for(life, "child_ended", heard)?;
        if self.mailbox.channel().record.pending_exit().is_some() {
            myself.stop(None);
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Wake>, life: &mut Life<A>) -> Result<(), ActorProcessingErr> {
        let record = &self.mailbox.channel().record;
        let reason = record.pending_exit().unwrap_or(ExitReason::Shutdown);
        record.keep_snapshot(life.actor.snapshot());
        life.actor.stopped(&reason).await;
        record.will_exit(reason);
        Ok(())
    }
}

impl<A: Actor> Cell<A> {
    async fn handle_message(
        &self,
        life: &mut Life<A>,
        envelope: Envelope<A::Message>,
    ) -> Result<(), ActorProcessingErr> {
        let channel = self.mailbox.channel();
        let Envelope {
            message,
            trace,
            queued_at,
            deadline,
        } = envelope;
        let name = message.name();
        if deadline.is_some_and(super::Deadline::is_over) {
            channel
                .system
                .dead_letters()
                .put(&channel.record.path, name, DeadLetterReason::Expired);
            return Ok(());
        }
        let began = Instant::now();
        let waited = began - queued_at;
        channel.record.begin_message(name, began);
        let handling = caught(life.actor.handle(message, &life.ctx));
        let handled = match trace {
            None => handling.await,
            Some(cause) => {
                let step = Step {
                    actor: &channel.record.path,
                    kind: A::KIND,
                    message: name.into(),
                    waited,
                };
                let span = channel
                    .system
                    .traces()
                    .begin(cause.correlation_id, Some(cause.span), step);
                span.run(handling, outcome_of).await
            }
        };
        channel
            .record
            .end_message(name, began, waited, trace.map(|trace| trace.correlation_id));
        self.account_for(life, name, handled)
    }

    /// Turns what went wrong in a handler into the end of this life.
    fn account_for(
        &self,
        life: &Life<A>,
        message: &'static str,
        handled: Result<(), Mishap>,
    ) -> Result<(), ActorProcessingErr> {
        let Err(mishap) = handled else { return Ok(()) };
        let reason = mishap.into_exit();
        self.mailbox.channel().record.failed(message, reason.to_string());
        Err(self.fail(life, reason))
    }

    fn fail(&self, life: &Life<A>, reason: ExitReason) -> ActorProcessingErr {
        let record = &self.mailbox.channel().record;
        // The state may be broken after a panic; what it still says of itself helps to find out why.
        if let Ok(snapshot) = std::panic::catch_unwind(AssertUnwindSafe(|| life.actor.snapshot())) {
            record.keep_snapshot(snapshot);
        }
        let text = reason.to_string();
        record.will_exit(reason);
        text.into()
    }
}

/// What can go wrong in a handler.
enum Mishap {
    Error(ActorError),
    Panic(String),
}

impl Mishap {
    fn into_text(self) -> String {
        match self {
            Self::Error(error) => error.to_string(),
            Self::Panic(text) => text,
        }
    }

    fn into_exit(self) -> ExitReason {
        match self {
            Self::Error(error) => ExitReason::Failed {
                error: error.to_string(),
            },
            Self::Panic(error) => ExitReason::Panicked { error },
        }
    }
}

fn outcome_of(handled: &Result<(), Mishap>) -> Outcome {
    match handled {
        Ok(()) => Outcome::Done,
        Err(Mishap::Error(error)) => Outcome::Failed {
            error: error.to_string(),
        },
        Err(Mishap::Panic(text)) => Outcome::Panicked { error: text.clone() },
    }
}

async fn caught(handler: impl Future<Output = Result<(), ActorError>> + Send) -> Result<(), Mishap> {
    match AssertUnwindSafe(handler).catch_unwind().await {
        Ok(result) => result.map_err(Mishap::Error),
        Err(panic) => Err(Mishap::Panic(panic_text(panic.as_ref()))),
    }
}
