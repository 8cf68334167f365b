//! What all handles and actors of this family share: the slots of servers, here and elsewhere.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::broadcast;
use troupe_protocol::mcp::Profile;
use troupe_protocol::server::ServerName;
use troupe_protocol::upstream::UpstreamInfo;

use super::builtin::Builtin;
use super::endpoint::UpstreamSettings;
use super::error::UpstreamError;
use super::messages::{StarterMessage, UpstreamEvent};
use super::oauth::{Bearers, Logins};
use super::placed::{self, Elsewhere, Remote};
use super::slot::Slot;
use super::sources::{SecretSource, ServerSource};
use super::watch::Watches;
use crate::cluster::ClusterHandle;
use crate::cluster::bulletin::Bulletin;
use crate::runtime::{AskError, Deadline, Mailbox, SupervisorHandle, System};

/// Connections by server and by what its clients can do.
pub(super) type Lanes = HashMap<(ServerName, Profile), Arc<Slot>>;

/// What all handles and actors of this family share.
pub(super) struct Shared {
    pub system: System,
    pub settings: Arc<UpstreamSettings>,
    pub servers: Arc<dyn ServerSource>,
    pub secrets: Arc<dyn SecretSource>,
    pub logins: Logins,
    pub bearers: Arc<Bearers>,
    pub supervisor: SupervisorHandle,
    pub events: broadcast::Sender<UpstreamEvent>,
    pub slots: ArcSwap<HashMap<ServerName, Arc<Slot>>>,
    /// Further connections to legacy servers, or processes of theirs, for clients that can do something for them. Whoever
    /// can do nothing shares the slot; a lane is there only beside it.
    pub lanes: ArcSwap<Lanes>,
    /// The servers on other nodes with which this one has to do.
    pub remotes: ArcSwap<HashMap<ServerName, Arc<Remote>>>,
    /// What other nodes told of servers that they run.
    pub elsewhere: Elsewhere,
    /// What this node tells of servers that it runs.
    pub news: Arc<Bulletin>,
    pub cluster: ClusterHandle,
    /// What is wanted to be heard of.
    pub watches: Arc<Watches>,
    pub builtins: ArcSwap<HashMap<ServerName, Arc<Builtin>>>,
    pub starter: Mailbox<StarterMessage>,
}

impl Shared {
    pub fn slot(&self, name: &ServerName) -> Option<Arc<Slot>> {
        self.slots.load().get(name).cloned()
    }

    pub fn change_slots(&self, change: impl Fn(&mut HashMap<ServerName, Arc<Slot>>)) {
        self.slots.rcu(|slots| {
            let mut slots = HashMap::clone(slots);
            change(&mut slots);
            slots
        });
    }

    /// The connection for clients that can do this much.
    pub fn lane(&self, name: &ServerName, profile: Profile) -> Option<Arc<Slot>> {
        if profile.is_none() {
            return self.slot(name);
        }
        self.lanes.load().get(&(name.clone(), profile)).cloned()
    }

    pub fn change_lanes(&self, change: impl Fn(&mut Lanes)) {
        self.lanes.rcu(|lanes| {
            let mut lanes = HashMap::clone(lanes);
            change(&mut lanes);
            lanes
        });
    }

    /// Whether there is one connection to this server in the whole cluster.
    pub fn is_placed(&self, name: &ServerName) -> bool {
        if let Some(slot) = self.slot(name) {
            return slot.is_placed();
        }
        let registered = self.servers.find(name).and_then(|server| server.transport);
        registered.is_some_and(|transport| placed::is_placed(&transport))
    }

    /// The slot of a server that this node connects to, made if need be.
    pub async fn ensure(&self, name: &ServerName, deadline: Deadline) -> Result<Arc<Slot>, UpstreamError> {
        self.ensure_lane(name, Profile::NONE, deadline).await
    }

    /// The slot, or the lane of clients that can do this much, as long as it is not given away; made if need be.
    pub async fn slot_for(
        &self,
        name: &ServerName,
        profile: Profile,
        deadline: Deadline,
    ) -> Result<Arc<Slot>, UpstreamError> {
        if let Some(slot) = self.lane(name, profile).filter(|slot| !slot.is_moving()) {
            return Ok(slot);
        }
        match self.ensure_lane(name, profile, deadline).await {
            // Better a server that asks nothing than none.
            Err(UpstreamError::Overloaded { .. }) if !profile.is_none() => {
                self.ensure_lane(name, Profile::NONE, deadline).await
            }
            ensured => ensured,
        }
    }

    /// All slots and lanes.
    pub fn all_slots(&self) -> Vec<Arc<Slot>> {
        let (slots, lanes) = (self.slots.load(), self.lanes.load());
        slots.values().chain(lanes.values()).cloned().collect()
    }

    /// The same for clients that can do this much.
    pub async fn ensure_lane(
        &self,
        name: &ServerName,
        profile: Profile,
        deadline: Deadline,
    ) -> Result<Arc<Slot>, UpstreamError> {
        let asked = self.starter.ask(
            |reply| StarterMessage::Ensure(name.clone(), profile, reply),
            deadline,
        );
        asked.await.unwrap_or_else(|error| {
            let server = name.clone();
            Err(match error {
                AskError::Overloaded { .. } => UpstreamError::Overloaded {
                    server,
                    reason: error.to_string(),
                },
                AskError::Stopped { .. } => UpstreamError::Stopped(server),
                AskError::DeadlineExceeded { .. } | AskError::NoReply { .. } => UpstreamError::Unreachable {
                    server,
                    reason: error.to_string(),
                },
            })
        })
    }

    /// The way to a server on another node.
    pub fn remote(&self, name: &ServerName) -> Arc<Remote> {
        if let Some(remote) = self.remotes.load().get(name) {
            return Arc::clone(remote);
        }
        let remote = Arc::new(Remote::new(
            name.clone(),
            self.cluster.clone(),
            self.settings.calls_in_flight_max,
            self.settings.message_bytes_max,
        ));
        self.remotes.rcu(|remotes| {
            let mut remotes = HashMap::clone(remotes);
            // Another caller may have been faster.
            remotes.entry(name.clone()).or_insert_with(|| Arc::clone(&remote));
            remotes
        });
        self.remotes.load().get(name).map_or(remote, Arc::clone)
    }

    /// Forgets the way to a server that no other node runs.
    pub fn forget_remote(&self, name: &ServerName) {
        self.elsewhere.forget(name);
        if self.remotes.load().contains_key(name) {
            self.remotes.rcu(|remotes| {
                let mut remotes = HashMap::clone(remotes);
                remotes.remove(name);
                remotes
            });
        }
    }

    /// Forgets what was kept of a server's lists and is no longer so, since another node told.
    pub fn forget_lists(&self, event: &UpstreamEvent) {
        let remotes = self.remotes.load();
        match event {
            UpstreamEvent::Up { server, .. } | UpstreamEvent::Down { server, .. } => {
                remotes.get(server).inspect(|remote| remote.lists.forget_all());
            }
            UpstreamEvent::ListChanged { server, kind } => {
                remotes.get(server).inspect(|remote| remote.lists.forget(*kind));
            }
            UpstreamEvent::ResourceUpdated { .. } => {}
        }
    }

    /// What a server last said of itself, here or on another node.
    pub fn info_of(&self, name: &ServerName) -> Option<Arc<UpstreamInfo>> {
        let own = self.slot(name).and_then(|slot| slot.info.load_full());
        own.or_else(|| self.elsewhere.info(name))
    }
}
