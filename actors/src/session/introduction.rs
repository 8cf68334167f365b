//! What clients are told when they begin: whom they speak with and what that one can do.

use serde_json::{Value, json};
use troupe_protocol::mcp::{Era, ListKind};
use troupe_protocol::upstream::UpstreamInfo;

use super::endpoint::Endpoint;
use super::gateway::Gateway;
use super::refusal::Refusal;
use super::tasks;
use crate::registry::virtual_servers::view;
use crate::registry::{VirtualServer, VirtualServerError};

/// What the aggregate endpoint says to models.
const INSTRUCTIONS: &str = "Tools, resources and prompts of all registered MCP servers, named server__name. \
    When the list is long, search it with find_tools and call what it finds with call_tool.";

/// The parts of an `initialize` or `server/discover` result that do not depend on the revision.
#[derive(Debug, Clone, PartialEq)]
pub struct Introduction {
    /// The capabilities.
    pub capabilities: Value,
    /// Name and version.
    pub server_info: Value,
    /// Guidance for models.
    pub instructions: Option<String>,
}

impl Gateway {
    /// Introduces the endpoint to a client of this era. A server's own endpoint introduces the server, which is
    /// started if need be.
    ///
    /// # Errors
    /// If the server cannot be reached.
    pub async fn introduce(&self, endpoint: &Endpoint, client: Era) -> Result<Introduction, Refusal> {
        match endpoint {
            Endpoint::Aggregate => Ok(of_all()),
            Endpoint::Server(server) => Ok(of_server(client, &self.connect(server).await?.info())),
            Endpoint::Virtual(name) => {
                let server = self.parts.virtual_servers.get(name.as_str());
                let gone = || Refusal::VirtualServer(VirtualServerError::NotFound(name.clone()));
                Ok(of_virtual(&*server.ok_or_else(gone)?))
            }
        }
    }
}

fn of_all() -> Introduction {
    let changes = json!({ "listChanged": true });
    let resources = json!({ "listChanged": true, "subscribe": true });
    Introduction {
        capabilities: json!({ "tools": changes, "resources": resources, "prompts": changes, "completions": {} }),
        server_info: json!({ "name": "troupe", "title": "Troupe", "version": env!("CARGO_PKG_VERSION") }),
        instructions: Some(INSTRUCTIONS.to_owned()),
    }
}

fn of_virtual(server: &VirtualServer) -> Introduction {
    let definition = &server.definition;
    let kinds = view::kinds(&definition.items);
    let mut capabilities = json!({});
    for kind in &kinds {
        capabilities[kind.capability()] = json!({ "listChanged": true });
    }
    if let Some(resources) = capabilities.get_mut("resources") {
        resources["subscribe"] = json!(true);
    }
    if kinds.contains(&ListKind::Prompts) || kinds.contains(&ListKind::ResourceTemplates) {
        capabilities["completions"] = json!({});
    }
    // It has no version of its own; who compares versions shall see every change.
    let mut server_info = json!({ "name": server.name, "version": server.updated_at });
    if let Some(title) = &definition.title {
        server_info["title"] = json!(title);
    }
    let instructions = definition
        .instructions
        .as_ref()
        .or(definition.description.as_ref());
    Introduction {
        capabilities,
        server_info,
        instructions: instructions.cloned(),
    }
}

fn of_server(client: Era, info: &UpstreamInfo) -> Introduction {
    let mut server_info = json!({ "name": info.server_info.name, "version": info.server_info.version });
    if let Some(title) = &info.server_info.title {
        server_info["title"] = json!(title);
    }
    Introduction {
        capabilities: translated(client, info.era, info.capabilities.clone()),
        server_info,
        instructions: info.instructions.clone(),
    }
}

/// The capabilities of a server without those that a client of the other era has no way to use.
fn translated(client: Era, server: Era, capabilities: Value) -> Value {
    let Value::Object(mut capabilities) = capabilities else {
        return json!({});
    };
    if client != server {
        let of_both = Value::Object(capabilities.clone());
        for of_one_era in ["logging", "tasks", "extensions"] {
            capabilities.remove(of_one_era);
        }
        match client {
            Era::Modern if tasks::legacy_server_has(&of_both) => {
                capabilities.insert("extensions".to_owned(), json!({ tasks::EXTENSION: {} }));
            }
            Era::Legacy if tasks::modern_server_has(&of_both) => {
                let of_tools = json!({ "cancel": {}, "requests": { "tools": { "call": {} } } });
                capabilities.insert("tasks".to_owned(), of_tools);
            }
            Era::Modern | Era::Legacy => {}
        }
    }
    Value::Object(capabilities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_introduced_as_it_is_within_its_era() {
        let capabilities =
            json!({"logging": {}, "resources": {"subscribe": true, "listChanged": true}, "x": {"y": 1}});
        assert_eq!(
            translated(Era::Legacy, Era::Legacy, capabilities.clone()),
            capabilities
        );
        assert_eq!(
            translated(Era::Modern, Era::Legacy, capabilities),
            json!({"resources": {"subscribe": true, "listChanged": true}, "x": {"y": 1}})
        );
        assert_eq!(translated(Era::Modern, Era::Legacy, Value::Null), json!({}));
        let (core, extension) = (
            json!({"tasks": {"cancel": {}, "requests": {"tools": {"call": {}}}}}),
            json!({"extensions": {"io.modelcontextprotocol/tasks": {}}}),
        );
        assert_eq!(translated(Era::Modern, Era::Legacy, core.clone()), extension);
        assert_eq!(translated(Era::Legacy, Era::Modern, extension), core);
    }
}
