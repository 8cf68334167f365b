//! The stable error codes, and the problem document in which the API reports them (RFC 9457).
//!
//! A code never changes its meaning and is never used again once retired. Each error enum of the actors maps its
//! variants to these codes; each code has its place on the error page (`ERRORS.md`, made from this table).

use serde::{Deserialize, Serialize};
use ts_rs::TS;
use utoipa::ToSchema;

use crate::id::CorrelationId;

/// What is said about a code on the error page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeEntry {
    /// The code.
    pub code: Code,
    /// The HTTP status with which the API reports it.
    pub http_status: u16,
    /// A few words; the `title` of the problem document.
    pub title: &'static str,
    /// What has happened.
    pub meaning: &'static str,
    /// What to do about it.
    pub action: &'static str,
}

/// Declares the codes and their table in one place.
macro_rules! codes {
    ($($name:ident = $number:literal, $status:literal, $title:literal, $meaning:literal, $action:literal;)*) => {
        /// A stable error code, written `T1001`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $meaning] $name = $number,)*
        }

        impl Code {
            /// Every code with its entry on the error page, in ascending order.
            pub const TABLE: &'static [CodeEntry] = &[
                $(CodeEntry {
                    code: Code::$name, http_status: $status, title: $title, meaning: $meaning, action: $action,
                },)*
            ];

        }
    };
}

codes! {
    MalformedJson = 1001, 400, "malformed JSON",
        "The body is not JSON, or ends too early, or nests too deeply.",
        "Send well-formed UTF-8 JSON; the detail names line and column.";
    InvalidField = 1002, 422, "invalid field",
        "A field is missing, unknown, of the wrong type or outside its range.",
        "Change the field that the detail names to what it says is allowed.";
    NotFound = 1003, 404, "not found",
        "There is nothing at this path.",
        "Check the path against /api/openapi.json.";
    MethodNotAllowed = 1004, 405, "method not allowed",
        "The path exists but not with this method.",
        "Use one of the methods in the Allow header.";
    BodyTooLarge = 1005, 413, "body too large",
        "The body is larger than this path accepts.",
        "Send less, or raise the limit that the detail names in cluster.toml.";
    UnsupportedMediaType = 1006, 415, "unsupported media type",
        "The body's Content-Type is not one this path accepts.",
        "Send application/json.";
    ForeignOrigin = 1007, 403, "foreign origin",
        "The Origin or Host header names a site this node does not serve; a web page may be trying to reach it behind the user's back.",
        "Call the node by an address it listens on, or list the origin under edge.hosts_allowed or edge.origins_allowed in cluster.toml.";
    RequestTimeout = 1008, 408, "request timeout",
        "The request did not arrive whole in time.",
        "Send it again, faster, or raise the time that the detail names.";
    TooManyRequests = 1009, 429, "too many requests",
        "The node is working at its limit and did not begin this request.",
        "Wait as long as Retry-After says, then send it again.";
    Internal = 1010, 500, "internal error",
        "Something failed that should not; nothing is known to be lost.",
        "Look up the correlation id in the console; report it with its trace.";
    DeadlineExceeded = 1011, 504, "deadline exceeded",
        "The answer did not come before the deadline.",
        "Try again, or allow more time.";
    ShuttingDown = 1012, 503, "shutting down",
        "The node is stopping and takes no new work.",
        "Use another node, or wait for the restart.";
    NotAcceptable = 1013, 406, "not acceptable",
        "The Accept header rules out every form in which this path can answer.",
        "Accept application/json, and text/event-stream where the path streams.";

    InvalidServerName = 2001, 422, "invalid server name",
        "The name of a server must be a slug: lower-case letters, digits, dots, underscores and hyphens, at most 63, beginning with a letter or digit.",
        "Choose such a name.";
    ServerExists = 2002, 409, "server exists",
        "A server with this name is registered already.",
        "Choose another name, or change the existing server.";
    ServerNotFound = 2003, 404, "server not found",
        "No server with this name is registered.",
        "List the servers with `troupe server list`.";
    VersionExists = 2004, 409, "version exists",
        "This version is published already with other content; versions are immutable.",
        "Publish the change under a new version.";
    VersionNotFound = 2005, 404, "version not found",
        "The server has no such version.",
        "List its versions under /v0.1/servers/{name}/versions.";
    InvalidManifest = 2006, 422, "invalid manifest",
        "The server.json does not follow the official schema.",
        "Correct the field that the detail names.";
    ServerDisabled = 2007, 409, "server disabled",
        "The server is registered but disabled.",
        "Enable it with `troupe server enable NAME`.";
    NoTransport = 2008, 409, "no transport",
        "The entry says neither a command nor a URL, so the server cannot be reached.",
        "Give it a command or a URL.";
    ServerIsBuiltIn = 2009, 409, "built-in server",
        "The server `troupe` is part of every node and cannot be changed.",
        "Leave it, or disable its tools by policy.";
    InvalidImport = 2010, 422, "invalid import",
        "The content cannot be read in the given format.",
        "Check the format: mcp_servers, server_json, seed or catalog.";
    VirtualServerNotFound = 2011, 404, "virtual server not found",
        "No virtual server with this name is defined.",
        "List them with `troupe virtual list`.";
    InvalidVirtualServer = 2012, 422, "invalid virtual server",
        "The definition of the virtual server has two things of one name, or something that is not allowed.",
        "Change what the detail names.";
    HiddenArgumentRequired = 2013, 422, "hidden argument required",
        "A virtual server hides an argument that the tool or prompt cannot be used without.",
        "Give the argument a fixed value, or do not hide it.";
    TooManyVirtualServers = 2014, 409, "too many virtual servers",
        "The cluster holds as many virtual servers as it may.",
        "Remove one with `troupe virtual remove NAME`.";
    OpenApiInvalid = 2015, 422, "OpenAPI document invalid",
        "The document is not OpenAPI 3.0 or 3.1, has no operations, or does not say where its service is.",
        "Correct what the detail names; give base_url (`--base-url`) when the document names no server.";
    OpenApiUnreachable = 2016, 502, "OpenAPI document unreachable",
        "The OpenAPI document cannot be fetched from its address.",
        "Check the address from the node's machine, or send the document itself.";

    UpstreamUnreachable = 3001, 502, "server unreachable",
        "The MCP server could not be started or connected to.",
        "Read the detail and the server's log; try `troupe server test NAME`.";
    UpstreamDied = 3002, 502, "server died",
        "The MCP server ended while the call was in flight; it is being restarted. The call may have had effects.",
        "Repeat the call if it is safe to.";
    UpstreamTimeout = 3003, 504, "server timed out",
        "The MCP server did not answer before the deadline; the call was cancelled.",
        "Try again, or raise the server's call_timeout_ms.";
    UpstreamOverloaded = 3004, 429, "server overloaded",
        "Too many calls to this MCP server are in flight.",
        "Wait and try again.";
    UpstreamProtocol = 3005, 502, "server broke the protocol",
        "The MCP server sent something that is not MCP.",
        "Read the detail and the server's log; report it to the server's authors.";
    UpstreamError = 3006, 502, "server answered with an error",
        "The MCP server answered the request with a JSON-RPC error, which the detail repeats.",
        "Correct the request as the error says.";
    CommandNotFound = 3007, 422, "command not found",
        "The server's command is not on this node's PATH.",
        "Install it on the node, or give its full path.";
    CallCancelled = 3008, 499, "call cancelled",
        "The call was cancelled before it was answered.",
        "Nothing, unless it was not meant to be.";
    CallNotFound = 3009, 404, "call not found",
        "No call with this id is in flight; it may have ended.",
        "List the calls in flight.";
    ToolNotFound = 3010, 404, "tool not found",
        "The server has no tool with this name.",
        "List its tools with `troupe tool list --server NAME`.";
    MessageTooLarge = 3011, 502, "message too large",
        "A message from or to the MCP server is over the limit.",
        "Ask for less, or raise upstream.message_bytes_max.";
    UpstreamNeedsLogin = 3013, 409, "server needs a login",
        "The MCP server asks for OAuth, and nobody has logged in there, or the login has ended.",
        "Log in on the server's page, or with `troupe server login NAME`.";
    CircuitOpen = 3014, 503, "server left alone",
        "The last calls of this MCP server were all lost on the way: it is left alone for a moment, then tried by one call at a time.",
        "Wait as long as the detail says; read the server's log to see why it fails.";
    LoginFailed = 3015, 422, "login failed",
        "The authorization server of an MCP server refused the login, or the login was not begun here.",
        "Begin it again; when it does not register clients by itself, give a client id.";

    Unauthenticated = 4001, 401, "key needed",
        "The request carries no key, or one that is unknown or revoked.",
        "Send `Authorization: Bearer KEY`; the administrator makes keys with `troupe key add NAME --role ROLE`.";
    Forbidden = 4002, 403, "not allowed",
        "The key's role does not permit this.",
        "Use a key with the role that the detail names.";
    LoginCodeInvalid = 4003, 401, "login code invalid",
        "The login link was used already or is older than ten minutes.",
        "Make another with `troupe key login-link`.";
    KeyNotFound = 4004, 404, "key not found",
        "There is no such key.",
        "List the keys with `troupe key list`.";
    LastAdminKey = 4005, 409, "last administrator key",
        "Without this key nobody could administer the cluster.",
        "Make another administrator key first.";
    SecretNotFound = 4006, 404, "secret not found",
        "A secret that is referred to does not exist.",
        "Set it with `troupe secret set NAME`.";
    InvalidSecretTemplate = 4007, 422, "invalid secret reference",
        "A value refers to secrets in a way that cannot be read.",
        "Write `${secret:NAME}`; a literal dollar sign is `$$`.";
    VaultSealed = 4008, 503, "vault sealed",
        "The vault's key is missing or does not fit the sealed secrets.",
        "Restore vault.key in the data folder, or give the passphrase it was sealed with.";
    InvalidName = 4009, 422, "invalid name",
        "The name of a key or secret is empty, too long or has characters that are not allowed.",
        "Use letters, digits and . _ / - , at most 200 characters.";
    KeyExists = 4010, 409, "key exists",
        "A key with this name exists already.",
        "Choose another name, or revoke the existing key first.";

    NothingFits = 5001, 404, "nothing fits",
        "No registered tool fits the question well enough to be called.",
        "Register a server that can answer it, or ask in other words; the detail names the nearest tools.";
    ArgumentsInvalid = 5002, 422, "arguments invalid",
        "The arguments do not follow the tool's input schema.",
        "Correct what the detail names.";
    ConversationNotFound = 5003, 404, "conversation not found",
        "There is no such conversation among yours.",
        "List your conversations.";
    TurnInProgress = 5004, 409, "turn in progress",
        "The conversation is still answering the question before.",
        "Wait for the answer, or cancel it.";
    PlannerUnavailable = 5005, 502, "planner unavailable",
        "The configured language model endpoint did not answer; the rules were used instead.",
        "Check router.planner_url in cluster.toml.";
    ModelMissing = 5006, 503, "model missing",
        "A model file that this needs is not in the model folder.",
        "Put it there: `troupe doctor` says which file and where.";

    StoreUnavailable = 6001, 503, "store unavailable",
        "The data folder cannot be written, is full, or is in use by another node.",
        "Read the detail; free the disk or stop the other node.";
    StoreCorrupt = 6002, 500, "store corrupt",
        "A record in the data folder does not have the checksum it was written with.",
        "Restore the data folder from a backup; nothing is served from a damaged record.";
    RecordTooLarge = 6003, 413, "record too large",
        "A record is larger than the store keeps.",
        "Make it smaller; large data belongs into blobs.";
    InvalidSetting = 6004, 422, "invalid setting",
        "A setting in cluster.toml, the environment or the command line is unknown or wrong.",
        "Correct what the message names; cluster.toml documents every setting.";

    ActorNotFound = 7001, 404, "actor not found",
        "No actor with this id or path lives on this node.",
        "List the actors with `troupe actor list`.";
    ActorOverloaded = 7002, 429, "actor overloaded",
        "The actor's mailbox is full.",
        "Wait and try again; look at the actor in the console if it lasts.";
    ActorStopped = 7003, 503, "actor stopped",
        "The actor has ended and takes no messages.",
        "Look up its last exit in the console.";
    ActorFailed = 7004, 500, "actor failed",
        "The actor died while handling the request; its supervisor restarts it.",
        "Try again; the console has the error.";
    ConfirmationMissing = 7005, 422, "confirmation missing",
        "The action ends work and must be confirmed with the actor's path.",
        "Send the path as `confirm`.";
    TraceNotFound = 7006, 404, "trace not found",
        "The trace is not, or no longer, among the last 1,000.",
        "Repeat the request and look at it soon.";

    NoQuorum = 8001, 503, "no quorum",
        "This node does not follow a majority of the voters: it takes no writes and runs no placed actors.",
        "Bring the missing nodes back, or ask a node that has a majority; `troupe status` shows who is missing.";
    WriteConflict = 8002, 409, "write conflict",
        "Others changed the same records again and again while this change was being made.",
        "Try again.";
    WriteOutcomeUnknown = 8003, 504, "write outcome unknown",
        "The write was handed over, and nothing was heard in time of whether it was committed.",
        "Look whether it happened before trying again.";
    NodeUnreachable = 8004, 503, "node unreachable",
        "The node that has what was asked for cannot be reached.",
        "Try again: within seconds it is back, or others have taken over what it did.";
    NodeNotFound = 8005, 404, "node not found",
        "No member of the cluster has this name or id.",
        "List the members with `troupe node list`.";
    NodeNameTaken = 8006, 409, "node name taken",
        "Another member of the cluster has this name.",
        "Choose another with --name, or remove the old member with `troupe node remove`.";
    JoinRefused = 8007, 403, "join refused",
        "The cluster does not take the node: its join string is unknown, used up or too old, the other nodes cannot reach it where it listens, or it was removed.",
        "Do as the detail says; `troupe node invite` makes a new join string.";
    PlacedElsewhere = 8008, 503, "placed elsewhere",
        "What was asked for is moving between nodes, and no node could be asked in time.",
        "Try again.";
    PeerOverloaded = 8009, 429, "peer overloaded",
        "Too much is on its way to the other node.",
        "Wait and try again; `troupe status` shows the links.";
    MajorityNeeded = 8010, 409, "majority needed",
        "The change would leave the cluster without a majority of its voters.",
        "Bring other nodes up first, or promote one.";
    BackupInvalid = 8011, 422, "backup invalid",
        "The file is not a whole backup of a cluster's state.",
        "Give a file that `troupe backup` wrote.";
    WireVersionUnsupported = 8012, 409, "wire version unsupported",
        "The other node's program speaks no version of the wire that this one speaks.",
        "Upgrade nodes one version at a time.";
    ClusterSettingsDiffer = 8013, 409, "cluster settings differ",
        "The nodes of a cluster need the same cluster.lease_ms and cluster.election_timeout_ms, and these differ.",
        "Give all nodes the same; to change them, stop all nodes first.";
}

impl Code {
    /// The code's entry on the error page.
    pub const fn entry(self) -> &'static CodeEntry {
        let mut at = 0;
        while Self::TABLE[at].code as u16 != self as u16 {
            at += 1;
        }
        &Self::TABLE[at]
    }

    /// The status with which the HTTP API reports it.
    pub const fn http_status(self) -> u16 {
        self.entry().http_status
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "T{}", *self as u16)
    }
}

impl std::str::FromStr for Code {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::TABLE.iter().find(|entry| entry.code.to_string() == text);
        known
            .map(|entry| entry.code)
            .ok_or_else(|| format!("unknown error code {text:?}, see ERRORS.md"))
    }
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Code {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Errors that have a stable code.
pub trait Coded: std::error::Error {
    /// The code.
    fn code(&self) -> Code;
}

/// What the API answers when it cannot do what was asked (`application/problem+json`, RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS, ToSchema, thiserror::Error)]
#[error("{code}: {detail}")]
#[ts(export)]
pub struct Problem {
    /// Where the error is explained, as `/errors/T1001`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong, where, and what would be right.
    pub detail: String,
    /// The stable code, as `T1001`.
    pub code: String,
    /// The path that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The request's correlation id, to look up its trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<CorrelationId>,
}

impl Problem {
    /// The problem document for a code.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let entry = code.entry();
        Self {
            kind: format!("/errors/{code}"),
            title: entry.title.to_owned(),
            status: entry.http_status,
            detail: detail.into(),
            code: code.to_string(),
            instance: None,
            correlation_id: None,
        }
    }
}

impl<E: Coded> From<&E> for Problem {
    fn from(error: &E) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn codes_are_unique_ascending_and_read_back() {
        assert!(Code::TABLE.windows(2).all(|pair| pair[0].code < pair[1].code));
        for entry in Code::TABLE {
            assert_eq!(entry.code.to_string().parse::<Code>().unwrap(), entry.code);
            assert_eq!(entry.code.entry(), entry);
        }
    }
}
