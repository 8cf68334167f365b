//! The MCP faces: `/mcp` (all servers as one) and `/mcp/servers/{name}` (one server as it is), for clients of both eras.
//!
//! # Layout
//! - this module: routes, and what every message passes: its form, its size, its era
//! - [`negotiation`], [`era`]: what headers say
//! - [`legacy`], [`modern`]: the two eras' ways with a message
//! - [`forward`]: requests whose session another node has
//! - [`reply`], [`event_stream`]: answers in JSON or as streams; [`fault`]: answers to what cannot be served
//!
//! Which server answers and how, sessions and notices: `troupe_actors::session`. Host, origin and caller are checked
//! before a handler here runs.

mod era;
mod event_stream;
mod fault;
mod forward;
mod legacy;
mod modern;
mod negotiation;
mod reply;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
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
use super::body::{BodyLimits, WholeBody, read_body};
use super::problem::ApiError;
use super::{Caller, EdgeState, Proof};

/// How often the owner of an open stream is looked at again: a revoked key must not listen on.
const KEY_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The routes of the MCP faces. Their callers are known (see [`super::auth::Caller`]) when a handler runs.
pub fn routes() -> Router<EdgeState> {
    Router::new()
        .route("/mcp", post(post_to_all).get(open_for_all).delete(delete_at_all))
        .route(
            "/mcp/servers/{name}",
            post(post_to_server).get(open_for_server).delete(delete_at_server),
        )
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
}

impl Context<'_> {
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

async fn post_to_all(State(state): State<EdgeState>, caller: Caller, request: Request) -> Response {
    receive(&state, Endpoint::Aggregate, caller, request)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn post_to_server(
    State(state): State<EdgeState>,
    caller: Caller,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let received = match endpoint_of(&state, &name) {
        Ok(endpoint) => receive(&state, endpoint, caller, request).await,
        Err(fault) => Err(fault),
    };
    received.unwrap_or_else(IntoResponse::into_response)
}

async fn open_for_all(State(state): State<EdgeState>, caller: Caller, headers: HeaderMap) -> Response {
    open(&state, Endpoint::Aggregate, caller, &headers)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn open_for_server(
    State(state): State<EdgeState>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let opened = match endpoint_of(&state, &name) {
        Ok(endpoint) => open(&state, endpoint, caller, &headers).await,
        Err(fault) => Err(fault),
    };
    opened.unwrap_or_else(IntoResponse::into_response)
}

async fn delete_at_all(State(state): State<EdgeState>, caller: Caller, headers: HeaderMap) -> Response {
    delete(&state, Endpoint::Aggregate, caller, &headers)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn delete_at_server(
    State(state): State<EdgeState>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Response {
    let deleted = match endpoint_of(&state, &name) {
        Ok(endpoint) => delete(&state, endpoint, caller, &headers).await,
        Err(fault) => Err(fault),
    };
    deleted.unwrap_or_else(IntoResponse::into_response)
}

fn endpoint_of(state: &EdgeState, name: &str) -> Result<Endpoint, Fault> {
    let server = ServerName::new(name)
        .ok()
        .filter(|server| state.gateway.knows(server.as_str()));
    server.map(Endpoint::Server).ok_or_else(|| {
        if state.is_ready() {
            Fault::unknown_server(name)
        } else {
            Fault::no_node("this node has just started and has not read all its servers yet")
        }
    })
}

/// A message comes in.
async fn receive(
    state: &EdgeState,
    endpoint: Endpoint,
    caller: Caller,
    request: Request,
) -> Result<Response, Fault> {
    let accepts = accepted_forms(state, request.headers())?;
    if !negotiation::is_json(request.headers()) {
        return Err(Fault::not_json());
    }
    let (parts, body) = request.into_parts();
    let headers = McpHeaders::read(&parts.headers)?;
    let body = Arc::new(read_message(state, &parts, body).await?);
    let message = Message::parse(&body).map_err(|error| Fault::not_a_message(&error))?;
    let context = Context {
        state,
        endpoint,
        is_handed_on: caller.proof == Proof::Node,
        principal: caller.principal,
        headers,
        accepts,
        body: Some(Arc::clone(&body)),
    };
    let meta = era::meta_of(&message);
    let received = match era::era_of(&context.headers, &message, meta) {
        Era::Legacy => legacy::receive(&context, &message, &parts.headers).await,
        Era::Modern => modern::receive(&context, &message, meta).await,
    };
    received.map_err(|fault| fault.of(message.id))
}

/// The body, whole and within bounds.
async fn read_message(state: &EdgeState, parts: &Parts, body: axum::body::Body) -> Result<WholeBody, Fault> {
    let limits = BodyLimits {
        bytes_max: state.config.mcp.body_bytes_max.count(),
        timeout: state.config.edge.body_timeout_ms.millis(),
        setting: "mcp.body_bytes_max",
        budget: &state.bodies,
    };
    let mut request = Request::new(body);
    *request.headers_mut() = parts.headers.clone();
    read_body(request, &limits)
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
    state: &EdgeState,
    endpoint: Endpoint,
    caller: Caller,
    all_headers: &HeaderMap,
) -> Result<Response, Fault> {
    let accepts = Accepts::read(all_headers);
    let headers = McpHeaders::read(all_headers)?;
    if headers.is_modern() {
        return Err(Fault::modern_is_post_only());
    }
    if !accepts.event_stream {
        return Err(Fault::not_acceptable("text/event-stream"));
    }
    let context = Context {
        state,
        endpoint,
        is_handed_on: caller.proof == Proof::Node,
        principal: caller.principal,
        headers,
        accepts,
        body: None,
    };
    match forward::hand_on(&context, Method::GET, all_headers).await? {
        Some(answer) => Ok(answer),
        None => legacy::open_stream(&context).await,
    }
}

/// DELETE: a legacy client ends its session.
async fn delete(
    state: &EdgeState,
    endpoint: Endpoint,
    caller: Caller,
    all_headers: &HeaderMap,
) -> Result<Response, Fault> {
    let accepts = Accepts::read(all_headers);
    let headers = McpHeaders::read(all_headers)?;
    if headers.is_modern() {
        return Err(Fault::modern_is_post_only());
    }
    let context = Context {
        state,
        endpoint,
        is_handed_on: caller.proof == Proof::Node,
        principal: caller.principal,
        headers,
        accepts,
        body: None,
    };
    match forward::hand_on(&context, Method::DELETE, all_headers).await? {
        Some(answer) => Ok(answer),
        None => legacy::end_session(&context).await,
    }
}
