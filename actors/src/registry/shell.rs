//! The registry's actor: performs what [`super::state`] decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;
use troupe_protocol::access::SecretName;
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::server::{
    ClearText, ImportReport, ImportSource, NewServer, Operation, ServerEntry, ServerName, ServerPatch,
    Transport,
};
use troupe_protocol::time::Timestamp;

use super::draft::{self, Draft, DraftTransport};
use super::error::RegistryError;
use super::import;
use super::kept::{Kept, News, Part};
use super::messages::{MAILBOX_MESSAGES_MAX, RegistryEvent, RegistryHandle, RegistryMessage, Shared};
use super::record::ServerRecord;
use super::seal;
use super::secrets::SecretSealer;
use super::state::{Change, Registration, RegistryState};
use super::view::RegistryView;
use crate::openapi::Documents;
use crate::runtime::{Actor, ActorError, ActorPath, ChildSpec, Context, Mailbox, System};
use crate::store::replicated::nudge;
use crate::store::{RecordBatch, Store, StoreError, WriteError};

/// How often a change is decided anew because another node was faster.
const DECISIONS_MAX: u32 = 8;
/// How long at most before it is.
const DECIDE_AGAIN_WITHIN: Duration = Duration::from_millis(30);

/// The registry at `node/registry`: how to start it, and its handle.
///
/// # Errors
/// None at present; that its records cannot be read shows when it starts.
pub fn child(
    system: &System,
    store: &Store,
    sealer: Arc<dyn SecretSealer>,
) -> Result<(ChildSpec, RegistryHandle), StoreError> {
    let mailbox = Mailbox::new(system, ActorPath::new("node/registry"), MAILBOX_MESSAGES_MAX);
    let (handle, shared) = RegistryHandle::new(mailbox.clone(), store.clone());
    let store = store.clone();
    let spec = ChildSpec::actor(mailbox, move || RegistryActor {
        state: RegistryState::default(),
        kept: Kept::new(&store),
        documents: Documents::new(&store),
        sealer: Arc::clone(&sealer),
        shared: Arc::clone(&shared),
    });
    Ok((spec, handle))
}

/// The one writer of the registry at its node.
pub struct RegistryActor {
    state: RegistryState,
    kept: Kept,
    documents: Documents,
    sealer: Arc<dyn SecretSealer>,
    shared: Arc<Shared>,
}

impl Actor for RegistryActor {
    type Message = RegistryMessage;
    const KIND: &'static str = "registry";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let nudges = nudge(self.kept.nudges(), ctx.mailbox().clone(), || {
            RegistryMessage::CatchUp
        });
        ctx.spawn("follow the replicated servers", nudges);
        self.state = self.kept.read().await?;
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
            RegistryMessage::CatchUp => {
                self.refresh().await?;
            }
            RegistryMessage::Refresh { reply } => {
                self.refresh().await?;
                reply.send(Ok(()));
            }
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

/// The document to which a server's entry refers, by its digest.
fn digest_of(record: &ServerRecord) -> Option<String> {
    match record.operation.transport.as_ref()? {
        Transport::OpenApi { document, .. } => Some(document.digest.clone()),
        _ => None,
    }
}

/// A change, and the secrets that are to be sealed for it.
struct Decision {
    change: Change,
    secrets: Secrets,
}

impl RegistryActor {
    async fn register(&mut self, new: NewServer, owner: String) -> Result<Arc<ServerEntry>, RegistryError> {
        let document = new.openapi.as_ref().and_then(|source| source.document.clone());
        let is_of_document = document.is_some();
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
        let changed = self
            .change(document.map(|text| (name.clone(), text)), |state| {
                let change = state.register(registration.clone(), now())?;
                let secrets = secrets.clone();
                Ok(Decision { change, secrets })
            })
            .await;
        if is_of_document {
            self.forget_documents(&name, &changed).await;
        }
        changed?;
        self.entry(&name)
    }

    async fn update(
        &mut self,
        name: &ServerName,
        patch: ServerPatch,
    ) -> Result<Arc<ServerEntry>, RegistryError> {
        let document = patch.openapi.as_ref().and_then(|source| source.document.clone());
        let is_of_document = document.is_some();
        let mut before = None;
        let changed = self
            .change(document.map(|text| (name.clone(), text)), |state| {
                let record = state.get(name)?;
                before = digest_of(record);
                let draft = draft::patched_transport(record.operation.transport.as_ref(), &patch)?;
                let (transport, secrets) = split(name, draft, Some(record.revision + 1))?;
                let change = state.update(name, &patch, transport, now())?;
                Ok(Decision { change, secrets })
            })
            .await;
        // Others are not touched: another node may be writing the document of a change of its own.
        let after = self
            .state
            .servers()
            .get(name)
            .and_then(|record| digest_of(record));
        if is_of_document || before != after {
            self.forget_documents(name, &changed).await;
        }
        changed?;
        self.entry(name)
    }

    async fn remove(&mut self, name: &ServerName) -> Result<(), RegistryError> {
        let mut before = None;
        let changed = self
            .change(None, |state| {
                before = state.servers().get(name).and_then(|record| digest_of(record));
                let mut change = state.remove(name, now())?;
                change.dropped_secrets.push(seal::login_secret(name)?);
                let secrets = Vec::new();
                Ok(Decision { change, secrets })
            })
            .await;
        if before.is_some() {
            self.forget_documents(name, &changed).await;
        }
        changed
    }

    /// Forgets the documents of a server to which its entry does not refer, or not any more.
    async fn forget_documents(&self, name: &ServerName, changed: &Result<(), RegistryError>) {
        // The change may still happen: then its document must be there.
        if changed
            .as_ref()
            .is_err_and(|error| error.code() == Code::WriteOutcomeUnknown)
        {
            return;
        }
        let record = self.state.servers().get(name);
        let kept = record.and_then(|record| digest_of(record));
        if let Err(error) = self.documents.forget_others(name, kept.as_deref()).await {
            // They are looked for again with the next change of the server.
            tracing::warn!(server = %name, %error, "an OpenAPI document that is no longer needed was not removed");
        }
    }

    /// Decides on what is registered, and carries it out; again, when another node changed the same meanwhile. An OpenAPI
    /// document to which the change refers is kept before, and is there when the change happens.
    async fn change(
        &mut self,
        document: Option<(ServerName, String)>,
        mut decide: impl FnMut(&RegistryState) -> Result<Decision, RegistryError>,
    ) -> Result<(), RegistryError> {
        // A refusal is only told when it is true of what all nodes have acknowledged, not just of what this one has seen.
        let mut is_up_to_date = false;
        for _ in 0..DECISIONS_MAX {
            self.refresh().await?;
            let Decision { change, secrets } = match decide(&self.state) {
                Err(refusal) if refusal.is_of_the_state() && !is_up_to_date => {
                    let linearized = self.kept.linearize().await;
                    linearized.map_err(|error| RegistryError::store(&error))?;
                    is_up_to_date = true;
                    continue;
                }
                decided => decided?,
            };
            let guards = match &document {
                Some((name, text)) => {
                    let kept = self.documents.put(name, text).await;
                    let guards = kept.map_err(|error| RegistryError::store(&error))?;
                    Some((name.clone(), guards))
                }
                None => None,
            };
            let parts = self.sealed_parts(&change, secrets, guards).await?;
            let outcome = self.write(parts).await;
            self.refresh().await?;
            match outcome {
                Err(WriteError::Conflict(_)) => pause().await,
                outcome => return outcome.map_err(|error| RegistryError::store(&error)),
            }
        }
        Err(contended())
    }

    async fn import(&mut self, source: ImportSource, owner: &str) -> Result<ImportReport, RegistryError> {
        // Thousands of entries are read: not on a thread that others wait for.
        let read = tokio::task::spawn_blocking(move || import::read(&source)).await;
        let read = read.map_err(|error| RegistryError::import(format!("reading failed: {error}")))??;
        let mut earlier = Vec::new();
        for _ in 0..DECISIONS_MAX {
            self.refresh().await?;
            let plan = import::plan(&self.state, read.clone(), owner, now());
            let parts = self.sealed_parts(&plan.change, plan.secrets, None).await?;
            let outcome = self.write(parts).await;
            let told = self
                .catch_up()
                .await
                .map_err(|error| RegistryError::store(&error))?;
            let is_conflict = matches!(outcome, Err(WriteError::Conflict(_)));
            if is_conflict {
                // What was written before is skipped the next time, and counts as imported all the same.
                let is_there = |name: &&ServerName| self.state.servers().contains_key(*name);
                earlier.extend(plan.report.names.iter().filter(is_there).cloned());
                self.tell(told);
                pause().await;
                continue;
            }
            outcome.map_err(|error| RegistryError::store(&error))?;
            let report = with_earlier(plan.report, earlier);
            let count = report.imported;
            self.tell(if count > 0 {
                vec![RegistryEvent::Imported { count }]
            } else {
                told
            });
            return Ok(report);
        }
        Err(contended())
    }

    /// The parts of a change, with the secrets sealed for it and without those that nothing refers to any more.
    async fn sealed_parts(
        &self,
        change: &Change,
        secrets: Secrets,
        guards: Option<(ServerName, RecordBatch)>,
    ) -> Result<Vec<Part>, RegistryError> {
        let mut of_servers: BTreeMap<ServerName, RecordBatch> = guards.into_iter().collect();
        for (name, text) in secrets {
            let text = SecretString::from(text.expose());
            let Some(server) = seal::server_of(&name) else {
                continue;
            };
            let sealed = self.sealer.seal(name, text).await?;
            of_servers.entry(server).or_default().append(sealed);
        }
        for name in &change.dropped_secrets {
            if let Some(server) = seal::server_of(name) {
                of_servers
                    .entry(server)
                    .or_default()
                    .append(self.sealer.forget(name));
            }
        }
        self.kept
            .parts(&self.state, change, of_servers)
            .map_err(|error| RegistryError::store(&error))
    }

    async fn write(&self, parts: Vec<Part>) -> Result<(), WriteError> {
        for part in parts {
            self.kept.write(part).await?;
        }
        Ok(())
    }

    /// Takes what has changed, here or at other nodes, and publishes it. Gives what there is to tell.
    async fn catch_up(&mut self) -> Result<Vec<RegistryEvent>, StoreError> {
        let Some(News { change, events }) = self.kept.catch_up(&self.state).await? else {
            return Ok(Vec::new());
        };
        if !change.is_empty() {
            self.state.apply(change);
            self.publish(None);
        }
        Ok(events)
    }

    /// Takes what has changed, and tells of it.
    async fn refresh(&mut self) -> Result<(), RegistryError> {
        let events = self
            .catch_up()
            .await
            .map_err(|error| RegistryError::store(&error))?;
        self.tell(events);
        Ok(())
    }

    fn tell(&self, events: Vec<RegistryEvent>) {
        for event in events {
            // Nobody may be listening, which is fine.
            let _ = self.shared.events.send(event);
        }
    }

    fn publish(&self, event: Option<RegistryEvent>) {
        let before = self.shared.view.load_full();
        self.shared
            .view
            .store(Arc::new(RegistryView::new(&self.state, &before)));
        self.tell(event.into_iter().collect());
    }

    fn entry(&self, name: &ServerName) -> Result<Arc<ServerEntry>, RegistryError> {
        let entry = self.shared.view.load().get(name.as_str());
        entry.ok_or_else(|| RegistryError::NotFound {
            name: name.to_string(),
        })
    }
}

/// A report that counts what was imported before the import had to be planned again.
fn with_earlier(report: ImportReport, mut earlier: Vec<ServerName>) -> ImportReport {
    earlier.retain(|name| !report.names.contains(name));
    let count = u32::try_from(earlier.len()).unwrap_or(u32::MAX);
    ImportReport {
        imported: report.imported + count,
        skipped: report.skipped.saturating_sub(count),
        names: earlier.into_iter().chain(report.names).collect(),
        ..report
    }
}

fn contended() -> RegistryError {
    RegistryError::Store {
        code: Code::WriteConflict,
        detail: format!("others changed the same servers {DECISIONS_MAX} times in a row"),
    }
}

/// A moment, so that two nodes do not run into each other again.
async fn pause() {
    let most_ms = DECIDE_AGAIN_WITHIN.as_millis() as u64;
    tokio::time::sleep(Duration::from_millis(fastrand::u64(..=most_ms))).await;
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
