//! The aggregate endpoint: every server behind one, under exposed names.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use troupe_protocol::access::ToolsShown;
use troupe_protocol::jsonrpc::edit::{self, ObjectEdits, json_string};
use troupe_protocol::jsonrpc::{RawReply, string_of};
use troupe_protocol::mcp::{Descriptor, Era, ListKind, method};
use troupe_protocol::server::ServerName;
use troupe_protocol::server::name::BUILTIN_SERVER;

use super::bridge;
use super::gateway::{ClientRequest, Gateway, owned, translate};
use super::merge::{self, Listing, Page, Position};
use super::names;
use super::readdress::readdressed;
use super::refusal::{Answer, Refusal};
use crate::upstream::{UpstreamError, UpstreamHandle};

/// How long a client may keep a complete list of several servers when none of them says. Changes are told besides.
const LIST_TTL: Duration = Duration::from_secs(5);
/// How long it may at most, whatever they say: others may be registered.
const LIST_TTL_MAX: Duration = Duration::from_secs(60);

/// The tools that find and call all others.
const SEARCH_TOOLS: [&str; 2] = ["find_tools", "call_tool"];

impl Gateway {
    pub(super) async fn answer_for_all(&self, request: ClientRequest) -> Result<Answer, Refusal> {
        let is_legacy = request.client.era == Era::Legacy;
        match request.method.as_str() {
            method::TOOLS_LIST => self.list_all(ListKind::Tools, &request).await,
            method::RESOURCES_LIST => self.list_all(ListKind::Resources, &request).await,
            method::RESOURCES_TEMPLATES_LIST => self.list_all(ListKind::ResourceTemplates, &request).await,
            method::PROMPTS_LIST => self.list_all(ListKind::Prompts, &request).await,
            method::TOOLS_CALL => self.by_name(request, "name", Refusal::UnknownTool).await,
            method::PROMPTS_GET => self.by_name(request, "name", Refusal::UnknownPrompt).await,
            method::RESOURCES_READ => self.by_uri(request).await,
            method::COMPLETION_COMPLETE => self.by_reference(request).await,
            method::PING | method::LOGGING_SET_LEVEL if is_legacy => Ok(Answer::Result("{}".into())),
            _ => Err(Refusal::MethodNotFound(request.method)),
        }
    }

    /// A tool call or prompt: its exposed name says which server is meant.
    async fn by_name(
        &self,
        request: ClientRequest,
        key: &'static str,
        unknown: fn(String) -> Refusal,
    ) -> Result<Answer, Refusal> {
        let params = request.params.as_deref();
        let exposed = params.and_then(|params| edit::string_member(params, key));
        let exposed =
            exposed.ok_or_else(|| Refusal::InvalidParams(format!("params.{key} is required, a string")))?;
        let (server, name) = self
            .resolve(&exposed)
            .ok_or_else(|| unknown(exposed.to_string()))?;
        let params = (name != exposed)
            .then(|| with_member(params, key, json_string(name)))
            .flatten();
        self.forward_exposed(server, request, params).await
    }

    /// A resource: its exposed address says which server is meant.
    async fn by_uri(&self, request: ClientRequest) -> Result<Answer, Refusal> {
        let params = request.params.as_deref();
        let exposed = params.and_then(|params| edit::string_member(params, "uri"));
        let exposed =
            exposed.ok_or_else(|| Refusal::InvalidParams("params.uri is required, a string".to_owned()))?;
        let (server, uri) = self
            .resolve_uri(&exposed)
            .ok_or_else(|| Refusal::UnknownResource(exposed.to_string()))?;
        let params = with_member(params, "uri", json_string(uri));
        self.forward_exposed(server, request, params).await
    }

    /// A completion: the prompt or resource template that it refers to says which server is meant.
    async fn by_reference(&self, request: ClientRequest) -> Result<Answer, Refusal> {
        let params = request.params.as_deref();
        let reference = params
            .and_then(|params| edit::member(params, "ref"))
            .ok_or_else(no_reference)?;
        let (server, changed) = if let Some(exposed) = edit::string_member(reference, "name") {
            let (server, name) = self
                .resolve(&exposed)
                .ok_or_else(|| Refusal::UnknownPrompt(exposed.to_string()))?;
            (server, with_member(Some(reference), "name", json_string(name)))
        } else {
            let exposed = edit::string_member(reference, "uri").ok_or_else(no_reference)?;
            let unknown = || Refusal::UnknownResource(exposed.to_string());
            let (server, uri) = self.resolve_uri(&exposed).ok_or_else(unknown)?;
            (server, with_member(Some(reference), "uri", json_string(uri)))
        };
        let params = changed.and_then(|reference| with_member(params, "ref", reference.get().to_owned()));
        self.forward_exposed(server, request, params).await
    }

    /// Asks the server that was found, with changed parameters where they had to be changed.
    async fn forward_exposed(
        &self,
        server: ServerName,
        request: ClientRequest,
        changed: Option<Box<RawValue>>,
    ) -> Result<Answer, Refusal> {
        let is_bare = server.as_str() == BUILTIN_SERVER;
        self.forward(&server, request, changed, None, |uri| {
            (!is_bare).then(|| names::exposed_uri(server.as_str(), uri))
        })
        .await
    }

    /// Asks a server on behalf of a client that sees several as one: with changed parameters where they had to be
    /// changed, within a time of its own where it has one, and with the addresses in the result as they are `exposed`.
    pub(super) async fn forward(
        &self,
        server: &ServerName,
        request: ClientRequest,
        changed: Option<Box<RawValue>>,
        time_max: Option<Duration>,
        exposed: impl Fn(&str) -> Option<String> + Send,
    ) -> Result<Answer, Refusal> {
        let upstream = self.connect(server).await?;
        let (client_era, method) = (request.client.era, request.method.clone());
        let request = ClientRequest {
            params: changed.or(request.params),
            ..request
        };
        let reply = self.exchange_within(server, &upstream, request, time_max).await?;
        let answer = translate(server, upstream.info().era, client_era, &method, reply)?;
        let Answer::Result(result) = answer else {
            return Ok(answer);
        };
        let readdressed = serde_json::from_str::<&RawValue>(&result)
            .ok()
            .and_then(|result| owned(readdressed(&method, &exposed, result)));
        Ok(Answer::Result(readdressed.unwrap_or(result)))
    }

    /// As [`Self::exchange`], within a time of its own. Who gives up has the server told to stop.
    async fn exchange_within(
        &self,
        server: &ServerName,
        upstream: &UpstreamHandle,
        request: ClientRequest,
        time_max: Option<Duration>,
    ) -> Result<RawReply, Refusal> {
        let Some(time_max) = time_max else {
            return self.exchange(server, upstream, request).await;
        };
        let method = request.method.clone();
        let exchange = self.exchange(server, upstream, request);
        let in_time = tokio::time::timeout(time_max, exchange).await;
        in_time.unwrap_or_else(|_| {
            Err(Refusal::Upstream(UpstreamError::DeadlineExceeded {
                server: server.clone(),
                method,
                waited_ms: u64::try_from(time_max.as_millis()).unwrap_or(u64::MAX),
            }))
        })
    }

    /// The server and its own name for what is exposed under this name. A name without a server is the built-in one's.
    fn resolve<'a>(&self, exposed: &'a str) -> Option<(ServerName, &'a str)> {
        match names::split_name(exposed, |server| self.knows(server)) {
            Some((server, name)) => Some((ServerName::new(server).ok()?, name)),
            None if exposed.contains(names::SEPARATOR) => None,
            None => Some((ServerName::new(BUILTIN_SERVER).ok()?, exposed)),
        }
    }

    pub(super) fn resolve_uri<'a>(&self, exposed: &'a str) -> Option<(ServerName, &'a str)> {
        let (server, uri) = names::split_uri(exposed).filter(|(server, _)| self.knows(server))?;
        Some((ServerName::new(server).ok()?, uri))
    }

    /// What a client is listed that must not be given all tools: how it finds them, and how it calls what it has found.
    async fn search_tools(&self) -> Vec<Listing> {
        let builtin = ServerName::new(BUILTIN_SERVER).into_iter().collect();
        let mut listings = self.listings_of(ListKind::Tools, builtin).await;
        for listing in &mut listings {
            if let Ok(tools) = &mut listing.items {
                let is_shown = |tool: &&Descriptor| SEARCH_TOOLS.contains(&tool.name.as_str());
                *tools = Arc::new(tools.iter().filter(is_shown).cloned().collect());
            }
        }
        listings
    }

    async fn list_all(&self, kind: ListKind, request: &ClientRequest) -> Result<Answer, Refusal> {
        let start = start_of(request)?;
        let listings = match (kind, request.client.principal.tools) {
            (ListKind::Tools, ToolsShown::Search) => self.search_tools().await,
            _ => self.listings(kind, &start).await,
        };
        let leads_to = |exposed: &str, server: &str| {
            names::split_name(exposed, |name| self.knows(name)).is_some_and(|(found, _)| found == server)
        };
        let page = merge::page(kind, &listings, &start, self.parts.limits.page, leads_to);
        Ok(listed(kind, page, merge::ttl(&listings), request.client.era))
    }
}

/// Where the page begins that a client asks for.
pub(super) fn start_of(request: &ClientRequest) -> Result<Position, Refusal> {
    let params = request.params.as_deref();
    let Some(cursor) = params.and_then(|params| edit::member(params, "cursor")) else {
        return Ok(Position::default());
    };
    let start = string_of(cursor).and_then(|cursor| Position::from_cursor(&cursor));
    start.ok_or_else(|| Refusal::InvalidParams("params.cursor is not one that was given here".to_owned()))
}

/// A page as the answer for a client of this era; `ttl` is the time for which the shortest-lived part of it counts,
/// nothing if no part says.
pub(super) fn listed(kind: ListKind, page: Page, ttl: Option<Duration>, client: Era) -> Answer {
    if client == Era::Legacy {
        return Answer::Result(page.result.into());
    }
    let ttl = ttl.unwrap_or(LIST_TTL).min(LIST_TTL_MAX);
    let ttl_ms = if page.is_incomplete { 0 } else { ttl.as_millis() };
    let timed = page.result.replacen('{', &format!("{{\"ttlMs\":{ttl_ms},"), 1);
    Answer::Result(bridge::completed(kind.method(), &timed).into())
}

/// A completion does not say what it is for.
pub(super) fn no_reference() -> Refusal {
    Refusal::InvalidParams("params.ref is required, a reference to a prompt or resource".to_owned())
}

/// The object with one member set; nothing if there is no object.
pub(super) fn with_member(object: Option<&RawValue>, key: &str, value: String) -> Option<Box<RawValue>> {
    let edits = ObjectEdits {
        set: vec![(key, Cow::Owned(value))],
        remove: Vec::new(),
    };
    RawValue::from_string(edit::with_members(object?, &edits)?).ok()
}
