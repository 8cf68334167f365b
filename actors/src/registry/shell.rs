//! The registry's actor: performs what [`super::state`] decides.

use std::sync::Arc;

use secrecy::SecretString;
use serde_json::json;
use troupe_protocol::access::SecretName;
use troupe_protocol::error::Coded;
use troupe_protocol::server::{
    ClearText, ImportReport, ImportSource, NewServer, Operation, ServerEntry, ServerName, ServerPatch,
    Transport,
};
use troupe_protocol::time::Timestamp;

use super::draft::{self, Draft, DraftTransport};
use super::error::RegistryError;
use super::import;
use super::messages::{MAILBOX_MESSAGES_MAX, RegistryEvent, RegistryHandle, RegistryMessage, Shared};
use super::record::{Assembly, StoredRecord};
use super::seal;
use super::secrets::SecretSealer;
use super::state::{Change, Registration, RegistryState};
use super::view::RegistryView;
use crate::runtime::{Actor, ActorError, ActorPath, ChildSpec, Context, Mailbox, System};
use crate::store::{self, Store, StoreError, TypedTree};

const TREE: &str = "registry";
const SCHEMA_VERSION: u16 = 1;

/// The registry at `node/registry`: how to start it, and its handle.
///
/// # Errors
/// When its tree cannot be opened.
pub fn child(
    system: &System,
    store: &Store,
    sealer: Arc<dyn SecretSealer>,
) -> Result<(ChildSpec, RegistryHandle), StoreError> {
    let tree: TypedTree<StoredRecord> = store.tree(TREE, SCHEMA_VERSION)?;
    let mailbox = Mailbox::new(system, ActorPath::new("node/registry"), MAILBOX_MESSAGES_MAX);
    let (handle, shared) = RegistryHandle::new(mailbox.clone());
    let spec = ChildSpec::actor(mailbox, move || RegistryActor {
        state: RegistryState::default(),
        tree: tree.clone(),
        sealer: Arc::clone(&sealer),
        shared: Arc::clone(&shared),
    });
    Ok((spec, handle))
}

/// The one writer of the registry.
pub struct RegistryActor {
    state: RegistryState,
    tree: TypedTree<StoredRecord>,
    sealer: Arc<dyn SecretSealer>,
    shared: Arc<Shared>,
}

impl Actor for RegistryActor {
    type Message = RegistryMessage;
    const KIND: &'static str = "registry";

    async fn started(&mut self, _: &Context<Self>) -> Result<(), ActorError> {
        let tree = self.tree.clone();
        let load = move || -> Result<RegistryState, StoreError> {
            let mut assembly = Assembly::default();
            for record in tree.scan_prefix("") {
                let (key, record) = record?;
                assembly.take(&key, record);
            }
            Ok(RegistryState::from_records(assembly))
        };
        self.state = tokio::task::spawn_blocking(load).await??;
        // Those who looked at the view before it was filled look again.
        let count = u32::try_from(self.state.servers().len()).unwrap_or(u32::MAX);
        self.publish((count > 0).then_some(RegistryEvent::Imported { count }));
        Ok(())
    }

    async fn handle(&mut self, message: RegistryMessage, _: &Context<Self>) -> Result<(), ActorError> {
        match message {
            RegistryMessage::Register { new, owner, reply } => reply.send(self.register(*new, owner).await),
            RegistryMessage::Update { name, patch, reply } => reply.send(self.update(&name, *patch).await),
            RegistryMessage::Publish {
                name,
                manifest,
                reply,
            } => {
                let patch = ServerPatch {
                    manifest: Some(manifest),
                    ..ServerPatch::default()
                };
                reply.send(self.update(&name, patch).await);
            }
            RegistryMessage::Remove { name, reply } => reply.send(self.remove(&name).await),
            RegistryMessage::Import { source, owner, reply } => reply.send(self.import(source, &owner).await),
        }
        Ok(())
    }

    fn snapshot(&self) -> serde_json::Value {
        let servers = self.state.servers();
        let enabled = servers.values().filter(|record| record.operation.enabled).count();
        let versions: usize = servers.values().map(|record| record.versions.len()).sum();
        json!({
            "servers": servers.len(),
            "enabled": enabled,
            "versions": versions,
            "removed_remembered": self.state.deleted().len(),
            "subscribers": self.shared.events.receiver_count(),
        })
    }
}

impl RegistryActor {
    async fn register(&mut self, new: NewServer, owner: String) -> Result<Arc<ServerEntry>, RegistryError> {
        let draft = Draft::from_new(new)?;
        let name = draft.name.clone();
        let (transport, secrets) = split(&name, draft.transport, None)?;
        let operation = Operation {
            enabled: draft.enabled,
            transport,
            labels: draft.labels,
            owner,
            call_timeout_ms: draft.call_timeout_ms,
        };
        let registration = Registration {
            name: name.clone(),
            manifest: draft.manifest,
            operation,
        };
        let change = self.state.register(registration, now())?;
        self.carry_out(change, secrets).await?;
        self.entry(&name)
    }

    async fn update(
        &mut self,
        name: &ServerName,
        patch: ServerPatch,
    ) -> Result<Arc<ServerEntry>, RegistryError> {
        let record = self.state.get(name)?;
        let draft = draft::patched_transport(record.operation.transport.as_ref(), &patch)?;
        let (transport, secrets) = split(name, draft, Some(record.revision + 1))?;
        let change = self.state.update(name, &patch, transport, now())?;
        self.carry_out(change, secrets).await?;
        self.entry(name)
    }

    async fn remove(&mut self, name: &ServerName) -> Result<(), RegistryError> {
        let change = self.state.remove(name, now())?;
        self.carry_out(change, Vec::new()).await
    }

    async fn import(&mut self, source: ImportSource, owner: &str) -> Result<ImportReport, RegistryError> {
        // Thousands of entries are read: not on a thread that others wait for.
        let read = tokio::task::spawn_blocking(move || import::read(&source)).await;
        let read = read.map_err(|error| RegistryError::import(format!("reading failed: {error}")))??;
        let plan = import::plan(&self.state, read, owner, now());
        self.carry_out(plan.change, plan.secrets).await?;
        Ok(plan.report)
    }

    /// Seals the secrets of a change, stores it, and removes the secrets that nothing refers to any more. When it
    /// fails, the secrets that were sealed for it go again.
    async fn carry_out(&mut self, change: Change, secrets: Secrets) -> Result<(), RegistryError> {
        let dropped = change.dropped_secrets.clone();
        let mut sealed = Vec::with_capacity(secrets.len());
        let outcome = match self.seal(secrets, &mut sealed).await {
            Ok(()) => self.commit(change).await,
            Err(error) => Err(error),
        };
        self.forget(if outcome.is_ok() { &dropped } else { &sealed })
            .await;
        outcome
    }

    async fn seal(&self, secrets: Secrets, sealed: &mut Vec<SecretName>) -> Result<(), RegistryError> {
        for (name, text) in secrets {
            self.sealer
                .seal(name.clone(), SecretString::from(text.expose()))
                .await?;
            sealed.push(name);
        }
        Ok(())
    }

    /// Removes secrets that nothing refers to. A failure leaves a sealed secret behind that nobody uses.
    async fn forget(&self, secrets: &[SecretName]) {
        for name in secrets {
            if let Err(error) = self.sealer.forget(name).await {
                tracing::warn!(secret = %name, %error, "a secret that is no longer used could not be removed");
            }
        }
    }

    /// Stores a change, then takes it into account and tells of it.
    async fn commit(&mut self, mut change: Change) -> Result<(), RegistryError> {
        let event = change.event.take();
        let writes = self
            .state
            .writes(&change)
            .into_iter()
            .map(|(key, record)| match record {
                Some(record) => store::Change::Put(key, record),
                None => store::Change::Remove(key),
            });
        let stored = self.tree.batch(writes.collect()).await;
        stored.map_err(|error| RegistryError::Store {
            code: error.code(),
            detail: error.to_string(),
        })?;
        self.state.apply(change);
        self.publish(event);
        Ok(())
    }

    fn publish(&self, event: Option<RegistryEvent>) {
        let before = self.shared.view.load_full();
        self.shared
            .view
            .store(Arc::new(RegistryView::new(&self.state, &before)));
        if let Some(event) = event {
            // Nobody may be listening, which is fine.
            let _ = self.shared.events.send(event);
        }
    }

    fn entry(&self, name: &ServerName) -> Result<Arc<ServerEntry>, RegistryError> {
        let entry = self.shared.view.load().get(name.as_str());
        entry.ok_or_else(|| RegistryError::NotFound {
            name: name.to_string(),
        })
    }
}

type Secrets = Vec<(SecretName, ClearText)>;

/// Splits the secrets off what a draft says of the transport.
fn split(
    name: &ServerName,
    draft: Option<DraftTransport>,
    revision: Option<u64>,
) -> Result<(Option<Transport>, Secrets), RegistryError> {
    let sealing = draft.map(|draft| seal::seal(name, draft, revision)).transpose()?;
    Ok(sealing.map_or((None, Vec::new()), |sealing| {
        (Some(sealing.transport), sealing.secrets)
    }))
}

fn now() -> Timestamp {
    jiff::Timestamp::now().into()
}

#[cfg(test)]
mod tests;
