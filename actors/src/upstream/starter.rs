//! The actor that starts and stops the actors of servers: on demand, and as the registry changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use troupe_protocol::server::{ServerName, Transport};

use crate::runtime::{Actor, ActorError, ChildSpec, Context, Deadline, Mailbox};

use super::UpstreamActor;
use super::error::UpstreamError;
use super::handle::Shared;
use super::messages::{StarterMessage, UpstreamEvent, UpstreamMessage};
use super::slot::Slot;
use super::sources::{RegisteredServer, ServerChange};

/// How long the supervisor may take to start or stop a child.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(20);
/// How long the actor of a server may take to end its process.
const STOP_WITHIN: Duration = Duration::from_secs(10);
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

    async fn ensure(&self, name: ServerName) -> Result<Arc<Slot>, UpstreamError> {
        if let Some(slot) = self.shared.slot(&name) {
            return Ok(slot);
        }
        let transport = self.registered(&name)?;
        let shared = &self.shared;
        let path = shared.supervisor.path().child(&name);
        let mailbox = Mailbox::new(&shared.system, path, MESSAGES_MAX);
        let slot = Slot::new(
            name.clone(),
            shared.system.clone(),
            mailbox.clone(),
            shared.settings.clone(),
            transport,
        );
        let slot = Arc::new(slot);
        let of_actor = (
            Arc::clone(&slot),
            Arc::clone(&shared.secrets),
            shared.events.clone(),
        );
        let child = ChildSpec::actor(mailbox, move || {
            let (slot, secrets, events) = of_actor.clone();
            UpstreamActor::new(slot, secrets, events)
        });
        let started = shared.supervisor.start_child(
            child.stop_within(STOP_WITHIN),
            Deadline::within(SUPERVISOR_PATIENCE),
        );
        started.await.map_err(|error| UpstreamError::Unreachable {
            server: name.clone(),
            reason: error.to_string(),
        })?;
        shared.change_slots(|slots| {
            slots.insert(name.clone(), Arc::clone(&slot));
        });
        Ok(slot)
    }

    /// Brings the actor of a server in line with its entry.
    async fn follow(&self, name: &ServerName) {
        let Some(slot) = self.shared.slot(name) else {
            return;
        };
        match self.registered(name) {
            Ok(transport) => {
                if *slot.transport.lock() != transport {
                    // A refusal is on record as a dead letter; the next change or start reads the entry again.
                    let _ = slot.mailbox.tell(UpstreamMessage::Reconfigured(transport));
                }
            }
            Err(why) => {
                self.shared.change_slots(|slots| {
                    slots.remove(name);
                });
                let stopped = self
                    .shared
                    .supervisor
                    .stop_child(slot.mailbox.path(), Deadline::within(SUPERVISOR_PATIENCE));
                if let Err(error) = stopped.await {
                    tracing::warn!(server = %name, %error, "the server's actor did not stop in time");
                }
                let _ = self.shared.events.send(UpstreamEvent::Down {
                    server: name.clone(),
                    reason: why.to_string(),
                });
            }
        }
    }

    async fn follow_all(&self) {
        let names: Vec<ServerName> = self.shared.slots.load().keys().cloned().collect();
        for name in names {
            self.follow(&name).await;
        }
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
        self.follow_all().await;
        Ok(())
    }

    async fn handle(&mut self, message: StarterMessage, _: &Context<Self>) -> Result<(), ActorError> {
        match message {
            StarterMessage::Ensure(name, reply) => reply.send(self.ensure(name).await),
            StarterMessage::ServerChanged(name) => self.follow(&name).await,
            StarterMessage::ServersChanged => self.follow_all().await,
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
