//! The actor that starts and stops the actors of servers: on demand, and as the registry changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use troupe_protocol::error::Code;
use troupe_protocol::mcp::Profile;
use troupe_protocol::server::{ServerName, Transport};

use crate::cluster::{Nowhere, Whereabouts};
use crate::runtime::{Actor, ActorError, ChildSpec, Context, Deadline, Mailbox, StartChildError};

use super::UpstreamActor;
use super::error::UpstreamError;
use super::messages::{StarterMessage, UpstreamEvent, UpstreamMessage};
use super::placed;
use super::shared::Shared;
use super::slot::Slot;
use super::sources::{RegisteredServer, ServerChange};
use super::watch;

/// How long the supervisor may take to start or stop a child.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(20);
/// How long the actor of a server may take to end its process.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How soon it is looked again whether a server that comes to this node may be started.
const TAKE_OVER_AGAIN_AFTER: Duration = Duration::from_millis(50);
/// After so long without a call a connection for a few clients is ended.
const LANE_IDLE_MAX: Duration = Duration::from_secs(600);
/// How often it is looked which are.
const LANES_SWEEP_EVERY: Duration = Duration::from_secs(60);
/// The most such connections to one server at this node. Each may be a process.
const LANES_OF_SERVER_MAX: usize = 6;
/// Messages that wait for the actor of one server.
const MESSAGES_MAX: u32 = 256;

/// Starts and stops the actors of servers.
pub(super) struct Starter {
    shared: Arc<Shared>,
}

impl Starter {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn registered(&self, name: &ServerName) -> Result<Transport, UpstreamError> {
        match self.shared.servers.find(name) {
            None => Err(UpstreamError::NotFound(name.clone())),
            Some(RegisteredServer { enabled: false, .. }) => Err(UpstreamError::Disabled(name.clone())),
            Some(RegisteredServer { transport: None, .. }) => Err(UpstreamError::NoTransport(name.clone())),
            Some(RegisteredServer {
                transport: Some(transport),
                ..
            }) => Ok(transport),
        }
    }

    /// Whether this node may run a server that is reached this way; who else does is an error.
    fn check_owner(&self, name: &ServerName, transport: &Transport) -> Result<(), UpstreamError> {
        let whereabouts = self.shared.cluster.whereabouts(&placed::address_of(name));
        if !placed::is_placed(transport) || matches!(whereabouts, Whereabouts::Here(_)) {
            return Ok(());
        }
        Err(UpstreamError::NoOwner {
            server: name.clone(),
            reason: "it is not, or not yet, this node's to run".to_owned(),
            code: Code::PlacedElsewhere,
        })
    }

    /// Sees to it that there may be one more connection to a server for a few clients: the one that was not used for
    /// longest makes way.
    fn make_room(&self, name: &ServerName, ctx: &Context<Self>) -> Result<(), UpstreamError> {
        let lanes = self.lanes_of(name);
        if lanes.len() < LANES_OF_SERVER_MAX {
            return Ok(());
        }
        let idle = lanes.iter().filter(|lane| !lane.idle_for().is_zero());
        let Some(longest_idle) = idle.max_by_key(|lane| lane.idle_for()) else {
            return Err(UpstreamError::Overloaded {
                server: name.clone(),
                reason: format!("it has {LANES_OF_SERVER_MAX} connections for different kinds of clients"),
            });
        };
        self.stop_lane(longest_idle, ctx);
        Ok(())
    }

    async fn ensure(
        &self,
        name: ServerName,
        profile: Profile,
        ctx: &Context<Self>,
    ) -> Result<Arc<Slot>, UpstreamError> {
        if let Some(slot) = self.shared.lane(&name, profile) {
            return Ok(slot);
        }
        let transport = self.registered(&name)?;
        self.check_owner(&name, &transport)?;
        if !profile.is_none() {
            self.make_room(&name, ctx)?;
        }
        let shared = &self.shared;
        let path = if profile.is_none() {
            shared.supervisor.path().child(&name)
        } else {
            shared.supervisor.path().child(format_args!("{name}@{profile}"))
        };
        let mailbox = Mailbox::new(&shared.system, path, MESSAGES_MAX);
        let slot = Slot::new(shared, name.clone(), profile, mailbox.clone(), transport);
        let slot = Arc::new(slot);
        let of_actor = (
            Arc::clone(&slot),
            Arc::clone(&shared.secrets),
            Arc::clone(&shared.bearers),
            shared.events.clone(),
        );
        let child = ChildSpec::actor(mailbox, move || {
            let (slot, secrets, bearers, events) = of_actor.clone();
            UpstreamActor::new(slot, secrets, bearers, events)
        });
        let started = self.start(child.stop_within(STOP_WITHIN)).await;
        started.map_err(|error| UpstreamError::Unreachable {
            server: name.clone(),
            reason: error.to_string(),
        })?;
        if profile.is_none() {
            shared.change_slots(|slots| {
                slots.insert(name.clone(), Arc::clone(&slot));
            });
        } else {
            shared.change_lanes(|lanes| {
                lanes.insert((name.clone(), profile), Arc::clone(&slot));
            });
        }
        Ok(slot)
    }

    /// Starts an actor. One that is about to end, since its server moved away and is back, makes way first.
    async fn start(&self, child: ChildSpec) -> Result<(), StartChildError> {
        let (supervisor, deadline) = (&self.shared.supervisor, Deadline::within(SUPERVISOR_PATIENCE));
        let path = match supervisor.start_child(child.clone(), deadline).await {
            Err(StartChildError::AlreadyRunning(path)) => path,
            started => return started,
        };
        // Its end is what is wanted; if it does not end, the start says so.
        let _ = supervisor.stop_child(&path, deadline).await;
        supervisor.start_child(child, deadline).await
    }

    /// Goes on with servers that were in use on another node and are this one's now.
    async fn take_over(&self, ctx: &Context<Self>) {
        let mut is_any_moving = false;
        for name in self.shared.elsewhere.in_use() {
            if self.shared.slot(&name).is_some() || !self.shared.is_placed(&name) {
                continue;
            }
            match self.shared.cluster.whereabouts(&placed::address_of(&name)) {
                Whereabouts::Here(_) => match self.ensure(name.clone(), Profile::NONE, ctx).await {
                    Ok(slot) => {
                        self.shared.elsewhere.forget(&name);
                        slot.demand();
                    }
                    Err(error) => tracing::warn!(server = %name, %error, "not taken over"),
                },
                Whereabouts::Nowhere(Nowhere::Moving) => is_any_moving = true,
                Whereabouts::At(..) | Whereabouts::Nowhere(_) => {}
            }
        }
        if is_any_moving {
            ctx.send_after(TAKE_OVER_AGAIN_AFTER, StarterMessage::TakeOver);
        }
    }

    /// Brings the actor of a server in line with its entry.
    async fn follow(&self, name: &ServerName) {
        if !self.shared.is_placed(name) {
            self.shared.forget_remote(name);
        }
        let Some(slot) = self.shared.slot(name) else {
            return;
        };
        let registered = self.registered(name);
        match registered.and_then(|transport| self.check_owner(name, &transport).map(|()| transport)) {
            Ok(transport) => {
                for slot in std::iter::once(slot).chain(self.lanes_of(name)) {
                    if *slot.transport.lock() != transport {
                        // A refusal is on record as a dead letter; the next change or start reads the entry again.
                        let _ = slot
                            .mailbox
                            .tell(UpstreamMessage::Reconfigured(transport.clone()));
                    }
                }
            }
            Err(why) => {
                self.shared.change_slots(|slots| {
                    slots.remove(name);
                });
                let lanes = self.lanes_of(name);
                self.shared.change_lanes(|kept| {
                    kept.retain(|(of, _), _| of != name);
                });
                // All at once: whoever gives the server away waits for their ends.
                let all = lanes.iter().chain(std::iter::once(&slot));
                join_all(all.map(|slot| stop(&self.shared, slot))).await;
                let _ = self.shared.events.send(UpstreamEvent::Down {
                    server: name.clone(),
                    reason: why.to_string(),
                });
            }
        }
    }

    /// The further connections to a server.
    fn lanes_of(&self, name: &ServerName) -> Vec<Arc<Slot>> {
        let lanes = self.shared.lanes.load();
        let of_server = lanes.values().filter(|lane| lane.name == *name);
        of_server.cloned().collect()
    }

    /// Ends the further connections that nobody has used for a while.
    fn sweep_lanes(&self, ctx: &Context<Self>) {
        let lanes = self.shared.lanes.load_full();
        for lane in lanes.values().filter(|lane| lane.idle_for() > LANE_IDLE_MAX) {
            self.stop_lane(lane, ctx);
        }
    }

    /// Ends a further connection, which nobody waits for: its process may take its time.
    fn stop_lane(&self, lane: &Arc<Slot>, ctx: &Context<Self>) {
        self.shared.change_lanes(|lanes| {
            lanes.remove(&(lane.name.clone(), lane.profile));
        });
        let (shared, lane) = (Arc::clone(&self.shared), Arc::clone(lane));
        ctx.spawn("end a connection for a few clients", async move {
            stop(&shared, &lane).await;
        });
    }

    async fn follow_all(&self) {
        let names: BTreeSet<ServerName> = {
            let (slots, remotes) = (self.shared.slots.load(), self.shared.remotes.load());
            slots.keys().chain(remotes.keys()).cloned().collect()
        };
        for name in names {
            self.follow(&name).await;
        }
    }
}

async fn stop(shared: &Shared, slot: &Slot) {
    let stopped = shared
        .supervisor
        .stop_child(slot.mailbox.path(), Deadline::within(SUPERVISOR_PATIENCE));
    if let Err(error) = stopped.await {
        tracing::warn!(server = %slot.name, %error, "the server's actor did not stop in time");
    }
}

impl Actor for Starter {
    type Message = StarterMessage;
    const KIND: &'static str = "starter";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let mut changes = self.shared.servers.changes();
        let mailbox = ctx.mailbox().clone();
        ctx.spawn("follow the registry", async move {
            while let Some(change) = changes.next().await {
                // A full mailbox means that all servers will be looked at anyway.
                let _ = mailbox.tell(match change {
                    ServerChange::One(name) => StarterMessage::ServerChanged(name),
                    ServerChange::Any => StarterMessage::ServersChanged,
                });
            }
        });
        let shared = Arc::clone(&self.shared);
        ctx.spawn("listen to other nodes", async move {
            placed::read_others(&shared).await
        });
        let shared = Arc::clone(&self.shared);
        ctx.spawn("keep subscriptions", watch::keep_watches(shared));
        self.follow_all().await;
        ctx.send_after(LANES_SWEEP_EVERY, StarterMessage::SweepLanes);
        Ok(())
    }

    async fn handle(&mut self, message: StarterMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            StarterMessage::Ensure(name, profile, reply) => {
                reply.send(self.ensure(name, profile, ctx).await);
            }
            StarterMessage::SweepLanes => {
                self.sweep_lanes(ctx);
                ctx.send_after(LANES_SWEEP_EVERY, StarterMessage::SweepLanes);
            }
            StarterMessage::ServerChanged(name) => self.follow(&name).await,
            StarterMessage::ServersChanged => self.follow_all().await,
            StarterMessage::TakeOver => self.take_over(ctx).await,
            StarterMessage::Settled(reply) => reply.send(()),
        }
        Ok(())
    }

    fn snapshot(&self) -> serde_json::Value {
        let slots = self.shared.slots.load();
        let states: HashMap<&str, _> = slots
            .iter()
            .map(|(name, slot)| (name.as_str(), slot.state_for_people()))
            .collect();
        serde_json::json!({ "servers": states })
    }
}
