//! The node's own registry, probers and connections as the router's source of servers and tools.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt, select_all};
use tokio_stream::wrappers::BroadcastStream;
use troupe_protocol::mcp::{ListKind, ToolDescriptor};
use troupe_protocol::server::ServerName;
use troupe_protocol::upstream::UpstreamState;

use super::sources::{LiveServer, ToolChange, ToolSource};
use crate::registry::{RegistryEvent, RegistryHandle};
use crate::runtime::Deadline;
use crate::upstream::{UpstreamEvent, UpstreamsHandle};

/// The node's own registry and connections.
#[derive(Clone)]
pub struct NodeServers {
    /// Which servers are registered and enabled.
    pub registry: RegistryHandle,
    /// What tools they have.
    pub upstreams: UpstreamsHandle,
}

impl ToolSource for NodeServers {
    fn live(&self) -> Vec<LiveServer> {
        let registered = self.registry.view();
        let answers = |name: &ServerName| self.upstreams.state(name) == UpstreamState::Ready;
        registered
            .enabled()
            .filter(|entry| answers(&entry.name))
            .map(|entry| LiveServer {
                name: entry.name.clone(),
                description: entry.manifest.description.clone(),
            })
            .collect()
    }

    fn tools<'a>(
        &'a self,
        server: &'a ServerName,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Arc<Vec<ToolDescriptor>>, String>> {
        Box::pin(async move {
            let upstream = self
                .upstreams
                .get(server, deadline)
                .await
                .map_err(|error| error.to_string())?;
            upstream.tools(deadline).await.map_err(|error| error.to_string())
        })
    }

    fn changes(&self) -> BoxStream<'static, ToolChange> {
        // Who is too slow and misses events looks at all servers again.
        let registered = BroadcastStream::new(self.registry.subscribe()).map(|event| match event {
            Ok(RegistryEvent::Updated { name }) => vec![ToolChange::Servers, ToolChange::Tools(name)],
            _ => vec![ToolChange::Servers],
        });
        let connected = BroadcastStream::new(self.upstreams.subscribe()).map(|event| match event {
            Ok(UpstreamEvent::ListChanged {
                server,
                kind: ListKind::Tools,
            }) => vec![ToolChange::Tools(server)],
            Ok(UpstreamEvent::Up { server, .. }) => vec![ToolChange::Servers, ToolChange::Tools(server)],
            Ok(UpstreamEvent::ListChanged { .. } | UpstreamEvent::ResourceUpdated { .. }) => Vec::new(),
            Ok(UpstreamEvent::Down { .. }) | Err(_) => vec![ToolChange::Servers],
        });
        select_all([registered.boxed(), connected.boxed()])
            .flat_map(futures::stream::iter)
            .boxed()
    }
}
