//! For tests: probe actors that keep what they are told, and crashes on demand.
//!
//! Time is paused with tokio's own means: `#[tokio::test(start_paused = true)]`.

use std::time::Duration;

use tokio::sync::mpsc;
use troupe_protocol::id::{ActorId, ActorPath};

use super::actor::{Actor, ActorError, Message};
use super::context::Context;
use super::directory::CommandError;
use super::mailbox::{MESSAGES_MAX, Mailbox};
use super::supervisor::{ChildSpec, SupervisorSpec};
use super::system::{Root, System};

/// How an actor is made to crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// A handler panics.
    Panic,
    /// A handler returns an error.
    Error,
}

impl Crash {
    pub(super) const NAME: &'static str = "InjectedCrash";

    #[allow(clippy::panic)]
    pub(super) fn happen(self) -> Result<(), ActorError> {
        match self {
            Self::Panic => panic!("injected panic"),
            Self::Error => Err(ActorError::new("injected error")),
        }
    }
}

/// Makes an actor crash as if its next handler had.
///
/// # Errors
/// When there is no such actor.
pub fn crash(system: &System, id: ActorId, crash: Crash) -> Result<(), CommandError> {
    system.directory().crash(id, crash)
}

/// An actor that passes on what it is told, for the test to look at.
#[derive(Debug)]
pub struct Probe<M>(mpsc::Sender<M>);

impl<M: Message + Sync> Actor for Probe<M> {
    type Message = M;
    const KIND: &'static str = "probe";

    async fn handle(&mut self, message: M, _: &Context<Self>) -> Result<(), ActorError> {
        self.0
            .try_send(message)
            .map_err(|_| ActorError::new("the test does not listen"))
    }

    fn snapshot(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// A probe's mailbox, how to start it, and what it has been told.
pub fn probe<M: Message + Sync>(
    system: &System,
    path: ActorPath,
) -> (Mailbox<M>, ChildSpec, mpsc::Receiver<M>) {
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX as usize);
    let mailbox = Mailbox::new(system, path, MESSAGES_MAX);
    let spec = ChildSpec::actor(mailbox.clone(), move || Probe(sender.clone()));
    (mailbox, spec, receiver)
}

/// Starts children under a supervisor of their own at `node`.
///
/// # Errors
/// When the supervisor cannot be started.
pub async fn start(system: &System, children: Vec<ChildSpec>) -> Result<Root, ActorError> {
    let spec = SupervisorSpec::new(system, ActorPath::new("node"));
    system
        .start(children.into_iter().fold(spec, SupervisorSpec::child))
        .await
}

/// How long tests wait for what must happen. Patience costs nothing where it does happen, and a machine that is busy
/// with other things, or slow, must not be taken for a defect: what is to happen *soon* is measured by benchmarks.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until a condition holds, looking every few milliseconds.
///
/// # Errors
/// When it does not hold in time.
pub async fn eventually(within: Duration, mut condition: impl FnMut() -> bool) -> Result<(), ActorError> {
    let look = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(within, look)
        .await
        .map_err(|_| ActorError::new("the condition did not come true in time"))
}
