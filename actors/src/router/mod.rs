//! From a question to a tool: the index, the selection, the planner, and the actor that keeps the index following the
//! registry.
//!
//! State is **cached**: the index is built from what live servers say, the vectors from their texts; both can be lost
//! and are built again. The actor owns them; searching reads what it last published and waits for nobody.
//!
//! # Layout
//! - [`index`]: what is known of the tools, and the signals of each for a question. Pure
//! - [`selection`]: fusion, confidence, decision. Pure
//! - [`planner`]: fills a tool's arguments from the question
//! - [`route`]: the choice: ranking, what can be filled, decision, arguments
//! - [`state`]: what happens when servers come, go and change. Pure
//! - [`sources`]: where servers and tools are learned from; [`node_servers`]: the node's own
//! - [`messages`]: what the actor is told, and the handle
//! - [`bench`]: `troupe bench routing`
//! - here: the actor

pub mod bench;
pub mod index;
pub mod messages;
pub mod node_servers;
pub mod planner;
pub mod route;
pub mod selection;
pub mod sources;
pub mod state;
mod vectors;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures::StreamExt;
use serde_json::json;
use troupe_protocol::id::ActorPath;
use troupe_protocol::routing::ModelState;

pub use messages::{RouterHandle, RouterMessage, ToolPolicy};
pub use node_servers::NodeServers;
pub use sources::ToolSource;
pub use vectors::VectorTree;

use crate::pipeline::embedding::Embedder;
use crate::runtime::{Actor, ActorError, ChildSpec, Context, Deadline, Mailbox, System};
use messages::Shared;
use planner::Planner;
use sources::ToolChange;
use state::{Effect, RouterState};

/// Messages that wait for the router.
const MAILBOX_MESSAGES_MAX: u32 = 1_024;
/// How long reading one server's tools may take, its start included.
const READ_TOOLS_WITHIN: Duration = Duration::from_secs(30);
/// Changes that come within this time are published together.
const PUBLISH_AFTER: Duration = Duration::from_millis(50);

/// What the router needs.
#[derive(Clone)]
pub struct RouterServices {
    /// Where servers and tools are learned from.
    pub servers: Arc<dyn ToolSource>,
    /// Computes vectors.
    pub embedder: Embedder,
    /// Keeps vectors over restarts; without it they are computed again.
    pub vectors: Option<VectorTree>,
    /// Fills arguments.
    pub planner: Arc<dyn Planner>,
    /// Who may use what.
    pub policy: ToolPolicy,
}

impl RouterHandle {
    /// The router at `path`, and its handle, before the start.
    pub fn build(system: &System, path: ActorPath, services: RouterServices) -> (Self, ChildSpec) {
        let mailbox = Mailbox::new(system, path, MAILBOX_MESSAGES_MAX);
        let shared = Arc::new(Shared {
            index: ArcSwap::from_pointee(RouterState::new([crate::builtin::document()]).build()),
            embedder: services.embedder.clone(),
            planner: Arc::clone(&services.planner),
            policy: Arc::clone(&services.policy),
        });
        let of_actor = Arc::clone(&shared);
        let spec = ChildSpec::actor(mailbox, move || {
            Router::new(services.clone(), Arc::clone(&of_actor))
        });
        (Self { shared }, spec)
    }
}

/// Keeps the index following the servers.
struct Router {
    services: RouterServices,
    shared: Arc<Shared>,
    state: RouterState,
    publish_is_due: bool,
    is_building: bool,
    build_again: bool,
    is_embedding: bool,
    embed_again: bool,
}

impl Router {
    fn new(services: RouterServices, shared: Arc<Shared>) -> Self {
        let state = RouterState::new([crate::builtin::document()]);
        Self {
            services,
            shared,
            state,
            publish_is_due: false,
            is_building: false,
            build_again: false,
            is_embedding: false,
            embed_again: false,
        }
    }

    /// Builds the index; what changes meanwhile is in the next one.
    fn build(&mut self, ctx: &Context<Self>) {
        if std::mem::replace(&mut self.is_building, true) {
            self.build_again = true;
            return;
        }
        let (catalog, vectors) = self.state.sources();
        // Thousands of tools take tens of milliseconds: not on the threads that everything else runs on.
        ctx.spawn_to_self("build index", async move {
            let built = tokio::task::spawn_blocking(move || catalog.build(&vectors)).await;
            RouterMessage::Built(built.map(Box::new).map_err(|error| error.to_string()))
        });
    }

    fn perform(&mut self, effects: Vec<Effect>, ctx: &Context<Self>) {
        for effect in effects {
            match effect {
                Effect::Publish if !self.publish_is_due => {
                    self.publish_is_due = true;
                    ctx.send_after(PUBLISH_AFTER, RouterMessage::PublishDue);
                }
                Effect::Publish => {}
                Effect::ReadTools { server, after } => {
                    let servers = Arc::clone(&self.services.servers);
                    ctx.spawn_to_self("read tools", async move {
                        tokio::time::sleep(after).await;
                        let outcome = servers.tools(&server, Deadline::within(READ_TOOLS_WITHIN)).await;
                        RouterMessage::ToolsRead(server, outcome)
                    });
                }
                // One run at a time: what comes meanwhile is found by the next.
                Effect::Embed(_) if self.is_embedding => self.embed_again = true,
                Effect::Embed(texts) => {
                    self.is_embedding = true;
                    let mailbox = ctx.mailbox().clone();
                    let (embedder, tree) = (self.services.embedder.clone(), self.services.vectors.clone());
                    ctx.spawn("embed tools", async move {
                        vectors::compute(texts, &embedder, tree.as_ref(), |vectors| {
                            // A full mailbox loses a batch, which the next change computes again.
                            let _ = mailbox.tell(RouterMessage::Embedded(vectors));
                        })
                        .await;
                        let _ = mailbox.tell(RouterMessage::EmbeddingEnded);
                    });
                }
            }
        }
    }
}

impl Actor for Router {
    type Message = RouterMessage;
    const KIND: &'static str = "router";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let mut changes = self.services.servers.changes();
        let mailbox = ctx.mailbox().clone();
        ctx.spawn("follow servers", async move {
            while let Some(change) = changes.next().await {
                // Refused when full: the changes that wait there lead to the same look at the servers.
                let _ = mailbox.tell(RouterMessage::Changed(change));
            }
        });
        let mut model = self.services.embedder.watch_state();
        let mailbox = ctx.mailbox().clone();
        ctx.spawn("await model", async move {
            if model.wait_for(|state| *state == ModelState::Ready).await.is_ok() {
                let _ = mailbox.tell(RouterMessage::ModelReady);
            }
        });
        let effects = self.state.live(self.services.servers.live());
        self.perform(effects, ctx);
        Ok(())
    }

    async fn handle(&mut self, message: RouterMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        let effects = match message {
            RouterMessage::Changed(ToolChange::Servers) => self.state.live(self.services.servers.live()),
            RouterMessage::Changed(ToolChange::Tools(server)) => self.state.tools_changed(&server),
            RouterMessage::ToolsRead(server, outcome) => self.state.tools_read(
                &server,
                outcome
                    .as_ref()
                    .map(|tools| tools.as_slice())
                    .map_err(Clone::clone),
            ),
            RouterMessage::ModelReady => self.state.model_ready(),
            RouterMessage::Embedded(vectors) => self.state.embedded(vectors),
            RouterMessage::EmbeddingEnded => {
                self.is_embedding = false;
                if std::mem::take(&mut self.embed_again) {
                    self.state.model_ready()
                } else {
                    Vec::new()
                }
            }
            RouterMessage::PublishDue => {
                self.publish_is_due = false;
                self.build(ctx);
                Vec::new()
            }
            RouterMessage::Built(built) => {
                self.is_building = false;
                self.shared
                    .index
                    .store(Arc::from(built.map_err(ActorError::new)?));
                if std::mem::take(&mut self.build_again) {
                    self.build(ctx);
                }
                Vec::new()
            }
        };
        self.perform(effects, ctx);
        Ok(())
    }

    fn snapshot(&self) -> serde_json::Value {
        let unreadable: Vec<_> = self
            .state
            .unreadable()
            .map(|(name, reason)| json!({"server": name, "reason": reason}))
            .collect();
        json!({
            "servers": self.state.servers_count(),
            "tools": self.state.tools_count(),
            "vectors": self.state.vectors_count(),
            "model": self.services.embedder.status().state,
            "planner": self.services.planner.kind(),
            "unreadable": unreadable,
        })
    }
}

#[cfg(test)]
mod tests;
