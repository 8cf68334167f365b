//! Starts and stops probers as the registry says, and passes on to them what connections tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::{Semaphore, broadcast};
use tokio_stream::wrappers::BroadcastStream;
use troupe_protocol::cluster::EntityKind;
use troupe_protocol::health::HealthStatus;
use troupe_protocol::server::{ServerName, Transport};
use troupe_protocol::time::Timestamp;

use super::board::Board;
use super::messages::{HealthError, HealthHandle, HealthSettings, KeeperMessage, ProberMessage};
use super::placed::{self, NewsReader, ProbersHost};
use super::prober::{Ground, Prober};
use super::reach::Reach;
use crate::cluster::ClusterHandle;
use crate::cluster::bulletin::read_all;
use crate::registry::RegistryHandle;
use crate::runtime::{
    Actor, ActorError, ActorPath, ChildSpec, Context, Deadline, Intensity, Mailbox, StartChildError,
    SupervisorHandle, SupervisorSpec, System,
};
use crate::upstream::{UpstreamEvent, UpstreamsHandle};

/// How many messages wait for the keeper, and for a prober.
const KEEPER_MESSAGES_MAX: u32 = 4_096;
const PROBER_MESSAGES_MAX: u32 = 128;
/// How many servers are probed at once.
const PROBES_AT_ONCE_MAX: usize = 16;
/// Over how long the first probes are spread, for each enabled server.
const SPREAD_PER_SERVER: Duration = Duration::from_millis(20);
/// How long the start or stop of a prober may take.
const CHILD_WITHIN: Duration = Duration::from_secs(5);
/// Even without a word from the registry it is compared with what runs this often.
const RECONCILE_EVERY: Duration = Duration::from_secs(60);

/// What is enabled, and how it is reached.
pub(super) type Wanted = BTreeMap<ServerName, Option<Transport>>;

/// Where the keeper learns what is registered. A trait, so that it is tested without a store.
pub(super) trait Servers: Send + Sync + 'static {
    /// The enabled servers.
    fn enabled(&self) -> Wanted;
    /// Whether a server is registered, enabled or not.
    fn contains(&self, name: &ServerName) -> bool;
    /// A word for each change, and for changes that were missed.
    fn changes(&self) -> BoxStream<'static, ()>;
}

impl Servers for RegistryHandle {
    fn enabled(&self) -> Wanted {
        let view = self.view();
        view.enabled()
            .map(|entry| (entry.name.clone(), entry.operation.transport.clone()))
            .collect()
    }

    fn contains(&self, name: &ServerName) -> bool {
        self.view().get(name.as_str()).is_some()
    }

    fn changes(&self) -> BoxStream<'static, ()> {
        // An event that was missed is a word as good as any: the view says what is.
        BroadcastStream::new(self.subscribe()).map(|_| ()).boxed()
    }
}

/// Health under a supervisor at `path`, and its handle.
pub fn child(
    system: &System,
    path: ActorPath,
    settings: HealthSettings,
    registry: RegistryHandle,
    upstreams: UpstreamsHandle,
    cluster: ClusterHandle,
) -> (ChildSpec, HealthHandle) {
    let events = upstreams.clone();
    let parts = Parts {
        settings,
        servers: Arc::new(registry),
        reach: Arc::new(upstreams.clone()),
        connections: Arc::new(move || events.subscribe()),
        now: || jiff::Timestamp::now().into(),
        cluster: cluster.clone(),
    };
    let (spec, keeper, board) = build(system, path, parts);
    (spec, HealthHandle::new(keeper, board, upstreams, cluster))
}

/// What the family is made of.
pub(super) struct Parts {
    pub settings: HealthSettings,
    pub servers: Arc<dyn Servers>,
    pub reach: Arc<dyn Reach>,
    pub connections: Arc<dyn Fn() -> broadcast::Receiver<UpstreamEvent> + Send + Sync>,
    pub now: fn() -> Timestamp,
    pub cluster: ClusterHandle,
}

pub(super) fn build(
    system: &System,
    path: ActorPath,
    parts: Parts,
) -> (ChildSpec, Mailbox<KeeperMessage>, Arc<Board>) {
    let board = Arc::new(Board::new(parts.now));
    let mailbox = Mailbox::new(system, path.child(".keeper"), KEEPER_MESSAGES_MAX);
    // Misfortunes of a prober say nothing about the node.
    let probers = SupervisorSpec::new(system, path.child("probers")).intensity(Intensity::UNLIMITED);
    let ground = Arc::new(Ground {
        board: Arc::clone(&board),
        reach: parts.reach,
        settings: parts.settings,
        probes: Arc::new(Semaphore::new(PROBES_AT_ONCE_MAX)),
    });
    let (system, supervisor) = (system.clone(), probers.handle());
    let running = RunningProbers::default();
    let (servers, connections, cluster) = (parts.servers, parts.connections, parts.cluster);
    let host = ProbersHost {
        keeper: mailbox.clone(),
        running: Arc::clone(&running),
    };
    cluster.host(EntityKind::Prober, Arc::new(host));
    board.news.serve(&cluster, placed::TOPIC);
    let of_keeper = system.clone();
    let factory = move || Keeper {
        system: of_keeper.clone(),
        supervisor: supervisor.clone(),
        ground: Arc::clone(&ground),
        servers: Arc::clone(&servers),
        connections: Arc::clone(&connections),
        running: Arc::clone(&running),
        cluster: cluster.clone(),
    };
    let family = SupervisorSpec::new(&system, path)
        .child(ChildSpec::supervisor(probers))
        .child(ChildSpec::actor(mailbox.clone(), factory));
    (ChildSpec::supervisor(family), mailbox, board)
}

/// A prober that runs, and how its server was reached when it was last told.
pub(super) struct Runs {
    mailbox: Mailbox<ProberMessage>,
    transport: Option<Transport>,
}

/// The probers that run on this node.
pub(super) type RunningProbers = Arc<Mutex<BTreeMap<ServerName, Runs>>>;

/// Starts and stops probers.
pub(super) struct Keeper {
    system: System,
    supervisor: SupervisorHandle,
    ground: Arc<Ground>,
    servers: Arc<dyn Servers>,
    connections: Arc<dyn Fn() -> broadcast::Receiver<UpstreamEvent> + Send + Sync>,
    /// Outlives the keeper, as the probers do.
    running: RunningProbers,
    cluster: ClusterHandle,
}

impl Actor for Keeper {
    type Message = KeeperMessage;
    const KIND: &'static str = "health";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let (mailbox, mut changes) = (ctx.mailbox().clone(), self.servers.changes());
        ctx.spawn("follow the registry", async move {
            loop {
                let _ = tokio::time::timeout(RECONCILE_EVERY, changes.next()).await;
                if mailbox.tell(KeeperMessage::RegistryChanged).is_err() {
                    // It will hear of it after the pause.
                    tokio::time::sleep(CHILD_WITHIN).await;
                }
            }
        });
        let (mailbox, mut epochs) = (ctx.mailbox().clone(), self.cluster.epochs());
        ctx.spawn("follow the cluster", async move {
            while epochs.changed().await.is_ok() {
                // A full mailbox means that it will look soon.
                let _ = mailbox.tell(KeeperMessage::RegistryChanged);
            }
        });
        let reader = NewsReader {
            board: Arc::clone(&self.ground.board),
            running: Arc::clone(&self.running),
        };
        ctx.spawn(
            "listen to other nodes",
            read_all(self.cluster.clone(), placed::TOPIC, Arc::new(reader)),
        );
        let (mailbox, mut events) = (ctx.mailbox().clone(), (self.connections)());
        ctx.spawn("follow connections", async move {
            loop {
                let message = match events.recv().await {
                    Ok(event) => KeeperMessage::Connection(event),
                    Err(broadcast::error::RecvError::Lagged(_)) => KeeperMessage::ConnectionsUnknown,
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                // A refusal is on record as a dead letter; the next probe sees what it would have told.
                let _ = mailbox.tell(message);
            }
        });
        self.reconcile().await;
        Ok(())
    }

    async fn handle(&mut self, message: KeeperMessage, _: &Context<Self>) -> Result<(), ActorError> {
        match message {
            KeeperMessage::RegistryChanged => self.reconcile().await,
            KeeperMessage::Settle(reply) => {
                self.reconcile().await;
                reply.send(());
            }
            KeeperMessage::Connection(event) => self.pass_on(event),
            KeeperMessage::ConnectionsUnknown => {
                let running = self.running.lock();
                running
                    .values()
                    .for_each(|runs| drop(runs.mailbox.tell(ProberMessage::Stirred)));
            }
            KeeperMessage::FindProber { name, reply } => reply.send(self.find_prober(name).await),
        }
        Ok(())
    }

    fn snapshot(&self) -> serde_json::Value {
        json!({
            "probers": self.running.lock().len(),
            "known": self.ground.board.names().len(),
            "probe_interval_ms": self.ground.settings.probe_interval.as_millis() as u64,
            "probes_free": self.ground.probes.available_permits(),
        })
    }
}

impl Keeper {
    /// Brings what runs to what is wanted. May be done at any time, as often as one likes.
    async fn reconcile(&mut self) {
        let enabled = self.servers.enabled();
        let mut wanted = enabled.clone();
        wanted.retain(|name, _| {
            let runs = || self.running.lock().contains_key(name);
            placed::is_here(&self.cluster, name) || (placed::is_undecided(&self.cluster, name) && runs())
        });
        let unwanted: Vec<ServerName> = self
            .running
            .lock()
            .keys()
            .filter(|name| !wanted.contains_key(*name))
            .cloned()
            .collect();
        for name in unwanted {
            self.stop(&name).await;
        }
        let spread = (SPREAD_PER_SERVER * u32::try_from(wanted.len()).unwrap_or(u32::MAX))
            .min(self.ground.settings.probe_interval);
        for (name, transport) in &wanted {
            let known = self
                .running
                .lock()
                .get(name)
                .map(|runs| runs.transport == *transport);
            match known {
                None => {
                    self.start(name, transport.clone(), spread.mul_f64(fastrand::f64()))
                        .await
                }
                Some(false) => self.reconfigure(name, transport.clone()),
                Some(true) => {}
            }
        }
        for name in self.ground.board.names() {
            if enabled.contains_key(&name) {
                continue;
            }
            if !self.servers.contains(&name) {
                self.ground.board.remove(&name);
            } else if self
                .ground
                .board
                .report(&name)
                .is_some_and(|report| report.status != HealthStatus::Disabled)
            {
                self.ground.board.disable(&name);
            }
        }
        for name in enabled.keys().filter(|name| !wanted.contains_key(*name)) {
            self.ground.board.expect(name);
        }
    }

    async fn start(&self, name: &ServerName, transport: Option<Transport>, first_probe_after: Duration) {
        let path = self.supervisor.path().child(name);
        let mailbox = Mailbox::new(&self.system, path, PROBER_MESSAGES_MAX);
        let (of_prober, ground) = (name.clone(), Arc::clone(&self.ground));
        let spec = ChildSpec::actor(mailbox.clone(), move || {
            Prober::new(of_prober.clone(), Arc::clone(&ground), first_probe_after)
        });
        match self
            .supervisor
            .start_child(spec, Deadline::within(CHILD_WITHIN))
            .await
        {
            Ok(()) => {
                self.running
                    .lock()
                    .insert(name.clone(), Runs { mailbox, transport });
            }
            Err(StartChildError::AlreadyRunning(_)) => {
                // A stop whose answer was lost; the next reconciliation starts it anew.
                let path = self.supervisor.path().child(name);
                let _ = self
                    .supervisor
                    .stop_child(&path, Deadline::within(CHILD_WITHIN))
                    .await;
            }
            Err(error) => {
                tracing::warn!(server = %name, %error, "its prober could not be started; trying again later")
            }
        }
    }

    async fn stop(&self, name: &ServerName) {
        let path = self.supervisor.path().child(name);
        match self
            .supervisor
            .stop_child(&path, Deadline::within(CHILD_WITHIN))
            .await
        {
            Ok(_) => {
                self.running.lock().remove(name);
            }
            Err(error) => {
                tracing::warn!(server = %name, %error, "its prober could not be stopped; trying again later");
            }
        }
    }

    fn reconfigure(&self, name: &ServerName, transport: Option<Transport>) {
        if let Some(runs) = self.running.lock().get_mut(name)
            && runs.mailbox.tell(ProberMessage::Reconfigured).is_ok()
        {
            runs.transport = transport;
        }
    }

    fn pass_on(&self, event: UpstreamEvent) {
        let (server, message) = match event {
            UpstreamEvent::Up { server, .. } | UpstreamEvent::ListChanged { server, .. } => {
                (server, ProberMessage::Stirred)
            }
            UpstreamEvent::Down { server, reason } => (server, ProberMessage::Lost { reason }),
            UpstreamEvent::ResourceUpdated { .. } => return,
        };
        if let Some(runs) = self.running.lock().get(&server) {
            // A full mailbox means that it is looking already.
            let _ = runs.mailbox.tell(message);
        }
    }

    async fn find_prober(&mut self, name: ServerName) -> Result<Mailbox<ProberMessage>, HealthError> {
        let mailbox = |keeper: &Self| keeper.running.lock().get(&name).map(|runs| runs.mailbox.clone());
        if let Some(mailbox) = mailbox(self) {
            return Ok(mailbox);
        }
        // A server that was enabled a moment ago may be unknown yet.
        self.reconcile().await;
        mailbox(self).ok_or_else(|| {
            if self.servers.contains(&name) {
                HealthError::Disabled(name)
            } else {
                HealthError::NotFound(name)
            }
        })
    }
}

#[cfg(test)]
mod tests;
