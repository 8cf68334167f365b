//! The tool index: pure data, no I/O, no clock, no actor.
//!
//! [`Catalog`] holds the servers and is changed server by server; [`ToolIndex`] is built from it, never changed, and
//! shared by all who search. Vectors are handed in by content hash, so that a tool is embedded once however often its
//! server comes and goes.

pub mod analysis;
pub mod dense;
pub mod document;
pub mod lexical;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use analysis::QueryTerm;
use dense::{DenseIndex, Vector};
use document::{ContentHash, ServerDocument, ToolDocument};
use lexical::{FieldWeight, LexicalIndex};

/// Vectors by the hash of the text they stand for.
pub type Vectors = HashMap<ContentHash, Vector>;

/// Most tools that are indexed; a server that would go beyond is left out and reported.
pub const TOOLS_MAX: usize = 20_000;

const FIELDS: usize = 6;

/// Server name, tool name, title, description, arguments, description of the server. Tuned on the kept queries of
/// `troupe bench routing`; the ranking is flat around these values (±30 % moves hit@1 by less than a point).
const FIELD_WEIGHTS: [FieldWeight; FIELDS] = [
    FieldWeight {
        weight: 3.0,
        length_normalisation: 0.6,
        coverage: 1.0,
    },
    FieldWeight {
        weight: 3.0,
        length_normalisation: 0.3,
        coverage: 1.0,
    },
    FieldWeight {
        weight: 2.0,
        length_normalisation: 0.3,
        coverage: 1.0,
    },
    FieldWeight {
        weight: 1.5,
        length_normalisation: 0.6,
        coverage: 0.8,
    },
    FieldWeight {
        weight: 0.3,
        length_normalisation: 0.75,
        coverage: 0.5,
    },
    FieldWeight {
        weight: 0.5,
        length_normalisation: 0.3,
        coverage: 0.6,
    },
];

type FieldTerms = [Vec<String>; FIELDS];

#[derive(Debug)]
struct IndexedServer {
    document: ServerDocument,
    hash: ContentHash,
    tool_hashes: Vec<ContentHash>,
    tool_terms: Vec<FieldTerms>,
}

/// The servers whose tools are to be found. Analysing a text happens here, once per change of its server.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    servers: BTreeMap<Arc<str>, Arc<IndexedServer>>,
}

/// The catalog is full.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("server {server} has {tools} tools, which would make more than {TOOLS_MAX} in the index")]
pub struct CatalogFull {
    /// The server that was left out.
    pub server: String,
    /// How many tools it has.
    pub tools: usize,
}

impl Catalog {
    /// Adds a server or replaces what is known of it. Answers whether anything changed.
    pub fn upsert(&mut self, document: ServerDocument) -> Result<bool, CatalogFull> {
        let known = self.servers.get(&document.name);
        if known.is_some_and(|known| known.document == document) {
            return Ok(false);
        }
        let others = self.tools_count() - known.map_or(0, |known| known.document.tools.len());
        if others + document.tools.len() > TOOLS_MAX {
            return Err(CatalogFull {
                server: document.name.to_string(),
                tools: document.tools.len(),
            });
        }
        let indexed = IndexedServer {
            hash: ContentHash::of(&document.text_to_embed()),
            tool_hashes: document
                .tools
                .iter()
                .map(|tool| ContentHash::of(&tool.text_to_embed()))
                .collect(),
            tool_terms: document
                .tools
                .iter()
                .map(|tool| tool_terms(tool, &document))
                .collect(),
            document,
        };
        self.servers
            .insert(Arc::clone(&indexed.document.name), Arc::new(indexed));
        Ok(true)
    }

    /// Takes a server out. Answers whether it was there.
    pub fn remove(&mut self, server: &str) -> bool {
        self.servers.remove(server).is_some()
    }

    /// The names of the servers.
    pub fn server_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.servers.keys()
    }

    /// How many tools there are.
    pub fn tools_count(&self) -> usize {
        self.servers
            .values()
            .map(|server| server.document.tools.len())
            .sum()
    }

    /// The texts that have no vector yet, each once.
    pub fn texts_to_embed(&self, vectors: &Vectors) -> Vec<(ContentHash, String)> {
        let mut wanted: BTreeMap<ContentHash, String> = BTreeMap::new();
        for server in self.servers.values() {
            if !vectors.contains_key(&server.hash) {
                wanted
                    .entry(server.hash)
                    .or_insert_with(|| server.document.text_to_embed());
            }
            for (hash, tool) in server.tool_hashes.iter().zip(&server.document.tools) {
                if !vectors.contains_key(hash) {
                    wanted.entry(*hash).or_insert_with(|| tool.text_to_embed());
                }
            }
        }
        wanted.into_iter().collect()
    }

    /// Builds what is searched.
    pub fn build(&self, vectors: &Vectors) -> ToolIndex {
        let servers: Vec<&Arc<IndexedServer>> = self.servers.values().collect();
        let mut tools = Vec::with_capacity(self.tools_count());
        for (number, server) in servers.iter().enumerate() {
            tools.extend(
                server
                    .document
                    .tools
                    .iter()
                    .map(|tool| (number as u32, Arc::clone(tool))),
            );
        }
        let tool_terms: Vec<FieldTerms> = servers
            .iter()
            .flat_map(|server| server.tool_terms.iter().cloned())
            .collect();
        let server_terms: Vec<FieldTerms> = servers.iter().map(|server| server_terms(server)).collect();
        let tool_hashes = servers.iter().flat_map(|server| &server.tool_hashes);
        ToolIndex {
            priors: servers.iter().map(|server| server.document.prior).collect(),
            lexical: LexicalIndex::build(&FIELD_WEIGHTS, &tool_terms),
            server_lexical: LexicalIndex::build(&FIELD_WEIGHTS, &server_terms),
            dense: DenseIndex::build(tool_hashes.map(|hash| vectors.get(hash))),
            server_dense: DenseIndex::build(servers.iter().map(|server| vectors.get(&server.hash))),
            tools,
        }
    }
}

fn tool_terms(tool: &ToolDocument, server: &ServerDocument) -> FieldTerms {
    lexical::analysed([
        Cow::from(&*server.name),
        Cow::from(&tool.name),
        Cow::from(tool.title.as_deref().unwrap_or_default()),
        Cow::from(&tool.description),
        Cow::from(tool.parameters_text()),
        Cow::from(&server.description),
    ])
}

/// A server as one document: all that its tools say, its own name and description once.
fn server_terms(server: &IndexedServer) -> FieldTerms {
    std::array::from_fn(|field| {
        let said_by_each_tool = matches!(field, 0 | 5);
        let tools = server.tool_terms.iter().map(|terms| terms[field].iter().cloned());
        if said_by_each_tool {
            tools.take(1).flatten().collect()
        } else {
            tools.flatten().collect()
        }
    })
}

/// All that is needed to find tools. Immutable: build a new one when the catalog or the vectors change.
#[derive(Debug, Default)]
pub struct ToolIndex {
    tools: Vec<(u32, Arc<ToolDocument>)>,
    priors: Vec<f32>,
    lexical: LexicalIndex,
    server_lexical: LexicalIndex,
    dense: DenseIndex,
    server_dense: DenseIndex,
}

/// A question, analysed.
#[derive(Debug, Clone)]
pub struct Query {
    /// Its terms.
    pub terms: Vec<QueryTerm>,
    /// Its vector, where a model is ready.
    pub vector: Option<Vector>,
}

impl Query {
    /// Analyses a question.
    pub fn new(text: &str, vector: Option<Vector>) -> Self {
        Self {
            terms: analysis::query_terms(text),
            vector,
        }
    }
}

/// The signals of one tool for one question, before they are fused.
#[derive(Debug, Clone)]
pub struct Signals {
    /// The tool.
    pub tool: Arc<ToolDocument>,
    /// Its number, by which [`ToolIndex::coverage`] asks.
    pub number: u32,
    /// BM25F of the tool.
    pub lexical: f32,
    /// Cosine with the tool.
    pub dense: Option<f32>,
    /// BM25F of the server as one document.
    pub server_lexical: f32,
    /// Cosine with the server.
    pub server_dense: Option<f32>,
    /// The server's prior.
    pub prior: f32,
}

impl ToolIndex {
    /// How many servers, tools, and tools with a vector there are.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.priors.len(), self.tools.len(), self.dense.filled())
    }

    /// All tools.
    pub fn tools(&self) -> impl Iterator<Item = &Arc<ToolDocument>> {
        self.tools.iter().map(|(_, tool)| tool)
    }

    /// One tool.
    pub fn tool(&self, server: &str, name: &str) -> Option<&Arc<ToolDocument>> {
        self.tools()
            .find(|tool| &*tool.server == server && tool.name == name)
    }

    /// The signals of every tool that `allowed` lets through: what the asker may not use has no part in the ranking.
    pub fn signals(&self, query: &Query, allowed: impl Fn(&ToolDocument) -> bool) -> Vec<Signals> {
        let lexical = self.lexical.scores(&query.terms);
        let server_lexical = self.server_lexical.scores(&query.terms);
        let question_vector = query.vector.as_deref().unwrap_or_default();
        let dense = self.dense.cosines(question_vector);
        let server_dense = self.server_dense.cosines(question_vector);
        self.tools
            .iter()
            .enumerate()
            .filter(|(_, (_, tool))| allowed(tool))
            .map(|(number, (server, tool))| {
                let server = *server as usize;
                Signals {
                    tool: Arc::clone(tool),
                    number: number as u32,
                    lexical: lexical.get(number).copied().unwrap_or_default(),
                    dense: dense.get(number).copied().flatten(),
                    server_lexical: server_lexical.get(server).copied().unwrap_or_default(),
                    server_dense: server_dense.get(server).copied().flatten(),
                    prior: self.priors.get(server).copied().unwrap_or_default(),
                }
            })
            .collect()
    }

    /// How much of what a question asks for a tool speaks of, from 0 to 1.
    pub fn coverage(&self, query: &Query, tool_number: u32) -> f32 {
        self.lexical.coverage(&query.terms, tool_number)
    }

    /// How much of a tool's name the question says, from 0 to 1.
    pub fn name_coverage(&self, query: &Query, tool: &ToolDocument) -> f32 {
        self.lexical
            .name_coverage(&query.terms, &analysis::terms(&tool.name))
    }
}
