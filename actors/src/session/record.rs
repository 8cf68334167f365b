//! What all nodes know of a session: enough to go on with it when the node that has it is gone.
//!
//! A record is written when the client comes back after `initialize` (clients that vanish cost the log nothing), before
//! it gets an answer; then only when it subscribes to resources, and removed with the session. When the client was last
//! heard of is known to the session's node alone: after a take-over the idle time begins anew.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use troupe_protocol::mcp::{ClientCapabilities, ProtocolVersion};
use troupe_protocol::server::ServerName;

use super::endpoint::Endpoint;
use super::session::{NewSession, Session};

/// The tree's name and the version of its records.
pub(super) const TREE: &str = "mcp_sessions";
pub(super) const SCHEMA_VERSION: u16 = 1;
/// How many bytes of subscriptions are in a record; what is over is lost with the session's node.
const SUBSCRIPTIONS_BYTES_MAX: usize = 32 * 1024;

/// A session without what belongs to the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Whose it is.
    owner: String,
    /// The server at whose endpoint it was opened; nothing for all servers together.
    server: Option<ServerName>,
    /// Whether that is a virtual server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_virtual: bool,
    protocol_version: String,
    client_capabilities: String,
    client: String,
    /// The addresses of the resources whose changes the client wants to hear of.
    subscriptions: Vec<String>,
}

impl SessionRecord {
    pub(super) fn of(session: &Session) -> Self {
        let settled = &session.settled;
        let mut bytes = 0;
        let mut subscriptions = session.subscriptions();
        subscriptions.retain(|uri| {
            bytes += uri.len();
            bytes <= SUBSCRIPTIONS_BYTES_MAX
        });
        Self {
            owner: settled.owner.to_string(),
            server: match &settled.endpoint {
                Endpoint::Aggregate => None,
                Endpoint::Server(server) | Endpoint::Virtual(server) => Some(server.clone()),
            },
            is_virtual: matches!(settled.endpoint, Endpoint::Virtual(_)),
            protocol_version: settled.protocol_version.to_string(),
            client_capabilities: settled.client_capabilities.as_str().to_owned(),
            client: settled.client.to_string(),
            subscriptions,
        }
    }

    /// Whether it is this owner's.
    pub(super) fn is_of(&self, owner: &str) -> bool {
        self.owner == owner
    }

    /// What `initialize` settled, and the subscriptions.
    pub(super) fn into_parts(self) -> (NewSession, Vec<String>) {
        let capabilities = RawValue::from_string(self.client_capabilities).map(ClientCapabilities::new);
        let settled = NewSession {
            owner: self.owner.into(),
            endpoint: match self.server {
                None => Endpoint::Aggregate,
                Some(server) if self.is_virtual => Endpoint::Virtual(server),
                Some(server) => Endpoint::Server(server),
            },
            protocol_version: self
                .protocol_version
                .parse()
                .unwrap_or(ProtocolVersion::LATEST_LEGACY),
            client_capabilities: capabilities.unwrap_or_default(),
            client: Arc::from(self.client),
        };
        (settled, self.subscriptions)
    }
}
