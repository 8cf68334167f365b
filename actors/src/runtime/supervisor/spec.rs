//! What a supervisor is told to start.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use troupe_protocol::id::ActorPath;

use super::state::{Backoff, Intensity, Restart, Strategy};
use super::{Supervisor, SupervisorHandle, SupervisorMessage};
use crate::runtime::actor::{Actor, ActorError};
use crate::runtime::cell::Cell;
use crate::runtime::directory::Port;
use crate::runtime::mailbox::{MESSAGES_MAX, Mailbox};
use crate::runtime::metrics::record::Record;
use crate::runtime::system::System;

/// How long a child may take to finish the message in hand when it is told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// A life that has begun.
pub(in crate::runtime) struct Spawned {
    pub life: ractor::ActorCell,
    pub ended: JoinHandle<()>,
}

type Spawn =
    dyn Fn(Option<ractor::ActorCell>) -> BoxFuture<'static, Result<Spawned, ActorError>> + Send + Sync;

/// How to start a child, as often as it takes.
#[derive(Clone)]
pub struct ChildSpec {
    pub(super) port: Arc<dyn Port>,
    pub(super) system: System,
    pub(super) restart: Restart,
    pub(super) stop_within: Duration,
    spawn: Arc<Spawn>,
}

impl std::fmt::Debug for ChildSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChildSpec({}, {:?})", self.path(), self.restart)
    }
}

impl ChildSpec {
    /// An actor behind this mailbox. The factory makes it anew for each life; a permanent child unless stated.
    pub fn actor<A: Actor>(
        mailbox: Mailbox<A::Message>,
        factory: impl Fn() -> A + Send + Sync + 'static,
    ) -> Self {
        let channel = Arc::clone(mailbox.channel());
        let system = channel.system.clone();
        let port = Arc::clone(&channel) as Arc<dyn Port>;
        let factory: Arc<dyn Fn() -> A + Send + Sync> = Arc::new(factory);
        let spawn = move |supervisor: Option<ractor::ActorCell>| -> BoxFuture<'static, _> {
            let cell = Cell {
                mailbox: mailbox.clone(),
                factory: Arc::clone(&factory),
            };
            let record_of = Arc::clone(&channel);
            Box::pin(async move {
                record_of.record.kind.get_or_init(|| (A::KIND, A::SUPERVISES));
                let spawned = match supervisor {
                    Some(supervisor) => ractor::Actor::spawn_linked(None, cell, (), supervisor).await,
                    None => ractor::Actor::spawn(None, cell, ()).await,
                };
                let (life, ended) = spawned?;
                Ok(Spawned {
                    life: life.get_cell(),
                    ended,
                })
            })
        };
        Self {
            port,
            system,
            restart: Restart::Permanent,
            stop_within: STOP_WITHIN,
            spawn: Arc::new(spawn),
        }
    }

    /// A supervisor with its own children.
    pub fn supervisor(spec: SupervisorSpec) -> Self {
        let SupervisorSpec { mailbox, shared } = spec;
        // It may have many children to stop, one after the other.
        Self::actor(mailbox, move || Supervisor::new(Arc::clone(&shared))).stop_within(STOP_WITHIN * 6)
    }

    /// When it is started again.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long it may take to finish the message in hand when it is told to stop, before it is killed.
    #[must_use]
    pub fn stop_within(mut self, time: Duration) -> Self {
        self.stop_within = time;
        self
    }

    /// Where it stands in the tree.
    pub fn path(&self) -> &ActorPath {
        &self.record().path
    }

    pub(super) fn record(&self) -> &Record {
        self.port.record()
    }

    pub(super) async fn spawn(
        &self,
        supervisor: Option<ractor::ActorCell>,
        mailbox: Option<&Mailbox<SupervisorMessage>>,
    ) -> Result<Spawned, ActorError> {
        if let Some(mailbox) = mailbox {
            self.record().supervisor.get_or_init(|| mailbox.clone());
        }
        self.system.directory().revive(self.record().id);
        if !self.record().exits().is_empty() {
            self.record().metrics.restarts.fetch_add(1, Ordering::Relaxed);
        }
        (self.spawn)(supervisor).await
    }
}

/// What all lives of a supervisor have in common: children started while it runs outlive its own restart.
pub(super) struct Shared {
    pub strategy: Strategy,
    pub intensity: Intensity,
    pub backoff: Backoff,
    pub children: Mutex<Vec<ChildSpec>>,
}

/// A supervisor and its children, before the start.
pub struct SupervisorSpec {
    mailbox: Mailbox<SupervisorMessage>,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for SupervisorSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SupervisorSpec({})", self.mailbox.path())
    }
}

impl SupervisorSpec {
    /// A supervisor at this path: one-for-one, with the default intensity and back-off, without children.
    pub fn new(system: &System, path: ActorPath) -> Self {
        let shared = Shared {
            strategy: Strategy::OneForOne,
            intensity: Intensity::default(),
            backoff: Backoff::default(),
            children: Mutex::new(Vec::new()),
        };
        Self {
            mailbox: Mailbox::new(system, path, MESSAGES_MAX),
            shared: Arc::new(shared),
        }
    }

    /// Whose lives hang together.
    #[must_use]
    pub fn strategy(self, strategy: Strategy) -> Self {
        self.with(|shared| shared.strategy = strategy)
    }

    /// How many restarts it bears.
    #[must_use]
    pub fn intensity(self, intensity: Intensity) -> Self {
        self.with(|shared| shared.intensity = intensity)
    }

    /// How long it waits before a restart.
    #[must_use]
    pub fn backoff(self, backoff: Backoff) -> Self {
        self.with(|shared| shared.backoff = backoff)
    }

    /// One more child, started after those before it and stopped before them.
    #[must_use]
    pub fn child(self, child: ChildSpec) -> Self {
        self.shared.children.lock().push(child);
        self
    }

    /// With which children are started and stopped while the supervisor runs.
    pub fn handle(&self) -> SupervisorHandle {
        SupervisorHandle {
            mailbox: self.mailbox.clone(),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Shared)) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            change(shared);
        }
        self
    }

    pub(in crate::runtime) fn mailbox(&self) -> Mailbox<SupervisorMessage> {
        self.mailbox.clone()
    }

    pub(in crate::runtime) async fn spawn_as_root(self) -> Result<JoinHandle<()>, ActorError> {
        let root = ChildSpec::supervisor(self);
        Ok(root.spawn(None, None).await?.ended)
    }
}
