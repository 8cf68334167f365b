//! Who may do what over HTTP: one table with a line for every route. What has no line is refused.

use http::Method;
use troupe_protocol::access::Role;

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Public,
    /// A key or browser session with at least this role.
    Role(Role),
    /// As [`Self::Role`] with [`Role::User`]; on a node started with `--open`, callers without a key too.
    Open,
}

/// A route, and what it asks of its caller.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// GET covers HEAD.
    pub method: &'static str,
    /// As the router has it.
    pub path: &'static str,
    /// What it asks.
    pub access: Access,
}

const fn rule(method: &'static str, path: &'static str, access: Access) -> Rule {
    Rule { method, path, access }
}

const USER: Access = Access::Role(Role::User);
const OPERATOR: Access = Access::Role(Role::Operator);
const ADMIN: Access = Access::Role(Role::Admin);

/// Every route.
pub const RULES: &[Rule] = &[
    rule("GET", "/healthz", Access::Public),
    rule("GET", "/readyz", Access::Public),
    rule("GET", "/errors", Access::Public),
    rule("GET", "/errors/{code}", Access::Public),
    rule("GET", "/metrics", OPERATOR),
    rule("GET", "/api/openapi.json", USER),
    // signing in
    rule("POST", "/api/v1/login", Access::Public),
    rule("POST", "/api/v1/logout", Access::Public),
    rule("GET", "/api/v1/me", USER),
    // the node
    rule("GET", "/api/v1/status", OPERATOR),
    rule("GET", "/api/v1/live", USER), // each topic asks for its own role
    rule("GET", "/api/v1/live/feed", OPERATOR),
    // the cluster
    rule("GET", "/api/v1/cluster", OPERATOR),
    rule("POST", "/api/v1/cluster/invitations", ADMIN),
    rule("GET", "/api/v1/cluster/backup", ADMIN),
    rule("POST", "/api/v1/cluster/restore", ADMIN),
    rule("POST", "/api/v1/cluster/members/{id}/{command}", OPERATOR),
    rule("DELETE", "/api/v1/cluster/members/{id}", ADMIN),
    // servers
    rule("GET", "/api/v1/servers", USER),
    rule("POST", "/api/v1/servers", ADMIN),
    rule("POST", "/api/v1/servers/test", ADMIN),
    rule("POST", "/api/v1/servers/import", ADMIN),
    rule("GET", "/api/v1/servers/{name}", USER),
    rule("PATCH", "/api/v1/servers/{name}", ADMIN),
    rule("DELETE", "/api/v1/servers/{name}", ADMIN),
    rule("POST", "/api/v1/servers/{name}/probe", OPERATOR),
    rule("GET", "/api/v1/servers/{name}/oauth", OPERATOR),
    rule("POST", "/api/v1/servers/{name}/oauth/start", ADMIN),
    rule("GET", "/api/v1/oauth/callback", Access::Public), // what it is given is known to nobody else
    rule("GET", "/api/v1/servers/{name}/tools", USER),
    rule("GET", "/api/v1/servers/{name}/resources", USER),
    rule("GET", "/api/v1/servers/{name}/prompts", USER),
    rule("GET", "/api/v1/servers/{name}/log", OPERATOR),
    rule("GET", "/api/v1/servers/{name}/health", USER),
    rule("POST", "/api/v1/servers/{name}/tools/{tool}/call", USER),
    rule("POST", "/api/v1/servers/{name}/resources/read", USER),
    rule("POST", "/api/v1/servers/{name}/prompts/{prompt}/get", USER),
    // virtual servers
    rule("GET", "/api/v1/virtual", USER),
    rule("GET", "/api/v1/virtual/{name}", ADMIN), // fixed values may say what users must not know
    rule("PUT", "/api/v1/virtual/{name}", ADMIN),
    rule("DELETE", "/api/v1/virtual/{name}", ADMIN),
    // tools and questions
    rule("GET", "/api/v1/tools", USER),
    rule("GET", "/api/v1/tools/search", USER),
    rule("POST", "/api/v1/ask", USER),
    rule("GET", "/api/v1/conversations", USER),
    rule("POST", "/api/v1/conversations", USER),
    rule("GET", "/api/v1/conversations/{id}", USER),
    rule("PATCH", "/api/v1/conversations/{id}", USER),
    rule("DELETE", "/api/v1/conversations/{id}", USER),
    rule("POST", "/api/v1/conversations/{id}/messages", USER),
    rule("POST", "/api/v1/conversations/{id}/cancel", USER),
    // observation
    rule("GET", "/api/v1/actors", OPERATOR),
    rule("GET", "/api/v1/actors/tree", OPERATOR),
    rule("GET", "/api/v1/actors/{id}", OPERATOR),
    rule("POST", "/api/v1/actors/{id}/{command}", OPERATOR),
    rule("GET", "/api/v1/traces", OPERATOR),
    rule("GET", "/api/v1/traces/{correlation_id}", OPERATOR),
    rule("GET", "/api/v1/dead-letters", OPERATOR),
    rule("GET", "/api/v1/calls", OPERATOR),
    rule("DELETE", "/api/v1/calls/{id}", OPERATOR),
    // keys, secrets, who did what
    rule("GET", "/api/v1/keys", ADMIN),
    rule("POST", "/api/v1/keys", ADMIN),
    rule("DELETE", "/api/v1/keys/{id}", ADMIN),
    rule("POST", "/api/v1/login-link", ADMIN),
    rule("GET", "/api/v1/secrets", ADMIN),
    rule("PUT", "/api/v1/secrets/{name}", ADMIN),
    rule("DELETE", "/api/v1/secrets/{name}", ADMIN),
    rule("GET", "/api/v1/audit", ADMIN),
    // the official registry API
    rule("GET", "/v0.1/servers", Access::Open),
    rule("GET", "/v0.1/servers/{name}/versions", Access::Open),
    rule("GET", "/v0.1/servers/{name}/versions/{version}", Access::Open),
    rule("POST", "/v0.1/publish", ADMIN),
    // MCP
    rule("*", "/mcp", Access::Open),
    rule("*", "/mcp/servers/{name}", Access::Open),
    rule("GET", "/mcp/sse", Access::Open),
    rule("POST", "/mcp/messages", Access::Open),
    rule("GET", "/mcp/servers/{name}/sse", Access::Open),
    rule("POST", "/mcp/servers/{name}/messages", Access::Open),
    rule("*", "/mcp/virtual/{name}", Access::Open),
];

/// What the route asks of its caller. A method that the path does not have asks what the path's first line asks; a
/// path without any line is for nobody but administrators.
pub fn access_of(method: &Method, path: &str) -> Access {
    let method = if method == Method::HEAD {
        "GET"
    } else {
        method.as_str()
    };
    let mut lines = RULES.iter().filter(|rule| rule.path == path);
    let first = lines.clone().next();
    let fitting = lines.find(|rule| rule.method == method || rule.method == "*");
    fitting.or(first).map_or(ADMIN, |rule| rule.access)
}

/// What a path without a route asks: nothing that a caller without a key could probe, but the UI's own paths.
pub fn access_of_unrouted(path: &str) -> Access {
    let is_interface = ["/api/", "/v0.1/", "/mcp", "/v1/"]
        .iter()
        .any(|prefix| path.starts_with(prefix));
    if is_interface { USER } else { Access::Public }
}
