//! What is stored of a server.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use troupe_protocol::access::SecretName;
use troupe_protocol::server::{OfficialMeta, OfficialStatus, Operation, ServerEntry, ServerJson, ServerName};
use troupe_protocol::time::Timestamp;

use super::version;

/// The most versions that are kept of one server.
pub(super) const VERSIONS_MAX: usize = 500;

/// One version of a server's manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PublishedVersion {
    pub manifest: Arc<ServerJson>,
    pub official: OfficialMeta,
}

impl PublishedVersion {
    pub fn new(manifest: ServerJson, now: Timestamp) -> Self {
        let official = OfficialMeta {
            status: OfficialStatus::Active,
            status_changed_at: now,
            published_at: now,
            updated_at: now,
            is_latest: false,
        };
        Self {
            manifest: Arc::new(manifest),
            official,
        }
    }
}

/// A registered server with all its versions.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServerRecord {
    pub name: ServerName,
    pub operation: Operation,
    /// The secrets that were sealed for this server and go with it.
    pub own_secrets: Vec<SecretName>,
    /// Counts the changes, from 1.
    pub revision: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// In the order of publication; never empty.
    pub versions: Vec<PublishedVersion>,
}

impl ServerRecord {
    fn new(head: ServerHead, versions: Vec<PublishedVersion>) -> Self {
        let ServerHead {
            name,
            operation,
            own_secrets,
            revision,
            created_at,
            updated_at,
        } = head;
        Self {
            name,
            operation,
            own_secrets,
            revision,
            created_at,
            updated_at,
            versions,
        }
    }

    fn head(&self) -> ServerHead {
        let Self {
            name,
            operation,
            own_secrets,
            revision,
            created_at,
            updated_at,
            versions: _,
        } = self.clone();
        ServerHead {
            name,
            operation,
            own_secrets,
            revision,
            created_at,
            updated_at,
        }
    }

    /// The name in its manifests.
    pub fn manifest_name(&self) -> &str {
        self.versions
            .first()
            .map_or("", |version| version.manifest.name.as_str())
    }

    /// The latest version.
    pub fn latest(&self) -> Option<&PublishedVersion> {
        version::latest(&self.versions).and_then(|index| self.versions.get(index))
    }

    /// Marks the latest version as such, and what changed by that.
    pub fn mark_latest(&mut self, now: Timestamp) {
        let latest = version::latest(&self.versions);
        for (index, published) in self.versions.iter_mut().enumerate() {
            let is_latest = Some(index) == latest;
            if published.official.is_latest != is_latest {
                published.official.is_latest = is_latest;
                published.official.updated_at = now;
            }
        }
    }

    /// The entry that others see; nothing for a record without a version, which is never stored.
    pub fn entry(&self) -> Option<ServerEntry> {
        let latest = self.latest()?;
        Some(ServerEntry {
            name: self.name.clone(),
            manifest: Arc::clone(&latest.manifest),
            operation: self.operation.clone(),
            official: latest.official.clone(),
            revision: self.revision,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

/// What is left of a server that was removed, for those who follow the registry by `updated_since`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DeletedServer {
    pub deleted_at: Timestamp,
    /// Never empty; all of status `deleted`, without advertised tools.
    pub versions: Vec<PublishedVersion>,
}

impl DeletedServer {
    /// What is left of a server.
    pub fn of(record: &ServerRecord, now: Timestamp) -> Self {
        let versions = record.versions.iter().map(|published| {
            let mut manifest = (*published.manifest).clone();
            manifest.meta.clear();
            let official = OfficialMeta {
                status: OfficialStatus::Deleted,
                status_changed_at: now,
                updated_at: now,
                ..published.official.clone()
            };
            PublishedVersion {
                manifest: Arc::new(manifest),
                official,
            }
        });
        Self {
            deleted_at: now,
            versions: versions.collect(),
        }
    }

    pub fn manifest_name(&self) -> &str {
        self.versions
            .first()
            .map_or("", |version| version.manifest.name.as_str())
    }
}

/// A record of the registry's tree. A server is several: its versions are records of their own, so that none grows
/// with their number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoredRecord {
    /// A server without its versions, under `server/NAME`.
    Server(Box<ServerHead>),
    /// One version, under `version/NAME/VERSION`.
    Version(PublishedVersion),
    /// Which server has manifests of this name, under `manifest/MANIFEST NAME`: so that two nodes cannot register two
    /// servers with the same. Servers from before there were such records have none.
    Manifest { server: ServerName },
    /// One version of a server that was removed, under `deleted/MANIFEST NAME/VERSION`.
    Deleted {
        deleted_at: Timestamp,
        version: PublishedVersion,
    },
}

/// A server without its versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ServerHead {
    pub name: ServerName,
    pub operation: Operation,
    pub own_secrets: Vec<SecretName>,
    pub revision: u64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A write to the registry's tree: a record to put, or nothing to remove the key.
pub(crate) type Write = (String, Option<StoredRecord>);

/// The writes that turn what is stored of a server into what it shall be. Versions that are the same are left alone.
pub(crate) fn server_writes(before: Option<&ServerRecord>, after: &ServerRecord) -> Vec<Write> {
    let known = before
        .map(|before| before.versions.as_slice())
        .unwrap_or_default();
    let mut writes = vec![(
        server_key(&after.name),
        Some(StoredRecord::Server(Box::new(after.head()))),
    )];
    for version in after.versions.iter().filter(|version| !known.contains(version)) {
        writes.push((
            version_key(&after.name, version),
            Some(StoredRecord::Version(version.clone())),
        ));
    }
    writes
}

/// The writes that remove a server.
pub(crate) fn removal_writes(record: &ServerRecord) -> Vec<Write> {
    let versions = record
        .versions
        .iter()
        .map(|version| (version_key(&record.name, version), None));
    versions.chain([(server_key(&record.name), None)]).collect()
}

/// The writes that remember what is left of a removed server, or forget it.
pub(crate) fn deleted_writes(deleted: &DeletedServer, remember: bool) -> Vec<Write> {
    let write = |version: &PublishedVersion| {
        let record = StoredRecord::Deleted {
            deleted_at: deleted.deleted_at,
            version: version.clone(),
        };
        (deleted_key(version), remember.then_some(record))
    };
    deleted.versions.iter().map(write).collect()
}

pub(crate) fn server_key(name: &ServerName) -> String {
    format!("server/{name}")
}

pub(crate) fn manifest_key(manifest_name: &str) -> String {
    format!("manifest/{manifest_name}")
}

fn version_key(name: &ServerName, version: &PublishedVersion) -> String {
    format!("version/{name}/{}", version.manifest.version)
}

fn deleted_key(version: &PublishedVersion) -> String {
    format!("deleted/{}/{}", version.manifest.name, version.manifest.version)
}

/// Puts servers together again from their records, whatever order those come in.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    heads: Vec<ServerHead>,
    versions: BTreeMap<String, Vec<PublishedVersion>>,
    deleted: BTreeMap<String, DeletedServer>,
}

impl Assembly {
    /// Takes a record as it was stored under its key.
    pub fn take(&mut self, key: &str, record: StoredRecord) {
        match record {
            StoredRecord::Server(head) => self.heads.push(*head),
            StoredRecord::Manifest { .. } => {}
            StoredRecord::Version(version) => {
                let server = key.split('/').nth(1).unwrap_or_default().to_owned();
                self.versions.entry(server).or_default().push(version);
            }
            StoredRecord::Deleted { deleted_at, version } => {
                let nothing_left = || DeletedServer {
                    deleted_at,
                    versions: Vec::new(),
                };
                let deleted = self
                    .deleted
                    .entry(version.manifest.name.clone())
                    .or_insert_with(nothing_left);
                deleted.versions.push(version);
            }
        }
    }

    /// What was put together. A server without a version cannot have been stored and is left out.
    pub fn finish(mut self) -> (Vec<ServerRecord>, Vec<DeletedServer>) {
        let records = self.heads.into_iter().filter_map(|head| {
            let mut versions = self.versions.remove(head.name.as_str())?;
            versions.sort_by_key(|version| version.official.published_at);
            Some(ServerRecord::new(head, versions))
        });
        (records.collect(), self.deleted.into_values().collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn published(version: &str, at_ms: i64) -> PublishedVersion {
        let manifest = ServerJson {
            name: "com.example/x".into(),
            description: "x".into(),
            version: version.into(),
            ..ServerJson::default()
        };
        PublishedVersion::new(manifest, Timestamp::from_unix_ms(at_ms))
    }

    #[test]
    fn only_the_latest_is_marked_and_only_what_changed_is_touched() {
        let now = Timestamp::from_unix_ms(0);
        let mut record = ServerRecord {
            name: ServerName::new("x").unwrap(),
            operation: Operation::default(),
            own_secrets: Vec::new(),
            revision: 1,
            created_at: now,
            updated_at: now,
            versions: vec![
                published("1.0.0", 1),
                published("2.0.0", 2),
                published("1.1.0", 3),
            ],
        };
        record.mark_latest(Timestamp::from_unix_ms(9));
        let marks: Vec<bool> = record
            .versions
            .iter()
            .map(|published| published.official.is_latest)
            .collect();
        assert_eq!(marks, [false, true, false]);
        assert_eq!(record.versions[0].official.updated_at, Timestamp::from_unix_ms(1));
        assert_eq!(record.versions[1].official.updated_at, Timestamp::from_unix_ms(9));
        assert_eq!(record.entry().unwrap().manifest.version, "2.0.0");
    }

    #[test]
    fn what_is_left_of_a_server_is_deleted_and_small() {
        let mut manifest = (*published("1.0.0", 1).manifest).clone();
        let tools = troupe_protocol::server::RawJson::from_value(&serde_json::json!([]));
        manifest.meta.insert("a.b/c".into(), tools);
        let now = Timestamp::from_unix_ms(5);
        let record = ServerRecord {
            name: ServerName::new("x").unwrap(),
            operation: Operation::default(),
            own_secrets: Vec::new(),
            revision: 1,
            created_at: now,
            updated_at: now,
            versions: vec![PublishedVersion::new(manifest, now)],
        };
        let deleted = DeletedServer::of(&record, Timestamp::from_unix_ms(7));
        assert_eq!(deleted.versions[0].official.status, OfficialStatus::Deleted);
        assert!(deleted.versions[0].manifest.meta.is_empty());
        assert_eq!(deleted_writes(&deleted, true)[0].0, "deleted/com.example/x/1.0.0");
    }

    #[test]
    fn a_server_is_put_together_from_its_records() {
        let now = Timestamp::from_unix_ms(5);
        let record = ServerRecord {
            name: ServerName::new("x").unwrap(),
            operation: Operation::default(),
            own_secrets: Vec::new(),
            revision: 3,
            created_at: now,
            updated_at: now,
            versions: vec![published("2.0.0", 1), published("1.0.0", 2)],
        };
        let mut assembly = Assembly::default();
        for (key, stored) in server_writes(None, &record).into_iter().rev() {
            assembly.take(&key, stored.unwrap());
        }
        assert_eq!(assembly.finish().0, std::slice::from_ref(&record));
        // A change of the head alone writes no version.
        assert_eq!(server_writes(Some(&record), &record).len(), 1);
        assert_eq!(removal_writes(&record).len(), 3);
    }
}
