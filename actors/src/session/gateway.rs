//! From a client's request to its answer, whatever the eras of client and server.
//!
//! On a server's own endpoint everything passes as it is, save what the other era does not know. The aggregate
//! endpoint ([`super::aggregate`]) finds the server by the exposed name and then takes the same way.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::mpsc;
use troupe_protocol::access::Principal;
use troupe_protocol::id::NodeId;
use troupe_protocol::jsonrpc::{RawMessage, RawReply, edit};
use troupe_protocol::mcp::{ClientCapabilities, Era, method};
use troupe_protocol::server::ServerName;
use troupe_protocol::server::name::BUILTIN_SERVER;

use super::bridge;
use super::endpoint::Endpoint;
use super::listings::LateLists;
use super::merge::PageLimits;
use super::messages::SessionsHandle;
use super::parked::ParkingHandle;
use super::refusal::{Answer, Refusal};
use super::session::Session;
use super::tasks::TaskTable;
use crate::registry::{RegistryHandle, VirtualServersHandle};
use crate::runtime::Deadline;
use crate::upstream::{CallOptions, ParamHeaders, UpstreamHandle, UpstreamsHandle};

/// The member of a retry's parameters that says what it goes on with (2026-07-28, basic/patterns/mrtr).
pub(super) const REQUEST_STATE: &str = "requestState";

/// The bounds on what the gateway does for one request.
#[derive(Debug, Clone, Copy)]
pub struct GatewayLimits {
    /// How long the servers have to list what they offer before an aggregate list goes out without them.
    pub list_wait: Duration,
    /// How long a call may take where the server's entry does not say.
    pub call_time_max: Duration,
    /// The size of a page of an aggregate list.
    pub page: PageLimits,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            list_wait: Duration::from_secs(2),
            call_time_max: Duration::from_secs(60),
            page: PageLimits::default(),
        }
    }
}

/// Who asks, and what it understands.
#[derive(Debug, Clone)]
pub struct Client {
    /// Its era.
    pub era: Era,
    /// In whose name it asks.
    pub principal: Principal,
    /// What it can do for servers.
    pub capabilities: ClientCapabilities,
}

/// A client's request.
#[derive(Debug)]
pub struct ClientRequest {
    /// Where it came in.
    pub endpoint: Endpoint,
    /// Who asks.
    pub client: Client,
    /// The method.
    pub method: String,
    /// The parameters, as the client wrote them.
    pub params: Option<Box<RawValue>>,
    /// Where notifications that belong to the request go; nothing if the client cannot take them.
    pub notifications: Option<mpsc::Sender<RawMessage>>,
    /// The session that it belongs to; modern clients have none.
    pub session: Option<Arc<Session>>,
    /// What a modern client says in headers of the arguments of a tool; nothing if there is nothing to be compared.
    pub param_headers: Option<ParamHeaders>,
}

/// Answers clients. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pub(super) parts: Arc<Parts>,
}

pub(super) struct Parts {
    pub upstreams: UpstreamsHandle,
    pub registry: RegistryHandle,
    pub virtual_servers: VirtualServersHandle,
    pub sessions: SessionsHandle,
    pub parking: ParkingHandle,
    pub tasks: TaskTable,
    pub limits: GatewayLimits,
    /// The lists that are still being read after a client stopped waiting for them.
    pub late_lists: LateLists,
}

impl Gateway {
    /// A gateway to these servers.
    pub fn new(
        upstreams: UpstreamsHandle,
        registry: RegistryHandle,
        virtual_servers: VirtualServersHandle,
        sessions: SessionsHandle,
        parking: ParkingHandle,
        limits: GatewayLimits,
    ) -> Self {
        let late_lists = LateLists::default();
        Self {
            parts: Arc::new(Parts {
                upstreams,
                registry,
                virtual_servers,
                sessions,
                parking,
                tasks: TaskTable::default(),
                limits,
                late_lists,
            }),
        }
    }

    /// The answer to a request. What goes wrong on the way is an answer too.
    pub async fn answer(&self, request: ClientRequest) -> Answer {
        let era = request.client.era;
        if is_subscriber(&request) {
            let answered = Box::pin(self.answer_subscriber(&request)).await;
            return answered.unwrap_or_else(|refusal| refusal.into_answer(era));
        }
        // Boxed: each is large, and who waits for this would have to have room for all of them at once.
        let answered = match request.endpoint.clone() {
            Endpoint::Aggregate => Box::pin(self.answer_for_all(request)).await,
            Endpoint::Server(server) => Box::pin(self.pass_through(&server, request)).await,
            Endpoint::Virtual(name) => Box::pin(self.answer_for_virtual(&name, request)).await,
        };
        answered.unwrap_or_else(|refusal| refusal.into_answer(era))
    }

    /// Passes a legacy client's notification on to its server, on the connection of clients like it. What is not taken in
    /// time is lost, as notifications may be.
    pub fn notify(&self, session: &Arc<Session>, method: &str, params: Option<&RawValue>) {
        let Endpoint::Server(server) = session.settled.endpoint.clone() else {
            return;
        };
        let (gateway, profile) = (self.clone(), session.profile);
        let (method, params) = (method.to_owned(), params.map(RawValue::to_owned));
        self.parts.sessions.finish(Box::pin(async move {
            let deadline = gateway.deadline(&server);
            let upstreams = &gateway.parts.upstreams;
            let notified = async {
                let upstream = upstreams.get(&server, deadline).await?;
                let upstream = upstreams.for_clients(upstream, profile, deadline).await?;
                upstream.notify(&method, params, deadline).await
            };
            if let Err(error) = notified.await {
                tracing::debug!(%server, %error, "a client's notification did not reach its server");
            }
        }));
    }

    /// The other node that has the call to which a modern client is back with these parameters, if one has.
    pub fn parked_at(&self, params: Option<&RawValue>) -> Option<NodeId> {
        // Only the rare request that has the word somewhere is looked at more closely.
        let params = params.filter(|params| params.get().contains(REQUEST_STATE))?;
        self.parts
            .parking
            .elsewhere(&edit::string_member(params, REQUEST_STATE)?)
    }

    /// Whether a server of this name is registered (and not only catalogued) or built in.
    pub fn knows(&self, server: &str) -> bool {
        server == BUILTIN_SERVER
            || self
                .parts
                .registry
                .view()
                .get(server)
                .is_some_and(|entry| entry.operation.enabled)
    }

    async fn pass_through(&self, server: &ServerName, request: ClientRequest) -> Result<Answer, Refusal> {
        let upstream = self.connect(server).await?;
        let server_era = upstream.info().era;
        note_log_level(&request)?;
        if let Some(answer) = answer_here(request.client.era, server_era, &request.method) {
            return answer;
        }
        let (client_era, method) = (request.client.era, request.method.clone());
        let reply = self.exchange(server, &upstream, request).await?;
        translate(server, server_era, client_era, &method, reply)
    }

    /// The session of this name, if it is this owner's and on this node. One that another node had until now gets its
    /// subscriptions here, too.
    pub async fn session(&self, id: &str, owner: &str) -> Option<Arc<Session>> {
        let found = self.parts.sessions.find(id, owner).await?;
        if found.is_resumed {
            self.subscribe_again(&found.session);
        }
        Some(found.session)
    }

    /// The connection to a server, started if need be.
    pub(super) async fn connect(&self, server: &ServerName) -> Result<UpstreamHandle, Refusal> {
        Ok(self.parts.upstreams.get(server, self.deadline(server)).await?)
    }

    pub(super) fn options(
        &self,
        server: &ServerName,
        client: &Client,
        progress: Option<mpsc::Sender<RawMessage>>,
    ) -> CallOptions {
        CallOptions {
            deadline: self.deadline(server),
            principal: Some(client.principal.clone()),
            progress,
            client: client.capabilities.clone(),
            questions: None,
        }
    }

    /// Until when a call to this server must be answered.
    pub(super) fn deadline(&self, server: &ServerName) -> Deadline {
        Deadline::within(self.call_time_max(server))
    }

    /// How long a call to this server may take.
    pub(super) fn call_time_max(&self, server: &ServerName) -> Duration {
        let own = self
            .parts
            .registry
            .view()
            .get(server.as_str())
            .and_then(|entry| entry.operation.call_timeout_ms);
        own.map_or(self.parts.limits.call_time_max, Duration::from_millis)
    }
}

/// Whether a legacy client subscribes to a resource, or no longer wants to hear of one. Servers are not asked for each.
fn is_subscriber(request: &ClientRequest) -> bool {
    let method = request.method.as_str();
    request.client.era == Era::Legacy
        && matches!(
            method,
            method::RESOURCES_SUBSCRIBE | method::RESOURCES_UNSUBSCRIBE
        )
}

/// What is answered without asking the server: methods that its era, or the client's, does not have.
fn answer_here(client: Era, server: Era, method: &str) -> Option<Result<Answer, Refusal>> {
    let not_found = || Some(Err(Refusal::MethodNotFound(method.to_owned())));
    match (client, server, method) {
        // 2026-07-28 has taken these away (changelog).
        (
            Era::Modern,
            _,
            method::INITIALIZE
            | method::PING
            | method::LOGGING_SET_LEVEL
            | method::RESOURCES_SUBSCRIBE
            | method::RESOURCES_UNSUBSCRIBE
            | method::TASKS_RESULT,
        ) => not_found(),
        (Era::Legacy, _, method::DISCOVER | method::SUBSCRIPTIONS_LISTEN) => not_found(),
        // Between legacy peers each client is shown its own ([`super::tasks`]); the extension has no such thing.
        (Era::Legacy, Era::Legacy, method::TASKS_LIST) => None,
        (_, _, method::TASKS_LIST) => not_found(),
        (Era::Legacy, Era::Modern, method::PING | method::LOGGING_SET_LEVEL) => {
            Some(Ok(Answer::Result("{}".into())))
        }
        _ => None,
    }
}

/// Notes from which level on a legacy client wants log messages, if this request says so.
fn note_log_level(request: &ClientRequest) -> Result<(), Refusal> {
    let Some(session) = &request.session else {
        return Ok(());
    };
    if request.method != method::LOGGING_SET_LEVEL {
        return Ok(());
    }
    let params = request.params.as_deref();
    let level = params.and_then(|params| edit::string_member(params, "level"));
    if level.is_some_and(|level| session.set_log_level(&level)) {
        Ok(())
    } else {
        Err(Refusal::InvalidParams(
            "params.level is required, a level of log messages such as \"info\"".to_owned(),
        ))
    }
}

/// A server's reply as the client's era has it; between peers of one era the very bytes.
pub(super) fn translate(
    server: &ServerName,
    server_era: Era,
    client_era: Era,
    method: &str,
    reply: RawReply,
) -> Result<Answer, Refusal> {
    match reply {
        RawReply::Result(result) => {
            let changed = bridge::result_for(client_era, server_era, method, &result)
                .map_err(|bridge::InputRequired| Refusal::InputRequired(server.clone()))?;
            let changed = owned(changed);
            Ok(Answer::Result(changed.unwrap_or_else(|| result.into())))
        }
        RawReply::Error(error) => {
            let changed = owned(bridge::error_for(client_era, &error));
            Ok(Answer::of_error(changed.unwrap_or_else(|| error.into())))
        }
    }
}

/// The text if it was changed: what was not is moved instead of copied.
pub(super) fn owned(text: Cow<'_, str>) -> Option<Box<str>> {
    match text {
        Cow::Borrowed(_) => None,
        Cow::Owned(text) => Some(text.into()),
    }
}
