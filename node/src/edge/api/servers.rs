//! Registered servers: reading and changing the registry.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use troupe_actors::registry::{Health, RegistryError};
use troupe_protocol::{
    health::HealthHistory,
    server::{
        ImportReport, ImportSource, NewServer, ServerDetail, ServerName, ServerPage, ServerPatch, ServerQuery,
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::edge::{ApiJson, ApiPath, ApiQuery, ApiResult, Caller, EdgeState};

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(list_servers, register_server))
        .routes(routes!(import_servers))
        .routes(routes!(show_server, change_server, remove_server))
}

/// The registered servers and how they fare.
#[utoipa::path(
    get, path = "/api/v1/servers", tag = "servers", params(ServerQuery),
    responses((status = 200, body = ServerPage))
)]
async fn list_servers(
    State(state): State<EdgeState>,
    ApiQuery(query): ApiQuery<ServerQuery>,
) -> ApiResult<Json<ServerPage>> {
    Ok(Json(state.registry.view().list(&query, &health_of(&state))?))
}

/// Registers a server. Values of headers and environment are sealed in the vault.
#[utoipa::path(
    post, path = "/api/v1/servers", tag = "servers", request_body = NewServer,
    responses((status = 201, body = ServerDetail))
)]
async fn register_server(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiJson(new): ApiJson<NewServer>,
) -> ApiResult<Response> {
    let subject = new.name.clone().unwrap_or_default();
    let registered = state.registry.register(new, &caller.principal).await;
    state.audit(&caller, "server.register", &subject, &registered);
    let name = registered?.name.clone();
    let location = HeaderValue::from_str(&format!("/api/v1/servers/{name}")).unwrap_or(HeaderValue::from_static("/"));
    let detail = detail_of(&state, &name)?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(detail)).into_response())
}

/// Registers many servers: as many as can be; the report names the others.
#[utoipa::path(
    post, path = "/api/v1/servers/import", tag = "servers", request_body = ImportSource,
    responses((status = 200, body = ImportReport))
)]
async fn import_servers(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiJson(source): ApiJson<ImportSource>,
) -> ApiResult<Json<ImportReport>> {
    let format: &'static str = source.format.into();
    let report = state.registry.import(source, &caller.principal).await;
    state.audit(&caller, "server.import", format, &report);
    Ok(Json(report?))
}

/// Everything about one server.
#[utoipa::path(
    get, path = "/api/v1/servers/{name}", tag = "servers", params(("name" = ServerName, Path)),
    responses((status = 200, body = ServerDetail))
)]
async fn show_server(
    State(state): State<EdgeState>,
    ApiPath(name): ApiPath<String>,
) -> ApiResult<Json<ServerDetail>> {
    Ok(Json(detail_of(&state, &known(&state, &name)?)?))
}

/// Changes a server; absent fields stay.
#[utoipa::path(
    patch, path = "/api/v1/servers/{name}", tag = "servers", params(("name" = ServerName, Path)),
    request_body = ServerPatch, responses((status = 200, body = ServerDetail))
)]
async fn change_server(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(name): ApiPath<String>,
    ApiJson(patch): ApiJson<ServerPatch>,
) -> ApiResult<Json<ServerDetail>> {
    let name = known(&state, &name)?;
    let action = match patch.enabled {
        Some(true) => "server.enable",
        Some(false) => "server.disable",
        None => "server.change",
    };
    let changed = state.registry.update(&name, patch).await;
    state.audit(&caller, action, name.as_str(), &changed);
    changed?;
    Ok(Json(detail_of(&state, &name)?))
}

/// De-registers a server and forgets the secrets that were sealed for it.
#[utoipa::path(
    delete, path = "/api/v1/servers/{name}", tag = "servers", params(("name" = ServerName, Path)),
    responses((status = 204, description = "gone"))
)]
async fn remove_server(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(name): ApiPath<String>,
) -> ApiResult<StatusCode> {
    let name = known(&state, &name)?;
    let removed = state.registry.remove(&name).await;
    state.audit(&caller, "server.remove", name.as_str(), &removed);
    removed?;
    Ok(StatusCode::NO_CONTENT)
}

/// A registered name. What is no slug cannot be registered, so it is not found rather than invalid.
fn known(state: &EdgeState, name: &str) -> ApiResult<ServerName> {
    reachable(state, name)
}

/// A registered name, or that of a server which is part of the node.
pub fn reachable(state: &EdgeState, name: &str) -> ApiResult<ServerName> {
    let slug = ServerName::new(name).ok();
    let known = slug.filter(|slug| slug.is_builtin() || state.registry.view().get(slug.as_str()).is_some());
    Ok(known.ok_or_else(|| RegistryError::NotFound { name: name.to_owned() })?)
}

pub fn detail_of(state: &EdgeState, name: &ServerName) -> ApiResult<ServerDetail> {
    let detail = state.registry.view().detail(name.as_str(), &health_of(state), history_of(state, name));
    Ok(detail.ok_or_else(|| RegistryError::NotFound { name: name.to_string() })?)
}

fn health_of(_state: &EdgeState) -> Arc<Health> {
    Arc::default()
}

fn history_of(_state: &EdgeState, _name: &ServerName) -> HealthHistory {
    HealthHistory::default()
}
