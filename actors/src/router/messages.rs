//! What the router is told, and the handle with which tools are found and questions routed.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use troupe_protocol::access::Principal;
use troupe_protocol::mcp::ToolDescriptor;
use troupe_protocol::routing::{IndexStatus, ToolMatch};
use troupe_protocol::server::ServerName;

use super::index::dense::Vector;
use super::index::document::{ContentHash, ToolDocument};
use super::index::{Query, ToolIndex};
use super::planner::{PlanContext, Planner};
use super::route::{self, RouteRequest, Routing};
use super::selection;
use super::sources::ToolChange;
use crate::pipeline::embedding::Embedder;
use crate::runtime::{Deadline, Message};

/// How long a question waits for its vector before it is routed by words alone.
const QUESTION_VECTOR_WITHIN: Duration = Duration::from_millis(500);
/// Tools that are ranked for a question.
const RANKED_MAX: usize = 20;
/// Most tools that one search returns.
pub const FOUND_TOOLS_MAX: usize = 100;
/// Longest question that is routed, in bytes.
pub const QUESTION_BYTES_MAX: usize = 32 * 1024;

/// Whether a principal may use a tool.
pub type ToolPolicy = Arc<dyn Fn(&Principal, &ToolDocument) -> bool + Send + Sync>;

/// What the router is told.
#[derive(Debug, strum::IntoStaticStr)]
pub enum RouterMessage {
    /// Servers or tools may be different.
    Changed(ToolChange),
    /// A server's tools were read, or not.
    ToolsRead(ServerName, Result<Arc<Vec<ToolDescriptor>>, String>),
    /// The embedding model is ready.
    ModelReady,
    /// Vectors were computed.
    Embedded(Vec<(ContentHash, Vector)>),
    /// All vectors that were asked for are computed, or will not be.
    EmbeddingEnded,
    /// It is time to build the index anew.
    PublishDue,
    /// The index was built, or the building panicked.
    Built(Result<Box<ToolIndex>, String>),
}

impl Message for RouterMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// What the actor publishes and the handles share.
pub(super) struct Shared {
    pub index: ArcSwap<ToolIndex>,
    pub embedder: Embedder,
    pub planner: Arc<dyn Planner>,
    pub policy: ToolPolicy,
}

/// Finds tools and routes questions. Cheap to clone; nothing here waits for the actor.
#[derive(Clone)]
pub struct RouterHandle {
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for RouterHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (servers, tools, _) = self.shared.index.load().counts();
        write!(f, "RouterHandle({tools} tools of {servers} servers)")
    }
}

impl RouterHandle {
    /// The tools that fit a question, best first, among those the principal may use.
    pub async fn find_tools(
        &self,
        question: &str,
        principal: &Principal,
        limit: usize,
        deadline: Deadline,
    ) -> Vec<ToolMatch> {
        let query = self.query(question, deadline).await;
        let index = self.shared.index.load_full();
        let allowed = |tool: &ToolDocument| (self.shared.policy)(principal, tool);
        let ranked = selection::rank(&index, &query, limit.min(FOUND_TOOLS_MAX), allowed);
        ranked.iter().map(selection::Ranked::to_match).collect()
    }

    /// Chooses a tool for a question and fills its arguments.
    pub async fn route(
        &self,
        question: &str,
        context: &PlanContext,
        principal: &Principal,
        deadline: Deadline,
    ) -> Routing {
        let query = self.query(question, deadline).await;
        let index = self.shared.index.load_full();
        let allowed = |tool: &ToolDocument| (self.shared.policy)(principal, tool);
        let ranked = selection::rank(&index, &query, RANKED_MAX, allowed);
        let now = jiff::Zoned::now();
        let request = RouteRequest {
            question,
            context,
            now: &now,
            within: deadline.remaining(),
        };
        route::choose(ranked, request, &*self.shared.planner).await
    }

    /// Who fills arguments.
    pub fn planner(&self) -> &Arc<dyn Planner> {
        &self.shared.planner
    }

    /// A tool by its names, if the principal may use it.
    pub fn tool(&self, server: &str, tool: &str, principal: &Principal) -> Option<Arc<ToolDocument>> {
        let index = self.shared.index.load();
        index
            .tool(server, tool)
            .filter(|tool| (self.shared.policy)(principal, tool))
            .cloned()
    }

    /// All tools that the principal may use, by server.
    pub fn tools(&self, principal: &Principal) -> Vec<Arc<ToolDocument>> {
        let index = self.shared.index.load();
        index
            .tools()
            .filter(|tool| (self.shared.policy)(principal, tool))
            .cloned()
            .collect()
    }

    /// How index, model and planner stand.
    pub fn status(&self) -> IndexStatus {
        let (servers, tools, tools_embedded) = self.shared.index.load().counts();
        IndexStatus {
            servers: servers as u32,
            tools: tools as u32,
            tools_embedded: tools_embedded as u32,
            model: (*self.shared.embedder.status()).clone(),
            planner: self.shared.planner.kind(),
        }
    }

    async fn query(&self, question: &str, deadline: Deadline) -> Query {
        let within = deadline.remaining().min(QUESTION_VECTOR_WITHIN);
        // Without a vector the words decide; the status says why there is none.
        let vector = self.shared.embedder.embed_question(question, within).await.ok();
        Query::new(question, vector)
    }
}
