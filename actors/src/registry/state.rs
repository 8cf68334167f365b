//! The registry's decisions, without a store, a vault or a clock.
//!
//! Each decision looks at what is registered and answers with a [`Change`]: what is to be stored, and which secrets
//! go. Nothing has happened until the change was stored and is given to [`RegistryState::apply`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use troupe_protocol::access::SecretName;
use troupe_protocol::server::{Operation, ServerJson, ServerName, ServerPatch, Transport};
use troupe_protocol::time::Timestamp;

use super::check::{checked_call_timeout, checked_labels};
use super::draft::LOCAL_NAMESPACE;
use super::error::RegistryError;
use super::record::{Assembly, DeletedServer, PublishedVersion, ServerRecord, VERSIONS_MAX};
use super::seal;
use super::version;

/// The most servers of a registry.
pub(crate) const SERVERS_MAX: usize = 20_000;
/// How many removed servers are remembered for those who follow the registry.
pub(crate) const DELETED_MAX: usize = 1_000;

/// A server to register, its secrets sealed.
#[derive(Debug, Clone)]
pub(crate) struct Registration {
    pub name: ServerName,
    pub manifest: ServerJson,
    pub operation: Operation,
}

/// A change of the registry.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Servers that are new or changed.
    pub puts: Vec<Arc<ServerRecord>>,
    /// Servers that go.
    pub removes: Vec<ServerName>,
    /// What is to be remembered of removed servers.
    pub remembers: Vec<Arc<DeletedServer>>,
    /// Names in manifests of removed servers that are forgotten.
    pub forgets: Vec<String>,
    /// Secrets that nothing refers to afterwards.
    pub dropped_secrets: Vec<SecretName>,
}

impl Change {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty()
            && self.removes.is_empty()
            && self.remembers.is_empty()
            && self.forgets.is_empty()
    }
}

/// What publishing a manifest would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Publishing {
    /// The version is there with the same content.
    Known,
    /// The version is new.
    New,
}

/// Everything that is registered. A clone shares the records.
#[derive(Debug, Clone, Default)]
pub(crate) struct RegistryState {
    servers: BTreeMap<ServerName, Arc<ServerRecord>>,
    by_manifest: BTreeMap<String, ServerName>,
    deleted: BTreeMap<String, Arc<DeletedServer>>,
}

impl RegistryState {
    /// The state that stored records make up.
    pub fn from_records(assembly: Assembly) -> Self {
        let (servers, deleted) = assembly.finish();
        let mut state = Self::default();
        state.apply(Change {
            puts: servers.into_iter().map(Arc::new).collect(),
            remembers: deleted.into_iter().map(Arc::new).collect(),
            ..Change::default()
        });
        state
    }

    pub fn servers(&self) -> &BTreeMap<ServerName, Arc<ServerRecord>> {
        &self.servers
    }

    pub fn deleted(&self) -> &BTreeMap<String, Arc<DeletedServer>> {
        &self.deleted
    }

    pub fn get(&self, name: &ServerName) -> Result<&Arc<ServerRecord>, RegistryError> {
        if name.is_builtin() {
            return Err(RegistryError::BuiltIn);
        }
        self.servers.get(name).ok_or_else(|| RegistryError::NotFound {
            name: name.to_string(),
        })
    }

    /// The server that has manifests of this name.
    pub fn by_manifest_name(&self, manifest_name: &str) -> Option<&Arc<ServerRecord>> {
        self.by_manifest
            .get(manifest_name)
            .and_then(|name| self.servers.get(name))
    }

    /// Whether a server of this name and manifest may be registered.
    pub fn check_new(&self, name: &ServerName, manifest_name: &str) -> Result<(), RegistryError> {
        if name.is_builtin() {
            return Err(RegistryError::BuiltIn);
        }
        if self.servers.contains_key(name) {
            return Err(RegistryError::Exists { name: name.clone() });
        }
        if let Some(owner) = self.by_manifest.get(manifest_name) {
            return Err(RegistryError::ManifestTaken {
                manifest_name: manifest_name.to_owned(),
                name: owner.clone(),
            });
        }
        if self.servers.len() >= SERVERS_MAX {
            return Err(RegistryError::Limit(format!(
                "{SERVERS_MAX} servers are registered, which is the most"
            )));
        }
        Ok(())
    }

    /// Registers a server.
    pub fn register(&self, new: Registration, now: Timestamp) -> Result<Change, RegistryError> {
        self.check_new(&new.name, &new.manifest.name)?;
        let mut change = Change::default();
        if self.deleted.contains_key(&new.manifest.name) {
            change.forgets.push(new.manifest.name.clone());
        }
        change.puts.push(Arc::new(new_record(new, now)));
        Ok(change)
    }

    /// What publishing this manifest for a server would do.
    pub fn check_version(
        &self,
        record: &ServerRecord,
        manifest: &ServerJson,
    ) -> Result<Publishing, RegistryError> {
        if record.manifest_name() != manifest.name {
            let expected = record.manifest_name().to_owned();
            return Err(RegistryError::OtherManifest {
                given: manifest.name.clone(),
                expected,
            });
        }
        match record
            .versions
            .iter()
            .find(|published| published.manifest.version == manifest.version)
        {
            Some(published) if *published.manifest == *manifest => Ok(Publishing::Known),
            Some(_) => Err(RegistryError::VersionExists {
                manifest_name: manifest.name.clone(),
                version: manifest.version.clone(),
            }),
            None if record.versions.len() >= VERSIONS_MAX => {
                let most = format!("{} has {VERSIONS_MAX} versions, which is the most", manifest.name);
                Err(RegistryError::Limit(most))
            }
            None => Ok(Publishing::New),
        }
    }

    /// Publishes a version of a registered server.
    pub fn publish(
        &self,
        name: &ServerName,
        manifest: ServerJson,
        now: Timestamp,
    ) -> Result<Change, RegistryError> {
        let mut record = ServerRecord::clone(self.get(name)?);
        if self.check_version(&record, &manifest)? == Publishing::Known {
            return Ok(Change::default());
        }
        push_version(&mut record, manifest, now);
        Ok(updated(record, now))
    }

    /// Changes a server. `transport` is the transport after the patch, its secrets sealed, when the patch touches it.
    pub fn update(
        &self,
        name: &ServerName,
        patch: &ServerPatch,
        transport: Option<Transport>,
        now: Timestamp,
    ) -> Result<Change, RegistryError> {
        let before = self.get(name)?;
        let mut record = ServerRecord::clone(before);
        if let Some(manifest) = patched_manifest(&record, patch)? {
            manifest.validate()?;
            if self.check_version(&record, &manifest)? == Publishing::New {
                push_version(&mut record, manifest, now);
            }
        }
        let operation = &mut record.operation;
        if let Some(transport) = transport {
            operation.transport = Some(transport);
        }
        if let Some(labels) = &patch.labels {
            operation.labels = checked_labels(labels.clone())?;
        }
        if let Some(owner) = &patch.owner {
            operation.owner.clone_from(owner);
        }
        if let Some(call_timeout_ms) = patch.call_timeout_ms {
            operation.call_timeout_ms = checked_call_timeout(Some(call_timeout_ms))?;
        }
        if let Some(enabled) = patch.enabled {
            operation.enabled = enabled;
        }
        if operation.enabled && operation.transport.is_none() {
            return Err(RegistryError::NoTransport {
                name: name.to_string(),
            });
        }
        record.own_secrets = seal::own_secrets(name, record.operation.transport.as_ref());
        let is_dropped = |secret: &&SecretName| !record.own_secrets.contains(secret);
        let dropped_secrets = before.own_secrets.iter().filter(is_dropped).cloned().collect();
        Ok(Change {
            dropped_secrets,
            ..updated(record, now)
        })
    }

    /// Removes a server; its versions stay listed as deleted.
    pub fn remove(&self, name: &ServerName, now: Timestamp) -> Result<Change, RegistryError> {
        let record = self.get(name)?;
        Ok(Change {
            puts: Vec::new(),
            removes: vec![name.clone()],
            remembers: vec![Arc::new(DeletedServer::of(record, now))],
            forgets: self.oldest_deleted().map(str::to_owned).into_iter().collect(),
            dropped_secrets: record.own_secrets.clone(),
        })
    }

    /// What must be forgotten for one more removed server to be remembered.
    fn oldest_deleted(&self) -> Option<&str> {
        if self.deleted.len() < DELETED_MAX {
            return None;
        }
        let oldest = self.deleted.iter().min_by_key(|(_, deleted)| deleted.deleted_at);
        oldest.map(|(manifest_name, _)| manifest_name.as_str())
    }

    /// What makes this state the other.
    pub fn difference(&self, now: &Self) -> Change {
        let is_new = |record: &&Arc<ServerRecord>| self.servers.get(&record.name) != Some(*record);
        let is_gone = |name: &&ServerName| !now.servers.contains_key(*name);
        Change {
            puts: now.servers.values().filter(is_new).cloned().collect(),
            removes: self.servers.keys().filter(is_gone).cloned().collect(),
            ..self.difference_of_deleted(now)
        }
    }

    /// What makes what is remembered of removed servers the other's.
    pub fn difference_of_deleted(&self, now: &Self) -> Change {
        let is_new =
            |deleted: &&Arc<DeletedServer>| self.deleted.get(deleted.manifest_name()) != Some(*deleted);
        let is_gone = |name: &&String| !now.deleted.contains_key(*name);
        Change {
            remembers: now.deleted.values().filter(is_new).cloned().collect(),
            forgets: self.deleted.keys().filter(is_gone).cloned().collect(),
            ..Change::default()
        }
    }

    /// Takes a stored change into account.
    pub fn apply(&mut self, change: Change) {
        for manifest_name in &change.forgets {
            self.deleted.remove(manifest_name);
        }
        for name in &change.removes {
            if let Some(record) = self.servers.remove(name) {
                self.by_manifest.remove(record.manifest_name());
            }
        }
        for deleted in change.remembers {
            self.deleted.insert(deleted.manifest_name().to_owned(), deleted);
        }
        for record in change.puts {
            if let Some(before) = self.servers.get(&record.name) {
                self.by_manifest.remove(before.manifest_name());
            }
            self.by_manifest
                .insert(record.manifest_name().to_owned(), record.name.clone());
            self.servers.insert(record.name.clone(), record);
        }
    }
}

fn new_record(new: Registration, now: Timestamp) -> ServerRecord {
    let own_secrets = seal::own_secrets(&new.name, new.operation.transport.as_ref());
    let mut record = ServerRecord {
        name: new.name,
        operation: new.operation,
        own_secrets,
        revision: 1,
        created_at: now,
        updated_at: now,
        versions: vec![PublishedVersion::new(new.manifest, now)],
    };
    record.mark_latest(now);
    record
}

fn push_version(record: &mut ServerRecord, manifest: ServerJson, now: Timestamp) {
    record.versions.push(PublishedVersion::new(manifest, now));
    record.mark_latest(now);
}

fn updated(mut record: ServerRecord, now: Timestamp) -> Change {
    record.revision += 1;
    record.updated_at = now;
    Change {
        puts: vec![Arc::new(record)],
        ..Change::default()
    }
}

/// The manifest that a patch publishes, if it does.
fn patched_manifest(record: &ServerRecord, patch: &ServerPatch) -> Result<Option<ServerJson>, RegistryError> {
    let changes_text = patch.title.is_some() || patch.description.is_some();
    if let Some(manifest) = &patch.manifest {
        if changes_text {
            return Err(RegistryError::field(
                "title",
                "stands in the manifest: change it there",
            ));
        }
        return Ok(Some((**manifest).clone()));
    }
    let Some(latest) = record.latest().filter(|_| changes_text) else {
        return Ok(None);
    };
    if !record.manifest_name().starts_with(LOCAL_NAMESPACE) {
        let detail = "is part of a published manifest: publish a new version of it as `manifest`";
        return Err(RegistryError::field("title", detail));
    }
    let mut manifest = (*latest.manifest).clone();
    if let Some(title) = &patch.title {
        manifest.title = Some(title.clone()).filter(|title| !title.is_empty());
    }
    if let Some(description) = &patch.description {
        manifest.description.clone_from(description);
    }
    if manifest == *latest.manifest {
        return Ok(None);
    }
    manifest.version = unused_version(record, &manifest.version);
    Ok(Some(manifest))
}

fn unused_version(record: &ServerRecord, version: &str) -> String {
    let used: BTreeSet<&str> = record
        .versions
        .iter()
        .map(|published| published.manifest.version.as_str())
        .collect();
    let mut next = version::next_patch(version);
    while used.contains(next.as_str()) {
        next = version::next_patch(&next);
    }
    next
}

#[cfg(test)]
pub(crate) mod tests;
