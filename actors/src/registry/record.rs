//! What is stored of a server.

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
        Self { manifest: Arc::new(manifest), official }
    }
}

/// A registered server with all its versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// The name in its manifests.
    pub fn manifest_name(&self) -> &str {
        self.versions.first().map_or("", |version| version.manifest.name.as_str())
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
            PublishedVersion { manifest: Arc::new(manifest), official }
        });
        Self { deleted_at: now, versions: versions.collect() }
    }

    pub fn manifest_name(&self) -> &str {
        self.versions.first().map_or("", |version| version.manifest.name.as_str())
    }
}

/// A record of the registry's tree. Boxed, since most are servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StoredRecord {
    /// A server, under `server/NAME`.
    Server(Arc<ServerRecord>),
    /// What is left of one, under `deleted/MANIFEST NAME`.
    Deleted(Arc<DeletedServer>),
}

impl StoredRecord {
    pub fn key(&self) -> String {
        match self {
            Self::Server(record) => server_key(&record.name),
            Self::Deleted(deleted) => deleted_key(deleted.manifest_name()),
        }
    }
}

pub(crate) fn server_key(name: &ServerName) -> String {
    format!("server/{name}")
}

pub(crate) fn deleted_key(manifest_name: &str) -> String {
    format!("deleted/{manifest_name}")
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
            versions: vec![published("1.0.0", 1), published("2.0.0", 2), published("1.1.0", 3)],
        };
        record.mark_latest(Timestamp::from_unix_ms(9));
        let marks: Vec<bool> = record.versions.iter().map(|published| published.official.is_latest).collect();
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
        assert_eq!(StoredRecord::Deleted(Arc::new(deleted)).key(), "deleted/com.example/x");
    }
}
