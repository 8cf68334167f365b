//! What the router decides when servers come, go and change. Pure: reading tools, embedding and publishing are effects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use troupe_protocol::mcp::ToolDescriptor;
use troupe_protocol::server::ServerName;

use super::index::dense::Vector;
use super::index::document::{ContentHash, ServerDocument, ToolDocument, ToolHints};
use super::index::{Catalog, TOOLS_MAX, ToolIndex, Vectors};
use super::sources::LiveServer;

/// The pause after the first failure to read a server's tools; doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(2);
/// The longest pause.
const RETRY_LONGEST: Duration = Duration::from_secs(120);
/// Vectors that are kept of tools that are gone, so that a server that comes back is found at once.
const VECTORS_MAX: usize = TOOLS_MAX * 2;

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Read a server's tools, after a pause if there is one.
    ReadTools {
        /// The server.
        server: ServerName,
        /// The pause.
        after: Duration,
    },
    /// Build the index anew and publish it.
    Publish,
    /// Compute these vectors.
    Embed(Vec<(ContentHash, String)>),
}

#[derive(Debug, Default)]
struct Followed {
    description: String,
    is_being_read: bool,
    changed_meanwhile: bool,
    failures: u32,
    last_error: Option<String>,
}

/// The catalog and how far it is read.
#[derive(Debug, Default)]
pub struct RouterState {
    catalog: Catalog,
    vectors: Vectors,
    servers: BTreeMap<ServerName, Followed>,
    model_is_ready: bool,
}

impl RouterState {
    /// A state that knows these documents from the beginning.
    pub fn new(built_in: impl IntoIterator<Item = ServerDocument>) -> Self {
        let mut state = Self::default();
        for document in built_in {
            // A handful of built-in tools never fills the catalog.
            let _ = state.catalog.upsert(document);
        }
        state
    }

    /// What is searched.
    pub fn build(&self) -> ToolIndex {
        self.catalog.build(&self.vectors)
    }

    /// What the index is built from, to build it elsewhere. Shares what is large.
    pub fn sources(&self) -> (Catalog, Vectors) {
        (self.catalog.clone(), self.vectors.clone())
    }

    /// Servers whose tools could not be read, with the reason.
    pub fn unreadable(&self) -> impl Iterator<Item = (&ServerName, &str)> {
        self.servers
            .iter()
            .filter_map(|(name, followed)| Some((name, followed.last_error.as_deref()?)))
    }

    /// How many servers are followed.
    pub fn servers_count(&self) -> usize {
        self.servers.len()
    }

    /// How many tools are indexed.
    pub fn tools_count(&self) -> usize {
        self.catalog.tools_count()
    }

    /// How many vectors are kept.
    pub fn vectors_count(&self) -> usize {
        self.vectors.len()
    }

    /// These servers are live, and no others.
    pub fn live(&mut self, live: Vec<LiveServer>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let gone: Vec<ServerName> = self
            .servers
            .keys()
            .filter(|name| live.iter().all(|server| server.name != **name))
            .cloned()
            .collect();
        for name in gone {
            self.servers.remove(&name);
            if self.catalog.remove(name.as_str()) {
                effects.push(Effect::Publish);
            }
        }
        for LiveServer { name, description } in live {
            let known = self.servers.entry(name.clone());
            let is_new = matches!(known, std::collections::btree_map::Entry::Vacant(_));
            let followed = known.or_default();
            let is_described_anew = followed.description != description;
            followed.description = description;
            if is_new || is_described_anew {
                effects.extend(self.read(&name));
            }
        }
        effects.dedup();
        effects
    }

    /// A server's tools may be different.
    pub fn tools_changed(&mut self, server: &ServerName) -> Vec<Effect> {
        if !self.servers.contains_key(server) {
            return Vec::new();
        }
        self.read(server).into_iter().collect()
    }

    /// A server's tools were read, or not.
    pub fn tools_read(
        &mut self,
        server: &ServerName,
        outcome: Result<&[ToolDescriptor], String>,
    ) -> Vec<Effect> {
        let Some(followed) = self.servers.get_mut(server) else {
            return Vec::new();
        };
        followed.is_being_read = false;
        let tools = match outcome {
            Ok(tools) => tools,
            Err(reason) => {
                followed.failures += 1;
                followed.last_error = Some(reason);
                followed.is_being_read = true;
                let after = RETRY_FIRST * 2u32.saturating_pow(followed.failures.min(10) - 1);
                return vec![Effect::ReadTools {
                    server: server.clone(),
                    after: after.min(RETRY_LONGEST),
                }];
            }
        };
        followed.failures = 0;
        followed.last_error = None;
        let must_read_again = std::mem::take(&mut followed.changed_meanwhile);
        let document = document(server, &followed.description, tools);
        let mut effects = Vec::new();
        match self.catalog.upsert(document) {
            Ok(true) => {
                effects.push(Effect::Publish);
                effects.extend(self.embed());
            }
            Ok(false) => {}
            Err(full) => {
                if let Some(followed) = self.servers.get_mut(server) {
                    followed.last_error = Some(full.to_string());
                }
            }
        }
        if must_read_again {
            effects.extend(self.read(server));
        }
        effects
    }

    /// The model is ready: everything that has no vector gets one.
    pub fn model_ready(&mut self) -> Vec<Effect> {
        self.model_is_ready = true;
        self.embed().into_iter().collect()
    }

    /// Vectors were computed.
    pub fn embedded(&mut self, vectors: Vec<(ContentHash, Vector)>) -> Vec<Effect> {
        if vectors.is_empty() {
            return Vec::new();
        }
        if self.vectors.len() + vectors.len() > VECTORS_MAX {
            let wanted: std::collections::HashSet<ContentHash> = self
                .catalog
                .texts_to_embed(&Vectors::new())
                .into_iter()
                .map(|(hash, _)| hash)
                .collect();
            self.vectors.retain(|hash, _| wanted.contains(hash));
        }
        self.vectors.extend(vectors);
        vec![Effect::Publish]
    }

    fn read(&mut self, server: &ServerName) -> Option<Effect> {
        let followed = self.servers.get_mut(server)?;
        if followed.is_being_read {
            followed.changed_meanwhile = true;
            return None;
        }
        followed.is_being_read = true;
        Some(Effect::ReadTools {
            server: server.clone(),
            after: Duration::ZERO,
        })
    }

    fn embed(&self) -> Option<Effect> {
        if !self.model_is_ready {
            return None;
        }
        let texts = self.catalog.texts_to_embed(&self.vectors);
        (!texts.is_empty()).then_some(Effect::Embed(texts))
    }
}

fn document(server: &ServerName, description: &str, tools: &[ToolDescriptor]) -> ServerDocument {
    let name: Arc<str> = server.as_str().into();
    let tools = tools
        .iter()
        .map(|descriptor| {
            let fields = descriptor.tool();
            let hints = fields.annotations.clone().unwrap_or_default();
            Arc::new(ToolDocument {
                server: Arc::clone(&name),
                name: descriptor.name.clone(),
                title: fields.title.or(hints.title),
                description: fields.description.unwrap_or_default(),
                input_schema: fields.input_schema,
                hints: ToolHints {
                    read_only: hints.read_only_hint == Some(true),
                    idempotent: hints.idempotent_hint == Some(true),
                    says_it_changes: hints.read_only_hint == Some(false),
                },
            })
        })
        .collect();
    ServerDocument {
        name,
        description: description.to_owned(),
        prior: 0.0,
        tools,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use serde_json::value::to_raw_value;
    use troupe_protocol::mcp::{Descriptor, ListKind};

    fn name(text: &str) -> ServerName {
        text.parse().unwrap()
    }

    fn live(names: &[&str]) -> Vec<LiveServer> {
        names
            .iter()
            .map(|text| LiveServer {
                name: name(text),
                description: String::new(),
            })
            .collect()
    }

    fn tools(names: &[&str]) -> Vec<ToolDescriptor> {
        let tool = |name: &&str| {
            let raw =
                to_raw_value(&json!({"name": name, "description": "does it", "inputSchema": {}})).unwrap();
            Descriptor::read(ListKind::Tools, &raw).unwrap()
        };
        names.iter().map(tool).collect()
    }

    fn read(server: &str) -> Effect {
        Effect::ReadTools {
            server: name(server),
            after: Duration::ZERO,
        }
    }

    #[test]
    fn a_server_is_read_when_it_comes_and_dropped_when_it_goes() {
        let mut state = RouterState::default();
        assert_eq!(state.live(live(&["a", "b"])), [read("a"), read("b")]);
        assert_eq!(state.live(live(&["a", "b"])), []);
        assert_eq!(
            state.tools_read(&name("a"), Ok(&tools(&["x", "y"]))),
            [Effect::Publish]
        );
        assert_eq!(state.tools_count(), 2);
        assert_eq!(
            state.tools_read(&name("a"), Ok(&tools(&["x", "y"]))),
            [],
            "nothing has changed"
        );
        assert_eq!(state.live(live(&["b"])), [Effect::Publish]);
        assert_eq!(state.tools_count(), 0);
        assert_eq!(
            state.tools_read(&name("a"), Ok(&tools(&["x"]))),
            [],
            "it is gone meanwhile"
        );
    }

    #[test]
    fn a_change_during_a_read_leads_to_one_more() {
        let mut state = RouterState::default();
        state.live(live(&["a"]));
        assert_eq!(state.tools_changed(&name("a")), []);
        assert_eq!(state.tools_changed(&name("a")), []);
        assert_eq!(
            state.tools_read(&name("a"), Ok(&tools(&["x"]))),
            [Effect::Publish, read("a")]
        );
        assert_eq!(state.tools_changed(&name("unknown")), []);
    }

    #[test]
    fn a_failure_is_retried_after_a_growing_pause() {
        let mut state = RouterState::default();
        state.live(live(&["a"]));
        let pauses: Vec<Duration> = (0..8)
            .map(
                |_| match state.tools_read(&name("a"), Err("gone".to_owned())).pop() {
                    Some(Effect::ReadTools { after, .. }) => after,
                    other => panic!("{other:?}"),
                },
            )
            .collect();
        assert_eq!(pauses[0], Duration::from_secs(2));
        assert_eq!(pauses[1], Duration::from_secs(4));
        assert_eq!(pauses[7], RETRY_LONGEST);
        assert_eq!(state.unreadable().count(), 1);
    }

    #[test]
    fn texts_are_embedded_once_the_model_is_ready_and_once_only() {
        let mut state = RouterState::default();
        state.live(live(&["a"]));
        state.tools_read(&name("a"), Ok(&tools(&["x"])));
        let effects = state.model_ready();
        let [Effect::Embed(texts)] = effects.as_slice() else {
            panic!("{effects:?}")
        };
        assert_eq!(texts.len(), 2, "the tool and its server");
        let vectors = texts
            .iter()
            .map(|(hash, _)| (*hash, Vector::from([1.0f32, 0.0])))
            .collect();
        assert_eq!(state.embedded(vectors), [Effect::Publish]);
        state.live(live(&[]));
        state.live(live(&["a"]));
        assert_eq!(
            state.tools_read(&name("a"), Ok(&tools(&["x"]))),
            [Effect::Publish],
            "its vectors are still there"
        );
    }
}
