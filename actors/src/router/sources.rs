//! Where the router learns of servers and their tools. A trait, so that neither registry nor connections are needed to
//! test it.

use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use troupe_protocol::mcp::ToolDescriptor;
use troupe_protocol::server::ServerName;

use crate::runtime::Deadline;

/// A server whose tools should be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveServer {
    /// Its name.
    pub name: ServerName,
    /// What it is for.
    pub description: String,
}

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChange {
    /// Which servers are live may be different.
    Servers,
    /// This server's tools may be different.
    Tools(ServerName),
}

/// Knows which servers are live and what tools they have.
pub trait ToolSource: Send + Sync + 'static {
    /// The servers that answer now, from views in memory.
    fn live(&self) -> Vec<LiveServer>;

    /// A server's tools.
    fn tools<'a>(
        &'a self,
        server: &'a ServerName,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Arc<Vec<ToolDescriptor>>, String>>;

    /// Changes from now on.
    fn changes(&self) -> BoxStream<'static, ToolChange>;
}
