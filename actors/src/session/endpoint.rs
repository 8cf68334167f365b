//! Where a client has connected.

use std::fmt;

use troupe_protocol::server::ServerName;

/// One of the places at which clients are served.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// Everything the caller may use, under exposed names (`/mcp`).
    Aggregate,
    /// One server, under its own names (`/mcp/servers/{name}`).
    Server(ServerName),
    /// Chosen things of several servers, as a definition shows them (`/mcp/virtual/{name}`).
    Virtual(ServerName),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aggregate => f.write_str("/mcp"),
            Self::Server(name) => write!(f, "/mcp/servers/{name}"),
            Self::Virtual(name) => write!(f, "/mcp/virtual/{name}"),
        }
    }
}
