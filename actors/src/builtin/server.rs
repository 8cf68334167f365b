//! Runs the tools of the built-in server.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::{Value, json};
use troupe_protocol::access::Principal;
use troupe_protocol::mcp::{Era, ToolDescriptor};
use troupe_protocol::server::{ServerQuery, ServerSummary};
use troupe_protocol::upstream::{ServerInfo, UpstreamInfo};

use super::tools::{self, DESCRIPTION, SERVER_NAME};
use crate::conversation::ToolCaller;
use crate::registry::{Health, RegistryHandle};
use crate::router::RouterHandle;
use crate::router::planner::rules::place;
use crate::router::planner::{Arguments, schema};
use crate::runtime::Deadline;
use crate::upstream::{BuiltinError, BuiltinServer};

/// The revision of MCP in which the built-in server answers.
const PROTOCOL_VERSION: &str = "2026-07-28";
/// Servers that are listed at once.
const LISTED_SERVERS_MAX: u32 = 200;
/// Tools that are found when no limit is named.
const FOUND_TOOLS_DEFAULT: usize = 5;

/// What the built-in server's tools look at.
#[derive(Clone)]
pub struct BuiltinServices {
    /// Registered servers.
    pub registry: RegistryHandle,
    /// How they fare now.
    pub health: Arc<dyn Fn() -> Arc<Health> + Send + Sync>,
    /// Finds tools, and knows who may use which.
    pub router: RouterHandle,
    /// Calls tools. Nothing once the node is stopping.
    pub caller: Arc<dyn Fn() -> Option<Arc<dyn ToolCaller>> + Send + Sync>,
    /// The node's status as the API shows it.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
}

/// The server `troupe`.
pub struct Builtin {
    services: BuiltinServices,
    info: Arc<UpstreamInfo>,
    tools: Arc<Vec<ToolDescriptor>>,
}

impl fmt::Debug for Builtin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Builtin({} tools)", self.tools.len())
    }
}

#[derive(Deserialize)]
struct FindTools {
    query: String,
    #[serde(default)]
    limit: Option<usize>,
}

#[derive(Deserialize)]
struct CallTool {
    server: String,
    tool: String,
    #[serde(default)]
    arguments: Arguments,
}

#[derive(Deserialize)]
struct CurrentTime {
    #[serde(default)]
    timezone: Option<String>,
}

impl Builtin {
    /// The server over these services.
    pub fn new(services: BuiltinServices) -> Self {
        let info = UpstreamInfo {
            era: Era::Modern,
            protocol_version: PROTOCOL_VERSION.to_owned(),
            server_info: ServerInfo {
                name: SERVER_NAME.to_owned(),
                title: Some("Troupe".to_owned()),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            },
            capabilities: json!({ "tools": {} }),
            instructions: Some(DESCRIPTION.to_owned()),
        };
        Self {
            services,
            info: Arc::new(info),
            tools: Arc::new(tools::descriptors()),
        }
    }

    fn list_servers(&self, arguments: Value) -> Result<Value, BuiltinError> {
        let mut query: ServerQuery = read(arguments)?;
        query.limit = Some(LISTED_SERVERS_MAX);
        let registered = self.services.registry.view();
        let page = registered
            .list(&query, &(self.services.health)())
            .map_err(|error| BuiltinError::InvalidArguments(error.to_string()))?;
        let shown = |server: &ServerSummary| {
            json!({
                "name": server.name,
                "status": server.status,
                "tools": server.tools_count,
                "description": server.description,
            })
        };
        let servers: Vec<Value> = page.items.iter().map(shown).collect();
        if servers.is_empty() {
            return Ok(said("No server is registered that fits."));
        }
        Ok(structured(
            Value::Array(servers.clone()),
            json!({ "servers": servers, "total": page.total }),
        ))
    }

    async fn find_tools(
        &self,
        arguments: Value,
        principal: &Principal,
        deadline: Deadline,
    ) -> Result<Value, BuiltinError> {
        let FindTools { query, limit } = read(arguments)?;
        let limit = limit.unwrap_or(FOUND_TOOLS_DEFAULT);
        let found = self
            .services
            .router
            .find_tools(&query, principal, limit, deadline)
            .await;
        if found.is_empty() {
            return Ok(said("No tool fits."));
        }
        let full: Vec<Value> = found
            .iter()
            .map(|tool| {
                json!({
                    "server": tool.server,
                    "tool": tool.tool,
                    "description": tool.description,
                    "inputSchema": tool.input_schema,
                    "score": tool.score,
                })
            })
            .collect();
        Ok(structured(Value::Array(full.clone()), json!({ "tools": full })))
    }

    async fn call_tool(
        &self,
        arguments: Value,
        principal: &Principal,
        deadline: Deadline,
    ) -> Result<Value, BuiltinError> {
        let CallTool {
            server,
            tool,
            arguments,
        } = read(arguments)?;
        if server == SERVER_NAME {
            return Ok(failed(&format!(
                "the tools of {SERVER_NAME} are called by their own names"
            )));
        }
        // A tool that the caller may not use does not exist for the caller.
        let Some(known) = self.services.router.tool(&server, &tool, principal) else {
            return Ok(failed(&format!(
                "there is no tool {server}/{tool}; find_tools finds those there are"
            )));
        };
        let faults = schema::faults(&known.input_schema, &arguments);
        if !faults.is_empty() {
            return Ok(failed(&format!(
                "the arguments do not fit {server}/{tool}: {}",
                faults.join("; ")
            )));
        }
        let Some(caller) = (self.services.caller)() else {
            return Ok(failed("the node is stopping"));
        };
        match caller.call(&server, &tool, arguments, principal, deadline).await {
            Ok(result) => Ok(result),
            Err(failure) => Ok(failed(&format!(
                "{} ({})",
                failure.problem.detail, failure.problem.code
            ))),
        }
    }

    async fn run(
        &self,
        tool: &str,
        arguments: Value,
        principal: &Principal,
        deadline: Deadline,
    ) -> Result<Value, BuiltinError> {
        match tool {
            "list_servers" => self.list_servers(arguments),
            "find_tools" => self.find_tools(arguments, principal, deadline).await,
            "call_tool" => self.call_tool(arguments, principal, deadline).await,
            "cluster_status" => {
                let status = (self.services.status)();
                Ok(structured(status.clone(), status))
            }
            "current_time" => current_time(read(arguments)?, Timestamp::now()),
            unknown => Err(BuiltinError::ToolNotFound(unknown.to_owned())),
        }
    }
}

impl BuiltinServer for Builtin {
    fn info(&self) -> Arc<UpstreamInfo> {
        Arc::clone(&self.info)
    }

    fn tools(&self) -> Arc<Vec<ToolDescriptor>> {
        Arc::clone(&self.tools)
    }

    fn call<'a>(
        &'a self,
        tool: &'a str,
        arguments: Value,
        principal: &'a Principal,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Value, BuiltinError>> {
        Box::pin(async move {
            check(tool, &arguments)?;
            self.run(tool, arguments, principal, deadline).await
        })
    }
}

/// Holds the arguments against the schema that clients are shown.
fn check(tool: &str, arguments: &Value) -> Result<(), BuiltinError> {
    let descriptions = tools::descriptions();
    let Some(description) = descriptions
        .iter()
        .find(|description| description["name"] == tool)
    else {
        return Err(BuiltinError::ToolNotFound(tool.to_owned()));
    };
    let empty = Arguments::new();
    let faults = schema::faults(
        &description["inputSchema"],
        arguments.as_object().unwrap_or(&empty),
    );
    if faults.is_empty() {
        Ok(())
    } else {
        Err(BuiltinError::InvalidArguments(faults.join("; ")))
    }
}

fn read<T: for<'de> Deserialize<'de>>(arguments: Value) -> Result<T, BuiltinError> {
    serde_json::from_value(arguments).map_err(|error| BuiltinError::InvalidArguments(error.to_string()))
}

fn current_time(arguments: CurrentTime, now: Timestamp) -> Result<Value, BuiltinError> {
    let name = arguments.timezone.unwrap_or_else(|| "UTC".to_owned());
    let zone = place::zone_of(&name)
        .and_then(|name| TimeZone::get(&name).ok())
        .or_else(|| TimeZone::get(&name).ok())
        .ok_or_else(|| {
            BuiltinError::InvalidArguments(format!("timezone: {name:?} is no IANA time zone (as Asia/Tokyo)"))
        })?;
    let local = now.to_zoned(zone);
    let told = json!({
        "timezone": local.time_zone().iana_name().unwrap_or("UTC"),
        "datetime": local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
        "day_of_week": local.strftime("%A").to_string(),
    });
    Ok(structured(told.clone(), told))
}

fn said(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }] })
}

fn failed(text: &str) -> Value {
    json!({ "content": [{ "type": "text", "text": text }], "isError": true })
}

/// A result for programs, with the same as JSON text for clients that read text only.
fn structured(text: Value, content: Value) -> Value {
    json!({ "content": [{ "type": "text", "text": text.to_string() }], "structuredContent": content })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn time(timezone: Option<&str>) -> Result<Value, BuiltinError> {
        let now: Timestamp = "2026-11-22T12:30:00Z".parse().unwrap();
        current_time(
            CurrentTime {
                timezone: timezone.map(str::to_owned),
            },
            now,
        )
    }

    #[test]
    fn the_time_is_told_in_any_zone() {
        let tokyo = time(Some("Asia/Tokyo")).unwrap();
        assert_eq!(
            tokyo["structuredContent"]["datetime"],
            "2026-11-22T21:30:00+09:00"
        );
        assert_eq!(tokyo["structuredContent"]["day_of_week"], "Sunday");
        assert_eq!(
            time(None).unwrap()["structuredContent"]["datetime"],
            "2026-11-22T12:30:00+00:00"
        );
        assert_eq!(time(Some("tokyo")).unwrap(), tokyo);
        assert!(matches!(
            time(Some("Mars/Olympus")),
            Err(BuiltinError::InvalidArguments(_))
        ));
    }

    #[test]
    fn arguments_are_held_against_the_schema() {
        assert!(check("find_tools", &json!({"query": "x"})).is_ok());
        assert!(matches!(
            check("find_tools", &json!({})),
            Err(BuiltinError::InvalidArguments(_))
        ));
        assert!(matches!(
            check("current_time", &json!({"zone": "x"})),
            Err(BuiltinError::InvalidArguments(_))
        ));
        assert!(matches!(
            check("nothing", &json!({})),
            Err(BuiltinError::ToolNotFound(_))
        ));
    }

    #[test]
    fn every_tool_is_described_for_clients() {
        assert_eq!(tools::descriptors().len(), tools::descriptions().len());
    }
}
