//! What the keeper of virtual servers is told, and the handle with which others read and change them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use troupe_protocol::access::Principal;
use troupe_protocol::server::ServerName;
use troupe_protocol::time::Timestamp;
use troupe_protocol::virtual_server::{VirtualDefinition, VirtualItem, VirtualKind, VirtualSummary};

use super::{VirtualServerError, view};
use crate::runtime::{Deadline, Mailbox, Message, Reply};
use crate::store::WriteError;

/// How long a change may take; a durable write, with room for a slow disk.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How many changes a slow subscriber may be behind before it has to look at everything again.
const CHANGES_MAX: usize = 256;

/// A virtual server as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VirtualServer {
    /// Its name.
    pub name: ServerName,
    /// What it is.
    pub definition: VirtualDefinition,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// By whom.
    pub updated_by: String,
}

impl VirtualServer {
    /// What it offers of a kind under this name.
    pub fn find(&self, kind: VirtualKind, name: &str) -> Option<&VirtualItem> {
        let mut items = self.definition.items.iter();
        items.find(|item| item.kind == kind && item.exposed_name() == name)
    }

    /// What it offers at this address: a resource that was chosen, or one of a template that was.
    pub fn find_resource(&self, uri: &str) -> Option<&VirtualItem> {
        self.find(VirtualKind::Resource, uri).or_else(|| {
            let mut items = self.definition.items.iter();
            items.find(|item| {
                item.kind == VirtualKind::ResourceTemplate && view::is_made_from(&item.name, uri)
            })
        })
    }

    /// What this server's resource is called here; nothing if it was not chosen.
    pub fn exposed_uri(&self, server: &ServerName, uri: &str) -> Option<String> {
        let mut items = self.definition.items.iter().filter(|item| item.server == *server);
        let chosen = |item: &&VirtualItem| item.kind == VirtualKind::Resource && item.name == uri;
        if let Some(item) = items.clone().find(chosen) {
            return Some(item.exposed_name().to_owned());
        }
        let makes_it = |item: &VirtualItem| {
            item.kind == VirtualKind::ResourceTemplate && view::is_made_from(&item.name, uri)
        };
        items.any(makes_it).then(|| uri.to_owned())
    }

    /// The servers behind it, each once, by name.
    pub fn servers(&self) -> Vec<ServerName> {
        let items = self.definition.items.iter();
        let mut servers: Vec<ServerName> = items.map(|item| item.server.clone()).collect();
        servers.sort();
        servers.dedup();
        servers
    }

    /// Whether anything of it is this server's.
    pub fn has_part_of(&self, server: &ServerName) -> bool {
        self.definition.items.iter().any(|item| item.server == *server)
    }

    /// It as lists show it.
    pub fn summary(&self) -> VirtualSummary {
        let count = |is_counted: fn(VirtualKind) -> bool| {
            let items = self.definition.items.iter();
            u32::try_from(items.filter(|item| is_counted(item.kind)).count()).unwrap_or(u32::MAX)
        };
        VirtualSummary {
            name: self.name.clone(),
            title: self.definition.title.clone(),
            description: self.definition.description.clone(),
            path: format!("/mcp/virtual/{}", self.name),
            tools_count: count(|kind| kind == VirtualKind::Tool),
            resources_count: count(|kind| {
                matches!(kind, VirtualKind::Resource | VirtualKind::ResourceTemplate)
            }),
            prompts_count: count(|kind| kind == VirtualKind::Prompt),
            servers: self.servers(),
            updated_at: self.updated_at,
        }
    }
}

/// All virtual servers at one moment, by name.
pub type VirtualServers = BTreeMap<ServerName, Arc<VirtualServer>>;

/// What the keeper of virtual servers is told.
#[derive(strum::IntoStaticStr)]
pub enum VirtualServersMessage {
    /// Keep one, in place of one of the same name.
    Put {
        /// It.
        server: Box<VirtualServer>,
        /// The answer.
        reply: Reply<Result<Arc<VirtualServer>, VirtualServerError>>,
    },
    /// One was written, or not.
    Kept {
        /// Which.
        name: ServerName,
        /// How it went.
        written: Result<(), WriteError>,
        /// The answer to who put it.
        reply: Reply<Result<Arc<VirtualServer>, VirtualServerError>>,
    },
    /// Forget one.
    Remove {
        /// Which.
        name: ServerName,
        /// Whether this node has seen all that was acknowledged before.
        is_up_to_date: bool,
        /// The answer.
        reply: Reply<Result<(), VirtualServerError>>,
    },
    /// A removal was written, or not.
    Removed {
        /// How it went.
        written: Result<(), WriteError>,
        /// The answer to who removed it.
        reply: Reply<Result<(), VirtualServerError>>,
    },
    /// Take what has changed at other nodes.
    CatchUp,
}

impl Message for VirtualServersMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// Reads and changes virtual servers. Cheap to clone. Reading asks nobody.
#[derive(Clone)]
pub struct VirtualServersHandle {
    mailbox: Mailbox<VirtualServersMessage>,
    shared: Arc<Shared>,
}

/// What the actor publishes.
pub(super) struct Shared {
    pub view: ArcSwap<VirtualServers>,
    pub changes: broadcast::Sender<ServerName>,
}

impl fmt::Debug for VirtualServersHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualServersHandle").finish_non_exhaustive()
    }
}

impl VirtualServersHandle {
    pub(super) fn new(mailbox: Mailbox<VirtualServersMessage>) -> (Self, Arc<Shared>) {
        let shared = Arc::new(Shared {
            view: ArcSwap::default(),
            changes: broadcast::Sender::new(CHANGES_MAX),
        });
        let handle = Self {
            mailbox,
            shared: Arc::clone(&shared),
        };
        (handle, shared)
    }

    /// All of them.
    pub fn view(&self) -> Arc<VirtualServers> {
        self.shared.view.load_full()
    }

    /// The one of this name.
    pub fn get(&self, name: &str) -> Option<Arc<VirtualServer>> {
        self.shared.view.load().get(name).map(Arc::clone)
    }

    /// Hears the name of each that is put or removed from now on. Who reads too slowly should look again at all.
    pub fn subscribe(&self) -> broadcast::Receiver<ServerName> {
        self.shared.changes.subscribe()
    }

    /// Keeps a virtual server, in place of one of the same name. It is durable when this returns.
    ///
    /// # Errors
    /// When the definition says something that is not allowed, there are too many, or the write is not taken.
    pub async fn put(
        &self,
        name: ServerName,
        definition: VirtualDefinition,
        by: &Principal,
    ) -> Result<Arc<VirtualServer>, VirtualServerError> {
        super::check(&name, &definition)?;
        let server = Box::new(VirtualServer {
            definition: VirtualDefinition {
                name: Some(name.clone()),
                ..definition
            },
            name,
            updated_at: jiff::Timestamp::now().into(),
            updated_by: by.name.clone(),
        });
        self.mailbox
            .ask(
                |reply| VirtualServersMessage::Put { server, reply },
                Deadline::within(WRITE_WITHIN),
            )
            .await?
    }

    /// Forgets a virtual server.
    ///
    /// # Errors
    /// When there is none of this name, or the write is not taken.
    pub async fn remove(&self, name: &ServerName) -> Result<(), VirtualServerError> {
        let name = name.clone();
        self.mailbox
            .ask(
                |reply| VirtualServersMessage::Remove {
                    name,
                    is_up_to_date: false,
                    reply,
                },
                Deadline::within(WRITE_WITHIN),
            )
            .await?
    }
}
