//! `/v0.1`: the official registry API, exactly as its clients know it (errors excepted: those are problem documents).
//!
//! Source: `docs/reference/api/openapi.yaml` (2025-12-01) of the repository `modelcontextprotocol/registry`.

use axum::{
    Json, Router,
    extract::State,
    response::IntoResponse,
    routing::{get, post},
};
use http::StatusCode;
use serde::Deserialize;
use troupe_protocol::{
    error::{Code, Problem},
    server::{OfficialQuery, ServerList, ServerResponse},
};

use super::{
    EdgeState,
    extract::{ApiPath, ApiQuery},
    problem::{ApiResult, PROBLEM_JSON},
};

pub fn routes() -> Router<EdgeState> {
    Router::new()
        .route("/v0.1/servers", get(list))
        .route("/v0.1/servers/{name}/versions", get(versions))
        .route("/v0.1/servers/{name}/versions/{version}", get(version))
        .route("/v0.1/publish", post(publish))
}

async fn list(
    State(state): State<EdgeState>,
    ApiQuery(query): ApiQuery<OfficialQuery>,
) -> ApiResult<Json<ServerList>> {
    Ok(Json(state.registry.view().official_list(&query)?))
}

#[derive(Debug, Deserialize)]
struct Deleted {
    #[serde(default)]
    include_deleted: bool,
}

async fn versions(
    State(state): State<EdgeState>,
    ApiPath(name): ApiPath<String>,
    ApiQuery(query): ApiQuery<Deleted>,
) -> ApiResult<Json<ServerList>> {
    Ok(Json(
        state
            .registry
            .view()
            .official_versions(&name, query.include_deleted)?,
    ))
}

async fn version(
    State(state): State<EdgeState>,
    ApiPath((name, version)): ApiPath<(String, String)>,
    ApiQuery(query): ApiQuery<Deleted>,
) -> ApiResult<Json<ServerResponse>> {
    Ok(Json(state.registry.view().official_version(
        &name,
        &version,
        query.include_deleted,
    )?))
}

/// Publishing by this API is optional, and here it is by `/api/v1/servers`.
async fn publish() -> impl IntoResponse {
    let mut problem = Problem::new(
        Code::NotFound,
        "publishing is by POST /api/v1/servers on this registry",
    );
    problem.status = StatusCode::NOT_IMPLEMENTED.as_u16();
    let mut response = (StatusCode::NOT_IMPLEMENTED, Json(problem)).into_response();
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, PROBLEM_JSON);
    response
}
