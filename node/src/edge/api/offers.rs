//! What servers offer (tools, resources, prompts), using it, and the calls in flight.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{Json, extract::State};
use http::StatusCode;
use serde::Serialize;
use serde_json::{json, value::RawValue};
use tokio::time::Instant;
use troupe_actors::{
    runtime::Deadline,
    upstream::{CallOptions, UpstreamError},
};
use troupe_protocol::{
    api::{CallToolRequest, CallToolResponse, GetPromptRequest, Page, ReadResourceRequest},
    error::Code,
    jsonrpc::{ErrorObject, RawReply},
    mcp::{Descriptor, ListKind, method},
    server::ServerName,
    upstream::{CallId, CallInFlight, LogLine},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::servers::reachable;
use crate::edge::{
    ApiError, ApiJson, ApiPath, ApiResult, Caller, EdgeState,
    everywhere::{Scope, as_it_is, joined, located},
    extract::OptionalJson,
};

/// How long a server may take to list what it offers, starting it included.
const LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the node that runs a server may take to tell of its log.
const LOG_TIME_MAX: Duration = Duration::from_secs(3);

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(list_tools_of_server))
        .routes(routes!(list_resources_of_server))
        .routes(routes!(list_prompts_of_server))
        .routes(routes!(call_tool))
        .routes(routes!(read_resource))
        .routes(routes!(get_prompt))
        .routes(routes!(show_log))
        .routes(routes!(list_calls))
        .routes(routes!(cancel_call))
}

/// A server's tools exactly as it describes them (MCP's `Tool`).
#[utoipa::path(
    get, path = "/api/v1/servers/{name}/tools", tag = "servers", params(("name" = ServerName, Path)),
    responses((status = 200, body = Page<Object>))
)]
async fn list_tools_of_server(
    State(state): State<EdgeState>,
    ApiPath(name): ApiPath<String>,
) -> ApiResult<Json<Page<Descriptor>>> {
    list(&state, &name, ListKind::Tools).await
}

/// A server's resources exactly as it describes them (MCP's `Resource`).
#[utoipa::path(
    get, path = "/api/v1/servers/{name}/resources", tag = "servers", params(("name" = ServerName, Path)),
    responses((status = 200, body = Page<Object>))
)]
async fn list_resources_of_server(
    State(state): State<EdgeState>,
    ApiPath(name): ApiPath<String>,
) -> ApiResult<Json<Page<Descriptor>>> {
    list(&state, &name, ListKind::Resources).await
}

/// A server's prompts exactly as it describes them (MCP's `Prompt`).
#[utoipa::path(
    get, path = "/api/v1/servers/{name}/prompts", tag = "servers", params(("name" = ServerName, Path)),
    responses((status = 200, body = Page<Object>))
)]
async fn list_prompts_of_server(
    State(state): State<EdgeState>,
    ApiPath(name): ApiPath<String>,
) -> ApiResult<Json<Page<Descriptor>>> {
    list(&state, &name, ListKind::Prompts).await
}

async fn list(state: &EdgeState, name: &str, kind: ListKind) -> ApiResult<Json<Page<Descriptor>>> {
    let name = reachable(state, name)?;
    let deadline = Deadline::within(LIST_TIMEOUT);
    let upstream = state.upstreams.get(&name, deadline).await?;
    // A server without the capability would answer "method not found"; it simply has none.
    let items = match upstream.info().offers(kind) {
        true => upstream.list(kind, deadline).await?,
        false => Arc::default(),
    };
    Ok(Json(Page::whole(items.as_ref().clone())))
}

/// Calls a tool.
#[utoipa::path(
    post, path = "/api/v1/servers/{name}/tools/{tool}/call", tag = "servers",
    params(("name" = ServerName, Path), ("tool" = String, Path)),
    request_body = CallToolRequest, responses((status = 200, body = CallToolResponse))
)]
async fn call_tool(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath((name, tool)): ApiPath<(String, String)>,
    ApiJson(request): ApiJson<CallToolRequest>,
) -> ApiResult<Json<CallToolResponse>> {
    let params = json!({ "name": tool, "arguments": request.arguments });
    request_of(&state, &caller, &name, method::TOOLS_CALL, &params).await
}

/// Reads a resource.
#[utoipa::path(
    post, path = "/api/v1/servers/{name}/resources/read", tag = "servers", params(("name" = ServerName, Path)),
    request_body = ReadResourceRequest, responses((status = 200, body = CallToolResponse))
)]
async fn read_resource(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(name): ApiPath<String>,
    ApiJson(request): ApiJson<ReadResourceRequest>,
) -> ApiResult<Json<CallToolResponse>> {
    request_of(&state, &caller, &name, method::RESOURCES_READ, &request).await
}

/// Gets a prompt, filled in.
#[utoipa::path(
    post, path = "/api/v1/servers/{name}/prompts/{prompt}/get", tag = "servers",
    params(("name" = ServerName, Path), ("prompt" = String, Path)),
    request_body = GetPromptRequest, responses((status = 200, body = CallToolResponse))
)]
async fn get_prompt(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath((name, prompt)): ApiPath<(String, String)>,
    OptionalJson(request): OptionalJson<GetPromptRequest>,
) -> ApiResult<Json<CallToolResponse>> {
    let arguments: BTreeMap<String, String> = request.arguments;
    let params = json!({ "name": prompt, "arguments": arguments });
    request_of(&state, &caller, &name, method::PROMPTS_GET, &params).await
}

async fn request_of(
    state: &EdgeState,
    caller: &Caller,
    name: &str,
    method: &str,
    params: &impl Serialize,
) -> ApiResult<Json<CallToolResponse>> {
    let began = Instant::now();
    let name = reachable(state, name)?;
    let deadline = Deadline::within(call_timeout(state, &name));
    let upstream = state.upstreams.get(&name, deadline).await?;
    let params: Box<RawValue> = serde_json::value::to_raw_value(params)
        .map_err(|error| ApiError::new(Code::Internal, format!("cannot write the request: {error}")))?;
    let options = CallOptions::on_behalf_of(caller.principal.clone(), deadline);
    let reply = upstream.request(method, Some(params), options).await?;
    let result = match reply {
        RawReply::Result(result) => result,
        RawReply::Error(error) => return Err(refused_by(&name, &error)),
    };
    Ok(Json(CallToolResponse {
        result,
        correlation_id: crate::edge::trace::current_id(),
        duration_ms: began.elapsed().as_secs_f64() * 1_000.0,
    }))
}

fn call_timeout(state: &EdgeState, name: &ServerName) -> Duration {
    let of_server = state
        .registry
        .view()
        .get(name.as_str())
        .and_then(|entry| entry.operation.call_timeout_ms);
    of_server.map_or(
        state.config.upstream.call_timeout_ms.millis(),
        Duration::from_millis,
    )
}

fn refused_by(name: &ServerName, error: &RawValue) -> ApiError {
    let said = match ErrorObject::read(error) {
        Some(error) => format!("{} ({})", error.message, error.code),
        None => error.get().to_owned(),
    };
    ApiError::new(
        Code::UpstreamError,
        format!("{name} answered with an error: {said}"),
    )
}

/// The last lines of a server's log: what it wrote to standard error, and what became of its connection.
#[utoipa::path(
    get, path = "/api/v1/servers/{name}/log", tag = "servers", params(("name" = ServerName, Path)),
    responses((status = 200, body = Page<LogLine>))
)]
async fn show_log(
    State(state): State<EdgeState>,
    ApiPath(name): ApiPath<String>,
) -> ApiResult<Json<Page<LogLine>>> {
    let name = reachable(&state, &name)?;
    let deadline = Deadline::within(LOG_TIME_MAX);
    Ok(Json(Page::whole(state.upstreams.logs(&name, deadline).await?)))
}

/// The calls of all nodes that wait for their servers' answers.
#[utoipa::path(
    get, path = "/api/v1/calls", tag = "observation",
    params(("node" = Option<String>, Query, description = "a member's name or id, or all (the default)")),
    responses((status = 200, body = Page<CallInFlight>))
)]
async fn list_calls(
    State(state): State<EdgeState>,
    caller: Caller,
    scope: Scope,
) -> Json<Page<CallInFlight>> {
    let here = located(state.upstreams.calls(), state.node_id);
    let others = scope.ask_others(&state, &caller, as_it_is).await;
    Json(joined(here, others))
}

/// Cancels a call: its caller gets an error, its server is told.
#[utoipa::path(
    delete, path = "/api/v1/calls/{id}", tag = "observation",
    params(
        ("id" = CallId, Path),
        ("node" = Option<String>, Query, description = "the name or id of the member it is on; this node by default"),
    ),
    responses((status = 204, description = "cancelled"))
)]
async fn cancel_call(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> ApiResult<StatusCode> {
    let call: CallId = id.parse().map_err(|_| {
        ApiError::new(
            Code::CallNotFound,
            format!("no call {id:?} is in flight; calls have whole numbers"),
        )
    })?;
    let cancelled: Result<(), UpstreamError> = state.upstreams.cancel(call);
    state.audit(&caller, "call.cancel", &id, &cancelled);
    cancelled?;
    Ok(StatusCode::NO_CONTENT)
}
