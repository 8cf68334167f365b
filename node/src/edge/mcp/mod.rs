//! The MCP faces: `/mcp` (all servers as one), `/mcp/servers/{name}` (one server as it is) and `/mcp/virtual/{name}`
//! (chosen things of several), for clients of both eras.
//!
//! # Layout
//! - this module: routes, and what every message passes: its form, its size, its era
//! - [`negotiation`], [`era`]: what headers say
//! - [`legacy`], [`modern`]: the two eras' ways with a message
//! - [`forward`]: requests whose session, or parked call, another node has
//! - [`first_revision`]: clients that know only the transport of 2024-11-05
//! - [`resumption`]: streams that are taken up again
//! - [`reply`], [`event_stream`]: answers in JSON or as streams; [`fault`]: answers to what cannot be served
//!
//! Which server answers and how, sessions and notices: `troupe_actors::session`. Host, origin and caller are checked
//! before a handler here runs.

mod era;
mod event_stream;
mod fault;
mod first_revision;
mod forward;
mod legacy;
mod modern;
mod negotiation;
mod reply;
mod resumption;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRequestParts, MatchedPath, Path, Request, State};
use axum::response::Response;
use axum::routing::post;
use http::request::Parts;
use http::{HeaderMap, Method};
use troupe_actors::session::Endpoint;
use troupe_protocol::access::Principal;
use troupe_protocol::jsonrpc::Message;
use troupe_protocol::mcp::Era;
use troupe_protocol::server::ServerName;

use self::era::McpHeaders;
use self::fault::Fault;
use self::negotiation::Accepts;
use super::body::{BodyLimits, WholeBody, read_body_of};
use super::problem::ApiError;
use super::{Caller, EdgeState, Proof};
pub use first_revision::OpenStreams;

/// How often the owner of an open stream is looked at again: a revoked key must not listen on.
const KEY_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Where virtual servers are.
const VIRTUAL_PATH: &str = "/mcp/virtual/{name}";

/// The routes of the MCP faces. Their callers are known (see [`super::auth::Caller`]) when a handler runs.
pub fn routes() -> Router<EdgeState> {
    let methods = || post(receive).get(open).delete(end);
    Router::new()
        .route("/mcp", methods())
        .route("/mcp/servers/{name}", methods())
        .route(VIRTUAL_PATH, methods())
        .merge(first_revision::routes())
}

/// What the handlers know of a request besides its message.
struct Context<'a> {
    state: &'a EdgeState,
    endpoint: Endpoint,
    principal: Principal,
    headers: McpHeaders<'a>,
    accepts: Accepts,
    /// Whether another node handed the request on to this one.
    is_handed_on: bool,
    /// The body, if there is one. Who works on its message holds it too, so that it counts against the budget of all
    /// bodies until the work is done, however early the client leaves.
    body: Option<Arc<WholeBody>>,
    /// Where it came in, if that is not the endpoint's own path.
    path: Option<http::uri::PathAndQuery>,
}

impl<'a> Context<'a> {
    fn new(
        state: &'a EdgeState,
        endpoint: Endpoint,
        caller: Caller,
        headers: McpHeaders<'a>,
        accepts: Accepts,
    ) -> Self {
        Self {
            state,
            endpoint,
            is_handed_on: caller.proof == Proof::Node,
            principal: caller.principal,
            headers,
            accepts,
            body: None,
            path: None,
        }
    }

    /// Of a request without a body, which only a legacy session has.
    fn of_session(
        state: &'a EdgeState,
        endpoint: Endpoint,
        caller: Caller,
        all_headers: &'a HeaderMap,
    ) -> Result<Self, Fault> {
        let headers = McpHeaders::read(all_headers)?;
        if headers.is_modern() {
            return Err(Fault::modern_is_post_only());
        }
        Ok(Self::new(
            state,
            endpoint,
            caller,
            headers,
            Accepts::read(all_headers),
        ))
    }

    /// Of a request for the stream of a legacy session.
    fn of_stream(
        state: &'a EdgeState,
        endpoint: Endpoint,
        caller: Caller,
        all_headers: &'a HeaderMap,
    ) -> Result<Self, Fault> {
        let context = Self::of_session(state, endpoint, caller, all_headers)?;
        context.check_takes_events()?;
        Ok(context)
    }

    /// The client must take a stream of events.
    fn check_takes_events(&self) -> Result<(), Fault> {
        if self.accepts.event_stream {
            Ok(())
        } else {
            Err(Fault::not_acceptable("text/event-stream"))
        }
    }

    /// Resolves when a stream to the caller must end: the node stops, or the caller's key has been revoked.
    fn no_longer_served(&self) -> impl Future<Output = ()> + Send + use<> {
        let (stopping, access) = (self.state.stopping.clone(), self.state.access.clone());
        let key_id = self.principal.key_id;
        async move {
            let revoked = async {
                while key_id.is_none_or(|key_id| access.has_key(key_id)) {
                    tokio::time::sleep(KEY_CHECK_INTERVAL).await;
                }
            };
            tokio::select! {
                () = stopping.cancelled() => {}
                () = revoked => {}
            }
        }
    }
}

/// The endpoint that a request's path names: all servers as one, one of them, or a virtual one.
struct At(Endpoint);

impl FromRequestParts<EdgeState> for At {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &EdgeState) -> Result<Self, Fault> {
        match Option::<Path<String>>::from_request_parts(parts, state).await {
            Ok(None) => Ok(Self(Endpoint::Aggregate)),
            Ok(Some(Path(name))) => {
                let route = parts.extensions.get::<MatchedPath>();
                let is_virtual = route.is_some_and(|route| route.as_str() == VIRTUAL_PATH);
                endpoint_of(state, &name, is_virtual).map(Self)
            }
            Err(_not_text) => Err(Fault::unknown_server(parts.uri.path())),
        }
    }
}

fn endpoint_of(state: &EdgeState, name: &str, is_virtual: bool) -> Result<Endpoint, Fault> {
    let endpoint = ServerName::new(name).ok().and_then(|server| match is_virtual {
        true => (state.gateway.knows_virtual(name)).then_some(Endpoint::Virtual(server)),
        false => (state.gateway.knows(name)).then_some(Endpoint::Server(server)),
    });
    endpoint.ok_or_else(|| {
        if state.is_ready() && is_virtual {
            Fault::unknown_virtual_server(name)
        } else if state.is_ready() {
            Fault::unknown_server(name)
        } else {
            Fault::no_node("this node has just started and has not read all its servers yet")
        }
    })
}

/// POST: a message comes in.
async fn receive(
    State(state): State<EdgeState>,
    caller: Caller,
    At(endpoint): At,
    request: Request,
) -> Result<Response, Fault> {
    let accepts = accepted_forms(&state, request.headers())?;
    if !negotiation::is_json(request.headers()) {
        return Err(Fault::not_json());
    }
    let (parts, body) = request.into_parts();
    let headers = McpHeaders::read(&parts.headers)?;
    let body = Arc::new(read_message(&state, &parts, body).await?);
    let message = Message::parse(&body).map_err(|error| Fault::not_a_message(&error))?;
    let mut context = Context::new(&state, endpoint, caller, headers, accepts);
    context.body = Some(Arc::clone(&body));
    let meta = era::meta_of(&message);
    let received = match era::era_of(&context.headers, &message, &meta) {
        Era::Legacy => legacy::receive(&context, &message, &parts.headers).await,
        Era::Modern => modern::receive(&context, &message, &meta, &parts.headers).await,
    };
    received.map_err(|fault| fault.of(message.id))
}

/// The body, whole and within bounds.
async fn read_message(state: &EdgeState, parts: &Parts, body: axum::body::Body) -> Result<WholeBody, Fault> {
    let limits = BodyLimits {
        bytes_max: state.config.mcp.body_bytes_max.count(),
        timeout: state.config.edge.body_timeout_ms.millis(),
        because: "mcp.body_bytes_max",
        budget: &state.bodies,
    };
    read_body_of(&parts.headers, body, &limits)
        .await
        .map_err(|error: ApiError| Fault::of_problem(error.problem()))
}

fn accepted_forms(state: &EdgeState, headers: &HeaderMap) -> Result<Accepts, Fault> {
    let accepts = Accepts::read(headers);
    let suffices = match (accepts.json, accepts.event_stream) {
        (true, true) | (false, true) => true,
        (true, false) => state.config.mcp.accept_json_only,
        (false, false) => false,
    };
    if suffices {
        Ok(accepts)
    } else {
        Err(Fault::not_acceptable("application/json and text/event-stream"))
    }
}

/// GET: a legacy client opens the stream of its session.
async fn open(
    State(state): State<EdgeState>,
    caller: Caller,
    At(endpoint): At,
    all_headers: HeaderMap,
) -> Result<Response, Fault> {
    let context = Context::of_stream(&state, endpoint, caller, &all_headers)?;
    match forward::hand_on(&context, Method::GET, &all_headers).await? {
        Some(answer) => Ok(answer),
        None => legacy::open_stream(&context, &all_headers).await,
    }
}

/// DELETE: a legacy client ends its session.
async fn end(
    State(state): State<EdgeState>,
    caller: Caller,
    At(endpoint): At,
    all_headers: HeaderMap,
) -> Result<Response, Fault> {
    let context = Context::of_session(&state, endpoint, caller, &all_headers)?;
    match forward::hand_on(&context, Method::DELETE, &all_headers).await? {
        Some(answer) => Ok(answer),
        None => legacy::end_session(&context).await,
    }
}
