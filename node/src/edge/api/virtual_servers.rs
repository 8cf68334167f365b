//! Virtual servers: chosen tools, resources and prompts of registered servers, offered as one at `/mcp/virtual/{name}`.

use axum::{Json, extract::State};
use http::StatusCode;
use troupe_actors::registry::VirtualServerError;
use troupe_protocol::{
    api::{Page, PageQuery},
    server::ServerName,
    virtual_server::{VirtualDefinition, VirtualDetail, VirtualSummary},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::edge::{ApiJson, ApiPath, ApiQuery, ApiResult, Caller, EdgeState};

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(list_virtual_servers))
        .routes(routes!(
            show_virtual_server,
            put_virtual_server,
            remove_virtual_server
        ))
}

/// The virtual servers, without what they are made of.
#[utoipa::path(
    get, path = "/api/v1/virtual", tag = "virtual", params(PageQuery),
    responses((status = 200, body = Page<VirtualSummary>))
)]
async fn list_virtual_servers(
    State(state): State<EdgeState>,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Json<Page<VirtualSummary>> {
    let view = state.virtual_servers.view();
    let mut found: Vec<VirtualSummary> = view.values().map(|server| server.summary()).collect();
    if let Some(search) = &query.search {
        let search = search.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&search);
        found.retain(|server| {
            let texts = [server.title.as_deref(), server.description.as_deref()];
            has(server.name.as_str()) || texts.into_iter().flatten().any(has)
        });
    }
    Json(Page::slice(
        found.into_iter(),
        query.cursor.as_deref(),
        query.limit,
    ))
}

/// Everything about a virtual server, with what of it does not fit the servers behind it as they are now.
#[utoipa::path(
    get, path = "/api/v1/virtual/{name}", tag = "virtual", params(("name" = ServerName, Path)),
    responses((status = 200, body = VirtualDetail))
)]
async fn show_virtual_server(
    State(state): State<EdgeState>,
    ApiPath(name): ApiPath<String>,
) -> ApiResult<Json<VirtualDetail>> {
    let name = ServerName::new(&name)?;
    let detail = state.gateway.describe_virtual(name.as_str()).await;
    Ok(Json(detail.ok_or(VirtualServerError::NotFound(name))?))
}

/// Makes a virtual server, in place of the one with that name if there is one. `warnings` in the answer tell what does
/// not fit the servers behind it as they are now.
#[utoipa::path(
    put, path = "/api/v1/virtual/{name}", tag = "virtual", params(("name" = ServerName, Path)),
    request_body = VirtualDefinition, responses((status = 200, body = VirtualDetail))
)]
async fn put_virtual_server(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(name): ApiPath<String>,
    ApiJson(definition): ApiJson<VirtualDefinition>,
) -> ApiResult<Json<VirtualDetail>> {
    let name = ServerName::new(&name)?;
    let audited = state.auditing(&caller, "virtual.put", name.as_str());
    let put = state
        .gateway
        .put_virtual(name, definition, &caller.principal)
        .await;
    audited.ended(&put);
    Ok(Json(put?))
}

/// Removes a virtual server. The servers behind it stay as they are.
#[utoipa::path(
    delete, path = "/api/v1/virtual/{name}", tag = "virtual", params(("name" = ServerName, Path)),
    responses((status = 204, description = "gone"))
)]
async fn remove_virtual_server(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(name): ApiPath<String>,
) -> ApiResult<StatusCode> {
    let name = ServerName::new(&name)?;
    let audited = state.auditing(&caller, "virtual.remove", name.as_str());
    let removed = state.virtual_servers.remove(&name).await;
    audited.ended(&removed);
    removed?;
    Ok(StatusCode::NO_CONTENT)
}
