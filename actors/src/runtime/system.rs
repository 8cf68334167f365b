//! What the actors of one node share: the directory, the traces, the dead letters.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use troupe_protocol::id::{ActorId, ActorPath, CorrelationId};
use troupe_protocol::observe::ExitReason;
use troupe_protocol::trace::Outcome;

use super::actor::ActorError;
use super::dead_letters::DeadLetterBox;
use super::directory::{Directory, Port};
use super::mailbox::{Control, Mailbox};
use super::supervisor::{SupervisorMessage, SupervisorSpec};
use super::trace::{self, Step, TraceStore};

/// How the runtime of a node behaves.
#[derive(Debug, Clone, Default)]
pub struct SystemConfig {}

/// What the actors of one node share. Cheap to clone; there may be several in one process, as in tests.
#[derive(Clone)]
pub struct System {
    shared: Arc<Shared>,
}

struct Shared {
    directory: Directory,
    traces: TraceStore,
    dead_letters: DeadLetterBox,
    last_actor_id: AtomicU64,
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "System({} actors)", self.shared.directory.len())
    }
}

impl System {
    /// A system without actors.
    pub fn new(_: SystemConfig) -> Self {
        Self {
            shared: Arc::new(Shared {
                directory: Directory::default(),
                traces: TraceStore::default(),
                dead_letters: DeadLetterBox::default(),
                last_actor_id: AtomicU64::new(0),
            }),
        }
    }

    /// Every actor of the node.
    pub fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    /// The latest traces.
    pub fn traces(&self) -> &TraceStore {
        &self.shared.traces
    }

    /// What could not be delivered.
    pub fn dead_letters(&self) -> &DeadLetterBox {
        &self.shared.dead_letters
    }

    pub(super) fn next_actor_id(&self) -> ActorId {
        ActorId(self.shared.last_actor_id.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Runs a future as the first step of a request: all that it causes is traced under its correlation id.
    ///
    /// `kind` is what took the request in (`http`, `websocket`), `title` what was asked (`POST /api/v1/ask`).
    /// `outcome_of` tells from the output how the request ended.
    pub async fn trace<F: Future>(
        &self,
        actor: &ActorPath,
        kind: &'static str,
        title: impl Into<Cow<'static, str>>,
        correlation_id: CorrelationId,
        future: F,
        outcome_of: impl FnOnce(&F::Output) -> Outcome,
    ) -> F::Output {
        let step = Step {
            actor,
            kind,
            message: title.into(),
            waited: Duration::ZERO,
        };
        let cause = trace::current().filter(|context| context.correlation_id == correlation_id);
        let span = self
            .traces()
            .begin(correlation_id, cause.map(|context| context.span), step);
        span.run(future, outcome_of).await
    }

    /// Starts the supervision tree.
    ///
    /// # Errors
    /// When the root supervisor itself cannot be started.
    pub async fn start(&self, spec: SupervisorSpec) -> Result<Root, ActorError> {
        let mailbox = spec.mailbox();
        let ended = spec.spawn_as_root().await?;
        Ok(Root { mailbox, ended })
    }
}

/// The running supervision tree of a node.
#[derive(Debug)]
pub struct Root {
    mailbox: Mailbox<SupervisorMessage>,
    ended: JoinHandle<()>,
}

impl Root {
    /// Waits until the tree has ended and says why.
    pub async fn ended(&mut self) -> ExitReason {
        // The task itself never panics: ractor and the cell catch what actors do.
        let _ = (&mut self.ended).await;
        let channel = self.mailbox.channel();
        let reason = channel.record.exited();
        channel.close();
        reason
    }

    /// Stops all actors in the reverse order of their start, and waits for their end.
    pub async fn shutdown(mut self) -> ExitReason {
        self.mailbox
            .channel()
            .control(Control::Stop(ExitReason::Shutdown));
        self.ended().await
    }

    /// Asks for [`shutdown`](Self::shutdown) without waiting.
    pub fn begin_shutdown(&self) {
        self.mailbox
            .channel()
            .control(Control::Stop(ExitReason::Shutdown));
    }
}
