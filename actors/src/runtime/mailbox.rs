//! Bounded mailboxes, and asking with a deadline.
//!
//! ractor's own mailboxes are unbounded and cannot be looked into, so messages wait here and ractor only carries a
//! wake-up: at most one at a time, sent when an idle actor has something to do.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::id::ActorPath;
use troupe_protocol::observe::{DeadLetterReason, ExitReason};
use troupe_protocol::trace::TraceContext;

use super::actor::Message;
use super::deadline::Deadline;
use super::directory::Port;
use super::metrics::record::Record;
use super::system::System;
use super::trace;

/// The capacity of a mailbox for which nothing else is stated, in messages.
pub const MESSAGES_MAX: u32 = 1_024;

/// Where an actor is reached: cheap to clone, made before the actor is started, valid through all its lives.
pub struct Mailbox<M: Message> {
    channel: Arc<Channel<M>>,
}

impl<M: Message> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Self {
            channel: Arc::clone(&self.channel),
        }
    }
}

impl<M: Message> std::fmt::Debug for Mailbox<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailbox({})", self.path())
    }
}

/// Why a message was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The mailbox is full.
    #[error("{actor} is overloaded: {messages_max} messages are waiting")]
    Overloaded {
        /// Who.
        actor: ActorPath,
        /// How many may wait.
        messages_max: u32,
    },
    /// The actor has ended, or is draining.
    #[error("{actor} has stopped and takes no messages")]
    Stopped {
        /// Who.
        actor: ActorPath,
    },
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The mailbox is full.
    #[error("{actor} is overloaded: {messages_max} messages are waiting")]
    Overloaded {
        /// Who.
        actor: ActorPath,
        /// How many may wait.
        messages_max: u32,
    },
    /// The actor has ended, or is draining.
    #[error("{actor} has stopped and takes no messages")]
    Stopped {
        /// Who.
        actor: ActorPath,
    },
    /// The deadline passed.
    #[error("{actor} did not answer {message} before the deadline")]
    DeadlineExceeded {
        /// Who.
        actor: ActorPath,
        /// What was asked.
        message: &'static str,
    },
    /// The actor died, or dropped the question.
    #[error("{actor} failed while handling {message}")]
    NoReply {
        /// Who.
        actor: ActorPath,
        /// What was asked.
        message: &'static str,
    },
}

impl From<SendError> for AskError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Overloaded { actor, messages_max } => Self::Overloaded { actor, messages_max },
            SendError::Stopped { actor } => Self::Stopped { actor },
        }
    }
}

impl Coded for SendError {
    fn code(&self) -> Code {
        match self {
            Self::Overloaded { .. } => Code::ActorOverloaded,
            Self::Stopped { .. } => Code::ActorStopped,
        }
    }
}

impl Coded for AskError {
    fn code(&self) -> Code {
        match self {
            Self::Overloaded { .. } => Code::ActorOverloaded,
            Self::Stopped { .. } => Code::ActorStopped,
            Self::DeadlineExceeded { .. } => Code::DeadlineExceeded,
            Self::NoReply { .. } => Code::ActorFailed,
        }
    }
}

/// Where an answer goes. Dropping it tells the asker that there will be none.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    /// A reply and where it arrives; for tests and for answering outside of an ask.
    pub fn channel() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }

    /// Answers. The asker may be gone by now, which is no concern of the one who answers.
    pub fn send(self, answer: T) {
        let _ = self.0.send(answer);
    }

    /// Whether nobody waits for the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }

    /// Completes when nobody waits for the answer any more.
    pub async fn abandoned(&mut self) {
        self.0.closed().await;
    }
}

impl<M: Message> Mailbox<M> {
    /// A mailbox for the actor at `path`, for at most `messages_max` waiting messages.
    pub fn new(system: &System, path: ActorPath, messages_max: u32) -> Self {
        let channel = Arc::new(Channel {
            record: Record::new(system.next_actor_id(), path, messages_max),
            system: system.clone(),
            queue: Mutex::new(Queue {
                messages: VecDeque::new(),
                controls: VecDeque::new(),
                gate: Gate::Open,
            }),
            scheduled: AtomicBool::new(false),
            life: ArcSwapOption::empty(),
        });
        system.directory().enter(Arc::clone(&channel) as Arc<dyn Port>);
        Self { channel }
    }

    /// Where the actor stands in the supervision tree.
    pub fn path(&self) -> &ActorPath {
        &self.channel.record.path
    }

    /// Puts a message into the mailbox.
    ///
    /// # Errors
    /// At once [`SendError::Overloaded`] when it is full, [`SendError::Stopped`] when the actor takes no more.
    pub fn tell(&self, message: M) -> Result<(), SendError> {
        self.channel.push(Envelope::new(message, None))
    }

    /// Puts a message with a place for the answer into the mailbox and waits for the answer.
    ///
    /// # Errors
    /// [`AskError`]; never later than the deadline.
    pub fn ask<T: Send>(
        &self,
        question: impl FnOnce(Reply<T>) -> M,
        deadline: Deadline,
    ) -> impl Future<Output = Result<T, AskError>> + Send {
        let (reply, answer) = Reply::channel();
        let message = question(reply);
        let name = message.name();
        let sent = self.channel.push(Envelope::new(message, Some(deadline)));
        let actor = self.path().clone();
        async move {
            sent?;
            match tokio::time::timeout_at(deadline.instant(), answer).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) => Err(AskError::NoReply { actor, message: name }),
                Err(_) => Err(AskError::DeadlineExceeded { actor, message: name }),
            }
        }
    }

    pub(super) fn channel(&self) -> &Arc<Channel<M>> {
        &self.channel
    }
}

/// A message on its way.
pub(super) struct Envelope<M> {
    pub message: M,
    pub trace: Option<TraceContext>,
    pub queued_at: Instant,
    pub deadline: Option<Deadline>,
}

impl<M> Envelope<M> {
    fn new(message: M, deadline: Option<Deadline>) -> Self {
        Self {
            message,
            trace: trace::current(),
            queued_at: Instant::now(),
            deadline,
        }
    }
}

/// What the runtime itself tells an actor, ahead of all messages.
pub(super) enum Control {
    Snapshot(oneshot::Sender<serde_json::Value>),
    Stop(ExitReason),
    Crash(super::testkit::Crash),
}

/// Whether a mailbox takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// No more, but what is there will be handled.
    Draining,
    Closed,
}

struct Queue<M> {
    messages: VecDeque<Envelope<M>>,
    controls: VecDeque<Control>,
    gate: Gate,
}

/// What ractor carries: that there is something to do.
#[derive(Debug)]
pub(super) struct Wake;
impl ractor::Message for Wake {}

/// What an actor is to do next.
pub(super) enum Next<M> {
    Control(Control),
    Message(Envelope<M>),
    /// Everything that was to be drained is done.
    Drained,
    /// Wait for the next wake-up.
    Nothing,
}

/// The mailbox proper, shared by those who send, the actor, and the directory.
pub(super) struct Channel<M: Message> {
    pub record: Record,
    pub system: System,
    queue: Mutex<Queue<M>>,
    /// Whether a wake-up is on its way or the actor is at work, so that none is needed.
    scheduled: AtomicBool,
    life: ArcSwapOption<ractor::ActorRef<Wake>>,
}

impl<M: Message> Channel<M> {
    fn push(&self, envelope: Envelope<M>) -> Result<(), SendError> {
        let name = envelope.message.name();
        let refused = {
            let mut queue = self.queue.lock();
            if queue.gate != Gate::Open {
                Some(DeadLetterReason::Stopped)
            } else if queue.messages.len() >= self.record.messages_max as usize {
                Some(DeadLetterReason::Overloaded)
            } else {
                queue.messages.push_back(envelope);
                None
            }
        };
        let Some(reason) = refused else {
            self.wake();
            return Ok(());
        };
        self.system.dead_letters().put(&self.record.path, name, reason);
        let actor = self.record.path.clone();
        if reason == DeadLetterReason::Stopped {
            return Err(SendError::Stopped { actor });
        }
        self.record.metrics.overloaded.fetch_add(1, Ordering::Relaxed);
        Err(SendError::Overloaded {
            actor,
            messages_max: self.record.messages_max,
        })
    }

    pub(super) fn wake(&self) {
        if self.scheduled.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(life) = self.life.load().as_ref() {
            let _ = life.send_message(Wake);
        }
    }

    /// The next thing to do. After [`Next::Nothing`] the actor may go to sleep: whatever comes later wakes it.
    pub(super) fn next(&self) -> Next<M> {
        loop {
            let next = self.take();
            if !matches!(next, Next::Nothing) {
                return next;
            }
            // Give up the claim to be awake, then look once more: a message that came in between saw the claim.
            self.scheduled.store(false, Ordering::Release);
            if !self.has_work() || self.scheduled.swap(true, Ordering::AcqRel) {
                return Next::Nothing;
            }
        }
    }

    fn take(&self) -> Next<M> {
        let mut queue = self.queue.lock();
        if let Some(control) = queue.controls.pop_front() {
            return Next::Control(control);
        }
        if self.record.is_suspended() {
            return Next::Nothing;
        }
        match queue.messages.pop_front() {
            Some(envelope) => Next::Message(envelope),
            None if queue.gate == Gate::Draining => Next::Drained,
            None => Next::Nothing,
        }
    }

    fn has_work(&self) -> bool {
        let queue = self.queue.lock();
        let message_due = !queue.messages.is_empty() || queue.gate == Gate::Draining;
        !queue.controls.is_empty() || (message_due && !self.record.is_suspended())
    }

    /// A new life begins: wake-ups go to it from now on.
    pub(super) fn attach(&self, life: ractor::ActorRef<Wake>) {
        self.queue.lock().gate = Gate::Open;
        self.life.store(Some(Arc::new(life)));
    }

    /// Lets a life that has rebuilt its state begin with what is queued.
    pub(super) fn begin(&self) {
        self.scheduled.store(false, Ordering::Release);
        self.wake();
    }
}

impl<M: Message> Port for Channel<M> {
    fn record(&self) -> &Record {
        &self.record
    }

    fn depth(&self) -> (u32, Option<Instant>) {
        let queue = self.queue.lock();
        (
            queue.messages.len() as u32,
            queue.messages.front().map(|envelope| envelope.queued_at),
        )
    }

    fn gate(&self) -> Gate {
        self.queue.lock().gate
    }

    fn control(&self, control: Control) {
        self.queue.lock().controls.push_back(control);
        self.wake();
    }

    fn set_suspended(&self, suspended: bool) {
        self.record.set_suspended(suspended);
        self.wake();
    }

    fn drain(&self) {
        let mut queue = self.queue.lock();
        if queue.gate == Gate::Open {
            queue.gate = Gate::Draining;
        }
        drop(queue);
        self.wake();
    }

    fn kill(&self) {
        if let Some(life) = self.life.load().as_ref() {
            life.kill();
        }
    }

    fn close(&self) {
        self.life.store(None);
        let unhandled = {
            let mut queue = self.queue.lock();
            queue.gate = Gate::Closed;
            queue.controls.clear();
            std::mem::take(&mut queue.messages)
        };
        for envelope in unhandled {
            let name = envelope.message.name();
            self.system
                .dead_letters()
                .put(&self.record.path, name, DeadLetterReason::Unhandled);
        }
    }

    fn pause_for_restart(&self) {
        self.life.store(None);
        self.queue.lock().controls.clear();
    }
}
