//! With what the rest of the node reaches servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde_json::value::RawValue;
use tokio::sync::broadcast;
use tokio::time::Instant;
use troupe_protocol::id::ActorPath;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{
    Descriptor, Era, ListKind, Profile, PromptDescriptor, ResourceDescriptor, ResourceTemplateDescriptor,
    ToolDescriptor,
};
use troupe_protocol::server::{ServerName, Transport};
use troupe_protocol::upstream::{
    CallId, CallInFlight, LogLine, ServerLogin, ServerLoginStarted, ServerLoginState, UpstreamInfo,
    UpstreamState,
};

use crate::cluster::ClusterHandle;
use crate::runtime::{ChildSpec, Deadline, Mailbox, SupervisorSpec, System};

use super::builtin::{Builtin, BuiltinServer};
use super::calls::CallTable;
use super::connect::{Ground, connect};
use super::endpoint::UpstreamSettings;
use super::error::UpstreamError;
use super::http::{self, ParamHeaders};
use super::log::LogRing;
use super::messages::{CallOptions, UpstreamEvent, UpstreamMessage, connect_error};
use super::oauth::{Bearers, LoginError, Logins};
use super::placed::{self, Elsewhere, PlacedServer, UpstreamsHost};
use super::shared::Shared;
use super::slot::Slot;
use super::sources::{self, SecretSource, ServerSource};
use super::starter::Starter;
use super::watch::{Watch, WatchError};

/// Events kept for a subscriber that is slow to read them.
const EVENTS_MAX: usize = 1_024;
/// How long a server's actor may take to put away what it has after a login.
const RECONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Messages that wait for the starter.
const STARTER_MESSAGES_MAX: u32 = 4_096;
/// The last segment of the starter's path: no server can have this name.
const STARTER: &str = ".starter";

/// Reaches every registered server. Cheap to clone.
#[derive(Clone)]
pub struct UpstreamsHandle {
    shared: Arc<Shared>,
}

/// Reaches servers as long as the node runs, without keeping anything alive: for what the handle itself holds.
#[derive(Clone)]
pub struct WeakUpstreams {
    shared: std::sync::Weak<Shared>,
}

impl WeakUpstreams {
    /// The handle; nothing once the node is stopping.
    pub fn upgrade(&self) -> Option<UpstreamsHandle> {
        self.shared.upgrade().map(|shared| UpstreamsHandle { shared })
    }
}

impl std::fmt::Debug for UpstreamsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UpstreamsHandle({} servers)", self.shared.slots.load().len())
    }
}

/// What it took to try a server out.
#[derive(Debug)]
pub struct Trial {
    /// What the server said of itself and what tools it has, or why it could not be reached.
    pub outcome: Result<(UpstreamInfo, Arc<Vec<ToolDescriptor>>), UpstreamError>,
    /// From the start to the end of the handshake.
    pub connected_within: Duration,
    /// What the server wrote meanwhile.
    pub log: Vec<LogLine>,
}

impl UpstreamsHandle {
    /// The family under a supervisor at `path`, and the handle with which it is reached, before the start.
    pub fn build(
        system: &System,
        path: ActorPath,
        settings: UpstreamSettings,
        servers: Arc<dyn ServerSource>,
        secrets: Arc<dyn SecretSource>,
        cluster: ClusterHandle,
    ) -> (Self, ChildSpec) {
        let starter = Mailbox::new(system, path.child(STARTER), STARTER_MESSAGES_MAX);
        let supervisor = SupervisorSpec::new(system, path);
        let shared = Arc::new(Shared {
            system: system.clone(),
            settings: Arc::new(settings),
            servers,
            logins: Logins::new(Arc::clone(&secrets)),
            bearers: Arc::new(Bearers::new(Arc::clone(&secrets), cluster.clone())),
            secrets,
            supervisor: supervisor.handle(),
            events: broadcast::Sender::new(EVENTS_MAX),
            slots: ArcSwap::default(),
            lanes: ArcSwap::default(),
            remotes: ArcSwap::default(),
            elsewhere: Elsewhere::default(),
            news: Arc::default(),
            cluster,
            watches: Arc::default(),
            builtins: ArcSwap::default(),
            starter: starter.clone(),
        });
        UpstreamsHost::register(&shared);
        let of_starter = Arc::clone(&shared);
        let child = ChildSpec::actor(starter, move || Starter::new(Arc::clone(&of_starter)));
        (Self { shared }, ChildSpec::supervisor(supervisor.child(child)))
    }

    /// What this node has of a server that it runs.
    #[cfg(test)]
    pub(super) fn slot(&self, name: &ServerName) -> Option<Arc<Slot>> {
        self.shared.slot(name)
    }

    /// A handle that does not keep the family alive.
    pub fn downgrade(&self) -> WeakUpstreams {
        WeakUpstreams {
            shared: Arc::downgrade(&self.shared),
        }
    }

    /// Makes a server of the node's own reachable under this name.
    pub fn register_builtin(&self, name: ServerName, server: Arc<dyn BuiltinServer>) {
        let calls = Arc::new(CallTable::new(
            name.clone(),
            self.shared.settings.calls_in_flight_max,
        ));
        let builtin = Arc::new(Builtin { server, calls });
        self.shared.builtins.rcu(|builtins| {
            let mut builtins = HashMap::clone(builtins);
            builtins.insert(name.clone(), Arc::clone(&builtin));
            builtins
        });
    }

    /// A connection to a server, made if need be.
    ///
    /// # Errors
    /// As [`UpstreamError`] says: the server is unknown, disabled, cannot be started or reached in time.
    pub async fn get(&self, name: &ServerName, deadline: Deadline) -> Result<UpstreamHandle, UpstreamError> {
        if let Some(builtin) = self.shared.builtins.load().get(name) {
            return Ok(UpstreamHandle {
                target: Target::Builtin(Arc::clone(builtin)),
            });
        }
        if self.shared.is_placed(name) {
            let placed = Box::pin(PlacedServer::open(&self.shared, name, deadline)).await?;
            return Ok(UpstreamHandle {
                target: Target::Placed(placed),
            });
        }
        let slot = match self.shared.slot(name) {
            Some(slot) => slot,
            None => self.shared.ensure(name, deadline).await?,
        };
        let connection = slot.ready(deadline).await?;
        let info = Arc::clone(&connection.info);
        Ok(UpstreamHandle {
            target: Target::Live { slot, info },
        })
    }

    /// The same server for clients that can do this much for it: a legacy one over HTTP is told so when the connection
    /// is made, and has one for each kind of clients.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn for_clients(
        &self,
        upstream: UpstreamHandle,
        profile: Profile,
        deadline: Deadline,
    ) -> Result<UpstreamHandle, UpstreamError> {
        if profile.is_none() || upstream.info().era == Era::Modern {
            return Ok(upstream);
        }
        let slot = match &upstream.target {
            Target::Live { slot, .. } => slot,
            Target::Placed(placed) => {
                let target = Target::Placed(placed.for_clients(profile));
                return Ok(UpstreamHandle { target });
            }
            Target::Builtin(_) => return Ok(upstream),
        };
        let lane = self.shared.slot_for(&slot.name, profile, deadline).await?;
        let info = Arc::clone(&lane.ready(deadline).await?.info);
        Ok(UpstreamHandle {
            target: Target::Live { slot: lane, info },
        })
    }

    /// Has a server tell of this resource's changes until the watch is dropped. They come as
    /// [`UpstreamEvent::ResourceUpdated`].
    ///
    /// # Errors
    /// [`WatchError`].
    pub async fn watch(
        &self,
        upstream: &UpstreamHandle,
        uri: &str,
        deadline: Deadline,
    ) -> Result<Watch, WatchError> {
        let profile = match &upstream.target {
            Target::Live { slot, .. } => slot.profile,
            Target::Placed(placed) => placed.profile(),
            Target::Builtin(_) => return Err(WatchError::NotOffered(upstream.name().clone())),
        };
        let name = upstream.name();
        self.shared.watch(name, profile, uri, deadline).await
    }

    /// Connects once, lists the tools and disconnects: for a server that is about to be registered.
    pub async fn try_out(&self, name: &ServerName, transport: &Transport, deadline: Deadline) -> Trial {
        let began = Instant::now();
        let log = Arc::new(LogRing::default());
        let mut connected_within = Duration::ZERO;
        let trying = async {
            let (secrets, bearers) = (&*self.shared.secrets, &*self.shared.bearers);
            let resolved = sources::resolve(name, transport, secrets, bearers, deadline).await;
            let endpoint = resolved.map_err(|failure| UpstreamError::Secret {
                server: name.clone(),
                reason: failure.reason,
                code: failure.code,
            })?;
            let ground = Ground {
                calls: Arc::new(CallTable::new(
                    name.clone(),
                    self.shared.settings.calls_in_flight_max,
                )),
                log: Arc::clone(&log),
                on_notice: Arc::new(|_| {}),
                settings: Arc::clone(&self.shared.settings),
                profile: Profile::NONE,
            };
            let connected = connect(&endpoint, &ground, None, deadline.remaining()).await;
            connected_within = began.elapsed();
            let connection = Arc::new(connected.map_err(|failure| connect_error(name, failure))?);
            let tools = super::trial::tools(name, &connection, &ground, deadline).await;
            connection.close().await;
            Ok((UpstreamInfo::clone(&connection.info), Arc::new(tools?)))
        };
        let outcome = trying.await;
        let connected_within = if connected_within.is_zero() {
            began.elapsed()
        } else {
            connected_within
        };
        Trial {
            outcome,
            connected_within,
            log: log.lines(),
        }
    }

    /// Begins a login at a server that asks for OAuth; with client credentials it is complete when this returns.
    /// `redirect_uri` is where the person's browser comes back to.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn start_login(
        &self,
        name: &ServerName,
        request: ServerLogin,
        redirect_uri: &str,
    ) -> Result<ServerLoginStarted, LoginError> {
        let registered = self.shared.servers.find(name).and_then(|server| server.transport);
        let Some(Transport::StreamableHttp { url, .. } | Transport::Sse { url, .. }) = registered else {
            return Err(LoginError::NotHttp(name.clone()));
        };
        let started = self
            .shared
            .logins
            .start(name, &url, request, redirect_uri)
            .await?;
        if started.url.is_none() {
            self.reconnect(name).await;
        }
        Ok(started)
    }

    /// Completes a login with what the authorization server sent its person back with. Says at which server.
    ///
    /// # Errors
    /// [`LoginError`].
    pub async fn complete_login(
        &self,
        state: &str,
        code: &str,
        issuer: Option<&str>,
    ) -> Result<ServerName, LoginError> {
        let name = self.shared.logins.complete(state, code, issuer).await?;
        self.reconnect(&name).await;
        Ok(name)
    }

    /// What there is of a login at a server.
    ///
    /// # Errors
    /// [`LoginError`] when the vault cannot be read.
    pub async fn login_state(&self, name: &ServerName) -> Result<ServerLoginState, LoginError> {
        self.shared.logins.state(name).await
    }

    /// Connects with the new login: what this node has of the server so far is ended.
    async fn reconnect(&self, name: &ServerName) {
        let lanes = self.shared.lanes.load();
        let further = lanes.values().filter(|lane| lane.name == *name).cloned();
        for slot in self.shared.slot(name).into_iter().chain(further) {
            let transport = slot.transport.lock().clone();
            // A refusal is on record as a dead letter; the next attempt to connect uses the login anyway.
            let _ = slot.mailbox.tell(UpstreamMessage::Reconfigured(transport));
            // Calls from now on shall not meet what the last attempt, without a login, ended with.
            let within = Deadline::within(RECONNECT_WITHIN);
            let _ = slot.mailbox.ask(UpstreamMessage::Settled, within).await;
        }
    }

    /// The calls in flight to all servers, oldest first.
    pub fn calls(&self) -> Vec<CallInFlight> {
        let mut calls: Vec<CallInFlight> = self.tables().iter().flat_map(|table| table.list()).collect();
        calls.sort_by_key(|call| call.id);
        calls
    }

    /// How many calls are in flight to all servers.
    pub fn calls_in_flight(&self) -> usize {
        self.tables().iter().map(|table| table.len()).sum()
    }

    /// Cancels a call: its caller gets an error, its server is told.
    ///
    /// # Errors
    /// [`UpstreamError::CallNotFound`] when it has ended, or never was.
    pub fn cancel(&self, id: CallId) -> Result<(), UpstreamError> {
        let found = self.tables().iter().any(|table| table.cancel(id));
        if found {
            Ok(())
        } else {
            Err(UpstreamError::CallNotFound(id))
        }
    }

    fn tables(&self) -> Vec<Arc<CallTable>> {
        let (slots, lanes) = (self.shared.slots.load(), self.shared.lanes.load());
        let (builtins, remotes) = (self.shared.builtins.load(), self.shared.remotes.load());
        let live = slots.values().chain(lanes.values());
        let live = live.map(|slot| Arc::clone(&slot.calls));
        let remote = remotes.values().map(|remote| Arc::clone(&remote.calls));
        live.chain(remote)
            .chain(builtins.values().map(|builtin| Arc::clone(&builtin.calls)))
            .collect()
    }

    /// The last lines of a server's log, oldest first, from the node that runs it; none if it has not been needed yet.
    ///
    /// # Errors
    /// When that node cannot be asked in time.
    pub async fn logs(&self, name: &ServerName, deadline: Deadline) -> Result<Vec<LogLine>, UpstreamError> {
        if self.shared.is_placed(name) {
            return placed::logs_of(&self.shared, name, deadline).await;
        }
        let slot = self.shared.slot(name);
        Ok(slot.map(|slot| slot.log.lines()).unwrap_or_default())
    }

    /// Where the connection to a server stands.
    pub fn state(&self, name: &ServerName) -> UpstreamState {
        if self.shared.builtins.load().contains_key(name) {
            return UpstreamState::Ready;
        }
        let own = self.shared.slot(name).map(|slot| slot.state_for_people());
        own.or_else(|| self.shared.elsewhere.state(name))
            .unwrap_or(UpstreamState::Idle)
    }

    /// What a server last said of itself, without connecting to it.
    pub fn info(&self, name: &ServerName) -> Option<Arc<UpstreamInfo>> {
        if let Some(builtin) = self.shared.builtins.load().get(name) {
            return Some(builtin.server.info());
        }
        self.shared.info_of(name)
    }

    /// For how long what a server listed last still counts; nothing where it counts until the server says otherwise.
    pub fn list_ttl(&self, name: &ServerName, kind: ListKind) -> Option<Duration> {
        let own = self.shared.slot(name).and_then(|slot| slot.lists.ttl(kind));
        own.or_else(|| self.shared.remotes.load().get(name)?.lists.ttl(kind))
    }

    /// What happens to connections from now on. Who reads too slowly misses events and should look again at all.
    pub fn subscribe(&self) -> broadcast::Receiver<UpstreamEvent> {
        self.shared.events.subscribe()
    }
}

/// Reaches one server; follows it through restarts. Cheap to clone.
#[derive(Clone)]
pub struct UpstreamHandle {
    target: Target,
}

#[derive(Clone)]
enum Target {
    Live {
        slot: Arc<Slot>,
        /// As it was when the handle was made.
        info: Arc<UpstreamInfo>,
    },
    /// Here or on another node.
    Placed(PlacedServer),
    Builtin(Arc<Builtin>),
}

impl std::fmt::Debug for UpstreamHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UpstreamHandle({})", self.name())
    }
}

impl UpstreamHandle {
    /// The server's name.
    pub fn name(&self) -> &ServerName {
        match &self.target {
            Target::Live { slot, .. } => &slot.name,
            Target::Placed(placed) => placed.name(),
            Target::Builtin(builtin) => builtin.calls.server(),
        }
    }

    /// What the server said of itself at its last start.
    pub fn info(&self) -> Arc<UpstreamInfo> {
        match &self.target {
            Target::Live { slot, info } => slot.info.load_full().unwrap_or_else(|| Arc::clone(info)),
            Target::Placed(placed) => placed.info(),
            Target::Builtin(builtin) => builtin.server.info(),
        }
    }

    /// Makes a request. Parameters and reply pass byte for byte, but for the members of `_meta` that belong to the hop.
    ///
    /// # Errors
    /// [`UpstreamError`]; an error that the server itself gives is a reply.
    pub async fn request(
        &self,
        method: &str,
        params: Option<Box<RawValue>>,
        options: CallOptions,
    ) -> Result<RawReply, UpstreamError> {
        match &self.target {
            Target::Live { slot, .. } => slot.request(method, params.as_deref(), options).await,
            Target::Placed(placed) => Box::pin(placed.request(method, params.as_deref(), options)).await,
            Target::Builtin(builtin) => Box::pin(builtin.request(method, params.as_deref(), &options)).await,
        }
    }

    /// Sees to it that a modern client which calls a tool says in headers what it says in the arguments.
    ///
    /// # Errors
    /// What does not fit. Tools that are not known are not looked at.
    pub async fn check_params(
        &self,
        params: Option<&RawValue>,
        given: &ParamHeaders,
        deadline: Deadline,
    ) -> Result<(), String> {
        match &self.target {
            Target::Live { slot, .. } => slot.check_params(params, given, deadline).await,
            Target::Placed(placed) => {
                let tools = placed.list(ListKind::Tools, deadline).await;
                // If they cannot be read, the server will say what is wrong.
                tools.map_or(Ok(()), |tools| http::check_call(&tools, params, given))
            }
            Target::Builtin(_) => Ok(()),
        }
    }

    /// Sends a notification.
    ///
    /// # Errors
    /// [`UpstreamError`] if it could not be handed over.
    pub async fn notify(
        &self,
        method: &str,
        params: Option<Box<RawValue>>,
        deadline: Deadline,
    ) -> Result<(), UpstreamError> {
        match &self.target {
            Target::Live { slot, .. } => slot.notify(method, params.as_deref(), deadline).await,
            Target::Placed(placed) => placed.notify(method, params.as_deref(), deadline).await,
            Target::Builtin(_) => Ok(()),
        }
    }

    /// What the server lists of this kind, exactly as it wrote it; kept until it announces a change.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn list(
        &self,
        kind: ListKind,
        deadline: Deadline,
    ) -> Result<Arc<Vec<Descriptor>>, UpstreamError> {
        match &self.target {
            Target::Live { slot, .. } => slot.list(kind, deadline).await,
            Target::Placed(placed) => placed.list(kind, deadline).await,
            Target::Builtin(builtin) if kind == ListKind::Tools => Ok(builtin.server.tools()),
            Target::Builtin(_) => Ok(Arc::default()),
        }
    }

    /// The server's tools.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn tools(&self, deadline: Deadline) -> Result<Arc<Vec<ToolDescriptor>>, UpstreamError> {
        self.list(ListKind::Tools, deadline).await
    }

    /// The server's resources.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn resources(&self, deadline: Deadline) -> Result<Arc<Vec<ResourceDescriptor>>, UpstreamError> {
        self.list(ListKind::Resources, deadline).await
    }

    /// The server's resource templates.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn resource_templates(
        &self,
        deadline: Deadline,
    ) -> Result<Arc<Vec<ResourceTemplateDescriptor>>, UpstreamError> {
        self.list(ListKind::ResourceTemplates, deadline).await
    }

    /// The server's prompts.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn prompts(&self, deadline: Deadline) -> Result<Arc<Vec<PromptDescriptor>>, UpstreamError> {
        self.list(ListKind::Prompts, deadline).await
    }
}
