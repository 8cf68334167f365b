//! What the registry is told, and the handle with which others read and change it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::broadcast;
use troupe_protocol::access::Principal;
use troupe_protocol::error::Coded;
use troupe_protocol::server::{
    ImportReport, ImportSource, NewServer, ServerEntry, ServerJson, ServerName, ServerPatch,
};

use super::error::RegistryError;
use super::view::RegistryView;
use crate::runtime::{AskError, Deadline, Mailbox, Message, Reply};
use crate::store::Store;

/// How many changes wait in the mailbox at most.
pub(super) const MAILBOX_MESSAGES_MAX: u32 = 256;
/// How many events a slow subscriber may be behind before it has to read the view again.
const EVENTS_MAX: usize = 1_024;
/// How long one change may take, waiting included.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);
/// How long an import may take, waiting included.
const IMPORT_WITHIN: Duration = Duration::from_secs(60);

/// Something has changed. What it is now is read from the view; who missed events reads the view as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegistryEvent {
    /// A server is new.
    Registered {
        /// Its name.
        name: ServerName,
    },
    /// A server has changed: its manifest, or how it is operated.
    Updated {
        /// Its name.
        name: ServerName,
    },
    /// A server is gone.
    Removed {
        /// Its name.
        name: ServerName,
    },
    /// Many servers are new or changed at once: they were imported, or read when the registry started.
    Imported {
        /// How many.
        count: u32,
    },
}

type Answer<T> = Reply<Result<T, RegistryError>>;

/// What the registry is told.
#[derive(Debug, strum::IntoStaticStr)]
pub enum RegistryMessage {
    /// Register a server.
    Register {
        /// The server.
        new: Box<NewServer>,
        /// Who registers it.
        owner: String,
        /// Where the entry goes.
        reply: Answer<Arc<ServerEntry>>,
    },
    /// Change a server.
    Update {
        /// Which.
        name: ServerName,
        /// The change.
        patch: Box<ServerPatch>,
        /// Where the entry goes.
        reply: Answer<Arc<ServerEntry>>,
    },
    /// Publish a version of a server.
    Publish {
        /// Which.
        name: ServerName,
        /// The version.
        manifest: Box<ServerJson>,
        /// Where the entry goes.
        reply: Answer<Arc<ServerEntry>>,
    },
    /// Remove a server and its own secrets.
    Remove {
        /// Which.
        name: ServerName,
        /// Where the answer goes.
        reply: Answer<()>,
    },
    /// Take what has changed at other nodes.
    CatchUp,
    /// As `CatchUp`, and say when it is done.
    Refresh {
        /// Where the answer goes.
        reply: Answer<()>,
    },
    /// Import servers.
    Import {
        /// The servers.
        source: ImportSource,
        /// Who imports them.
        owner: String,
        /// Where the report goes.
        reply: Answer<ImportReport>,
    },
}

impl Message for RegistryMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// Reads and changes the registry. Cheap to clone.
///
/// Reading takes no message: [`RegistryHandle::view`] is what the actor last published. A change is durable
/// when its method returns, and this node's view shows it.
#[derive(Clone)]
pub struct RegistryHandle {
    mailbox: Mailbox<RegistryMessage>,
    shared: Arc<Shared>,
    store: Store,
}

/// What the actor publishes.
#[derive(Debug)]
pub(super) struct Shared {
    pub view: ArcSwap<RegistryView>,
    pub events: broadcast::Sender<RegistryEvent>,
}

impl fmt::Debug for RegistryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryHandle").finish_non_exhaustive()
    }
}

impl RegistryHandle {
    pub(super) fn new(mailbox: Mailbox<RegistryMessage>, store: Store) -> (Self, Arc<Shared>) {
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let shared = Arc::new(Shared {
            view: ArcSwap::from_pointee(RegistryView::default()),
            events,
        });
        (
            Self {
                mailbox,
                shared: Arc::clone(&shared),
                store,
            },
            shared,
        )
    }

    /// What is registered now.
    pub fn view(&self) -> Arc<RegistryView> {
        self.shared.view.load_full()
    }

    /// What is registered, with everything that was acknowledged at any node before this was called.
    ///
    /// # Errors
    /// When no majority of the cluster can be reached.
    pub async fn linearized_view(&self, deadline: Deadline) -> Result<Arc<RegistryView>, RegistryError> {
        let linearized = self.store.linearize(deadline).await;
        linearized.map_err(|error| RegistryError::store(&error))?;
        self.ask(|reply| RegistryMessage::Refresh { reply }, CHANGE_WITHIN)
            .await?;
        Ok(self.view())
    }

    /// Hears of every change from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<RegistryEvent> {
        self.shared.events.subscribe()
    }

    /// Registers a server; its secrets are sealed first.
    ///
    /// # Errors
    /// When the name is taken or no slug, a field is wrong, or the entry or its secrets cannot be stored.
    pub async fn register(&self, new: NewServer, by: &Principal) -> Result<Arc<ServerEntry>, RegistryError> {
        let (new, owner) = (Box::new(new), by.name.clone());
        self.ask(
            |reply| RegistryMessage::Register { new, owner, reply },
            CHANGE_WITHIN,
        )
        .await
    }

    /// Changes a server.
    ///
    /// # Errors
    /// When there is no such server, a field is wrong, or the change cannot be stored.
    pub async fn update(
        &self,
        name: &ServerName,
        patch: ServerPatch,
    ) -> Result<Arc<ServerEntry>, RegistryError> {
        let (name, patch) = (name.clone(), Box::new(patch));
        self.ask(
            |reply| RegistryMessage::Update { name, patch, reply },
            CHANGE_WITHIN,
        )
        .await
    }

    /// Publishes a version of a server's manifest. The same version with the same content is no change.
    ///
    /// # Errors
    /// When there is no such server, the manifest is wrong or of another server, or the version exists with other
    /// content.
    pub async fn publish(
        &self,
        name: &ServerName,
        manifest: ServerJson,
    ) -> Result<Arc<ServerEntry>, RegistryError> {
        let (name, manifest) = (name.clone(), Box::new(manifest));
        self.ask(
            |reply| RegistryMessage::Publish {
                name,
                manifest,
                reply,
            },
            CHANGE_WITHIN,
        )
        .await
    }

    /// Enables or disables a server.
    ///
    /// # Errors
    /// When there is no such server, or it has no transport and cannot be enabled.
    pub async fn set_enabled(
        &self,
        name: &ServerName,
        enabled: bool,
    ) -> Result<Arc<ServerEntry>, RegistryError> {
        self.update(
            name,
            ServerPatch {
                enabled: Some(enabled),
                ..ServerPatch::default()
            },
        )
        .await
    }

    /// Removes a server and the secrets that were sealed for it.
    ///
    /// # Errors
    /// When there is no such server, or the removal cannot be stored.
    pub async fn remove(&self, name: &ServerName) -> Result<(), RegistryError> {
        let name = name.clone();
        self.ask(|reply| RegistryMessage::Remove { name, reply }, CHANGE_WITHIN)
            .await
    }

    /// Imports servers: as many as can be; the report names the others.
    ///
    /// # Errors
    /// When the content cannot be read at all, or nothing can be stored.
    pub async fn import(&self, source: ImportSource, by: &Principal) -> Result<ImportReport, RegistryError> {
        let owner = by.name.clone();
        self.ask(
            |reply| RegistryMessage::Import { source, owner, reply },
            IMPORT_WITHIN,
        )
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(Answer<T>) -> RegistryMessage,
        within: Duration,
    ) -> Result<T, RegistryError> {
        self.mailbox
            .ask(question, Deadline::within(within))
            .await
            .unwrap_or_else(|error| Err(error.into()))
    }
}

impl From<AskError> for RegistryError {
    fn from(error: AskError) -> Self {
        Self::Unavailable {
            code: error.code(),
            detail: error.to_string(),
        }
    }
}
