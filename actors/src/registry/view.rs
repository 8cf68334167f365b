//! What can be read of the registry without asking its actor.
//!
//! A view never changes: the actor publishes a new one with each change. The console's list is in [`super::list`],
//! the official API's in [`super::official`].

use std::collections::BTreeMap;
use std::sync::Arc;

use troupe_protocol::server::{ServerEntry, ServerName, manifest::META_ADVERTISED_TOOLS};

use super::record::{PublishedVersion, ServerRecord};
use super::search::SearchText;
use super::state::RegistryState;

/// A server as it stands in the view.
#[derive(Debug)]
pub(crate) struct Listed {
    pub entry: Arc<ServerEntry>,
    pub record: Arc<ServerRecord>,
    pub text: SearchText,
    pub advertised_tools_count: Option<u32>,
}

impl Listed {
    fn new(record: &Arc<ServerRecord>) -> Option<Self> {
        let entry = record.entry()?;
        let advertises = entry.manifest.meta.contains_key(META_ADVERTISED_TOOLS);
        let tools = entry.manifest.advertised_tool_names();
        let advertised_tools_count = advertises.then(|| u32::try_from(tools.len()).unwrap_or(u32::MAX));
        let text = SearchText::of(&entry, tools);
        Some(Self {
            entry: Arc::new(entry),
            record: Arc::clone(record),
            text,
            advertised_tools_count,
        })
    }
}

/// What is registered, at one moment.
#[derive(Debug, Default)]
pub struct RegistryView {
    pub(crate) servers: BTreeMap<ServerName, Arc<Listed>>,
    /// All versions of all servers and of what is left of removed ones, by name in the manifest and then by version.
    pub(crate) versions: Vec<PublishedVersion>,
}

impl RegistryView {
    /// The view of a state. What did not change since `before` is taken from it.
    pub(crate) fn new(state: &RegistryState, before: &Self) -> Self {
        let listed = |record: &Arc<ServerRecord>| match before.servers.get(&record.name) {
            Some(listed) if Arc::ptr_eq(&listed.record, record) => Some(Arc::clone(listed)),
            _ => Listed::new(record).map(Arc::new),
        };
        let servers = state
            .servers()
            .iter()
            .filter_map(|(name, record)| Some((name.clone(), listed(record)?)))
            .collect();
        let alive = state.servers().values().flat_map(|record| &record.versions);
        let deleted = state.deleted().values().flat_map(|deleted| &deleted.versions);
        let mut versions: Vec<PublishedVersion> = alive.chain(deleted).cloned().collect();
        versions.sort_by(|a, b| super::official::place(a).cmp(&super::official::place(b)));
        Self { servers, versions }
    }

    /// How many servers are registered.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether no server is registered.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    /// The server of this name.
    pub fn get(&self, name: &str) -> Option<Arc<ServerEntry>> {
        self.servers.get(name).map(|listed| Arc::clone(&listed.entry))
    }

    /// All servers, by name.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<ServerEntry>> {
        self.servers.values().map(|listed| &listed.entry)
    }

    /// The servers that are enabled, by name.
    pub fn enabled(&self) -> impl Iterator<Item = &Arc<ServerEntry>> {
        self.entries().filter(|entry| entry.operation.enabled)
    }

    /// The versions of a server, newest first; nothing when it is not registered.
    pub fn version_names(&self, name: &str) -> Option<Vec<String>> {
        let record = &self.servers.get(name)?.record;
        let mut versions: Vec<&PublishedVersion> = record.versions.iter().collect();
        versions.sort_by(|a, b| super::version::compare(b, a));
        Some(
            versions
                .into_iter()
                .map(|published| published.manifest.version.clone())
                .collect(),
        )
    }
}
