//! A virtual server's endpoint: chosen things of several servers, as its definition shows them.
//!
//! Only what was chosen can be listed, called and read here; everything else is unknown. A call takes the same way as
//! on any other endpoint once its server is found, so questions, progress and cancellation pass.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use troupe_protocol::access::Principal;
use troupe_protocol::error::Code;
use troupe_protocol::jsonrpc::edit::{self, json_string};
use troupe_protocol::mcp::{Descriptor, Era, ListKind, method};
use troupe_protocol::server::ServerName;
use troupe_protocol::virtual_server::{
    VirtualDefinition, VirtualDetail, VirtualItem, VirtualKind, VirtualWarning,
};

use super::aggregate::{listed, no_reference, start_of, with_member};
use super::gateway::{ClientRequest, Gateway};
use super::merge::{self, Listing, Missing};
use super::refusal::{Answer, Refusal};
use crate::registry::virtual_servers::{self, view};
use crate::registry::{VirtualServer, VirtualServerError};

/// What the servers behind a virtual one have of a kind.
type Lists = HashMap<ServerName, Result<HashMap<String, Descriptor>, Missing>>;

impl Gateway {
    /// Whether there is a virtual server of this name.
    pub fn knows_virtual(&self, name: &str) -> bool {
        self.parts.virtual_servers.get(name).is_some()
    }

    /// Keeps a virtual server, unless something of it could never be used. What only does not fit now (a server is down,
    /// or has no such tool) is told in the answer.
    ///
    /// # Errors
    /// When the definition says something that is not allowed, hides what is required, or cannot be kept.
    pub async fn put_virtual(
        &self,
        name: ServerName,
        definition: VirtualDefinition,
        by: &Principal,
    ) -> Result<VirtualDetail, VirtualServerError> {
        virtual_servers::check(&name, &definition)?;
        for (index, (item, found)) in self.look_up(&definition).await.into_iter().enumerate() {
            if let Ok(thing) = found
                && let Err(view::HiddenRequired { argument }) = view::shape(&thing, item)
            {
                return Err(VirtualServerError::hidden_required(index, item, argument));
            }
        }
        let kept = self.parts.virtual_servers.put(name, definition, by).await?;
        Ok(self.detail_of(&kept).await)
    }

    /// Everything about a virtual server, with what of it does not fit the servers behind it now.
    pub async fn describe_virtual(&self, name: &str) -> Option<VirtualDetail> {
        let server = self.parts.virtual_servers.get(name)?;
        Some(self.detail_of(&server).await)
    }

    async fn detail_of(&self, server: &VirtualServer) -> VirtualDetail {
        let found = self.look_up(&server.definition).await.into_iter();
        let warnings = found.flat_map(|(item, found)| warnings_of(item, found));
        VirtualDetail {
            summary: server.summary(),
            definition: server.definition.clone(),
            updated_by: server.updated_by.clone(),
            warnings: warnings.collect(),
        }
    }

    pub(super) async fn answer_for_virtual(
        &self,
        name: &ServerName,
        request: ClientRequest,
    ) -> Result<Answer, Refusal> {
        // It may have been removed since the client came.
        let server = self.parts.virtual_servers.get(name.as_str());
        let server =
            server.ok_or_else(|| Refusal::VirtualServer(VirtualServerError::NotFound(name.clone())))?;
        let is_legacy = request.client.era == Era::Legacy;
        match request.method.as_str() {
            method::TOOLS_LIST => self.list_chosen(&server, ListKind::Tools, &request).await,
            method::RESOURCES_LIST => self.list_chosen(&server, ListKind::Resources, &request).await,
            method::RESOURCES_TEMPLATES_LIST => {
                self.list_chosen(&server, ListKind::ResourceTemplates, &request)
                    .await
            }
            method::PROMPTS_LIST => self.list_chosen(&server, ListKind::Prompts, &request).await,
            method::TOOLS_CALL => self.call_chosen(&server, VirtualKind::Tool, request).await,
            method::PROMPTS_GET => self.call_chosen(&server, VirtualKind::Prompt, request).await,
            method::RESOURCES_READ => self.read_chosen(&server, request).await,
            method::COMPLETION_COMPLETE => self.complete_chosen(&server, request).await,
            method::PING | method::LOGGING_SET_LEVEL if is_legacy => Ok(Answer::Result("{}".into())),
            _ => Err(Refusal::MethodNotFound(request.method)),
        }
    }

    async fn list_chosen(
        &self,
        server: &VirtualServer,
        kind: ListKind,
        request: &ClientRequest,
    ) -> Result<Answer, Refusal> {
        let start = start_of(request)?;
        let items = server
            .definition
            .items
            .iter()
            .filter(|item| item.kind.list() == kind);
        let (lists, ttl) = self.lists_of(kind, items.clone()).await;
        let (mut shown, mut missing) = (Vec::new(), Vec::new());
        for item in items {
            match find_in(&lists, item).and_then(|thing| shaped(thing, item)) {
                Ok(thing) => shown.push(thing),
                Err(reason) => missing.push((item.server.clone(), reason)),
            }
        }
        // A server that is away is told once, whatever was chosen of it.
        missing.dedup();
        let mut listings = vec![Listing::of("", Ok(Arc::new(shown)))];
        listings.extend(
            missing
                .into_iter()
                .map(|(server, reason)| Listing::of(server.as_str(), Err(reason))),
        );
        let page = merge::page(kind, &listings, &start, self.parts.limits.page, |_, _| true);
        Ok(listed(kind, page, ttl, request.client.era))
    }

    /// A tool call or prompt.
    async fn call_chosen(
        &self,
        server: &VirtualServer,
        kind: VirtualKind,
        request: ClientRequest,
    ) -> Result<Answer, Refusal> {
        let params = request.params.as_deref();
        unambiguous(params, &["name", "arguments", "task"])?;
        let name = params.and_then(|params| edit::string_member(params, "name"));
        let name =
            name.ok_or_else(|| Refusal::InvalidParams("params.name is required, a string".to_owned()))?;
        let item = server
            .find(kind, &name)
            .ok_or_else(|| not_chosen(server, kind, &name))?;
        let changed = match params {
            Some(params) => view::arguments(params, item),
            None => Ok(None),
        };
        let changed = changed.map_err(not_offered)?;
        self.forward_chosen(server, item, request, changed).await
    }

    async fn read_chosen(&self, server: &VirtualServer, request: ClientRequest) -> Result<Answer, Refusal> {
        let params = request.params.as_deref();
        unambiguous(params, &["uri"])?;
        let uri = params.and_then(|params| edit::string_member(params, "uri"));
        let uri = uri.ok_or_else(|| Refusal::InvalidParams("params.uri is required, a string".to_owned()))?;
        let item = server
            .find_resource(&uri)
            .ok_or_else(|| not_chosen(server, VirtualKind::Resource, &uri))?;
        let changed = item
            .exposed_as
            .as_ref()
            .and_then(|_| with_member(params, "uri", json_string(&item.name)));
        self.forward_chosen(server, item, request, changed).await
    }

    /// A completion: of an argument that clients may give to a prompt, or of a part of a template.
    async fn complete_chosen(
        &self,
        server: &VirtualServer,
        request: ClientRequest,
    ) -> Result<Answer, Refusal> {
        let params = request.params.as_deref();
        unambiguous(params, &["ref", "argument", "context"])?;
        let reference = params
            .and_then(|params| edit::member(params, "ref"))
            .ok_or_else(no_reference)?;
        let kind = edit::string_member(reference, "type").ok_or_else(no_reference)?;
        // Made anew: what else a client says there may mean another thing to the server.
        let (item, changed) = if kind == "ref/prompt" {
            let name = edit::string_member(reference, "name").ok_or_else(no_reference)?;
            let item = server.find(VirtualKind::Prompt, &name);
            let item = item.ok_or_else(|| not_chosen(server, VirtualKind::Prompt, &name))?;
            let own = json_string(&item.name);
            (item, format!(r#"{{"type":"ref/prompt","name":{own}}}"#))
        } else if kind == "ref/resource" {
            let uri = edit::string_member(reference, "uri").ok_or_else(no_reference)?;
            let template = server.find(VirtualKind::ResourceTemplate, &uri);
            let item = template
                .or_else(|| server.find_resource(&uri))
                .ok_or_else(|| not_chosen(server, VirtualKind::Resource, &uri))?;
            let own = if item.exposed_as.is_some() {
                item.name.as_str()
            } else {
                &uri
            };
            let own = json_string(own);
            (item, format!(r#"{{"type":"ref/resource","uri":{own}}}"#))
        } else {
            return Err(no_reference());
        };
        let argument = params.and_then(|params| edit::member(params, "argument"));
        unambiguous(argument, &["name", "value"])?;
        let argument = argument.and_then(|argument| edit::string_member(argument, "name"));
        let context = params.and_then(|params| edit::member(params, "context"));
        unambiguous(context, &["arguments"])?;
        let given = context.and_then(|context| edit::member(context, "arguments"));
        let given = given.filter(|given| given.get() != "null");
        let given = given
            .map_or(Ok(Vec::new()), view::members_of)
            .map_err(not_offered)?;
        let mut spoken_of = given.into_iter().chain(argument.map(Cow::into_owned));
        if let Some(concealed) = spoken_of.find(|argument| view::conceals(item, argument)) {
            return Err(not_offered(view::NotOffered::Argument(concealed)));
        }
        let changed = with_member(params, "ref", changed);
        self.forward_chosen(server, item, request, changed).await
    }

    /// Asks the server behind a thing.
    async fn forward_chosen(
        &self,
        server: &VirtualServer,
        item: &VirtualItem,
        request: ClientRequest,
        changed: Option<Box<RawValue>>,
    ) -> Result<Answer, Refusal> {
        let behind = &item.server;
        let request = match item.fixed.is_empty() {
            true => request,
            // The client cannot say in headers what it does not know of.
            false => ClientRequest {
                param_headers: None,
                ..request
            },
        };
        let time_max = item.timeout_ms.map(Duration::from_millis);
        self.forward(behind, request, changed, time_max, |uri| {
            let mut items = server.definition.items.iter();
            let renamed = items.find(|item| {
                item.kind == VirtualKind::Resource && item.server == *behind && item.name == uri
            });
            renamed.and_then(|item| item.exposed_as.clone())
        })
        .await
    }

    /// Each thing of a definition as its server describes it now, or why it cannot be seen.
    async fn look_up<'a>(
        &self,
        definition: &'a VirtualDefinition,
    ) -> Vec<(&'a VirtualItem, Result<Descriptor, Missing>)> {
        let mut of_kinds = HashMap::new();
        for kind in view::kinds(&definition.items) {
            let items = definition.items.iter().filter(|item| item.kind.list() == kind);
            of_kinds.insert(kind, self.lists_of(kind, items).await.0);
        }
        let found = |item: &VirtualItem| find_in(&of_kinds[&item.kind.list()], item).cloned();
        definition.items.iter().map(|item| (item, found(item))).collect()
    }

    /// What the servers behind these things have of this kind, and how long the shortest-lived of it counts.
    async fn lists_of<'a>(
        &self,
        kind: ListKind,
        items: impl Iterator<Item = &'a VirtualItem>,
    ) -> (Lists, Option<Duration>) {
        let servers: BTreeSet<ServerName> = items.map(|item| item.server.clone()).collect();
        let listings = self.listings_of(kind, servers.iter().cloned().collect()).await;
        let ttl = merge::ttl(&listings);
        let mut lists = Lists::new();
        for listing in listings {
            // The built-in server's things have bare names, and so its listing.
            let server = servers.iter().find(|server| {
                *listing.server == *server.as_str() || (listing.server.is_empty() && server.is_builtin())
            });
            let things = listing.items.map(|things| {
                let things = things.iter().cloned();
                things.map(|thing| (thing.name.clone(), thing)).collect()
            });
            lists.extend(server.map(|server| (server.clone(), things)));
        }
        (lists, ttl)
    }
}

fn not_offered(refused: view::NotOffered) -> Refusal {
    Refusal::InvalidParams(refused.to_string())
}

/// What some servers would read otherwise than it is read here is refused.
fn unambiguous(object: Option<&RawValue>, looked_at: &[&str]) -> Result<(), Refusal> {
    // `null` and absent are the same.
    let object = object.filter(|object| object.get() != "null");
    object.map_or(Ok(()), |object| {
        view::check_members(object, looked_at).map_err(not_offered)
    })
}

fn find_in<'a>(lists: &'a Lists, item: &VirtualItem) -> Result<&'a Descriptor, Missing> {
    let nothing = || Missing {
        code: if item.kind == VirtualKind::Tool {
            Code::ToolNotFound
        } else {
            Code::NotFound
        },
        reason: format!("it lists no {} {:?}", item.kind.words(), item.name),
    };
    match lists.get(&item.server) {
        Some(Ok(things)) => things.get(&item.name).ok_or_else(nothing),
        Some(Err(missing)) => Err(missing.clone()),
        None => Err(nothing()),
    }
}

fn shaped(thing: &Descriptor, item: &VirtualItem) -> Result<Descriptor, Missing> {
    view::shape(thing, item).map_err(|refused| Missing {
        code: Code::HiddenArgumentRequired,
        reason: format!("{} {:?}: {refused}", item.kind.words(), item.exposed_name()),
    })
}

fn warnings_of(item: &VirtualItem, found: Result<Descriptor, Missing>) -> Vec<VirtualWarning> {
    let reasons = match found {
        Err(missing) => vec![missing.reason],
        Ok(thing) => {
            let unknown = view::unknown_arguments(&thing, item).into_iter();
            let refused = view::shape(&thing, item).err().map(|refused| refused.to_string());
            let unknown = unknown.map(|argument| format!("it has no argument {argument:?}"));
            unknown.chain(refused).collect()
        }
    };
    let warning = |reason| VirtualWarning {
        kind: item.kind,
        name: item.exposed_name().to_owned(),
        server: item.server.clone(),
        reason,
    };
    reasons.into_iter().map(warning).collect()
}

fn not_chosen(server: &VirtualServer, kind: VirtualKind, name: &str) -> Refusal {
    Refusal::NotChosen {
        server: server.name.clone(),
        kind,
        name: name.to_owned(),
    }
}
