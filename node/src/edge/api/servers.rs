//! Registered servers: reading and changing the registry.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use troupe_actors::{
    openapi,
    registry::{RegistryError, transport_to_test},
    runtime::Deadline,
};
use troupe_protocol::{
    access::Role,
    error::Code,
    health::{HealthHistory, HealthReport, TestReport},
    server::{
        ImportReport, ImportSource, NewServer, ServerDetail, ServerName, ServerPage, ServerPatch,
        ServerQuery, Transport,
    },
};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::builtin;
use crate::edge::{ApiError, ApiJson, ApiPath, ApiQuery, ApiResult, Caller, EdgeState};

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(list_servers, register_server))
        .routes(routes!(import_servers))
        .routes(routes!(test_server))
        .routes(routes!(probe_server))
        .routes(routes!(show_history))
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
    let mut page = state.registry.view().list(&query, &state.health.view())?;
    builtin::add_to(&mut page, &query, &state).await;
    Ok(Json(page))
}

/// Registers a server. Values of headers and environment are sealed in the vault.
#[utoipa::path(
    post, path = "/api/v1/servers", tag = "servers", request_body = NewServer,
    responses((status = 201, body = ServerDetail))
)]
async fn register_server(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiJson(mut new): ApiJson<NewServer>,
) -> ApiResult<Response> {
    prepare(&mut new).await?;
    let subject = new.name.clone().unwrap_or_default();
    let audited = state.auditing(&caller, "server.register", &subject);
    let registered = state.registry.register(new, &caller.principal).await;
    audited.ended(&registered);
    let name = registered?.name.clone();
    let location =
        HeaderValue::from_str(&format!("/api/v1/servers/{name}")).unwrap_or(HeaderValue::from_static("/"));
    let detail = detail_of(&state, &name).await?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(detail)).into_response())
}

/// Completes what is given of an OpenAPI document; the words of the document stand where none are given.
async fn prepare(new: &mut NewServer) -> ApiResult<()> {
    let Some(source) = &mut new.openapi else {
        return Ok(());
    };
    let said = openapi::prepare(source).await?;
    if new.manifest.is_none() {
        new.title = new.title.take().or(said.title);
        new.description = new.description.take().or(said.description);
    }
    Ok(())
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
    let audited = state.auditing(&caller, "server.import", format);
    let report = state.registry.import(source, &caller.principal).await;
    audited.ended(&report);
    Ok(Json(report?))
}

/// How to read.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Reading {
    /// `local`: what this node has. `linearizable`: with everything that was acknowledged at any node before.
    #[param(inline)]
    consistency: Consistency,
}

/// How much a read must know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Consistency {
    #[default]
    Local,
    Linearizable,
}

/// Everything about one server. Only administrators see credentials that stand in its arguments or its address.
#[utoipa::path(
    get, path = "/api/v1/servers/{name}", tag = "servers", params(("name" = ServerName, Path), Reading),
    responses((status = 200, body = ServerDetail))
)]
async fn show_server(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(name): ApiPath<String>,
    ApiQuery(reading): ApiQuery<Reading>,
) -> ApiResult<Json<ServerDetail>> {
    if reading.consistency == Consistency::Linearizable {
        state.registry.linearized_view(state.work_deadline()).await?;
    }
    let mut detail = detail_of(&state, &reachable(&state, &name)?).await?;
    if !caller.principal.may(Role::Admin) {
        let transport = detail.operation.transport.as_ref();
        detail.operation.transport = transport.map(Transport::without_credentials);
    }
    Ok(Json(detail))
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
    ApiJson(mut patch): ApiJson<ServerPatch>,
) -> ApiResult<Json<ServerDetail>> {
    let name = named(&name)?;
    if let Some(source) = &mut patch.openapi {
        // A new document does not move the service: its credentials are for where it is.
        if source.base_url.is_none() {
            source.base_url = base_url_of(&state, &name).await;
        }
        openapi::prepare(source).await?;
    }
    let action = match patch.enabled {
        Some(true) => "server.enable",
        Some(false) => "server.disable",
        None => "server.change",
    };
    let audited = state.auditing(&caller, action, name.as_str());
    let changed = state.registry.update(&name, patch).await;
    audited.ended(&changed);
    changed?;
    Ok(Json(detail_of(&state, &name).await?))
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
    let name = named(&name)?;
    let audited = state.auditing(&caller, "server.remove", name.as_str());
    let removed = state.registry.remove(&name).await;
    audited.ended(&removed);
    removed?;
    Ok(StatusCode::NO_CONTENT)
}

/// A name that a server may have. Whether one has it is decided where it is changed, not by what this node has seen.
fn named(name: &str) -> ApiResult<ServerName> {
    let not_found = |_| RegistryError::NotFound {
        name: name.to_owned(),
    };
    Ok(ServerName::new(name).map_err(not_found)?)
}

/// A registered name, or that of a server which is part of the node.
pub fn reachable(state: &EdgeState, name: &str) -> ApiResult<ServerName> {
    let slug = ServerName::new(name).ok();
    let known = slug.filter(|slug| slug.is_builtin() || state.registry.view().get(slug.as_str()).is_some());
    known.ok_or_else(|| {
        if !state.is_ready() {
            let detail = "this node has just started and has not read all its servers yet: try again";
            return ApiError::new(Code::PlacedElsewhere, detail);
        }
        RegistryError::NotFound {
            name: name.to_owned(),
        }
        .into()
    })
}

/// Where the service of a registered OpenAPI document is.
async fn base_url_of(state: &EdgeState, name: &ServerName) -> Option<String> {
    match detail_of(state, name).await.ok()?.operation.transport? {
        Transport::OpenApi { base_url, .. } => Some(base_url.to_string()),
        _ => None,
    }
}

async fn detail_of(state: &EdgeState, name: &ServerName) -> ApiResult<ServerDetail> {
    let detail = if name.is_builtin() {
        builtin::detail(state).await
    } else {
        state
            .registry
            .view()
            .detail(name.as_str(), &state.health.view(), state.health.history(name))
    };
    Ok(detail.ok_or_else(|| RegistryError::NotFound {
        name: name.to_string(),
    })?)
}

/// Connects to a server without registering it. That it does not answer is a report, not an error.
#[utoipa::path(
    post, path = "/api/v1/servers/test", tag = "servers", request_body = NewServer,
    responses((status = 200, body = TestReport))
)]
async fn test_server(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiJson(mut new): ApiJson<NewServer>,
) -> ApiResult<Json<TestReport>> {
    prepare(&mut new).await?;
    let subject = new.name.clone().unwrap_or_default();
    let transport = transport_to_test(new)?;
    let deadline = Deadline::within(state.config.upstream.start_timeout_ms.millis());
    state.record(&caller.principal, "server.test", &subject);
    Ok(Json(state.health.test(&transport, deadline).await))
}

/// Probes a registered server at once.
#[utoipa::path(
    post, path = "/api/v1/servers/{name}/probe", tag = "servers", params(("name" = ServerName, Path)),
    responses((status = 200, body = HealthReport))
)]
async fn probe_server(
    State(state): State<EdgeState>,
    ApiPath(name): ApiPath<String>,
) -> ApiResult<Json<HealthReport>> {
    let name = reachable(&state, &name)?;
    if name.is_builtin() {
        return Ok(Json(detail_of(&state, &name).await?.health));
    }
    let settings = &state.config;
    let within = settings.health.probe_timeout_ms.millis() + settings.upstream.start_timeout_ms.millis();
    let report = state.health.probe(&name, Deadline::within(within)).await?;
    Ok(Json(HealthReport::clone(&report)))
}

/// How a server fared in the last 24 hours.
#[utoipa::path(
    get, path = "/api/v1/servers/{name}/health", tag = "servers", params(("name" = ServerName, Path)),
    responses((status = 200, body = HealthHistory))
)]
async fn show_history(
    State(state): State<EdgeState>,
    ApiPath(name): ApiPath<String>,
) -> ApiResult<Json<HealthHistory>> {
    Ok(Json(state.health.history(&reachable(&state, &name)?)))
}
